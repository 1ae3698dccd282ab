package markdown

import (
	"fmt"
	"strings"
	"testing"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/verify"
	"bulkhead/render"
)

const hostile = "<img src=x onerror=1> @everyone [a](http://x) `code` | cell\n# head &lt;"

func TestNothingFromTheInputBecomesMarkup(t *testing.T) {
	f := finding.New("rule", finding.High, hostile, "")
	f.Title, f.Detail, f.Remedy = hostile, hostile, hostile
	f.Witness = &finding.Witness{From: hostile, To: hostile, Traffic: hostile, Hops: []finding.Hop{{At: hostile, Why: hostile}}}
	d := &render.Delta{What: "policy", Before: hostile, After: hostile, Delta: verify.Delta{
		Edges:    []verify.Change{{From: hostile, To: hostile, Added: netset.All()}},
		Findings: []finding.Finding{f}, Resolved: []finding.Finding{f}, AddedWorkloads: []string{hostile},
	}}
	var b strings.Builder
	if err := Delta(&b, d); err != nil {
		t.Fatal(err)
	}
	if err := Report(&b, &render.Report{Verb: "audit", Findings: []finding.Finding{f}, Facts: []render.Fact{{Says: hostile}}}); err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(b.String(), "\n") {
		outside := withoutCode(line)
		for _, bad := range []string{"<img", "@everyone", "[a](", "&lt;\n"} {
			if at := strings.Index(outside, bad); at >= 0 && (at == 0 || outside[at-1] != '\\') {
				t.Errorf("line %d lets %q through: %s", i+1, bad, line)
			}
		}
		if strings.HasPrefix(line, "# ") {
			t.Errorf("line %d became a heading: %s", i+1, line)
		}
	}
}

// withoutCode drops code spans, in which nothing is markup.
func withoutCode(line string) string {
	var out []string
	for i, part := range strings.Split(line, "`") {
		if i%2 == 0 {
			out = append(out, part)
		}
	}
	return strings.Join(out, " ")
}

func TestALargeDeltaStaysAComment(t *testing.T) {
	d := &render.Delta{What: "configuration"}
	for i := range 5000 {
		d.Edges = append(d.Edges, verify.Change{From: fmt.Sprintf("ns/Deployment/from-%d", i), To: "ns/Deployment/to", Added: netset.All()})
		f := finding.New("leak", finding.High, fmt.Sprint(i), "")
		f.Title = strings.Repeat("x", 100)
		d.Findings = append(d.Findings, f)
		d.Resolved = append(d.Resolved, f)
	}
	var b strings.Builder
	if err := Delta(&b, d); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 65536 {
		t.Errorf("%d bytes", b.Len())
	}
	if !strings.Contains(b.String(), "… and 4940 more") {
		t.Error("it does not say how many rows it left out")
	}
	if open, closed := strings.Count(b.String(), "<details>"), strings.Count(b.String(), "</details>"); open != closed {
		t.Errorf("%d details are opened and %d closed", open, closed)
	}
}

func TestAnEmptyDeltaSaysSo(t *testing.T) {
	var b strings.Builder
	if err := Delta(&b, &render.Delta{What: "policy", Before: "a", After: "b"}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "nothing changes") {
		t.Error(&b)
	}
}
