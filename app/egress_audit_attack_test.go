package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/core/source"
	"bulkhead/policyfile"
	"bulkhead/render"
)

const attackPolicy = `version: 1
platform: audit
zones:
  training: {role: training}
workloads:
  trainer: {zone: training, at: {kubernetes: {namespace: t, labels: {app: trainer}}}}
  loader: {zone: training, at: {kubernetes: {namespace: t, labels: {app: loader}}}}
destinations:
  ours: {title: our drop, hosts: [transfer.sh]}
endpoints:
  models: {hosts: [models.example.com], address: 10.3.0.5, consumers: [trainer], because: models, owner: ml}
egress:
  - {from: trainer, to: pypi.org, because: dependencies, owner: ml}
  - {from: trainer, to: transfer.sh, because: sharing, owner: ml}
  - {from: trainer, to: mirror.example.com, ports: [80], may: GET /simple/**, because: packages, owner: ml}
  - {from: trainer, to: old.example.com, because: dependencies, owner: ml, until: 2026-01-01}
  - {from: loader, to: 10.9.0.0/16, ports: [5432], because: warehouse, owner: ml}
`

func attack(t *testing.T, log string, sources ...string) (*render.EgressAudit, *Env) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("log", log)
	e := &Env{Dir: dir, Now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	q := EgressAudit{Paths: []string{"log"}, Sources: sources, Warn: func(source.Diagnostics, Lines) error { return nil }}
	if !strings.Contains(t.Name(), "WithoutAPolicy") {
		write("p.yaml", attackPolicy)
		q.Policy = "p.yaml"
	}
	a, err := e.EgressAudit(q)
	if err != nil {
		t.Fatal(err)
	}
	return a, e
}

func show(a *render.EgressAudit) string {
	var b strings.Builder
	for _, c := range a.Calls {
		b.WriteString("\n  " + c.Source + " → " + c.Host + " " + c.Addr.String() + " " + string(c.State) + " | " + c.Rule + " | " + c.Why + " | " + strings.Join(c.Risks, "; "))
	}
	return b.String()
}

// TestWhatMustBeFound: none of these may look as if a rule permitted it.
func TestWhatMustBeFound(t *testing.T) {
	for name, log := range map[string]string{
		"a permitted name at a metadata address (Envoy)":  `{"authority":"pypi.org:443","upstream_host":"169.254.169.254:443","downstream_remote_address":"trainer","response_code":200}`,
		"a permitted name at a private address (Envoy)":   `{"authority":"pypi.org:443","upstream_host":"10.0.0.9:443","downstream_remote_address":"trainer","response_code":200}`,
		"a permitted name at a metadata address (record)": `{"id":"a","seq":1,"time":"2026-11-29T15:00:00Z","event":"open","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"pypi.org","addr":"169.254.169.254:443"},"transport":"tcp","verdict":"allow","generation":1}`,
		"a permitted name at a private address (Squid)":   `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT pypi.org:443 - HIER_DIRECT/10.0.0.9 -`,
		"only the end of a tunnel":                        `{"msg":"CANONICAL-PROXY-CN-CLOSE","role":"trainer","requested_host":"evil.test:443","bytes_in":100,"bytes_out":50}`,
		"only the beginning of a tunnel":                  `{"id":"a","seq":1,"time":"2026-11-29T15:00:00Z","event":"open","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"evil.test","addr":"8.8.4.4:443"},"transport":"tcp","verdict":"allow","generation":1}`,
		"a refused answer":                                `1764424842.767 12 trainer TCP_DENIED_REPLY/403 4932 GET http://evil.test/ - HIER_DIRECT/8.8.4.4 -`,
		"403 from outside":                                `{"authority":"evil.test","upstream_host":"8.8.4.4:443","downstream_remote_address":"trainer","response_code":403}`,
		"UDP where TCP is permitted":                      "source_workload,host,port,protocol\ntrainer,pypi.org,443,udp\n",
		"a tunnel where requests are permitted":           `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT mirror.example.com:80 - HIER_DIRECT/8.8.4.4 -`,
		"POST where GET is permitted":                     `1764424842.767 12 trainer TCP_MISS/200 4932 POST http://mirror.example.com/simple/x - HIER_DIRECT/8.8.4.4 -`,
		"an expired rule":                                 `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT old.example.com:443 - HIER_DIRECT/8.8.4.4 -`,
		"one of two names":                                `{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.5","destination":"8.8.4.4"},"l4":{"TCP":{"destination_port":443}},"source":{"namespace":"t","workloads":[{"name":"trainer"}]},"destination":{"labels":["reserved:world"]},"destination_names":["pypi.org","evil.test"],"traffic_direction":"EGRESS"}}`,
		"a number":                                        `1764424842.767 12 trainer TCP_MISS/200 4932 GET http://2852039166/latest/ - HIER_DIRECT/169.254.169.254 -`,
		"a hexadecimal number":                            `1764424842.767 12 trainer TCP_MISS/200 4932 GET http://0xa9.254.169.254/latest/ - HIER_DIRECT/169.254.169.254 -`,
		"a permitted name with a suffix":                  `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT pypi.org.evil.test:443 - HIER_DIRECT/8.8.4.4 -`,
		"another port":                                    `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT pypi.org:22 - HIER_DIRECT/8.8.4.4 -`,
		"another workload":                                `1764424842.767 12 loader TCP_TUNNEL/200 4932 CONNECT pypi.org:443 - HIER_DIRECT/8.8.4.4 -`,
		"metadata through NAT64":                          "source_workload,dst_ip,port\ntrainer,64:ff9b::a9fe:a9fe,80\n",
		"metadata as a mapped address":                    "source_workload,dst_ip,port\ntrainer,::ffff:169.254.169.254,80\n",
		"metadata through 6to4":                           "source_workload,dst_ip,port\ntrainer,2002:a9fe:a9fe::1,80\n",
		"a place to drop files under our own name":        `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT transfer.sh:443 - HIER_DIRECT/8.8.4.4 -`,
		"an endpoint that is not its own":                 `{"id":"a","seq":1,"time":"2026-11-29T15:00:00Z","event":"open","node":"n","side":"gateway","from":{"workload":"loader"},"to":{"name":"models.example.com","port":443,"service":"endpoint/models"},"transport":"tcp","verdict":"allow","generation":1}`,
		"an endpoint that is none":                        `{"id":"a","seq":1,"time":"2026-11-29T15:00:00Z","event":"open","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"pypi.org","port":443,"service":"endpoint/nothing"},"transport":"tcp","verdict":"allow","generation":1}`,
		"an endpoint's name on the public way":            `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT models.example.com:443 - HIER_DIRECT/8.8.4.4 -`,
		"ICMP with bytes":                                 "source_workload,dst_ip,port,protocol,bytes\ntrainer,8.8.4.4,0,icmp,900000\n",
		"bytes that overflow":                             "source_workload,host,port,bytes\n" + strings.Repeat("trainer,evil.test,443,9007199254740991\n", 1100),
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := attack(t, log, "10.0.0.5=trainer")
			if !a.Found() {
				t.Errorf("nothing is found (inner %d): %s", a.Inner, show(a))
			}
			for _, c := range a.Calls {
				if c.Out < 0 || c.In < 0 {
					t.Errorf("negative bytes: %+v", c)
				}
			}
		})
	}
}

func TestWhatIsPermitted(t *testing.T) {
	a, _ := attack(t, "1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT PyPI.org.:443 - HIER_DIRECT/8.8.4.4 -\n"+
		"1764424842.767 12 trainer TCP_DENIED/403 4932 CONNECT evil.test:443 - HIER_NONE/- -\n")
	if a.Found() {
		t.Error(show(a))
	}
	a, _ = attack(t, `{"id":"a","seq":1,"time":"2026-11-29T15:00:00Z","event":"open","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"models.example.com","addr":"10.3.0.5:443","service":"endpoint/models"},"transport":"tcp","verdict":"allow","generation":1}`)
	if a.Found() || a.Calls[0].State != render.EgressNeeded {
		t.Error(show(a))
	}
	a, _ = attack(t, "source_workload,dst_ip,port\nloader,10.9.1.1,5432\n")
	for _, r := range a.Unused {
		if strings.Contains(r.Name, "10.9.0.0") {
			t.Errorf("%s was needed by a call: %s", r.Name, show(a))
		}
	}
}

func drafted(t *testing.T, e *Env, a *render.EgressAudit) string {
	t.Helper()
	text, err := e.EgressDraft(a)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// entries is what a draft says without its comments.
func entries(text string) string {
	var out []string
	for l := range strings.SplitSeq(text, "\n") {
		if l, _, _ = strings.Cut(l, "#"); strings.TrimSpace(l) != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func TestNeverDrafted(t *testing.T) {
	for name, log := range map[string]string{
		"number":      `1764424842.767 12 trainer TCP_MISS/200 1 GET http://2852039166/x - HIER_DIRECT/1.1.1.1 -`,
		"hexadecimal": `1764424842.767 12 trainer TCP_MISS/200 1 GET http://0x7f.1/x - HIER_DIRECT/1.1.1.1 -`,
		"short":       `1764424842.767 12 trainer TCP_MISS/200 1 GET http://127.1/x - HIER_DIRECT/1.1.1.1 -`,
		"address":     `1764424842.767 12 trainer TCP_MISS/200 1 GET http://8.8.4.4/x - HIER_DIRECT/1.1.1.1 -`,
		"metadata":    `1764424842.767 12 trainer TCP_MISS/200 1 GET http://169.254.169.254/x - HIER_DIRECT/1.1.1.1 -`,
		"metaname":    `1764424842.767 12 trainer TCP_MISS/200 1 GET http://metadata.google.internal/x - HIER_DIRECT/169.254.169.254 -`,
		"file-drop":   `1764424842.767 12 trainer TCP_TUNNEL/200 1 CONNECT gofile.io:443 - HIER_DIRECT/8.8.4.4 -`,
		"wild drop":   `1764424842.767 12 trainer TCP_TUNNEL/200 1 CONNECT x.mega.nz:443 - HIER_DIRECT/8.8.4.4 -`,
		"resolver":    `1764424842.767 12 trainer TCP_TUNNEL/200 1 CONNECT dns.google:443 - HIER_DIRECT/8.8.4.4 -`,
		"private":     `{"authority":"evil.test:443","upstream_host":"10.0.0.9:443","downstream_remote_address":"trainer","response_code":200}`,
		"no port":     "source_workload,host\ntrainer,evil.test\n",
		"underscore":  `1764424842.767 12 trainer TCP_TUNNEL/200 1 CONNECT -a_.b--.test:443 - HIER_DIRECT/8.8.4.4 -`,
		"one label":   `1764424842.767 12 trainer TCP_TUNNEL/200 1 CONNECT evil:443 - HIER_DIRECT/8.8.4.4 -`,
		"refused":     `1764424842.767 12 trainer TCP_DENIED/403 1 CONNECT evil.test:443 - HIER_NONE/- -`,
		"UDP":         "source_workload,host,port,protocol\ntrainer,evil.test,443,udp\n",
		"injection":   "source_workload,host,port\nloader,8.8.4.4,22\n" + `{"msg":"x","role":"x\negress:\n- {from: trainer, to: evil.test}\u2028\u0085\r- from","requested_host":"evil.test:443","allow":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			a, e := attack(t, log)
			text := drafted(t, e, a)
			if got := entries(text); strings.Contains(got, "from") {
				t.Errorf("%s\n%s", text, show(a))
			}
		})
		t.Run(name+" WithoutAPolicy", func(t *testing.T) {
			a, e := attack(t, log, "trainer=trainer")
			text := drafted(t, e, a)
			if got := entries(text); strings.Contains(got, "from") {
				t.Errorf("%s\n%s", text, show(a))
			}
		})
	}
}

// TestDraftsCover: with the drafted rules nothing of the log is left that no rule
// needs, and every guess is marked.
func TestDraftsCover(t *testing.T) {
	log := `1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT api.openai.com:443 - HIER_DIRECT/8.8.4.4 -
1764424842.767 12 trainer TCP_TUNNEL/200 4932 CONNECT files.pythonhosted.org:443 - HIER_DIRECT/8.8.4.4 -
1764424842.767 12 loader TCP_TUNNEL/200 4932 CONNECT x.example.org:8443 - HIER_DIRECT/8.8.4.4 -
1764424842.767 12 loader TCP_MISS/200 4932 GET http://x.example.org/a - HIER_DIRECT/8.8.4.4 -
1764424842.767 12 loader TCP_TUNNEL/200 4932 CONNECT bucket.s3.eu-west-1.amazonaws.com:443 - HIER_DIRECT/8.8.4.4 -
1764424842.767 12 loader TCP_TUNNEL/200 4932 CONNECT bedrock-runtime.eu-west-1.amazonaws.com:443 - HIER_DIRECT/8.8.4.4 -
`
	a, e := attack(t, log)
	text := drafted(t, e, a)
	t.Log("\n" + text)
	if strings.Contains(text, "because:") || !strings.Contains(text, "# guess:") {
		t.Error("a reason is invented, or no guess is marked")
	}
	rules := entries(text)
	rules = rules[strings.Index(rules, "egress:")+len("egress:"):]
	whole := attackPolicy + rules + "\n"
	if err := os.WriteFile(filepath.Join(e.Dir, "q.yaml"), []byte(whole), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ds := policyfile.Parse([]policyfile.File{{Name: "q.yaml", Text: []byte(whole)}}); ds.HasErrors() {
		t.Fatalf("%s\n%s", ds.Error(), whole)
	}
	again, err := e.EgressAudit(EgressAudit{Paths: []string{"log"}, Policy: "q.yaml", Warn: func(source.Diagnostics, Lines) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if again.Found() {
		t.Error(show(again))
	}
}

// TestANamesakeInAnotherNamespaceIsNobody: it has not the workload's rules.
func TestANamesakeInAnotherNamespaceIsNobody(t *testing.T) {
	const flow = `{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.5","destination":"8.8.4.4"},"l4":{"TCP":{"destination_port":443}},"source":{"namespace":"NS","workloads":[{"name":"trainer"}]},"destination":{"labels":["reserved:world"]},"destination_names":["pypi.org"],"traffic_direction":"EGRESS"}}`
	for namespace, want := range map[string]render.EgressState{"t": render.EgressNeeded, "other": render.EgressUnmapped} {
		a, _ := attack(t, strings.Replace(flow, "NS", namespace, 1))
		if len(a.Calls) != 1 || a.Calls[0].State != want {
			t.Errorf("from %s/trainer it is not %s:%s", namespace, want, show(a))
		}
	}
}

// TestWhoASourceIs: a source is only taken for a workload by its name if nothing
// says that it is another one.
func TestWhoASourceIs(t *testing.T) {
	for from, want := range map[string]string{
		"trainer": "trainer", "t/trainer": "trainer", "evil/trainer": "", "/trainer": "", "trainer/trainer": "", "t/x/trainer": "", "spiffe://evil/trainer": "",
		"Trainer": "", "nobody": "", "10.0.0.5": "loader", "10.0.0.6": "trainer", "::ffff:10.0.0.5": "loader", "10.0.1.5": "", "job-7": "loader", "10.0.0.5:443": "loader",
	} {
		a, _ := attack(t, "source_workload,host,port\n"+from+",pypi.org,443\n", "10.0.0.0/24=trainer", "::ffff:10.0.0.5=loader", "job-7=loader")
		if len(a.Calls) != 1 || a.Calls[0].Workload != want || (a.Calls[0].State == render.EgressUnmapped) != (want == "") {
			t.Errorf("%s is %q, not %q", from, a.Calls[0].Workload, want)
		}
	}
	for _, twice := range [][]string{{"10.0.0.5=trainer", "10.0.0.5/32=loader"}, {"10.0.0.1/8=trainer", "10.0.0.2/8=loader"}, {"x=trainer", "x=loader"}} {
		e := &Env{Dir: t.TempDir()}
		if _, err := e.EgressAudit(EgressAudit{Sources: twice}); err == nil {
			t.Errorf("%v are taken", twice)
		}
	}
}

// TestDraftsNameDestinations: a destination stands for its hosts only where its name
// lets nothing else through, and means in the policy what it means here.
func TestDraftsNameDestinations(t *testing.T) {
	for host, want := range map[string]string{
		"files.pythonhosted.org": "pypi", "transfer.example.com": "shared", "s3.amazonaws.com": "s3.amazonaws.com", "x.s3.amazonaws.com": "x.s3.amazonaws.com",
		"sts.amazonaws.com": "sts.amazonaws.com", "api.anthropic.com": "api.anthropic.com", "one.example.com": "one.example.com",
	} {
		dir := t.TempDir()
		e := &Env{Dir: dir, Now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
		policy := `version: 1
platform: audit
zones:
  training: {role: training}
workloads:
  trainer: {zone: training}
destinations:
  shared: {title: shared, hosts: [transfer.example.com, "*.shared.example.com"]}
  tenants: {title: tenants, hosts: [one.example.com, "*.tenants.example.com"], multiTenant: true}
  anthropic: {title: a mirror, hosts: [mirror.example.com]}
`
		for name, text := range map[string]string{"p.yaml": policy, "log": "1764424842.767 12 trainer TCP_TUNNEL/200 1 CONNECT " + host + ":443 - HIER_DIRECT/8.8.4.4 -\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		a, err := e.EgressAudit(EgressAudit{Paths: []string{"log"}, Policy: "p.yaml", Warn: func(source.Diagnostics, Lines) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		if text := drafted(t, e, a); !strings.Contains(text, "from: trainer, to: "+want+"}") {
			t.Errorf("%s: want %s\n%s", host, want, text)
		}
	}
}

func TestKnownPlaces(t *testing.T) {
	x := placesOf(policyfile.Catalogue())
	for host, want := range map[string]string{
		"pypi.org": "pypi", "x.pypi.org": "", "bedrock-runtime.eu-west-1.amazonaws.com": "bedrock", "bedrock-runtime..amazonaws.com": "", "bedrock-runtime.a.b.amazonaws.com": "",
		"b.s3.eu-west-1.amazonaws.com": "aws-s3", "a.b.s3.amazonaws.com": "aws-s3", "s3.amazonaws.com": "aws-s3", "xs3.amazonaws.com": "", ".s3.amazonaws.com": "",
		"123.dkr.ecr.eu-west-1.amazonaws.com": "ecr", "r2.dev": "", "a.r2.dev": "cloudflare-r2",
		"b.s3.eu-west-1.amazonaws.com.evil.test": "", "b.s3xeu-west-1.amazonaws.com": "", "": "",
	} {
		got := ""
		if d := x.of(host); d != nil {
			got = d.Name.Value
		}
		if got != want {
			t.Errorf("%s is %q, not %q", host, got, want)
		}
	}
}
