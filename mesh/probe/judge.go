package probe

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/report"
)

// Judge compares what was expected of a case with what was observed and recorded.
// It reports false while a record that would settle it may still come; what it
// says then holds if none does.
func Judge(c *Case, o *Observation, records []flow.Record) (report.ProbeResult, bool) {
	r := report.ProbeResult{Number: c.Number, ID: c.ID, Kind: c.Kind.ID, Title: c.Kind.Title, Attack: c.Kind.Attack,
		Name: c.Name, From: c.From, To: c.To, Expected: c.Expected(), Policy: c.Policy, Observed: o.text(), Took: o.Took,
		Evidence: evidence(records)}
	if o.Untried != "" {
		r.Outcome, r.Says = report.Untried, o.Untried
		return r, true
	}
	v := c.judge(o, seen(records))
	if v.outcome == report.Broken && c.silent != "" {
		v.outcome, v.says = report.Untried, "the policy permits it, and nothing answers: "+c.silent
	}
	r.Outcome, r.Says = v.outcome, v.says
	return r, v.final
}

// verdict is an outcome, and whether more records could change it.
type verdict struct {
	outcome report.Outcome
	says    string
	final   bool
}

func expected() verdict { return verdict{outcome: report.AsExpected, final: true} }

func surprise(format string, args ...any) verdict {
	return verdict{report.Surprise, fmt.Sprintf(format, args...), true}
}

// soFar makes a verdict one that a record may still change.
func (v verdict) soFar() verdict {
	v.final = false
	return v
}

// recorded is what the records of a case say.
type recorded struct {
	opened, denied, failed, requested *flow.Record
	refusedRequest                    *flow.Record
	// byKernel is a denial that no proxy recorded.
	byKernel *flow.Record
}

func seen(records []flow.Record) recorded {
	var s recorded
	for i := range records {
		r := &records[i]
		switch {
		case r.Event == flow.Open || r.Event == flow.Close:
			s.opened = r
		case r.Event == flow.Request && r.Verdict == "allow":
			s.requested = r
		case r.Event == flow.Deny && r.Method != "":
			s.refusedRequest = r
		case r.Event == flow.Deny && r.Side == flow.Kernel:
			s.byKernel = r
		case r.Event == flow.Deny && r.Probe == "":
			// Of a handshake that failed: TLS says so too.
		case r.Event == flow.Deny:
			s.denied = r
		case r.Event == flow.Fail:
			s.failed = r
		}
	}
	return s
}

func (c *Case) judge(o *Observation, s recorded) verdict {
	switch c.want {
	case wantOpen:
		return c.judgeOpen(o, s)
	case wantPlain:
		return c.judgePlain(o, s)
	case wantProxyRefusal, wantKernelRefusal:
		return c.judgeRefusal(o, s)
	case wantRequest:
		return c.judgeRequest(o, s)
	case wantRequestRefusal:
		return c.judgeRequestRefusal(o, s)
	case wantStop, wantHandshakeRefusal:
		return c.judgeStop(o, s)
	case wantStream, wantStreamRefusal:
		return c.judgeStream(o, s)
	case wantOwnIdentity:
		return c.judgeIdentity(o)
	case wantWayOut:
		return judgeWayOut(o, s)
	case wantNoWayOut:
		return judgeNoWayOut(o, s)
	}
	return surprise("nobody can judge it")
}

// judgeRefusal wants a refusal that is accounted for.
func (c *Case) judgeRefusal(o *Observation, s recorded) verdict {
	switch {
	case s.opened != nil || s.requested != nil:
		return surprise("it got through: a proxy opened it")
	case o.Bytes > 0 || o.Done:
		return surprise("it got through: %d bytes came back", o.Bytes)
	case o.Held && c.Task.Do != SendUDP:
		return surprise("it got through: the connection stays open")
	case s.failed != nil:
		return surprise("the policy let it pass: it failed for another reason: %s", s.failed.Why)
	case s.denied != nil:
		return expected()
	case (c.want == wantKernelRefusal || o.Stage == AtSocket) && !o.Connected && slices.Contains(c.accept, o.Error):
		return expected()
	case o.noAddress():
		return verdict{report.Untried, "the workload has no such address", true}
	case o.Stage == AtHandshake || o.Error == tlsAlert:
		return surprise("it reached the other proxy, past the own one; only TLS refused it").soFar()
	case o.Error == timedOut:
		return verdict{report.Untried, "there was no answer, and nobody recorded a refusal", false}
	case s.byKernel != nil:
		return surprise("only the kernel refused it, and not where it should: it got past the workload's own filter and proxy").soFar()
	}
	if o.Error == "" {
		return surprise("nothing refused it").soFar()
	}
	return surprise("nobody accounts for it: no proxy recorded a refusal, and the kernel's error is not one").soFar()
}

func (c *Case) judgeOpen(o *Observation, s recorded) verdict {
	switch {
	case s.denied != nil:
		return surprise("a proxy refused what the policy permits: %s", s.denied.Why)
	case s.opened != nil:
		return expected()
	case s.failed != nil:
		return verdict{report.Broken, "the policy permits it, and it did not come about: " + s.failed.Why, true}
	case o.noAddress():
		return verdict{report.Untried, "the workload has no such address", true}
	case s.byKernel != nil:
		return surprise("the kernel refused what the policy permits").soFar()
	case o.Bytes > 0 || o.Held && c.Task.Do != SendUDP:
		return surprise("it is open, and no proxy carried it").soFar()
	case o.Error == "EPERM":
		return surprise("the kernel refused what the policy permits").soFar()
	}
	return verdict{report.Broken, "the policy permits it, and no proxy recorded it", false}
}

func (c *Case) judgePlain(o *Observation, s recorded) verdict {
	switch {
	case s.denied != nil:
		return surprise("a proxy refused what the policy exempts: %s", s.denied.Why)
	case s.byKernel != nil || o.Error == "EPERM":
		return surprise("the kernel refused what the policy exempts")
	case s.opened != nil || o.Held || o.Bytes > 0 || o.Connected && o.Error == endOfFile:
		return expected()
	}
	return verdict{report.Broken, "the policy permits it, and its server did not answer", false}
}

func (c *Case) judgeRequest(o *Observation, s recorded) verdict {
	switch {
	case s.refusedRequest != nil:
		return surprise("a proxy refused what the policy permits: %s", s.refusedRequest.Why)
	case s.denied != nil:
		return surprise("a proxy refused what the policy permits: %s", s.denied.Why)
	case s.requested != nil:
		return expected()
	case s.failed != nil:
		return verdict{report.Broken, "the policy permits it, and it did not come about: " + s.failed.Why, true}
	case c.remote && o.Refused:
		return surprise("the other side refused what the policy permits")
	case c.remote && o.Status > 0:
		return expected()
	case o.Status > 0:
		return surprise("it was answered, and no proxy read it").soFar()
	}
	return verdict{report.Broken, "the policy permits it, and there was no answer", false}
}

func (c *Case) judgeRequestRefusal(o *Observation, s recorded) verdict {
	switch {
	case s.requested != nil:
		return surprise("it got through: a proxy let it pass and the server answered %d", s.requested.Status)
	case s.failed != nil && s.failed.Method != "":
		return surprise("a proxy let it pass; it failed for another reason: %s", s.failed.Why)
	case o.Status > 0 && o.Status != 403:
		return surprise("it got through: it was answered with status %d", o.Status)
	case s.refusedRequest != nil || c.remote && o.Refused:
		return expected()
	case s.denied != nil:
		return surprise("the whole connection was refused, which the policy permits: %s", s.denied.Why)
	case s.failed != nil:
		return verdict{report.Untried, "the connection did not come about: " + s.failed.Why, true}
	case o.Status == 403:
		return surprise("it was refused, and no proxy recorded it: it may have been the server").soFar()
	}
	return verdict{report.Untried, "there was no answer, and nobody recorded a refusal", false}
}

// judgeStop wants an error that can only be a refusal.
func (c *Case) judgeStop(o *Observation, s recorded) verdict {
	switch {
	case o.Done:
		return surprise("it was done: %s", orElse(o.Says, "nothing refused it"))
	case s.opened != nil:
		return surprise("it got through: a proxy opened it")
	case o.Held || o.Bytes > 0:
		return surprise("nothing refused it")
	case slices.Contains(c.accept, o.Error):
		return expected()
	case s.denied != nil:
		return expected()
	}
	return verdict{report.Untried, "it failed, and not by a refusal that is known", false}
}

func (c *Case) judgeStream(o *Observation, s recorded) verdict {
	const denied = "denied" // the code of a proxy's refusal
	refused := o.Stage == AtStream && o.Error == denied
	if c.want == wantStream {
		switch {
		case o.Done:
			return expected()
		case refused:
			return surprise("the proxy refused what the policy permits: %s", o.Says)
		}
		return verdict{report.Broken, "the policy permits it, and it did not come about: " + o.Says, true}
	}
	switch {
	case o.Done || s.opened != nil:
		return surprise("it got through: the proxy opened the stream")
	case refused:
		return expected()
	case slices.Contains(c.accept, o.Error):
		return expected() // there is no door in the fabric
	case o.Stage == AtStream:
		return surprise("the policy let it pass; it failed for another reason: %s", o.Says)
	}
	return verdict{report.Untried, "it did not come to a decision", true}
}

func (c *Case) judgeIdentity(o *Observation) verdict {
	switch {
	case o.Identity == "":
		return verdict{report.AsExpected, "it gave none", true}
	case o.Identity == c.own:
		return expected()
	}
	return surprise("it gave %s", o.Identity)
}

// judgeWayOut wants the gateway's word that it let something out.
func judgeWayOut(o *Observation, s recorded) verdict {
	switch {
	case s.denied != nil:
		return surprise("the gateway refused what the policy permits: %s", s.denied.Why)
	case s.refusedRequest != nil:
		return surprise("the gateway refused what the policy permits: %s", s.refusedRequest.Why)
	case s.opened != nil:
		return expected()
	case s.failed != nil:
		return verdict{report.Broken, "the policy permits it, and it did not come about: " + s.failed.Why, true}
	case o.Done || o.Status == 200:
		return surprise("it got out, and the gateway did not record it").soFar()
	}
	return verdict{report.Broken, "the policy permits it, and there was no answer", false}
}

// judgeNoWayOut wants the gateway's word that it refused something.
func judgeNoWayOut(o *Observation, s recorded) verdict {
	switch {
	case s.opened != nil:
		return surprise("it got out: the gateway let it pass")
	case o.Done:
		return surprise("it got out: somebody spoke TLS").soFar()
	case s.denied != nil || s.refusedRequest != nil:
		return expected()
	case s.failed != nil:
		return verdict{report.Broken, "it did not come to a decision: " + s.failed.Why, true}
	case o.Refused:
		return surprise("it was refused, and the gateway did not record it").soFar()
	case o.Status == 200 && o.Held:
		return surprise("it is open, and nobody recorded it").soFar()
	}
	return verdict{report.Untried, "there was no answer, and nobody recorded a refusal", false}
}

// noAddress says that there was nothing to dial from.
func (o *Observation) noAddress() bool {
	return !o.Connected && (o.Error == "EADDRNOTAVAIL" || o.Error == noSuchSocket)
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// text says what an attacker saw, in one line.
func (o *Observation) text() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case o.Untried != "":
		return "not tried"
	case o.Done:
		add("it was done")
	case o.Identity != "":
		add("%s", o.Identity)
	case o.Status > 0:
		add("status %d", o.Status)
	case o.Held:
		add("open to the end")
	case o.Connected && o.Stage == AtReceive:
		add("connected, then")
	case o.Stage != "":
		add("at %s:", o.Stage)
	}
	if o.Bytes > 0 {
		add("%d bytes", o.Bytes)
	}
	if o.Error != "" {
		add("%s", o.Error)
	}
	if o.Says != "" && (o.Error == tlsAlert || o.Error == otherErr || o.Done || o.Stage == AtStream) {
		add("(%s)", o.Says)
	}
	return strings.Join(parts, " ")
}

func evidence(records []flow.Record) []report.ProbeEvidence {
	var out []report.ProbeEvidence
	for i := range records {
		r := &records[i]
		if r.Event == flow.Close {
			continue // says no more than its open
		}
		out = append(out, report.ProbeEvidence{Event: string(r.Event), Side: string(r.Side), Verdict: r.Verdict, Rule: r.Rule,
			Generation: r.Generation, Why: r.Why, Method: r.Method, Status: r.Status})
	}
	return out
}
