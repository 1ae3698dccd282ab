package calls

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func readAll(t *testing.T, text string) ([]string, Coverage) {
	t.Helper()
	var out []string
	c, err := Read(strings.NewReader(text), func(c Call) {
		line := fmt.Sprintf("%s → %s", c.Source, c.Host)
		if c.Addr.IsValid() {
			line += " " + c.Addr.String()
		}
		line += fmt.Sprintf(":%d out %d in %d", c.Port, c.Out, c.In)
		if c.Denied {
			line += " denied"
		}
		if c.More {
			line += " more"
		}
		out = append(out, line)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, c
}

func TestFormats(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"Squid access.log": {`1764424842.767     12 10.1.2.3 TCP_TUNNEL/200 4932 CONNECT pypi.org:443 - HIER_DIRECT/151.101.0.223 -
1764424843.000      1 10.1.2.3 TCP_DENIED/403 3900 GET http://169.254.169.254/latest/ - HIER_NONE/- text/html
1764424843.100      1 10.1.2.4 TCP_MISS/200 10 GET http://Mirror.example.com/simple/ trainer HIER_DIRECT/1.2.3.4 text/html`,
			`10.1.2.3 → pypi.org:443 out 0 in 4932
10.1.2.3 →  169.254.169.254:80 out 0 in 3900 denied
trainer → mirror.example.com:80 out 0 in 10`},
		"tinyproxy": {`CONNECT   Nov 29 15:00:00.000 [10]: Connect (file descriptor 5): client.local [10.1.2.3]
CONNECT   Nov 29 15:00:00.001 [10]: Request (file descriptor 5): CONNECT huggingface.co:443 HTTP/1.1
INFO      Nov 29 15:00:00.002 [10]: No upstream proxy for huggingface.co`, `10.1.2.3 → huggingface.co:443 out 0 in 0`},
		"smokescreen": {`{"msg":"CANONICAL-PROXY-DECISION","role":"trainer","requested_host":"api.openai.com:443","allow":true,"time":"2026-11-29T15:00:00Z"}
{"msg":"CANONICAL-PROXY-CN-CLOSE","role":"trainer","requested_host":"api.openai.com:443","bytes_in":100,"bytes_out":50}
{"msg":"CANONICAL-PROXY-DECISION","role":"trainer","requested_host":"evil.test:443","allow":false}`,
			`trainer → api.openai.com:443 out 0 in 0
trainer → api.openai.com:443 out 50 in 100 more
trainer → evil.test:443 out 0 in 0 denied`},
		"Envoy access log": {`{"authority":"-","requested_server_name":"pypi.org","upstream_host":"151.101.0.223:443","downstream_remote_address":"10.1.2.3:44444","bytes_sent":100,"bytes_received":7,"response_code":0}`,
			`10.1.2.3 → pypi.org 151.101.0.223:443 out 7 in 100`},
		"Hubble": {`{"flow":{"time":"2026-11-29T15:00:00Z","verdict":"FORWARDED","IP":{"source":"10.0.0.5","destination":"151.101.0.223"},"l4":{"TCP":{"destination_port":443}},"source":{"namespace":"training","workloads":[{"name":"trainer"}]},"destination":{"labels":["reserved:world"]},"destination_names":["pypi.org"],"traffic_direction":"EGRESS"}}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.5","destination":"10.0.0.6"},"l4":{"TCP":{"destination_port":80}},"destination":{"labels":["k8s:app=x"]},"traffic_direction":"EGRESS"}}`,
			`training/trainer → pypi.org 151.101.0.223:443 out 0 in 0`},
		"VPC flow log": {`2 123456789010 eni-1235b8ca 10.1.2.3 151.101.0.223 20641 443 6 20 4249 1418530010 1418530070 ACCEPT OK
2 123456789010 eni-1235b8ca 10.1.2.3 9.9.9.9 20641 22 6 20 49 1418530010 1418530070 REJECT OK`,
			`10.1.2.3 →  151.101.0.223:443 out 4249 in 0
10.1.2.3 →  9.9.9.9:22 out 49 in 0 denied`},
		"Zeek": {"#separator \\x09\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tserver_name\n1764424842.7\tC1\t10.1.2.3\t4444\t151.101.0.223\t443\tpypi.org",
			`10.1.2.3 → pypi.org 151.101.0.223:443 out 0 in 0`},
		"CSV": {"time,src_ip,dst_ip,dst_port,bytes\n2026-11-29T15:00:00Z,10.1.2.3,151.101.0.223,443,100\n", `10.1.2.3 →  151.101.0.223:443 out 100 in 0`},
		"bulkhead flow records": {`{"id":"a","seq":1,"time":"2026-11-29T15:00:00Z","event":"open","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"pypi.org","addr":"151.101.0.223:443"},"transport":"tcp","verdict":"allow","generation":1}
{"id":"a","seq":2,"time":"2026-11-29T15:00:01Z","event":"close","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"pypi.org","addr":"151.101.0.223:443"},"transport":"tcp","verdict":"allow","generation":1,"bytes_out":5,"bytes_in":9}
{"id":"b","seq":3,"time":"2026-11-29T15:00:01Z","event":"deny","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"evil.test","port":443},"transport":"tcp","verdict":"deny","generation":1}
{"id":"c","seq":4,"time":"2026-11-29T15:00:01Z","event":"close","node":"n","side":"source","from":{"workload":"trainer"},"to":{"workload":"store","addr":"100.64.0.1:80"},"transport":"tcp","verdict":"allow","generation":1}`,
			`trainer → pypi.org 151.101.0.223:443 out 5 in 9
trainer → evil.test:443 out 0 in 0 denied`},
	} {
		t.Run(name, func(t *testing.T) {
			got, c := readAll(t, test.text)
			if strings.Join(got, "\n") != test.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), test.want)
			}
			if c.Format != name || c.Unknown > 0 || c.Calls+c.Other != c.Lines {
				t.Errorf("%+v", c)
			}
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			w.Write([]byte(test.text))
			w.Close()
			if again, _ := readAll(t, z.String()); len(again) != len(got) {
				t.Errorf("packed there are %d calls", len(again))
			}
		})
	}
}

func TestWhatIsNotUnderstoodIsCounted(t *testing.T) {
	got, c := readAll(t, "hello\n{\"a\":1}\n\x00\xff\nCONNECT evil.test\n")
	if len(got) != 0 || c.Unknown != 4 || len(c.Examples) != 4 || c.Examples[0] != (Example{1, "hello"}) {
		t.Errorf("%v %+v", got, c)
	}
	if _, err := Read(strings.NewReader(strings.Repeat("x", maxLine+1)), func(Call) {}); err == nil {
		t.Error("a line without an end is read")
	}
}

// TestRealFlows reads a real collection of flows, if it is there.
func TestRealFlows(t *testing.T) {
	f, err := os.Open("../../../shared/inputs/assuremoss/flows.csv.gz")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	defer f.Close()
	n, private := 0, 0
	c, err := Read(f, func(c Call) {
		n++
		if !c.Addr.IsValid() || !c.Addr.Is4() {
			t.Errorf("line %d: %+v", c.Line, c)
		}
		if c.Addr.IsPrivate() {
			private++
		}
	})
	if err != nil || c.Unknown > 0 || n < 1000 || c.Format != "CSV" {
		t.Errorf("%d calls, %+v, %v", n, c, err)
	}
	t.Logf("%d calls, %d to private addresses", n, private)
}

func FuzzRead(f *testing.F) {
	f.Add("1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 4932 CONNECT pypi.org:443 - HIER_DIRECT/1.1.1.1 -\n")
	f.Add(`{"flow":{"IP":{"source":"a","destination":"::1"},"l4":{"TCP":{"destination_port":1}},"destination_names":["a.b"]}}`)
	f.Add("src,dst\n1,2\n3201805056,\"a\n")
	f.Add("#fields\tid.orig_h\tid.resp_h\n1\t2\n")
	f.Fuzz(func(t *testing.T, text string) {
		calls := 0
		c, err := Read(strings.NewReader(text), func(c Call) {
			calls++
			if !c.valid() || c.Host != "" && (c.Host != strings.ToLower(c.Host) || !isName(c.Host)) || c.Out < 0 || c.In < 0 {
				t.Errorf("%+v", c)
			}
			if c.Addr.IsValid() && c.Addr.Is4In6() {
				t.Errorf("%s is a mapped address", c.Addr)
			}
			if _, err := netip.ParseAddr(c.Host); err == nil {
				t.Errorf("the host %q is an address", c.Host)
			}
		})
		if err == nil && (c.Calls != calls || c.Calls+c.Other+c.Unknown != c.Lines) {
			t.Errorf("%d calls, %+v", calls, c)
		}
	})
}
