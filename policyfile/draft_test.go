package policyfile

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
)

func TestMarshalParsesBackEqual(t *testing.T) {
	for name, files := range inputs(t, "testdata/ok") {
		p := parsed(t, files[0].Text)
		text, err := Marshal(Draft{Policy: p})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again := checkFormat(t, text); string(again) != string(text) {
			t.Errorf("%s: not formatted\n%s\nwant\n%s", name, text, again)
		}
	}
	if at, same := equal(reflect.ValueOf(policy.Zone{Name: t1("a")}), reflect.ValueOf(policy.Zone{Name: t1("b")}), "z"); same {
		t.Errorf("equal sees no difference %s", at)
	}
}

func t1(s string) policy.Text { return policy.Text{Value: s} }

func guessed() *policy.Policy {
	return &policy.Policy{
		Platform: t1("acme"),
		Zones:    []policy.Zone{{Name: t1("data"), Role: t1("data")}, {Name: t1("apps"), Role: t1("custom")}},
		Workloads: []policy.Workload{
			{Name: t1("db"), Zone: t1("data"), Serves: []policy.Service{{Name: t1("sql"), Protocol: t1("postgres"), Lo: 5432, Hi: 5432}},
				Bindings: []policy.Binding{{Target: t1("kubernetes"), Fields: []policy.Field{
					{Key: t1("namespace"), Text: t1("null")},
					{Key: t1("labels"), Map: []policy.Field{{Key: t1("on"), Text: t1("1e3")}, {Key: t1("x"), Text: t1("a\nb: # c")}}},
					{Key: t1("names"), List: []policy.Text{t1(""), t1("- x"), t1("[y]")}},
				}}}},
			{Name: t1("web"), Zone: t1("apps")},
		},
		Flows: []policy.Flow{{From: []policy.Text{t1("web")}, To: []policy.Text{t1("db/sql")},
			Why: policy.Why{Because: t1("seen 3 times,\n  guessed: really #1"), Until: policy.Date{Time: time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC)}}}},
		Destinations: []policy.Destination{{Name: t1("pypi"), Builtin: true}},
		Tests:        []policy.Test{{From: t1("web"), To: t1("db"), Deny: []policy.Text{t1("any"), t1("GET /x")}}},
	}
}

func TestDraftCarriesComments(t *testing.T) {
	got, err := Marshal(Draft{
		Policy: guessed(),
		Header: "Drafted by bulkhead init.\n\nPermissive first: read every line.",
		Comments: map[Entry]string{
			SectionEntry("zones"):          "guessed from namespaces",
			NamedEntry("workloads", "web"): "guess: its zone\x1b[31m\nsecond line",
			NumberedEntry("flows", 0):      "guess: seen on 2026-11-01",
			NamedEntry("workloads", "db"):  "certain",
			SectionEntry("tests"):          "nothing",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `# Drafted by bulkhead init.
#
# Permissive first: read every line.

version: 1
platform: acme

# guessed from namespaces
zones:
  data: {role: data}
  apps: {role: custom}

workloads:
  # certain
  db:
    zone: data
    serves: {sql: postgres/5432}
    at: {kubernetes: {namespace: "null", labels: {"on": "1e3", x: "a\nb: # c"}, names: ["", "- x", "[y]"]}}

  # guess: its zone [31m
  # second line
  web: {zone: apps}

flows:
  # guess: seen on 2026-11-01
  - {from: web, to: db/sql, because: "seen 3 times, guessed: really #1", until: 2027-06-30}

# nothing
tests:
  - {from: web, to: db, deny: [any, GET /x]}
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again := checkFormat(t, got); string(again) != want {
		t.Errorf("not formatted; formatting gives\n%s", again)
	}
}

func TestMarshalRefusesWhatItCannotWrite(t *testing.T) {
	for name, change := range map[string]func(*Draft){
		"a name":          func(d *Draft) { d.Policy.Zones[0].Name = t1("Data Zone") },
		"a twice":         func(d *Draft) { d.Policy.Zones[1].Name = d.Policy.Zones[0].Name },
		"a port":          func(d *Draft) { d.Policy.Workloads[0].Serves[0].Lo = 0 },
		"a time of day":   func(d *Draft) { d.Policy.Flows[0].Until.Time = time.Unix(1, 0) },
		"hidden":          func(d *Draft) { d.Policy.Flows[0].Because = t1("\u202e") },
		"no party":        func(d *Draft) { d.Policy.Flows[0].From = nil },
		"a stray name":    func(d *Draft) { d.Comments = map[Entry]string{NamedEntry("zones", "x"): "y"} },
		"a stray number":  func(d *Draft) { d.Comments = map[Entry]string{NumberedEntry("flows", 7): "y"} },
		"a stray section": func(d *Draft) { d.Comments = map[Entry]string{SectionEntry("egress"): "y"} },
		"a field of a map": func(d *Draft) {
			d.Policy.Workloads[0].Bindings[0].Fields[1].Map[0].Map = []policy.Field{{Key: t1("a")}}
		},
		"targets mixed": func(d *Draft) {
			b := func(target, v string) policy.Binding {
				return policy.Binding{Target: t1(target), Fields: []policy.Field{{Key: t1("k"), Text: t1(v)}}}
			}
			d.Policy.Workloads[0].Bindings = []policy.Binding{b("a", "1"), b("b", "2"), b("a", "3")}
		},
	} {
		d := Draft{Policy: guessed()}
		change(&d)
		if text, err := Marshal(d); err == nil {
			t.Errorf("%s: written as\n%s", name, text)
		} else if strings.Contains(name, "stray") && !strings.Contains(err.Error(), "comments for entries") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
