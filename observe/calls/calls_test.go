package calls

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func readAll(t *testing.T, text string) ([]string, Coverage) {
	t.Helper()
	var out []string
	c, err := Read(strings.NewReader(text), func(c Call) { out = append(out, show(&c)) })
	if err != nil {
		t.Fatal(err)
	}
	return out, c
}

// show writes what differs from a plain connection of one line.
func show(c *Call) string {
	line := c.Source + " → "
	if c.Method != "" {
		line += c.Method + " "
	}
	line += strings.TrimSpace(c.Host + " " + map[bool]string{true: c.Addr.String()}[c.Addr.IsValid()])
	line += fmt.Sprintf(":%d", c.Port)
	if c.Protocol != "tcp" {
		line += "/" + c.Protocol
	}
	if c.Out+c.In > 0 {
		line += fmt.Sprintf(" out %d in %d", c.Out, c.In)
	}
	if c.Count > 1 {
		line += fmt.Sprintf(" ×%d", c.Count)
	}
	if c.Endpoint != "" {
		line += " endpoint " + c.Endpoint
	}
	for word, is := range map[string]bool{" denied": c.Denied && !c.More, " more": c.More && !c.Denied, " refused after all": c.Denied && c.More} {
		if is {
			line += word
		}
	}
	return line
}

func TestFormats(t *testing.T) {
	for name, test := range map[string]struct{ format, text, want string }{
		"squid": {"Squid access.log", `1764424842.767     12 10.1.2.3 TCP_TUNNEL/200 4932 CONNECT pypi.org:443 - HIER_DIRECT/151.101.0.223 -
1764424843.000      1 10.1.2.3 TCP_DENIED/403 3900 GET http://169.254.169.254/latest/ - HIER_NONE/- text/html
1764424843.100      1 10.1.2.4 TCP_MISS/200 10 GET http://Mirror.example.com./simple/?token=x trainer HIER_DIRECT/1.2.3.4 text/html
1764424843.200      1 10.1.2.4 NONE_NONE/400 10 - error:invalid-request - HIER_NONE/- text/html`,
			`10.1.2.3 → pypi.org 151.101.0.223:443 out 0 in 4932
10.1.2.3 → GET 169.254.169.254:80 out 0 in 3900 denied
trainer → GET mirror.example.com 1.2.3.4:80 out 0 in 10`},
		"what a client makes of a host is a call all the same": {"Squid access.log", `1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT 2852039166:443 - HIER_DIRECT/- -
1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT 0xa9fea9fe:80 - HIER_DIRECT/- -
1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT metadata:80 - HIER_DIRECT/- -
1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT 127.1:80 - HIER_DIRECT/- -
1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT [::ffff:169.254.169.254]:80 - HIER_DIRECT/- -
1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT [fe80::1%25eth0]:80 - HIER_DIRECT/- -
1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT pypi.org%00.evil.test:443 - HIER_DIRECT/- -
1764424842.767 12 10.1.2.3 TCP_MISS/200 1 GET http://user:secret@evil.test/ - HIER_DIRECT/- -`,
			`10.1.2.3 → 2852039166:443 out 0 in 1
10.1.2.3 → 0xa9fea9fe:80 out 0 in 1
10.1.2.3 → metadata:80 out 0 in 1
10.1.2.3 → 127.1:80 out 0 in 1
10.1.2.3 → 169.254.169.254:80 out 0 in 1
10.1.2.3 → fe80::1:80 out 0 in 1
10.1.2.3 → pypi.org%00.evil.test:443 out 0 in 1
10.1.2.3 → GET evil.test:80 out 0 in 1`},
		"tinyproxy": {"tinyproxy", `CONNECT   Nov 29 15:00:00.000 [10]: Connect (file descriptor 5): client.local [10.1.2.3]
CONNECT   Nov 29 15:00:00.001 [10]: Request (file descriptor 5): CONNECT huggingface.co:443 HTTP/1.1
INFO      Nov 29 15:00:00.002 [10]: No upstream proxy for huggingface.co
CONNECT   Nov 29 15:00:01.001 [10]: Request (file descriptor 9): GET http://evil.test/ HTTP/1.1
NOTICE    Nov 29 15:00:01.002 [10]: Proxying refused on filtered domain "evil.test"`, `10.1.2.3 → huggingface.co:443
unknown → GET evil.test:80
unknown → GET evil.test:80 refused after all`},
		"smokescreen": {"smokescreen", `{"msg":"CANONICAL-PROXY-DECISION","role":"trainer","requested_host":"api.openai.com:443","allow":true,"time":"2026-11-29T15:00:00Z"}
{"msg":"CANONICAL-PROXY-CN-CLOSE","role":"trainer","requested_host":"api.openai.com:443","bytes_in":100,"bytes_out":50}
{"msg":"CANONICAL-PROXY-DECISION","inbound_remote_addr":"10.1.2.3:5555","requested_host":"evil.test:443","allow":false}
{"msg":"starting","level":"info"}`,
			`trainer → api.openai.com:443
trainer → api.openai.com:443 out 50 in 100 more
10.1.2.3 → evil.test:443 denied`},
		"envoy": {"Envoy access log", `{"authority":"-","requested_server_name":"pypi.org","upstream_host":"151.101.0.223:443","downstream_remote_address":"10.1.2.3:44444","bytes_sent":100,"bytes_received":7,"response_code":0,"source":"x"}
{"authority":"api","upstream_host":"127.0.0.1:80","upstream_cluster":"inbound|80||","downstream_remote_address":"10.1.2.3:1"}
{":authority":"evil.test","method":"POST","upstream_host":"9.9.9.9:80","downstream_remote_address":"10.1.2.3:1","response_code":403}
{":authority":"evil.test","method":"POST","upstream_host":"-","downstream_remote_address":"10.1.2.3:1","response_code":"403"}
{"authority":"a b","upstream_host":"[2001:db8::1]:8443","downstream_remote_address":"10.1.2.3:1"}`,
			`10.1.2.3 → pypi.org 151.101.0.223:443 out 7 in 100
10.1.2.3 → POST evil.test 9.9.9.9:80
10.1.2.3 → POST evil.test:443 denied
10.1.2.3 → 2001:db8::1:8443`},
		"hubble": {"Hubble", `{"flow":{"time":"2026-11-29T15:00:00Z","verdict":"FORWARDED","IP":{"source":"10.0.0.5","destination":"151.101.0.223"},"l4":{"TCP":{"destination_port":443}},"source":{"namespace":"training","workloads":[{"name":"trainer"}]},"destination":{"labels":["reserved:world"]},"destination_names":["pypi.org"],"traffic_direction":"EGRESS"}}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.5","destination":"10.0.0.6"},"l4":{"TCP":{"destination_port":80}},"destination":{"labels":["k8s:app=x"]},"traffic_direction":"EGRESS"}}
{"time":"2026-11-29T15:00:00Z","verdict":"DROPPED","IP":{"source":"10.0.0.5","destination":"9.9.9.9"},"l4":{"UDP":{"destination_port":443}},"destination":{"labels":["reserved:world-ipv4"]},"traffic_direction":"EGRESS"}
{"flow":{"IP":{"source":"10.0.0.5","destination":"9.9.9.9"},"l4":{"ICMPv4":{"type":8}}}}`,
			`training/trainer → pypi.org 151.101.0.223:443
10.0.0.5 → 9.9.9.9:443/udp denied
10.0.0.5 → 9.9.9.9:0/icmp`},
		"vpc": {"VPC flow log", `2 123456789010 eni-1235b8ca 10.1.2.3 151.101.0.223 20641 443 6 20 4249 1418530010 1418530070 ACCEPT OK
2 123456789010 eni-1235b8ca 10.1.2.3 9.9.9.9 20641 443 17 20 49 1418530010 1418530070 REJECT OK
2 123456789010 eni-1235b8ca - - - - - - - 1431280876 1431280934 - NODATA`,
			`10.1.2.3 → 151.101.0.223:443 out 4249 in 0
10.1.2.3 → 9.9.9.9:443/udp out 49 in 0 denied`},
		"vpc with a header": {"VPC flow log", `srcaddr dstaddr pkt-dstaddr dstport protocol action
10.1.2.3 10.0.0.1 151.101.0.223 443 6 ACCEPT
srcaddr dstaddr pkt-dstaddr dstport protocol action
10.1.2.3 10.0.0.1 64:ff9b::909:909 22 6 ACCEPT`, `10.1.2.3 → 151.101.0.223:443
10.1.2.3 → 64:ff9b::909:909:22`},
		"zeek": {"Zeek", "#separator \\x09\n#path\tssl\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tserver_name\n1764424842.7\tC1\t10.1.2.3\t4444\t151.101.0.223\t443\tpypi.org\n1764424842.7\tC1\t10.1.2.3\t4444\t151.101.0.223\t443\t-" +
			"\n#path\tweird\n#fields\tts\tid.orig_h\tid.resp_h\n1\t1.2.3.4\t5.6.7.8",
			"10.1.2.3 → pypi.org 151.101.0.223:443\n10.1.2.3 → 151.101.0.223:443"},
		"zeek as JSON": {"Zeek", `{"_path":"conn","ts":1764424842.7,"id.orig_h":"10.1.2.3","id.orig_p":5,"id.resp_h":"9.9.9.9","id.resp_p":443,"proto":"udp","orig_bytes":7}
{"_path":"http","ts":1764424842.7,"id.orig_h":"10.1.2.3","id.resp_h":"9.9.9.9","id.resp_p":80,"method":"PUT","host":"evil.test"}
{"_path":"notice","id.orig_h":"10.1.2.3","id.resp_h":"9.9.9.9"}`, `10.1.2.3 → 9.9.9.9:443/udp out 7 in 0
10.1.2.3 → PUT evil.test 9.9.9.9:80`},
		"csv": {"CSV", "time,src_ip,dst_ip,dst_port,bytes,host,proto,action\n\n2026-11-29T15:00:00Z,10.1.2.3,151.101.0.223,443,100,,TCP,allow\n2026-11-29T15:00:00Z,10.1.2.3,\"9.9.9.9\",443,100,none,udp,DENY\nx,trainer,,0,1,pypi.org:8443,,\n",
			"10.1.2.3 → 151.101.0.223:443 out 100 in 0\n10.1.2.3 → 9.9.9.9:443/udp out 100 in 0 denied\ntrainer → pypi.org:8443 out 1 in 0"},
		"own": {"bulkhead flow records", `{"id":"a","seq":1,"time":"2026-11-29T15:00:00Z","event":"open","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"pypi.org","addr":"151.101.0.223:443"},"transport":"tcp","verdict":"allow","generation":1}
{"id":"a","seq":2,"time":"2026-11-29T15:00:01Z","event":"close","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"pypi.org","addr":"151.101.0.223:443"},"transport":"tcp","verdict":"deny","generation":1,"bytes_out":5,"bytes_in":9}
{"id":"b","seq":3,"time":"2026-11-29T15:00:01Z","event":"deny","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"evil.test","port":443},"transport":"tcp","verdict":"deny","generation":1,"count":7}
{"id":"c","seq":4,"time":"2026-11-29T15:00:01Z","event":"close","node":"n","side":"source","from":{"workload":"trainer"},"to":{"workload":"store","addr":"100.64.0.1:80"},"transport":"tcp","verdict":"allow","generation":1}
{"id":"d","seq":5,"time":"2026-11-29T15:00:01Z","event":"open","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"a.test","port":443,"service":"endpoint/models"},"transport":"tcp","verdict":"allow","generation":1}
{"id":"e","seq":6,"time":"2026-11-29T15:00:01Z","event":"deny","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"b.test","port":443},"transport":"tcp","verdict":"deny","generation":1,"probe":"x"}
{"id":"f","seq":7,"time":"2026-11-29T15:00:01Z","event":"lookup","node":"n","side":"gateway","from":{"workload":"trainer"},"to":{"name":"b.test","service":"resolver"},"transport":"udp","verdict":"deny","generation":1}`,
			`trainer → pypi.org 151.101.0.223:443
trainer → pypi.org 151.101.0.223:443 out 5 in 9 more
trainer → evil.test:443 ×7 denied
trainer → a.test:443 endpoint models`},
	} {
		t.Run(name, func(t *testing.T) {
			got, c := readAll(t, test.text)
			if strings.Join(got, "\n") != test.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), test.want)
			}
			if c.Format != test.format || c.Unknown > 0 || c.Calls+c.Other != c.Lines {
				t.Errorf("%+v", c)
			}
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			w.Write([]byte(test.text))
			w.Close()
			if again, _ := readAll(t, z.String()); !slices.Equal(again, got) {
				t.Errorf("packed it reads\n%s", strings.Join(again, "\n"))
			}
		})
	}
}

func TestWhatIsNotUnderstoodIsCounted(t *testing.T) {
	got, c := readAll(t, "hello\n\n{\"a\":1}\n\x00\xff\nCONNECT evil.test\n"+strings.Repeat("x", 2*maxLine)+"\nlast")
	if len(got) != 0 || c.Unknown != 6 || c.Lines != 6 || len(c.Examples) != maxExamples {
		t.Errorf("%v %+v", got, c)
	}
	for i, want := range []Example{{1, "hello", "it has the form of no log that is known"}, {3, `{"a":1}`, "its fields are those of no log that is known"}, {4, "\x00\ufffd", ""}, {5, "CONNECT evil.test", ""},
		{6, strings.Repeat("x", maxExample), "it has more than 1 MiB"}} {
		if x := c.Examples[i]; x.Line != want.Line || x.Text != want.Text || want.Why != "" && x.Why != want.Why {
			t.Errorf("%+v", x)
		}
	}
	for text, why := range map[string]string{
		"src,dst,dport\n1.2.3.4,9.9.9.9\n":                                                        "it has fewer columns than the header",
		"src,dst,dport\n,9.9.9.9,1\n":                                                             "it does not say who called",
		"src,dst,dport\n1.2.3.4,,1\n":                                                             "where it leads is no host or address",
		`{"requested_host":"a.test:443","role":"a\u001b[2Jb"}`:                                    "who called is no name or address",
		`{"requested_host":"a.test:443","role":"a\nb"}`:                                           "who called is no name or address",
		"1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 1 CONNECT u:p@evil.test:443 - HIER_DIRECT/- -": "where it leads is no host or address",
		"dstaddr srcaddr log-status\n- - SKIPDATA":                                                "the network skipped records here",
		"{":                                      "it is no JSON document of one line",
		strings.Repeat(`{"a":`, 100_000):         "it is no JSON document of one line",
		`{"event":1,"side":2,"verdict":"allow"}`: "a field of the flow record has another type",
	} {
		if got, c := readAll(t, text); len(got) > 0 || c.Unknown != 1 || c.Examples[0].Why != why {
			t.Errorf("%.80q: %v %+v", text, got, c)
		}
	}
}

// TestALogThatIsCutOff says so, rather than that nothing else was called.
func TestALogThatIsCutOff(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte("src,dst\n1.2.3.4,9.9.9.9\n"))
	w.Close()
	for n := range z.Len() {
		if n < 2 {
			continue
		}
		if _, err := Read(bytes.NewReader(z.Bytes()[:n]), func(Call) {}); err == nil {
			t.Errorf("%d of %d bytes are a log", n, z.Len())
		}
	}
}

// TestRealFlows reads a real collection of flows, if it is there. It has IPv4
// addresses as numbers, and the greatest number where there was no IPv4 address.
func TestRealFlows(t *testing.T) {
	f, err := os.Open("../../../shared/inputs/assuremoss/flows.csv.gz")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	defer f.Close()
	n := 0
	c, err := Read(f, func(c Call) {
		n++
		if !c.Addr.Is4() || c.Host != "" || c.Port == 0 || c.Time.Year() < 2020 {
			t.Errorf("line %d: %+v", c.Line, c)
		}
	})
	if err != nil || n < 1000 || c.Format != "CSV" || n+c.Unknown+1 != c.Lines || c.Unknown > c.Lines/10 {
		t.Errorf("%d calls, %+v, %v", n, c, err)
	}
	for _, x := range c.Examples {
		if x.Why != "an address is a number, and not one of IPv4" || !strings.Contains(x.Text, "9223372036854775807") {
			t.Errorf("%+v", x)
		}
	}
	t.Logf("%d calls, %d not understood", n, c.Unknown)
}

func FuzzRead(f *testing.F) {
	f.Add("1764424842.767 12 10.1.2.3 TCP_TUNNEL/200 4932 CONNECT pypi.org:443 - HIER_DIRECT/1.1.1.1 -\n")
	f.Add(`{"flow":{"IP":{"source":"a","destination":"::1"},"l4":{"TCP":{"destination_port":1}},"destination_names":["a.b"]}}`)
	f.Add(`{"event":"close","side":"gateway","verdict":"allow","from":{"workload":"a"},"to":{"name":"A.b.","addr":"[::ffff:1.2.3.4]:5"},"bytes_out":-1}`)
	f.Add(`{"authority":"a.b:70000","upstream_host":"1.2.3.4:5","downstream_remote_address":"[::1%1]:5"}`)
	f.Add("src,dst\n1,2\n3201805056,\"a\n")
	f.Add("#fields\tid.orig_h\tid.resp_h\n1\t2\n")
	f.Add("CONNECT   Nov 29 15:00:00.001 [10]: Request (file descriptor 5): CONNECT huggingface.co:443 HTTP/1.1\nNOTICE    Nov 29 15:00:01.002 [10]: Proxying refused on filtered domain \"huggingface.co\"")
	f.Add("2 1 eni 10.1.2.3 151.101.0.223 20641 443 6 20 4249 1418530010 1418530070 ACCEPT OK")
	f.Fuzz(func(t *testing.T, text string) {
		calls, last := 0, 0
		c, err := Read(strings.NewReader(text), func(c Call) {
			calls++
			if c.Source == "" || len(c.Source) > maxSource || c.Host == "" && !c.Addr.IsValid() || c.Out < 0 || c.In < 0 || c.Count < 1 || c.Line <= last || c.Protocol == "" || len(c.Protocol) > 20 {
				t.Errorf("%+v", c)
			}
			last = c.Line
			if name, ok := hostName(c.Host); c.Host != "" && (!ok || name != c.Host) && !strings.HasSuffix(c.Host, ".") {
				t.Errorf("the host %q has another form", c.Host)
			}
			if c.Addr.Is4In6() || c.Addr.Zone() != "" {
				t.Errorf("%s has another form", c.Addr)
			}
			if _, err := netip.ParseAddr(c.Host); err == nil {
				t.Errorf("the host %q is an address", c.Host)
			}
		})
		if err == nil && (c.Calls != calls || c.Calls+c.Other+c.Unknown != c.Lines || (c.Unknown > 0) != (len(c.Examples) > 0)) {
			t.Errorf("%d calls, %+v", calls, c)
		}
	})
}
