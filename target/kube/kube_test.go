package kube

import (
	"strings"
	"testing"

	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

func parse(t testing.TB, text string) yamldoc.Value {
	t.Helper()
	for v, d := range yamldoc.Documents("x.yaml", []byte(text), yamldoc.ManifestLimits) {
		if d != nil {
			t.Fatal(d)
		}
		return v
	}
	return yamldoc.Value{}
}

func TestExpandFlattensLists(t *testing.T) {
	v := parse(t, `{kind: List, apiVersion: v1, items: [{kind: Pod, apiVersion: v1}, {kind: PodList, apiVersion: v1, items: [{kind: A}, {kind: B}]}, {kind: AllowList, spec: {}}]}`)
	var kinds []string
	for o := range Expand(v) {
		k, _ := o.Get("kind").Text()
		kinds = append(kinds, k)
	}
	if got := strings.Join(kinds, " "); got != "Pod A B AllowList" {
		t.Errorf("got %s", got)
	}
	for range Expand(v) {
		break // an early end must not go on
	}
}

func TestReadObject(t *testing.T) {
	for _, c := range []struct{ text, want, ds string }{
		{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}}", "apps v1 Deployment shop/web", ""},
		{"{apiVersion: v1, kind: Node, metadata: {name: n1}}", " v1 Node n1", ""},
		{"{apiVersion: v1, kind: Pod, metadata: {generateName: job-, namespace: a}}", " v1 Pod a/job-*", ""},
		{"{apiVersion: v1, kind: Pod, metadata: {name: 5}}", " v1 Pod 5", "x.yaml:1:46: error: Pod: metadata.name must be a string [wrong-type]"},
		{"{apiVersion: v1, kind: Pod, metadata: [a]}", " v1 Pod ", "x.yaml:1:39: error: Pod: metadata must be a map, not a list [wrong-type]"},
		{"{kind: Pod}", "none", ""},
		{"text", "none", ""},
	} {
		var ds source.Diagnostics
		o, ok := ReadObject(parse(t, c.text), &ds)
		got := "none"
		if ok {
			got = o.Group + " " + o.Version + " " + o.String()
		}
		if got != c.want || ds.Error() != c.ds {
			t.Errorf("%s: got %q, %q", c.text, got, ds.Error())
		}
	}
}

func TestDigest(t *testing.T) {
	digest := func(text string) uint64 {
		o, ok := ReadObject(parse(t, text), new(source.Diagnostics))
		if !ok {
			t.Fatal(text)
		}
		return o.Digest()
	}
	base := digest("{apiVersion: v1, kind: P, metadata: {name: a, labels: {x: y, z: w}}, spec: {l: [1, 2], m: {a: b}}}")
	for _, same := range []string{
		"{kind: P, spec: {m: {a: b}, l: [1, 2]}, apiVersion: v1, metadata: {labels: {z: w, x: y}, name: a}}",
		"{apiVersion: v1, kind: P, metadata: {name: a, uid: u, resourceVersion: '7', labels: {x: y, z: w}}, spec: {l: [1, 2], m: {a: b}}, status: {s: t}}",
	} {
		if digest(same) != base {
			t.Errorf("differs: %s", same)
		}
	}
	for _, other := range []string{
		"{apiVersion: v1, kind: P, metadata: {name: a, labels: {x: y, z: w}}, spec: {l: [2, 1], m: {a: b}}}",
		"{apiVersion: v1, kind: P, metadata: {name: a, labels: {x: w, z: y}}, spec: {l: [1, 2], m: {a: b}}}",
		"{apiVersion: v1, kind: P, metadata: {name: a, labels: {x: y, z: w}}, spec: {l: [1, 2], m: {a: c}}}",
		"{apiVersion: v1, kind: P, metadata: {name: a, labels: {x: y, z: w}}, spec: {l: [1, 2], m: [a, b]}}",
	} {
		if digest(other) == base {
			t.Errorf("is the same: %s", other)
		}
	}
}

func TestOwnerOf(t *testing.T) {
	for _, c := range []struct{ refs, want string }{
		{"[]", ""},
		{"[{apiVersion: apps/v1, kind: ReplicaSet, name: a}]", "apps ReplicaSet a"},
		{"[{apiVersion: v1, kind: X, name: a}, {apiVersion: batch/v1, kind: Job, name: b, controller: true}]", "batch Job b"},
		{"[{apiVersion: v1, kind: X, name: a}, {apiVersion: v1, kind: Y, name: b}]", ""},
	} {
		o, ok := OwnerOf(parse(t, "{metadata: {ownerReferences: "+c.refs+"}}"))
		got := ""
		if ok {
			got = o.Group + " " + o.Kind + " " + o.Name
		}
		if got != c.want {
			t.Errorf("%s: got %q", c.refs, got)
		}
	}
}

func TestFieldsReportWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		text string
		read func(Node)
		want string
	}{
		{"{a: 1, colour: 2}", func(n Node) { n.Known("a", "color") }, `x.yaml:1:8: error: Thing t: the object has no field "colour" [unknown-field]`},
		{"[1]", func(n Node) { n.Known("a") }, "x.yaml:1:1: error: Thing t: the object must be a map, not a list [wrong-type]"},
		{"{a: }", func(n Node) {
			n.Field("a").Known("b")
			n.Field("a").Items()
			n.Field("a").Text()
			n.Field("b").Int(1, 2)
		}, ""},
		{"{a: yes}", func(n Node) { n.Field("a").Bool() }, `x.yaml:1:5: error: Thing t: a must be true or false, not "yes" [wrong-type]`},
		{"{a: 0x10}", func(n Node) { n.Field("a").Int(1, 16) }, ""},
		{"{a: 17}", func(n Node) { n.Field("a").Int(1, 16) }, "x.yaml:1:5: error: Thing t: a is 17, outside of 1 to 16 [out-of-range]"},
		{"{a: '1'}", func(n Node) { n.Field("a").Int(1, 16) }, `x.yaml:1:5: error: Thing t: a must be a whole number, and "1" is not one [wrong-type]`},
		{"{a: [1]}", func(n Node) { n.Field("a").Strings() }, "x.yaml:1:6: error: Thing t: an item of a must be a string, and 1 is not one [wrong-type]"},
		{"{a: {b: true, c: }}", func(n Node) { n.Field("a").StringMap() }, "x.yaml:1:9: error: Thing t: a.b must be a string, and true is not one [wrong-type]"},
		{"{a: Reed}", func(n Node) { n.Field("a").OneOf("Read", "Write") }, `x.yaml:1:5: error: Thing t: a cannot be "Reed" [unknown-value]`},
	} {
		var ds source.Diagnostics
		c.read(Root(parse(t, c.text), &Reader{Object: "Thing t", Diags: &ds}))
		if ds.Error() != c.want {
			t.Errorf("%s: got %q, want %q", c.text, ds.Error(), c.want)
		}
	}
}

func TestSelector(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"{}", "everything"},
		{"{matchLabels: {a: b}}", "a=b"},
		{"{matchExpressions: [{key: a, operator: In, values: [b, c]}, {key: d, operator: NotIn, values: [e]}, {key: f, operator: Exists}, {key: g, operator: DoesNotExist}]}", "a in (b,c),d not in (e),f,!g"},
		{"{matchLabels: {a: ''}}", "a="},
	} {
		var ds source.Diagnostics
		s, ok := Selector(Root(parse(t, c.text), &Reader{Object: "x", Diags: &ds}))
		if !ok || s.String() != c.want || len(ds) > 0 {
			t.Errorf("%s: got %s, %v", c.text, s, ds)
		}
	}
	if _, ok := Selector(Node{r: &Reader{Diags: new(source.Diagnostics)}}); ok {
		t.Error("an absent selector was read")
	}
	var s network.Selector
	if s.Match(nil) != network.Yes {
		t.Error("the empty selector does not match")
	}
}

func TestValidLabelValue(t *testing.T) {
	for v, want := range map[string]bool{
		"": true, "a": true, "a-b_c.D9": true, "-a": false, "a.": false, "a b": false, "ä": false,
		strings.Repeat("x", 63): true, strings.Repeat("x", 64): false,
	} {
		if ValidLabelValue(v) != want {
			t.Errorf("%q: want %v", v, want)
		}
	}
}
