package app

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/observe/calls"
	"bulkhead/policyfile"
	"bulkhead/render"
)

// EgressAudit says what logs to compare with which policy.
type EgressAudit struct {
	Paths  []string // files, or - for standard input
	Policy string
	// Sources are ADDRESS-OR-NAME=WORKLOAD.
	Sources []string
	Warn    func(source.Diagnostics, Lines) error
}

// maxCalls bounds how many different calls are told apart.
const maxCalls = 100_000

// EgressAudit lists what was called outside that no rule needs.
func (e *Env) EgressAudit(q EgressAudit) (*render.EgressAudit, error) {
	d, err := e.readPolicy(q.Policy)
	if err != nil {
		return nil, err
	}
	a := &egressAuditor{out: &render.EgressAudit{Calls: []render.EgressCall{}, Unused: []render.EgressRule{}, Unmapped: []string{}}, at: map[egressKey]int{}, used: map[*policy.Permission]bool{}}
	if d != nil {
		if err := q.Warn(d.Warnings, d.Lines); err != nil {
			return nil, err
		}
		a.in, a.out.Policy = d.Intent, d.Path
	}
	if a.sources, err = callSources(q.Sources, a.in); err != nil {
		return nil, err
	}
	a.destinations = policyfile.Catalogue()
	if a.in != nil {
		a.destinations = a.in.Policy.Destinations
	}
	for _, path := range q.Paths {
		if err := e.readCalls(path, a); err != nil {
			return nil, err
		}
	}
	a.judge()
	return a.out, nil
}

func (e *Env) readCalls(path string, a *egressAuditor) error {
	in := io.Reader(e.Stdin)
	if path != Stdin {
		f, err := os.Open(e.abs(path))
		if errors.Is(err, os.ErrNotExist) {
			return wrongInput(nearPath(e.abs(path)), "%s: there is no such log", path)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	c, err := calls.Read(in, func(c calls.Call) { a.add(path, &c) })
	if err != nil {
		return wrongInput("give a log of a proxy, a mesh or a network", "%s: %v", path, err)
	}
	if c.Lines > 0 && c.Calls+c.Other == 0 {
		return wrongInput("bulkhead reads its own flow records, Squid, tinyproxy, smokescreen, Envoy JSON, Hubble JSON, VPC flow logs, Zeek, and CSV with a header",
			"%s: none of its %d lines is understood", path, c.Lines)
	}
	f := render.EgressFile{Name: path, Format: c.Format, Lines: c.Lines, Calls: c.Calls, Other: c.Other, Unknown: c.Unknown}
	for _, x := range c.Examples {
		f.Examples = append(f.Examples, fmt.Sprintf("%s:%d: %s", path, x.Line, x.Text))
	}
	a.out.Files = append(a.out.Files, f)
	return nil
}

// callSource is a source that a person named.
type callSource struct {
	prefix   netip.Prefix // invalid for a name
	name     string
	workload string
}

func callSources(given []string, in *policy.Intent) ([]callSource, error) {
	var out []callSource
	for _, text := range given {
		from, workload, ok := strings.Cut(text, "=")
		if !ok || from == "" || workload == "" {
			return nil, wrongInput("write ADDRESS-OR-NAME=WORKLOAD, such as 10.1.2.3=trainer", "--source %s names no source and workload", text)
		}
		if in != nil && in.Workload(workload) == nil {
			return nil, wrongInput("name a workload of the policy", "--source %s: the policy has no workload %q", text, workload)
		}
		s := callSource{name: from, workload: workload}
		if p, err := netip.ParsePrefix(from); err == nil {
			s.prefix = p.Masked()
		} else if a, err := netip.ParseAddr(from); err == nil {
			s.prefix = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, s)
	}
	return out, nil
}

type egressKey struct {
	source, host string
	addr         netip.Addr
	port         uint16
}

// egressAuditor gathers calls by source and place.
type egressAuditor struct {
	in           *policy.Intent // nil without a policy
	sources      []callSource
	destinations []policy.Destination
	out          *render.EgressAudit
	at           map[egressKey]int
	used         map[*policy.Permission]bool
}

func (a *egressAuditor) add(path string, c *calls.Call) {
	special := ""
	if c.Addr.IsValid() {
		special = netset.Special(c.Addr)
	}
	if c.Host == "" && special != "" && special != netset.Metadata {
		a.out.Inner++
		return
	}
	k := egressKey{source: c.Source, host: c.Host, port: c.Port}
	if c.Host == "" {
		k.addr = c.Addr
	}
	i, ok := a.at[k]
	if !ok {
		if len(a.out.Calls) >= maxCalls {
			a.out.Cut++
			return
		}
		i = len(a.out.Calls)
		a.at[k] = i
		a.out.Calls = append(a.out.Calls, render.EgressCall{Source: c.Source, Host: c.Host, Addr: k.addr, Port: c.Port, At: path + ":" + strconv.Itoa(c.Line)})
	}
	x := &a.out.Calls[i]
	x.Out, x.In = x.Out+c.Out, x.In+c.In
	if c.More {
		return
	}
	x.Count++
	if c.Denied {
		x.Refused++
	}
	if !c.Time.IsZero() {
		if x.First.IsZero() || c.Time.Before(x.First) {
			x.First = c.Time
		}
		if c.Time.After(x.Last) {
			x.Last = c.Time
		}
	}
	if c.Host != "" && special != "" && !slices.Contains(x.Risks, render.RiskPrivate) {
		x.Risks = append(x.Risks, render.RiskPrivate)
	}
}

// judge asks the policy about each call, and names what is known of its place.
func (a *egressAuditor) judge() {
	unmapped := map[string]bool{}
	for i := range a.out.Calls {
		c := &a.out.Calls[i]
		c.Workload = a.workload(c.Source)
		d := a.destination(c.Host)
		if d != nil {
			c.Destination = d.Name.Value
		}
		c.Risks = append(risksOf(c, d), c.Risks...)
		a.ask(c)
		if c.State == render.EgressUnmapped {
			unmapped[c.Source] = true
		}
	}
	slices.SortStableFunc(a.out.Calls, func(x, y render.EgressCall) int {
		return cmp.Or(cmp.Compare(rank(x.State), rank(y.State)), cmp.Compare(cmp.Or(x.Workload, x.Source), cmp.Or(y.Workload, y.Source)),
			cmp.Compare(x.Host, y.Host), x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port))
	})
	for s := range unmapped {
		a.out.Unmapped = append(a.out.Unmapped, s)
	}
	slices.Sort(a.out.Unmapped)
	if a.in == nil {
		return
	}
	for i := range a.in.Permissions {
		if p := &a.in.Permissions[i]; p.Kind == policy.EgressKind && !a.used[p] {
			a.out.Unused = append(a.out.Unused, render.EgressRule{Name: p.Name, At: p.Pos.Short()})
		}
	}
}

func rank(s render.EgressState) int {
	return slices.Index([]render.EgressState{render.EgressUnneeded, render.EgressUnmapped, render.EgressCalled, render.EgressDenied, render.EgressNeeded}, s)
}

// workload returns what workload a source is: as a person says, or by its name.
func (a *egressAuditor) workload(from string) string {
	addr, err := netip.ParseAddr(from)
	best := -1
	for i, s := range a.sources {
		switch {
		case s.name == from:
			return s.workload
		case err == nil && s.prefix.IsValid() && s.prefix.Contains(addr.Unmap()) && (best < 0 || s.prefix.Bits() > a.sources[best].prefix.Bits()):
			best = i
		}
	}
	if best >= 0 {
		return a.sources[best].workload
	}
	name := from[strings.LastIndexByte(from, '/')+1:]
	if a.in != nil && a.in.Workload(name) != nil {
		return name
	}
	return ""
}

// ask fills in what the policy makes of a call.
func (a *egressAuditor) ask(c *render.EgressCall) {
	switch {
	case a.in == nil:
		c.State = render.EgressCalled
		return
	case c.Workload == "":
		c.State = render.EgressUnmapped
		return
	}
	via := ""
	if g := a.in.Policy.Gateway; g != nil {
		via, _, _ = strings.Cut(g.Through.Value, "/")
	}
	q := policy.Question{From: policy.Party{Kind: policy.WorkloadParty, Name: c.Workload}, To: policy.Outside, Protocol: netset.TCP, Port: c.Port,
		Host: c.Host, Addr: c.Addr, Via: via}
	answer := a.in.Decide(q) // of the connection: what its requests were no log says
	switch {
	case answer.Permission != nil:
		c.State, c.Rule = render.EgressNeeded, answer.Permission.Pos.Short()+" "+answer.Permission.Name
		for i := range a.in.Permissions {
			if &a.in.Permissions[i] == answer.Permission {
				a.used[answer.Permission] = true
			}
		}
	case c.Refused == c.Count:
		c.State, c.Why = render.EgressDenied, answer.Why()
	default:
		c.State, c.Why = render.EgressUnneeded, answer.Why()
	}
}

// destination returns the destination that a host belongs to, an exact one first.
func (a *egressAuditor) destination(host string) *policy.Destination {
	var wild *policy.Destination
	for i := range a.destinations {
		d := &a.destinations[i]
		for _, h := range d.Hosts {
			pattern := strings.ToLower(h.Value)
			switch {
			case pattern == host:
				return d
			case wild == nil && matchesHost(pattern, host):
				wild = d
			}
		}
	}
	return wild
}

// matchesHost reports whether a host is one that a pattern means, in any region.
func matchesHost(pattern, host string) bool {
	if before, after, regional := strings.Cut(pattern, "{region}"); regional {
		suffix, wild := strings.CutPrefix(before, "*")
		i := strings.LastIndex(host, suffix)
		if !wild {
			suffix, i = before, 0
		}
		if i < 0 || !strings.HasPrefix(host[i:], suffix) || !strings.HasSuffix(host, after) || len(host) < i+len(suffix)+len(after)+1 {
			return false
		}
		region := host[i+len(suffix) : len(host)-len(after)]
		return !strings.Contains(region, ".") && (!wild || i > 0)
	}
	suffix, wild := strings.CutPrefix(pattern, "*")
	return wild && len(host) > len(suffix) && strings.HasSuffix(host, suffix)
}

// The categories of the catalogue that are there to be noticed.
const (
	resolverCategory = "resolver"
	fileDropCategory = "file-drop"
)

func risksOf(c *render.EgressCall, d *policy.Destination) []string {
	var out []string
	if c.Host == "" {
		if netset.Special(c.Addr) == netset.Metadata {
			out = append(out, render.RiskMetadata)
		} else {
			out = append(out, render.RiskAddress)
		}
	}
	if d != nil {
		switch {
		case d.Category.Value == resolverCategory:
			out = append(out, render.RiskResolver)
		case d.Category.Value == fileDropCategory:
			out = append(out, render.RiskFileDrop)
		case d.MultiTenant:
			out = append(out, render.RiskMultiTenant)
		}
	}
	if c.Port == 80 {
		out = append(out, render.RiskCleartext)
	}
	return out
}

// EgressDraft writes rules for what was called and no rule needs. Nothing is drafted
// for what should never be called, nor for addresses: these stand in the header.
func (e *Env) EgressDraft(a *render.EgressAudit) ([]byte, error) {
	d := policyfile.Draft{Policy: &policy.Policy{}, Comments: map[policyfile.Entry]string{}}
	header := []string{"Rules drafted from what was called. Every one is a guess: keep what is needed, say why and who answers for it, remove the rest."}
	type ruleKey struct{ from, to, ports string }
	index := map[ruleKey]int{}
	notes := map[int][]string{}
	for i := range a.Calls {
		c := &a.Calls[i]
		if c.State == render.EgressNeeded || c.State == render.EgressDenied {
			continue
		}
		from := cmp.Or(c.Workload, c.Source)
		says := fmt.Sprintf("%s:%d, called %s, %d bytes out", cmp.Or(c.Host, c.Addr.String()), c.Port, timesText(c.Count), c.Out)
		switch {
		case c.Workload == "":
			header = append(header, "not drafted: "+from+" → "+says+": it is no known workload (--source "+from+"=WORKLOAD)")
			continue
		case c.Dangerous() || c.Host == "":
			header = append(header, "not drafted: "+from+" → "+says+": "+strings.Join(c.Risks, ", "))
			continue
		}
		to, ports := draftTarget(c)
		k := ruleKey{from, to, ports}
		n, ok := index[k]
		if !ok {
			n = len(d.Policy.Egress)
			index[k] = n
			rule := policy.Egress{From: []policy.Text{{Value: from}}, To: []policy.Text{{Value: to}}}
			if ports != "" {
				rule.Ports = []policy.Text{{Value: ports}}
			}
			d.Policy.Egress = append(d.Policy.Egress, rule)
		}
		if len(c.Risks) > 0 {
			says += " (" + strings.Join(c.Risks, ", ") + ")"
		}
		notes[n] = append(notes[n], "guess: "+says)
	}
	for n, lines := range notes {
		const most = 5
		if len(lines) > most {
			lines = append(lines[:most], fmt.Sprintf("and %d hosts more", len(lines)-most))
		}
		d.Comments[policyfile.NumberedEntry("egress", n)] = strings.Join(lines, "\n")
	}
	d.Header = strings.Join(header, "\n")
	return policyfile.Marshal(d)
}

// draftTarget names where a rule for a call leads: a destination of the catalogue if
// its host is an exact one of it, otherwise the host.
func draftTarget(c *render.EgressCall) (to, ports string) {
	for _, d := range policyfile.Catalogue() {
		if d.Name.Value != c.Destination {
			continue
		}
		port := slices.ContainsFunc(d.Ports, func(p policy.Text) bool { return p.Value == strconv.Itoa(int(c.Port)) }) || len(d.Ports) == 0 && c.Port == 443
		exact := slices.ContainsFunc(d.Hosts, func(h policy.Text) bool { return strings.EqualFold(h.Value, c.Host) })
		regional := slices.ContainsFunc(d.Hosts, func(h policy.Text) bool { return strings.Contains(h.Value, "{region}") })
		if port && exact && !regional {
			return c.Destination, ""
		}
	}
	if c.Port != 443 {
		ports = strconv.Itoa(int(c.Port))
	}
	return c.Host, ports
}

func timesText(n int) string {
	if n == 1 {
		return "once"
	}
	return strconv.Itoa(n) + " times"
}
