package sarif

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/render"
)

func sample() *render.Report {
	exposed := finding.New("exposed", finding.Critical, "serving/Deployment/llm", "443")
	exposed.Title, exposed.Detail, exposed.Remedy = "the internet reaches it", "No login stands before it.", "make it internal"
	exposed.Pos = source.Pos{File: "k8s/my app.yaml", Line: 12, Col: 3}
	exposed.Witness = &finding.Witness{From: "internet", To: "llm", Traffic: "TCP 8000", Verdict: finding.Allowed, Hops: []finding.Hop{
		{At: "Service llm", Verdict: finding.Allowed, Why: "public", Rules: []finding.Rule{{Name: "Service llm", Pos: source.Pos{File: "k8s/svc.yaml", Line: 4}}}},
		{At: "ingress of llm", Verdict: finding.Allowed, Why: "no rule selects it"},
	}}
	exposed.Notes = []source.Note{{Pos: source.Pos{File: "k8s/svc.yaml", Line: 9}, Text: "the port"}}
	flat := finding.New("flat-network", finding.Medium, "the estate", "")
	flat.Title = "everything reaches everything"
	info := finding.New("note", finding.Info, "x", "")
	info.Title, info.Pos = "for information", source.Pos{File: "-", Line: 2}
	return &render.Report{
		Tool: render.Tool{Name: "bulkhead", Version: "v1"}, Verb: "audit", Inputs: []string{"k8s"},
		Findings:    []finding.Finding{exposed, flat, info},
		Diagnostics: source.Diagnostics{{Severity: source.Warning, Rule: "expired", Pos: source.Pos{File: "bulkhead.yaml", Line: 3, Col: 1}, Message: "it expired", Fix: "renew it"}},
		Coverage:    &network.Coverage{Objects: 2, Understood: 1, Ignored: []network.Ignored{{Kind: "Foo", Why: "unknown", Matters: true, Pos: source.Pos{File: "a.yaml", Line: 1}}}},
	}
}

// The properties below are those that GitHub's page "SARIF support for code
// scanning" lists as required, and the bounds it states.
func TestReportHasWhatCodeScanningNeeds(t *testing.T) {
	var b bytes.Buffer
	if err := Report(&b, sample()); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc["version"] != "2.1.0" || !strings.Contains(text(t, doc, "$schema"), "sarif-schema-2.1.0") {
		t.Errorf("version %v, schema %v", doc["version"], doc["$schema"])
	}
	run := doc["runs"].([]any)[0].(map[string]any)
	driver := run["tool"].(map[string]any)["driver"].(map[string]any)
	text(t, driver, "name")
	rules := driver["rules"].([]any)
	for _, r := range rules {
		rule := r.(map[string]any)
		text(t, rule, "id")
		for _, key := range []string{"shortDescription", "fullDescription", "help"} {
			text(t, rule[key].(map[string]any), "text")
		}
		if s, ok := rule["properties"].(map[string]any)["security-severity"].(string); ok {
			if n, err := strconv.ParseFloat(s, 64); err != nil || n <= 0 || n > 10 {
				t.Errorf("security-severity %q", s)
			}
		}
	}
	results := run["results"].([]any)
	if len(results) != 4 {
		t.Fatalf("%d results, not 4", len(results))
	}
	for _, r := range results {
		result := r.(map[string]any)
		text(t, result["message"].(map[string]any), "text")
		id := text(t, result, "ruleId")
		if rule := rules[int(result["ruleIndex"].(float64))].(map[string]any); rule["id"] != id {
			t.Errorf("ruleIndex of %s names %s", id, rule["id"])
		}
		if l := text(t, result, "level"); l != "none" && l != "note" && l != "warning" && l != "error" {
			t.Errorf("level %q", l)
		}
		if len(result["partialFingerprints"].(map[string]any)) == 0 {
			t.Errorf("%s has no fingerprint", id)
		}
		locations := result["locations"].([]any)
		related, _ := result["relatedLocations"].([]any)
		if len(locations) != 1 {
			t.Fatalf("%s has %d locations", id, len(locations))
		}
		for _, l := range append(locations, related...) {
			checkLocation(t, l.(map[string]any))
		}
		for _, l := range related {
			text(t, l.(map[string]any)["message"].(map[string]any), "text")
		}
	}
}

func text(t *testing.T, m map[string]any, key string) string {
	t.Helper()
	s, ok := m[key].(string)
	if !ok || s == "" {
		t.Errorf("%s is missing in %v", key, m)
	}
	return s
}

func checkLocation(t *testing.T, l map[string]any) {
	t.Helper()
	p := l["physicalLocation"].(map[string]any)
	u, err := url.Parse(text(t, p["artifactLocation"].(map[string]any), "uri"))
	if err != nil || u.IsAbs() && u.Scheme != "file" {
		t.Errorf("uri %v: %v", u, err)
	}
	if line := p["region"].(map[string]any)["startLine"].(float64); line < 1 {
		t.Errorf("startLine %v", line)
	}
}

func TestFingerprintsFollowTheFindingAndNotItsLine(t *testing.T) {
	one, two := sample(), sample()
	two.Findings[0].Pos.Line = 99
	print := func(r *render.Report) string {
		return findingResult(r, &r.Findings[0], map[string]int{}).Fingerprints["primaryLocationLineHash"]
	}
	if print(one) != print(two) {
		t.Errorf("%s became %s", print(one), print(two))
	}
}

func TestURI(t *testing.T) {
	for in, want := range map[string]string{
		"a/b c.yaml": "a/b%20c.yaml", "./a.yaml": "a.yaml", "-": "stdin", "": "stdin",
		"/srv/x y.yaml": "file:///srv/x%20y.yaml", "c:a/b": "c%3Aa/b", "../a#1.yaml": "../a%231.yaml",
	} {
		if got := uri(in); got != want {
			t.Errorf("uri(%q) = %q, not %q", in, got, want)
		}
	}
}
