package probe

import (
	"strings"
	"testing"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/report"
)

func TestJudge(t *testing.T) {
	kernel := []string{"EPERM"}
	denied := flow.Record{Event: flow.Deny, Probe: "x", Verdict: "deny", Why: "no permission"}
	opened := flow.Record{Event: flow.Open, Probe: "x", Verdict: "allow"}
	failed := flow.Record{Event: flow.Fail, Probe: "x", Verdict: "allow", Why: "its server does not listen"}
	byKernel := flow.Record{Event: flow.Deny, Side: flow.Kernel, Verdict: "deny"}
	answered := flow.Record{Event: flow.Request, Probe: "x", Verdict: "allow", Method: "GET", Status: 404}
	refusedRequest := flow.Record{Event: flow.Deny, Probe: "x", Verdict: "deny", Method: "POST", Status: 403}
	failedRequest := flow.Record{Event: flow.Fail, Probe: "x", Verdict: "allow", Method: "POST", Why: "its server closed"}
	reset := Observation{Stage: AtReceive, Connected: true, Error: "ECONNRESET"}
	held := Observation{Stage: AtReceive, Connected: true, Held: true}
	all := func(rs ...flow.Record) []flow.Record { return rs }
	const good, bad, broken, untried = report.AsExpected, report.Surprise, report.Broken, report.Untried

	for _, tt := range []struct {
		name    string
		c       Case
		o       Observation
		records []flow.Record
		want    report.Outcome
		final   bool
	}{
		// A prohibited connection.
		{"reset with a record", Case{want: wantProxyRefusal}, reset, all(denied), good, true},
		{"reset that nobody recorded", Case{want: wantProxyRefusal}, reset, nil, bad, false},
		{"refused by the kernel only", Case{want: wantProxyRefusal}, Observation{Stage: AtConnect, Error: "ECONNREFUSED"}, all(byKernel), bad, false},
		{"refused by nobody", Case{want: wantProxyRefusal}, Observation{Stage: AtConnect, Error: "ECONNREFUSED"}, nil, bad, false},
		{"opened", Case{want: wantProxyRefusal}, reset, all(opened), bad, true},
		{"opened and refused", Case{want: wantProxyRefusal}, reset, all(denied, opened), bad, true},
		{"stays open", Case{want: wantProxyRefusal}, held, nil, bad, true},
		{"stays open, with a refusal", Case{want: wantProxyRefusal}, held, all(denied), bad, true},
		{"bytes came back", Case{want: wantProxyRefusal}, Observation{Connected: true, Bytes: 3, Error: "ECONNRESET"}, all(denied), bad, true},
		{"its server is down", Case{want: wantProxyRefusal}, reset, all(failed), bad, true},
		{"silence", Case{want: wantProxyRefusal}, Observation{Stage: AtConnect, Error: timedOut}, nil, untried, false},
		{"the other proxy answers", Case{want: wantProxyRefusal}, Observation{Stage: AtHandshake, Connected: true, Error: tlsAlert}, nil, bad, false},
		{"an orderly end without a record", Case{want: wantProxyRefusal}, Observation{Stage: AtReceive, Connected: true, Error: endOfFile}, nil, bad, false},
		{"no such kind of socket", Case{want: wantProxyRefusal, accept: []string{noSuchKind}}, Observation{Stage: AtSocket, Error: noSuchKind}, nil, good, true},

		// A datagram that is not declared, and ports that are the proxy's.
		{"EPERM", Case{want: wantKernelRefusal, accept: kernel, Task: Task{Do: SendUDP}}, Observation{Stage: AtConnect, Error: "EPERM"}, nil, good, true},
		{"sent", Case{want: wantKernelRefusal, accept: kernel, Task: Task{Do: SendUDP}}, Observation{Stage: AtReceive, Held: true}, nil, bad, false},
		{"unreachable, from afar", Case{want: wantKernelRefusal, accept: kernel, Task: Task{Do: SendUDP}}, Observation{Stage: AtReceive, Error: "ECONNREFUSED"}, nil, bad, false},
		{"captured and refused", Case{want: wantKernelRefusal, accept: kernel, Task: Task{Do: SendUDP}}, Observation{Stage: AtReceive, Held: true}, all(denied), good, true},
		{"an answer", Case{want: wantKernelRefusal, accept: kernel, Task: Task{Do: SendUDP}}, Observation{Bytes: 1, Held: true}, nil, bad, true},
		{"an error of the kernel after it was connected", Case{want: wantKernelRefusal, accept: kernel}, Observation{Connected: true, Error: "EPERM"}, nil, bad, false},

		// A permitted connection.
		{"open", Case{want: wantOpen}, held, all(opened), good, true},
		{"open, and the server hangs up", Case{want: wantOpen}, Observation{Connected: true, Error: endOfFile}, all(opened), good, true},
		{"refused", Case{want: wantOpen}, reset, all(denied), bad, true},
		{"open past the proxy", Case{want: wantOpen}, held, nil, bad, false},
		{"the server is down", Case{want: wantOpen}, reset, all(failed), broken, true},
		{"nothing", Case{want: wantOpen}, reset, nil, broken, false},
		{"it has no command", Case{want: wantOpen, silent: "it has no command"}, reset, all(failed), untried, true},
		{"it has no command, and is refused", Case{want: wantOpen, silent: "it has no command"}, reset, all(denied), bad, true},
		{"a datagram that the kernel refuses", Case{want: wantOpen, Task: Task{Do: SendUDP}}, Observation{Error: "EPERM"}, nil, bad, false},
		{"a datagram to nobody", Case{want: wantOpen, Task: Task{Do: SendUDP}}, Observation{Held: true}, nil, broken, false},
		{"no IPv6 here", Case{want: wantOpen}, Observation{Stage: AtConnect, Error: "EADDRNOTAVAIL"}, nil, untried, true},

		// A plaintext exemption.
		{"plaintext", Case{want: wantPlain}, held, nil, good, true},
		{"plaintext to nobody", Case{want: wantPlain}, Observation{Stage: AtConnect, Error: "ECONNREFUSED"}, nil, broken, false},
		{"plaintext that the kernel refuses", Case{want: wantPlain}, Observation{Stage: AtConnect, Error: "ECONNREFUSED"}, all(byKernel), bad, true},
		{"plaintext that a proxy refuses", Case{want: wantPlain}, reset, all(denied), bad, true},

		// Requests.
		{"a request that is answered", Case{want: wantRequest}, Observation{Connected: true, Status: 404}, all(opened, answered), good, true},
		{"a request that nobody read", Case{want: wantRequest}, Observation{Connected: true, Status: 200}, all(opened), bad, false},
		{"a request that is refused", Case{want: wantRequest}, Observation{Connected: true, Status: 403}, all(opened, refusedRequest), bad, true},
		{"a request of another node", Case{want: wantRequest, remote: true}, Observation{Connected: true, Status: 404}, all(opened), good, true},
		{"a prohibited request that is refused", Case{want: wantRequestRefusal}, Observation{Connected: true, Status: 403, Refused: true}, all(opened, refusedRequest), good, true},
		{"a prohibited request that passes", Case{want: wantRequestRefusal}, Observation{Connected: true, Status: 404}, all(opened, answered), bad, true},
		{"a prohibited request that passes and fails", Case{want: wantRequestRefusal}, Observation{Connected: true, Status: 502}, all(opened, failedRequest), bad, true},
		{"a prohibited request that is answered", Case{want: wantRequestRefusal}, Observation{Connected: true, Status: 200}, all(opened), bad, true},
		{"403 of the server itself", Case{want: wantRequestRefusal}, Observation{Connected: true, Status: 403}, all(opened), bad, false},
		{"403 of the server itself, through a proxy", Case{want: wantRequestRefusal}, Observation{Connected: true, Status: 403}, all(opened, answered), bad, true},
		{"a prohibited request without an answer", Case{want: wantRequestRefusal}, reset, all(opened), untried, false},

		// What must come to nothing.
		{"done", Case{want: wantStop, accept: kernel}, Observation{Stage: AtUse, Done: true}, nil, bad, true},
		{"not permitted", Case{want: wantStop, accept: kernel}, Observation{Stage: AtUse, Error: "EPERM"}, nil, good, true},
		{"out of memory", Case{want: wantStop, accept: kernel}, Observation{Stage: AtUse, Error: "ENOMEM"}, nil, untried, false},
		{"nothing was said", Case{want: wantStop, accept: kernel}, Observation{}, nil, untried, false},
		{"alert", Case{want: wantHandshakeRefusal, accept: []string{tlsAlert}}, Observation{Stage: AtHandshake, Error: tlsAlert}, nil, good, true},
		{"believed", Case{want: wantHandshakeRefusal, accept: []string{tlsAlert}}, Observation{Stage: AtStream, Done: true}, nil, bad, true},
		{"a server that does not answer", Case{want: wantHandshakeRefusal, accept: []string{tlsAlert}}, Observation{Stage: AtHandshake, Error: timedOut}, nil, untried, false},

		// Streams.
		{"a stream", Case{want: wantStream}, Observation{Stage: AtStream, Done: true}, nil, good, true},
		{"a stream that is refused", Case{want: wantStream}, Observation{Stage: AtStream, Error: "denied"}, nil, bad, true},
		{"a stream to nobody", Case{want: wantStream}, Observation{Stage: AtStream, Error: "unreachable"}, nil, broken, true},
		{"a prohibited stream", Case{want: wantStreamRefusal}, Observation{Stage: AtStream, Error: "denied"}, nil, good, true},
		{"a prohibited stream that opens", Case{want: wantStreamRefusal}, Observation{Stage: AtStream, Done: true}, nil, bad, true},
		{"a prohibited stream that passes and fails", Case{want: wantStreamRefusal}, Observation{Stage: AtStream, Error: "unreachable"}, nil, bad, true},
		{"a prohibited stream without an answer", Case{want: wantStreamRefusal}, Observation{Stage: AtConnect, Error: timedOut}, nil, untried, true},

		// The Workload API.
		{"the own identity", Case{want: wantOwnIdentity, own: "spiffe://p/a"}, Observation{Identity: "spiffe://p/a"}, nil, good, true},
		{"another's identity", Case{want: wantOwnIdentity, own: "spiffe://p/a"}, Observation{Identity: "spiffe://p/b"}, nil, bad, true},
		{"no identity", Case{want: wantOwnIdentity, own: "spiffe://p/a"}, Observation{Error: otherErr}, nil, good, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, final := Judge(&tt.c, &tt.o, tt.records)
			if r.Outcome != tt.want || final != tt.final {
				t.Errorf("%s (final %t), want %s (final %t): %s", r.Outcome, final, tt.want, tt.final, r.Says)
			}
			if (r.Says == "") != (r.Outcome == good) && tt.name != "no identity" {
				t.Errorf("%s, and it says %q", r.Outcome, r.Says)
			}
			if strings.Contains(r.Says, "\n") || strings.Contains(r.Observed, "\n") {
				t.Errorf("more than a line: %q %q", r.Says, r.Observed)
			}
		})
	}
}

// TestNothingIsProvenByNothing: whatever a case wants, it is not as expected
// without an observation and without records.
func TestNothingIsProvenByNothing(t *testing.T) {
	for w := wantProxyRefusal; w < wantOwnIdentity; w++ {
		r, _ := Judge(&Case{want: w, accept: []string{"EPERM"}}, &Observation{}, nil)
		if r.Outcome == report.AsExpected {
			t.Errorf("want %d is met by nothing", w)
		}
	}
}

// TestARefusalIsNeverTakenForPermission, nor the other way round, for every case of
// a plan and everything that can be recorded about it.
func TestARefusalIsNeverTakenForPermission(t *testing.T) {
	opened := []flow.Record{{Event: flow.Open, Probe: "x", Verdict: "allow"}}
	open := Observation{Stage: AtReceive, Connected: true, Held: true, Bytes: 10, Status: 200, Done: true, Identity: "spiffe://p.example/other"}
	refused := Observation{Stage: AtConnect, Error: "EPERM"}
	for _, c := range Plan(platformOf(t, platformText), Filter{}) {
		for _, records := range [][]flow.Record{nil, opened} {
			if r, _ := Judge(c, &open, records); c.Expected() == "refused" && r.Outcome != report.Surprise {
				t.Errorf("%s got through with %d records and is %s", c.Name, len(records), r.Outcome)
			}
		}
		if r, _ := Judge(c, &refused, nil); c.Expected() == "allowed" && r.Outcome == report.AsExpected {
			t.Errorf("%s was refused and is %s", c.Name, r.Outcome)
		}
	}
}
