package policy_test

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
)

// amounts are the units of amounts in bits, which is exact for all of them.
var amounts = map[string]int64{"B": 8, "KiB": 8 << 10, "MiB": 8 << 20, "GiB": 8 << 30, "kB": 8e3, "MB": 8e6, "GB": 8e9, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}

var periods = map[string]time.Duration{"minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour, "week": 168 * time.Hour}

var (
	byteForm  = regexp.MustCompile(`^([1-9][0-9]*)(B|KiB|MiB|GiB|kB|MB|GB|kbit|Mbit|Gbit)/(minute|hour|day|week)$`)
	rateForm  = regexp.MustCompile(`^([1-9][0-9]*)(B|KiB|MiB|GiB|kB|MB|GB|kbit|Mbit|Gbit)/s$`)
	countForm = regexp.MustCompile(`^([1-9][0-9]*)/(minute|hour|day|week)$`)
)

// bytesOf is an independent reading of an amount of bytes, in big numbers.
func bytesOf(number, unit string) *big.Int {
	n, _ := new(big.Int).SetString(number, 10)
	return n.Mul(n, big.NewInt(amounts[unit])).Rsh(n, 3)
}

func checkByteBudget(t *testing.T, text string) {
	t.Helper()
	got, err := policy.ParseByteBudget(text)
	m := byteForm.FindStringSubmatch(text)
	if m == nil {
		if err == nil || !strings.Contains(err.Error(), "is not a whole number from 1 on") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		return
	}
	want := bytesOf(m[1], m[2])
	if want.Cmp(big.NewInt(1<<50)) > 0 {
		if err == nil || err.Error() != fmt.Sprintf("%q is more than 1048576GiB", text) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		return
	}
	if err != nil || got.Most != want.Uint64() || got.Per != periods[m[3]] {
		t.Errorf("%q: %+v, %v; want %v", text, got, err, want)
	}
}

func checkRate(t *testing.T, text string) {
	t.Helper()
	got, err := policy.ParseRate(text)
	m := rateForm.FindStringSubmatch(text)
	want := ""
	switch {
	case m == nil:
		want = fmt.Sprintf("%q is not a whole number from 1 on, a unit (B, KiB, MiB, GiB, kB, MB, GB, kbit, Mbit, Gbit) and /s", text)
	case bytesOf(m[1], m[2]).Cmp(big.NewInt(1<<40)) > 0:
		want = fmt.Sprintf("%q is more than 1024GiB/s", text)
	}
	if want == "" && (err != nil || got != bytesOf(m[1], m[2]).Uint64()) || want != "" && (err == nil || err.Error() != want || got != 0) {
		t.Errorf("%q: %d, %v; want %q", text, got, err, want)
	}
}

func checkCountBudget(t *testing.T, text string) {
	t.Helper()
	got, err := policy.ParseCountBudget(text)
	m := countForm.FindStringSubmatch(text)
	var want uint64
	parse := errors.New("no form")
	if m != nil {
		want, parse = strconv.ParseUint(m[1], 10, 64)
	}
	switch {
	case parse != nil || want >= 1<<40:
		if err == nil || !strings.Contains(err.Error(), "is not a whole number from 1 on and /minute, hour, day or week") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	case err != nil || got.Most != want || got.Per != periods[m[2]]:
		t.Errorf("%q: %+v, %v", text, got, err)
	}
}

func checkConcurrent(t *testing.T, text string) {
	t.Helper()
	got, err := policy.ParseConcurrent(text)
	n, parse := strconv.Atoi(text)
	ok := parse == nil && strconv.Itoa(n) == text && n >= 1 && n <= policy.MaxConcurrent
	if ok != (err == nil) || ok && got != n || !ok && got != 0 {
		t.Errorf("%q: %d, %v", text, got, err)
	}
}

// amountTexts are amounts and what is nearly one.
var amountTexts = []string{"50GiB/day", "1B/minute", "1000/hour", "1/week", "100MiB/s", "2Gbit/s", "1kbit/day", "3kbit/s", "7kbit/minute", "0/hour", "0GiB/day",
	"01GiB/day", "+5GiB/day", "-5/hour", " 5/hour", "5 /hour", "5/hours", "5/ hour", "5GiB", "5", "", "/", "/day", "/s", "GiB/day", "5gib/day", "5TiB/day",
	"1048576GiB/day", "1048577GiB/day", "1024GiB/s", "1025GiB/s", "8796Gbit/s", "8797Gbit/s", "99999999999999999999B/day", "99999999999999999999/hour",
	"1099511627775/day", "1099511627776/day", "5/day/day", "5GiB/day/s", "1e3/hour", "0x10/hour", "1_000/hour", "٣/hour", "5GiB/s/day", "1048575", "1048576",
	"32", "032", "+32", "-1", "0", "1.5", "5e1"}

func TestAmounts(t *testing.T) {
	for _, s := range amountTexts {
		checkByteBudget(t, s)
		checkRate(t, s)
		checkCountBudget(t, s)
		checkConcurrent(t, s)
	}
	if a, err := policy.ParseByteBudget("50GiB/day"); err != nil || a != (policy.Amount{Most: 50 << 30, Per: 24 * time.Hour}) {
		t.Errorf("%+v, %v", a, err)
	}
}

func FuzzByteBudget(f *testing.F) {
	seedAmounts(f)
	f.Fuzz(checkByteBudget)
}

func FuzzCountBudget(f *testing.F) {
	seedAmounts(f)
	f.Fuzz(func(t *testing.T, text string) {
		checkCountBudget(t, text)
		checkConcurrent(t, text)
	})
}

func FuzzRate(f *testing.F) {
	seedAmounts(f)
	f.Fuzz(checkRate)
}

func seedAmounts(f *testing.F) {
	for _, s := range amountTexts {
		f.Add(s)
	}
}

// TestBrokenBudgetPermitsNothing: a limit that cannot be read is not no limit.
func TestBrokenBudgetPermitsNothing(t *testing.T) {
	for _, b := range []policy.Budget{{Bytes: text("lots")}, {Requests: text("1000")}, {Concurrent: text("0")}, {Bytes: text("1GiB/day"), Requests: text("x")}} {
		p := &policy.Policy{Zones: []policy.Zone{{Name: text("z"), Role: text("custom")}}, Workloads: []policy.Workload{{Name: text("job"), Zone: text("z")}},
			Egress:    []policy.Egress{{From: []policy.Text{text("job")}, To: []policy.Text{text("a.test")}, Budget: b}},
			Endpoints: []policy.Endpoint{{Name: text("e"), Hosts: []policy.Text{text("a.test")}, Consumers: []policy.Text{text("job")}, Budget: b}}}
		in, ds := policy.Resolve(p, now)
		if len(in.Permissions) > 0 || len(ds) == 0 || ds[0].Rule != "budget" {
			t.Errorf("%+v: %d permissions, %v", b, len(in.Permissions), ds)
		}
		if in.Decide(askOutside("job", "a.test", "", "")).Allowed {
			t.Errorf("%+v: allowed", b)
		}
	}
	in := gatewayPolicy(t, "egress: [{from: job, to: a.test, budget: {bytes: 1GiB/day, requests: 10/hour, concurrent: 3}, because: x, owner: y}]\n")
	want := policy.Limits{Bytes: policy.Amount{Most: 1 << 30, Per: 24 * time.Hour}, Requests: policy.Amount{Most: 10, Per: time.Hour}, Concurrent: 3}
	if a := in.Decide(askOutside("job", "a.test", "", "")); a.Permission == nil || a.Permission.Budget != want || want.IsZero() {
		t.Errorf("%+v", a.Permission)
	}
}
