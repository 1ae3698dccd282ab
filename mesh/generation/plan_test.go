package generation

import (
	"bytes"
	"compress/flate"
	"encoding/gob"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"bulkhead/core/policy"
	"bulkhead/policyfile"
)

// filled sets every field of a value to something, so that one that the
// encoding loses shows. count makes each value another.
func filled(v reflect.Value, count *int, depth int) {
	*count++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem(), count, depth)
	case reflect.Slice:
		if depth > 12 {
			return // a type within itself
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			filled(v.Index(i), count, depth+1)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[policy.Date]().Field(0).Type {
			v.Set(reflect.ValueOf(now.AddDate(0, 0, *count).UTC()))
			return
		}
		for i := range v.NumField() {
			filled(v.Field(i), count, depth+1)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d ä\x00", *count))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*count))
	case reflect.Uint16:
		v.SetUint(uint64(*count % 65535))
	default:
		panic("the language has a kind of value that this test does not know: " + v.Kind().String())
	}
}

func pack(tb testing.TB, p *Plan) (data []byte, digest string) {
	tb.Helper()
	data, digest, err := p.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return data, digest
}

func TestPlanSurvives(t *testing.T) {
	var everything policy.Policy
	count := 0
	filled(reflect.ValueOf(&everything).Elem(), &count, 0)
	if count < 500 {
		t.Fatalf("%d values: the test fills nothing", count)
	}
	small, ds := policyfile.Parse([]policyfile.File{{Name: "p.yaml", Text: []byte(`version: 1
platform: acme
zones: {z: {role: custom}, y: {role: data}}
workloads: {a: {zone: z, serves: {x: http/80}}, b: {zone: y}}
dns: kubernetes
flows: [{from: b, to: a/x, until: 2027-06-30, because: x, owner: y, rate: 1MiB/s, evidence: true}]
`)}})
	if ds.HasErrors() {
		t.Fatal(ds)
	}
	for name, p := range map[string]*policy.Policy{"every field": &everything, "parsed": small, "empty": {}} {
		addresses, err := Allocate(p, Addresses{})
		if err != nil {
			t.Fatal(err)
		}
		plan := &Plan{p, addresses}
		data, digest := pack(t, plan)
		got, err := Unpack(data, digest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, plan) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, plan)
		}
		for range 10 {
			if again, second := pack(t, got); second != digest || !bytes.Equal(again, data) {
				t.Fatalf("%s: packed again it is another", name)
			}
		}
	}
}

func smallPlan() *Plan {
	p := &policy.Policy{Zones: []policy.Zone{{Name: policy.Text{Value: "z"}}}}
	for i := range 20 {
		p.Workloads = append(p.Workloads, policy.Workload{Name: policy.Text{Value: fmt.Sprint("w", i)}, Zone: policy.Text{Value: "z"}})
	}
	addresses, err := Allocate(p, Addresses{})
	if err != nil {
		panic(err)
	}
	return &Plan{p, addresses}
}

func TestChangedPlanIsRefused(t *testing.T) {
	plan := smallPlan()
	data, digest := pack(t, plan)
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 1
		if _, err := Unpack(changed, digest); err == nil {
			t.Fatalf("byte %d changed", i)
		}
		if _, err := Unpack(data[:i], digest); err == nil {
			t.Fatalf("cut at %d", i)
		}
		// Cut, and named so: only the mark of the end can be missing.
		if got, err := Unpack(data[:i], Digest(data[:i])); err == nil && !reflect.DeepEqual(got, plan) {
			t.Fatalf("cut at %d, and named so: %+v", i, got)
		}
	}
	for _, wrong := range []string{"", strings.ToUpper(digest), digest + "0", digest[:63]} {
		if _, err := Unpack(data, wrong); err == nil {
			t.Errorf("unpacked as %q", wrong)
		}
	}
}

// packedAs packs any value in the place of a plan.
func packedAs(tb testing.TB, v any) []byte {
	tb.Helper()
	var buf bytes.Buffer
	z, err := flate.NewWriter(&buf, flate.BestSpeed)
	if err != nil {
		tb.Fatal(err)
	}
	if err := gob.NewEncoder(z).Encode(v); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// TestPlanOfANewerVersion: a field that this version would skip may be a limit.
func TestPlanOfANewerVersion(t *testing.T) {
	type newer struct {
		Says   []string
		Policy *policy.Policy
	}
	for name, c := range map[string]struct {
		v    any
		says string
	}{
		"one more field": {newer{append(slices.Clone(vocabulary), "policy.Flow.OnlyAtNight"), &policy.Policy{}}, `can say "policy.Flow.OnlyAtNight"`},
		"no vocabulary":  {newer{nil, &policy.Policy{}}, "holds no policy"},
		"no policy":      {newer{vocabulary, nil}, "holds no policy"},
		"nothing":        {struct{ X int }{1}, "cannot be read"},
		"another type":   {"text", "cannot be read"},
	} {
		data := packedAs(t, c.v)
		if _, err := Unpack(data, Digest(data)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	older := packedAs(t, newer{vocabulary[:5], &policy.Policy{}})
	if _, err := Unpack(older, Digest(older)); err != nil {
		t.Errorf("an older plan: %v", err)
	}
	for _, field := range []string{"policy.Flow.EnforcedBy", "policy.Flow.Rate", "policy.Telemetry.Evidence", "policy.Why.Until", "source.Pos.Line", "policy.Field.Map"} {
		if !slices.Contains(vocabulary, field) {
			t.Errorf("%s is not in the vocabulary", field)
		}
	}
}

func TestPlanThatUnpacksToTooMuch(t *testing.T) {
	plan := smallPlan()
	plan.Policy.Platform.Value = strings.Repeat("a", 8<<20)
	data, digest := pack(t, plan)
	if len(data) > 1<<20 {
		t.Fatalf("%d bytes are no bomb", len(data))
	}
	if _, err := unpack(data, digest, 4<<20); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Error(err)
	}
	if _, err := Unpack(data, digest); err != nil {
		t.Error(err)
	}
}

// FuzzUnpack: whatever a digest names, it is refused or is a plan that can be
// resolved.
func FuzzUnpack(f *testing.F) {
	data, _ := pack(f, smallPlan())
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add(packedAs(f, "text"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var raw bytes.Buffer // so that the fuzzer need not invent a compression
		z, err := flate.NewWriter(&raw, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{data, raw.Bytes()} {
			p, err := unpack(data, Digest(data), 1<<20)
			if err != nil {
				continue
			}
			o := &Order{Number: 1, At: now, Quarantines: []policy.Quarantine{{Target: "w1"}}}
			Intent(o, p, now)
			Next(o, p, now)
			if _, err := Allocate(p.Policy, p.Addresses); err != nil {
				t.Log(err)
			}
		}
	})
}

// large is the policy of n workloads with a flow each.
func large(n int) *policy.Policy {
	text := func(s string, line int) policy.Text {
		t := policy.Text{Value: s}
		t.Pos.File, t.Pos.Line, t.Pos.Col = "bulkhead.yaml", line, 5
		return t
	}
	p := &policy.Policy{Zones: []policy.Zone{{Name: text("z", 1)}}}
	for i := range n {
		p.Workloads = append(p.Workloads, policy.Workload{Name: text(fmt.Sprint("w", i), i), Zone: text("z", i),
			Serves: []policy.Service{{Name: text("x", i), Protocol: text("http", i), Lo: 80, Hi: 80}}})
		p.Flows = append(p.Flows, policy.Flow{From: []policy.Text{text(fmt.Sprint("w", i), i)}, To: []policy.Text{text(fmt.Sprintf("w%d/x", (i+1)%n), i)},
			Why: policy.Why{Because: text("a reason", i), Owner: text("somebody", i)}})
	}
	return p
}

func BenchmarkPlan10k(b *testing.B) {
	p := large(10_000)
	addresses, err := Allocate(p, Addresses{})
	if err != nil {
		b.Fatal(err)
	}
	plan := &Plan{p, addresses}
	data, digest := pack(b, plan)
	b.Run("pack", func(b *testing.B) {
		for b.Loop() {
			pack(b, plan)
		}
		b.ReportMetric(float64(len(data)), "bytes")
	})
	b.Run("unpack", func(b *testing.B) {
		for b.Loop() {
			if _, err := Unpack(data, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("intent", func(b *testing.B) {
		o := &Order{Number: 1, At: now, Quarantines: []policy.Quarantine{{Target: "w7"}}}
		for b.Loop() {
			Intent(o, plan, now)
		}
	})
	b.Run("allocate", func(b *testing.B) {
		for b.Loop() {
			if _, err := Allocate(p, addresses); err != nil {
				b.Fatal(err)
			}
		}
	})
}
