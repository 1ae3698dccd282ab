package text

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/render"
)

func TestDiagnosticShowsLineCaretNoteAndFix(t *testing.T) {
	ds := source.Diagnostics{{
		Severity: source.Error, Rule: "unknown-workload", Pos: source.Pos{File: "b.yaml", Line: 2, Col: 9},
		Message: `workload "trainr" is not declared`, Fix: "did you mean trainer?",
		Notes: []source.Note{{Pos: source.Pos{File: "b.yaml", Line: 7}, Text: "there"}, {Text: "and so on"}},
	}}
	lines := func(string, int) (string, bool) { return "  from:\ttrainr # x", true }
	var b strings.Builder
	if err := Diagnostics(&b, ds, lines, Options{}); err != nil {
		t.Fatal(err)
	}
	want := "b.yaml:2:9: error: workload \"trainr\" is not declared [unknown-workload]\n" +
		"      from:\ttrainr # x\n" +
		"           \t^~~~~~\n" +
		"    note: b.yaml:7: there\n" +
		"    note: and so on\n" +
		"    fix: did you mean trainer?\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestSnippetIsHarmlessAndShort(t *testing.T) {
	at := source.Pos{File: "x", Line: 1, Col: 5000}
	for _, line := range []string{
		strings.Repeat("a", 4999) + "\x1b[31mé" + strings.Repeat("b", 5000), "", "short", strings.Repeat("\u0085", 6000),
	} {
		var b strings.Builder
		ds := source.Diagnostics{{Pos: at, Message: "m"}}
		if err := Diagnostics(&b, ds, func(string, int) (string, bool) { return line, true }, Options{}); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(b.String(), "\x1b\u0085") {
			t.Errorf("a control character came through: %q", &b)
		}
		for l := range strings.SplitSeq(b.String(), "\n") {
			if utf8.RuneCountInString(l) > maxSnippet+10 {
				t.Errorf("a line of %d", utf8.RuneCountInString(l))
			}
		}
	}
}

func TestErrorsHideWarnings(t *testing.T) {
	ds := source.Diagnostics{{Severity: source.Warning, Message: "w"}, {Severity: source.Error, Message: "e"}}
	var b strings.Builder
	Diagnostics(&b, ds, nil, Options{})
	if got := b.String(); strings.Contains(got, "warning: w") || !strings.Contains(got, "error: e") || !strings.Contains(got, "and 1 warning") {
		t.Error(got)
	}
}

func findings(n int) []finding.Finding {
	var out []finding.Finding
	for i := range n {
		f := finding.New("exposed", finding.High, "ns/Deployment/w"+string(rune('a'+i)), "")
		f.Title, f.Detail, f.Remedy = "it is exposed", strings.Repeat("a long story ", 12), "close it"
		f.Witness = &finding.Witness{From: "internet", To: f.Subject, Traffic: "TCP 80", Verdict: finding.Allowed, Hops: []finding.Hop{
			{At: "Service", Verdict: finding.Allowed, Why: strings.Repeat("because ", 12), Rules: []finding.Rule{{Name: "r", Pos: source.Pos{File: "a.yaml", Line: i + 1}}}}}}
		out = append(out, f)
	}
	return out
}

func TestReportFoldsAndSaysSo(t *testing.T) {
	r := &render.Report{Findings: findings(12), Coverage: &network.Coverage{Objects: 3, Understood: 2, Ignored: []network.Ignored{{Kind: "Foo", Name: "x", Why: "nobody knows it", Matters: true}}}}
	var b strings.Builder
	if err := Report(&b, r, nil, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"▲ high  exposed  12 findings", "… and 4 more of this rule", "--all shows each with its witness", "12 ▲ high", "Foo x: nobody knows it; this can change verdicts"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "a.yaml:6") || strings.Contains(b.String(), "\x1b") {
		t.Errorf("too much in\n%s", &b)
	}
	b.Reset()
	Report(&b, r, nil, Options{All: true})
	if !strings.Contains(b.String(), "a.yaml:9") {
		t.Errorf("--all leaves something out:\n%s", &b)
	}
}

func TestTextFitsTheWidth(t *testing.T) {
	for _, width := range []int{40, 80, 120} {
		var b strings.Builder
		Report(&b, &render.Report{Findings: findings(3), Facts: []render.Fact{{Says: strings.Repeat("fact ", 20)}}}, nil, Options{Width: width})
		for l := range strings.SplitSeq(b.String(), "\n") {
			if utf8.RuneCountInString(l) > width && strings.Contains(strings.TrimSpace(l), " ") && !strings.Contains(l, "→") && !strings.Contains(l, "exposed:") {
				t.Errorf("at width %d: %q", width, l)
			}
		}
	}
}

func TestColourOnlyRepeatsWords(t *testing.T) {
	var plain, coloured strings.Builder
	r := &render.Report{Findings: findings(7)}
	Report(&plain, r, nil, Options{})
	Report(&coloured, r, nil, Options{Colour: true})
	text := coloured.String()
	for _, code := range []string{"0", "1", "2", "31", "32", "33", "34"} {
		text = strings.ReplaceAll(text, "\x1b["+code+"m", "")
	}
	if text != plain.String() {
		t.Errorf("without colour the text differs:\n%s\n%s", text, &plain)
	}
}

// Folding must cover every edge exactly once.
func TestFoldCoversEveryEdgeOnce(t *testing.T) {
	grants := []*render.Grant{{Allow: "all"}, {Allow: "TCP 80"}}
	names := []string{"n/a", "n/b", "n/c", "n/d", "m/e"}
	for seed := range 2000 {
		var edges []render.Edge
		x := seed*2654435761 + 1
		for _, from := range names[:4] {
			for _, to := range names {
				x = (x*1103515245 + 12345) & 0x7fffffff
				if k := x >> 16 % 4; from != to && k < 2 {
					edges = append(edges, render.Edge{From: from, To: to, Grant: grants[k]})
				}
			}
		}
		seen := map[string]int{}
		total := 0
		for _, b := range fold(edges, "n") {
			total += b.count
			for _, f := range b.from {
				for _, to := range b.to {
					if f != to {
						seen[f+" "+to+" "+b.grant.Allow]++
					}
				}
			}
		}
		if total != len(edges) {
			t.Fatalf("seed %d: bundles count %d edges of %d", seed, total, len(edges))
		}
		for _, e := range edges {
			k := strings.TrimPrefix(e.From, "n/") + " " + strings.TrimPrefix(e.To, "n/") + " " + e.Allow
			if seen[k]--; seen[k] < 0 {
				t.Fatalf("seed %d: %s is not covered", seed, k)
			}
		}
		for k, n := range seen {
			if n != 0 {
				t.Fatalf("seed %d: %s is covered %d times too often", seed, k, n)
			}
		}
	}
}

func TestReachFoldsACliqueIntoALine(t *testing.T) {
	g := &render.Grant{Allow: "TCP 80", Rules: []string{"p.yaml:3"}}
	var edges []render.Edge
	for _, a := range []string{"n/Pod/a", "n/Pod/b", "n/Pod/c"} {
		for _, b := range []string{"n/Pod/a", "n/Pod/b", "n/Pod/c"} {
			if a != b {
				edges = append(edges, render.Edge{From: a, To: b, Grant: g})
			}
		}
	}
	var b strings.Builder
	none := func(func(render.Outside) bool) {}
	if err := Reach(&b, &render.Reach{Edges: slices.Values(edges), Exposures: none, Egress: none}, Options{}); err != nil {
		t.Fatal(err)
	}
	if want := "n  6 edges\n  Pod/a, Pod/b, Pod/c → Pod/a, Pod/b, Pod/c  TCP 80\n      by p.yaml:3\n"; !strings.Contains(b.String(), want) {
		t.Errorf("got\n%s", &b)
	}
}

func TestNamesCannotTakeOverTheTerminal(t *testing.T) {
	f := finding.New("r", finding.Low, "a\x1b]0;owned\x07b\x1b[2J", "")
	f.Title = "c\u009b31md\rx"
	for _, o := range []Options{{}, {Colour: true}} {
		var b strings.Builder
		Report(&b, &render.Report{Findings: []finding.Finding{f}}, nil, o)
		for _, bad := range []string{"\x1b]", "\x07", "\x1b[2J", "\u009b", "\r"} {
			if strings.Contains(b.String(), bad) {
				t.Errorf("%q came through: %q", bad, &b)
			}
		}
	}
}
