package text

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/report"
	"bulkhead/render"
)

// Up prints what was started, who may talk to whom, and what to type next.
func Up(w io.Writer, u *render.Up, o Options) error {
	p := &printer{w: w, o: o}
	s := u.Status
	p.printf("%s is up: %s in %s, %s\n", p.paint(bold, s.Platform), plural(len(s.Workloads), "workload", "workloads"),
		plural(zones(s), "zone", "zones"), enforcement(s))
	p.notEnforced(s)
	p.printf("\n")
	p.workloads(s)
	p.problems(s)
	p.printf("\nwho may talk to whom; everything else is refused\n")
	p.grants(u.Grants)
	p.doors(s)
	p.gateway(s.Gateway)
	if len(u.Next) > 0 {
		p.printf("\nin another terminal\n")
		for _, n := range u.Next {
			p.printf("  %s\n      %s\n", p.paint(bold, n.Command), n.Says)
		}
	}
	p.printf("\nCtrl-C stops everything and leaves nothing behind.\n")
	return p.err
}

// Status prints how a node is doing.
func Status(w io.Writer, s *report.Status, now time.Time, o Options) error {
	p := &printer{w: w, o: o}
	state := p.paint(green, "ready")
	if !s.Ready() {
		state = p.paint(red, "not ready")
	}
	p.printf("%s on %s: %s, %s\n", p.paint(bold, s.Platform), s.Node, state, enforcement(s))
	p.notEnforced(s)
	if s.Generation == 0 {
		p.printf("no generation is in force: everything is refused\n")
	} else {
		p.printf("generation %d since %s · %s open · up for %s\n", s.Generation, s.Since.Format(time.DateTime),
			plural(s.Open, "connection", "connections"), age(now.Sub(s.Started)))
	}
	p.printf("\n")
	p.workloads(s)
	for _, q := range s.Quarantines {
		p.hanging("  ", "    ", p.paint(yellow, "quarantine")+" "+q.String())
	}
	p.problems(s)
	p.doors(s)
	p.gateway(s.Gateway)
	for _, n := range s.Nodes {
		p.printf("  node %s: generation %d, heard %s ago\n", n.Name, n.Generation, age(now.Sub(n.Heard)))
	}
	return p.err
}

func zones(s *report.Status) int {
	seen := map[string]bool{}
	for _, w := range s.Workloads {
		seen[w.Zone] = true
	}
	return len(seen)
}

func enforcement(s *report.Status) string {
	switch s.Mode {
	case "root":
		return "kept apart by the kernel"
	case "user":
		return "kept apart by the kernel, without root"
	}
	return "NOT ENFORCED"
}

func (p *printer) notEnforced(s *report.Status) {
	if !s.Enforced {
		p.wrapped(p.paint(red, "! "), "cooperative mode: the kernel keeps nothing apart. A workload that does not use the addresses it was given is not stopped.")
	}
}

func (p *printer) workloads(s *report.Status) {
	name, zone := len("workload"), len("zone")
	for _, w := range s.Workloads {
		name, zone = max(name, utf8.RuneCountInString(w.Name)), max(zone, utf8.RuneCountInString(w.Zone))
	}
	p.printf("  %-*s  %-*s  %-15s  state\n", name, "workload", zone, "zone", "address")
	for i := range s.Workloads {
		w := &s.Workloads[i]
		addr := ""
		if len(w.Addresses) > 0 {
			addr = w.Addresses[0].String()
		}
		p.printf("  %-*s  %-*s  %-15s  %s\n", name, w.Name, zone, w.Zone, addr, p.state(w))
	}
}

func (p *printer) state(w *report.WorkloadStatus) string {
	c := green
	says := w.State
	switch {
	case w.State == report.Idle:
		says = "idle: it has no command"
	case w.State != report.Running && w.State != report.Bound && w.State != report.WayOut:
		c = red
	}
	if w.Says != "" && w.State != report.Running {
		says += ": " + w.Says
	}
	if w.Restarts > 0 {
		says += fmt.Sprintf(", started again %s", times(w.Restarts))
	}
	switch {
	case w.Quarantined:
		says, c = says+", QUARANTINED", yellow
	case w.IdentityUntil.IsZero():
		says, c = says+", without a certificate", red
	}
	return p.paint(c, says)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (p *printer) problems(s *report.Status) {
	for _, says := range s.Problems {
		p.hanging("  "+p.paint(red, "problem")+" ", "    ", says)
	}
	for _, says := range s.Limits {
		p.hanging("  "+p.paint(yellow, "otherwise here")+" ", "    ", says)
	}
}

// grants prints permissions, folded to one line for each target and access.
func (p *printer) grants(gs []report.Grant) {
	type key struct{ to, allows, because string }
	var order []key
	from := map[key][]string{}
	for _, g := range gs {
		k := key{g.To, g.Allows, g.Because}
		if g.Plaintext {
			k.allows += ", in the clear"
		}
		if from[k] == nil {
			order = append(order, k)
		}
		from[k] = append(from[k], g.From)
	}
	for _, k := range order {
		p.hanging("  ", "      ", fmt.Sprintf("%s → %s  %s", strings.Join(from[k], ", "), k.to, p.paint(dim, k.allows)))
		if k.because != "" {
			p.wrapped("      ", k.because)
		}
	}
}

func (p *printer) doors(s *report.Status) {
	for _, d := range s.Doors {
		switch {
		case d.Problem != "":
			p.hanging("  "+p.paint(red, "problem")+" ", "    ", d.Problem)
		case d.Listens.IsValid():
			p.printf("  %s → %s\n", d.Listens, d.Workload)
		}
	}
}

// gateway prints how the way out is doing.
func (p *printer) gateway(g *report.Gateway) {
	if g == nil {
		return
	}
	p.printf("  the way out: %s, mode %s · %d allowed, %d denied, %d failed\n", g.Address, p.mode(g.Mode), g.Allowed, g.Denied, g.Failed)
	for _, name := range g.Inspected {
		p.hanging("    "+p.paint(yellow, "inspected")+" ", "      ", name+": its TLS is ended at the gateway, and its requests are read")
	}
	for _, b := range g.Budgets {
		says := fmt.Sprintf("%s → %s: %s", b.From, b.To, bytes(int64(b.Bytes)))
		if b.MostBytes > 0 {
			says += fmt.Sprintf(" of %s in %s", bytes(int64(b.MostBytes)), age(b.BytesPer))
		}
		if b.MostRequests > 0 {
			says += fmt.Sprintf(", %d of %d requests in %s", b.Requests, b.MostRequests, age(b.RequestsPer))
		}
		p.hanging("    budget ", "      ", says)
	}
	if g.Lost > 0 {
		p.printf("    %s %s could not be kept\n", p.paint(red, "records"), plural(int(g.Lost), "record", "records"))
	}
}

// age prints a time span in the unit that matters.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Flow prints one record in a line, and why it was refused in another.
func Flow(w io.Writer, r *flow.Record, o Options) error {
	p := &printer{w: w, o: o}
	if r.Lost > 0 {
		p.printf("… %s lost before this one\n", plural(int(r.Lost), "record was", "records were"))
	}
	verdict := p.paint(green, "allow")
	if r.Verdict != "allow" {
		verdict = p.paint(red, "DENY ")
	}
	if r.Event == flow.Fail {
		verdict = p.paint(yellow, "FAIL ")
	}
	p.printf("%s %s %-7s %s → %s", r.Time.Local().Format("15:04:05.000"), verdict, r.Event, peer(&r.From), peer(&r.To))
	p.printf("  %s\n", p.paint(dim, strings.Join(flowFacts(r), " · ")))
	if r.Why != "" {
		p.hanging("             ", "             ", r.Why)
	}
	return p.err
}

func peer(f *flow.Peer) string {
	name := f.Workload
	switch {
	case f.Name != "" && f.Service != "" && !strings.Contains(f.Name, f.Service):
		return fmt.Sprintf("%s (%s)", f.Name, f.Service)
	case f.Name != "":
		return f.Name
	case name == "" && f.Addr.IsValid():
		return f.Addr.String()
	case name == "":
		return "unknown"
	case f.Service != "":
		return name + "/" + f.Service
	case f.Addr.Port() != 0:
		return fmt.Sprintf("%s:%d", name, f.Addr.Port())
	}
	return name
}

func flowFacts(r *flow.Record) []string {
	facts := []string{r.Transport}
	if r.Wire != "" {
		facts = append(facts, r.Wire)
	}
	if r.Method != "" {
		method := r.Method
		if r.Status > 0 {
			method += fmt.Sprintf(" %d", r.Status)
		}
		facts = append(facts, method)
	}
	if r.Event == flow.Close || r.Event == flow.Request || r.Event == flow.Count {
		facts = append(facts, fmt.Sprintf("%s out, %s in", bytes(r.BytesOut), bytes(r.BytesIn)), age(r.Duration))
	}
	if r.WouldDeny {
		facts = append(facts, "would be denied")
	}
	if r.Rule != "" {
		facts = append(facts, r.Rule)
	}
	if r.Generation > 0 {
		facts = append(facts, fmt.Sprintf("generation %d", r.Generation))
	}
	if r.Probe != "" {
		facts = append(facts, "probe "+r.Probe)
	}
	return facts
}

func bytes(n int64) string {
	for i, unit := range []string{"GiB", "MiB", "KiB"} {
		if size := int64(1) << (30 - 10*i); n >= size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(size), unit)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// Scope prints what a quarantine would take away.
func Scope(w io.Writer, s *report.Scope, o Options) error {
	p := &printer{w: w, o: o}
	p.printf("quarantine of %s would cut off %s\n", p.paint(bold, s.Target), listing(s.Workloads, 12))
	if s.Already != nil {
		p.wrapped("  ", s.Already.String())
	}
	p.printf("  it closes %s now, and takes away\n", plural(s.Open, "open connection", "open connections"))
	for _, g := range s.Permissions {
		says := g.Name
		if g.Evidence {
			says += p.paint(dim, " (stays with --keep-evidence)")
		}
		p.printf("    %s  %s\n", says, p.paint(dim, g.Rule))
	}
	return p.err
}

// Effect prints what a quarantine or release did. done says it in a word.
func Effect(w io.Writer, done, target string, e *report.Effect, o Options) error {
	p := &printer{w: w, o: o}
	if e.Unchanged {
		p.printf("%s %s already, since generation %d\n", p.paint(bold, target), done, e.Generation)
	} else {
		p.printf("%s %s: generation %d\n", p.paint(bold, target), done, e.Generation)
	}
	for _, n := range e.Nodes {
		p.printf("  %s closed %s; confirmed %s after the command\n", n.Node, plural(n.Closed, "connection", "connections"), n.After.Round(100*time.Microsecond))
	}
	for _, n := range e.Missing {
		p.hanging("  "+p.paint(red, "not confirmed by "+n.Node)+": ", "    ", n.Why)
	}
	for _, says := range e.Problems {
		p.hanging("  "+p.paint(red, "problem")+" ", "    ", says)
	}
	return p.err
}
