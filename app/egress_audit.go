package app

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/mesh/outside"
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
	a := &egressAuditor{out: &render.EgressAudit{Calls: []render.EgressCall{}, Unused: []render.EgressRule{}, Unmapped: []string{}}, at: map[egressKey]int{},
		used: map[*policy.Permission]bool{}, asked: map[egressQuestion]egressAnswer{}}
	if d != nil {
		if err := q.Warn(d.Warnings, d.Lines); err != nil {
			return nil, err
		}
		a.in, a.out.Policy = d.Intent, d.Path
	}
	if a.sources, err = callSources(q.Sources, a.in); err != nil {
		return nil, err
	}
	a.catalogue = placesOf(policyfile.Catalogue())
	a.destinations = a.catalogue
	if a.in != nil {
		a.destinations = placesOf(a.in.Policy.Destinations)
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
		f.Examples = append(f.Examples, fmt.Sprintf("%s:%d: %s: %s", path, x.Line, x.Why, x.Text))
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
			s.prefix = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		for _, o := range out {
			if (o.name == s.name || s.prefix.IsValid() && o.prefix == s.prefix) && o.workload != s.workload {
				return nil, wrongInput("leave one of them out", "--source %s: %s is %s already", text, from, o.workload)
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// egressKey tells calls apart that are listed apart: by who, where, and what the
// policy makes of them.
type egressKey struct {
	source, host, protocol string
	addr                   netip.Addr
	port                   uint16
	rule                   *policy.Permission
}

// egressAuditor gathers calls by source and place.
type egressAuditor struct {
	in           *policy.Intent // nil without a policy
	sources      []callSource
	destinations *knownPlaces // of the policy, with those of the catalogue it does not replace
	catalogue    *knownPlaces
	out          *render.EgressAudit
	at           map[egressKey]int
	used         map[*policy.Permission]bool
	// asked are the answers so far: a log asks the same again and again.
	asked map[egressQuestion]egressAnswer
}

// egressQuestion is all of a call that the policy is asked about.
type egressQuestion struct {
	workload, host, protocol, method, endpoint string
	addr                                       netip.Addr
	port                                       uint16
}

type egressAnswer struct {
	rule *policy.Permission
	why  string
}

func (a *egressAuditor) add(path string, c *calls.Call) {
	special := ""
	if c.Addr.IsValid() {
		special = netset.Special(c.Addr)
	}
	workload := a.workload(c.Source)
	rule, why := a.decide(workload, c, special)
	for _, name := range c.Others {
		if rule == nil {
			break // which of the names was meant nobody knows: all must be permitted
		}
		next := *c
		next.Host = name
		if r, w := a.decide(workload, &next, special); r == nil {
			c, rule, why = &next, nil, w
		}
	}
	if c.Host == "" && special != "" && rule == nil && !c.Asked && !netset.CarriesIPv4(c.Addr) && !netset.LeadsToMetadata(c.Addr) {
		a.out.Inner++
		return
	}
	k := egressKey{source: c.Source, host: c.Host, protocol: c.Protocol, port: c.Port, rule: rule}
	if c.Host == "" || special != "" {
		k.addr = c.Addr // of a name, only one that it should not have
	}
	i, ok := a.at[k]
	if !ok {
		if len(a.out.Calls) >= maxCalls {
			a.out.Cut++
			return
		}
		i = len(a.out.Calls)
		a.at[k] = i
		x := render.EgressCall{Source: c.Source, Workload: workload, Host: c.Host, Addr: k.addr, Protocol: c.Protocol, Port: c.Port, Why: why, At: path + ":" + strconv.Itoa(c.Line)}
		if rule != nil {
			x.Rule = rule.Pos.Short() + " " + rule.Name
			a.used[rule] = true
		}
		a.out.Calls = append(a.out.Calls, x)
	}
	x := &a.out.Calls[i]
	x.Out, x.In = addBytes(x.Out, c.Out), addBytes(x.In, c.In)
	if c.Denied {
		x.Refused += c.Count
	}
	if c.More {
		return
	}
	x.Count += c.Count
	if !c.Time.IsZero() {
		if x.First.IsZero() || c.Time.Before(x.First) {
			x.First = c.Time
		}
		if c.Time.After(x.Last) {
			x.Last = c.Time
		}
	}
}

// addBytes adds without going round.
func addBytes(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// judge says what is to be thought of each call, and names what is known of its place.
func (a *egressAuditor) judge() {
	unmapped := map[string]bool{}
	for i := range a.out.Calls {
		c := &a.out.Calls[i]
		c.Count = max(c.Count, 1) // of a log that begins after the call did
		known := a.catalogue.of(c.Host)
		d := a.destinations.of(c.Host)
		if d == nil {
			d = known
		}
		if d != nil {
			c.Destination = d.Name.Value
		}
		c.Covers = a.destinations.covering(c)
		c.Risks = risksOf(c, known, d)
		switch {
		case a.in == nil && c.Refused >= c.Count:
			c.State = render.EgressDenied
		case a.in == nil:
			c.State = render.EgressCalled
		case c.Workload == "":
			c.State = render.EgressUnmapped
			unmapped[c.Source] = true
		case c.Rule != "":
			c.State = render.EgressNeeded
		case c.Refused >= c.Count:
			c.State = render.EgressDenied
		default:
			c.State = render.EgressUnneeded
		}
	}
	slices.SortStableFunc(a.out.Calls, func(x, y render.EgressCall) int {
		return cmp.Or(cmp.Compare(rank(x.State), rank(y.State)), cmp.Compare(cmp.Or(x.Workload, x.Source), cmp.Or(y.Workload, y.Source)),
			cmp.Compare(x.Host, y.Host), x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Rule, y.Rule))
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
	if a.in == nil {
		return ""
	}
	namespace, name, namespaced := strings.Cut(from, "/")
	if !namespaced {
		name = from
	}
	if w := a.in.Workload(name); w != nil && (!namespaced || inNamespace(w, namespace)) {
		return name
	}
	return ""
}

// inNamespace reports whether a workload is in a namespace of Kubernetes. One of the
// same name elsewhere is another.
func inNamespace(w *policy.Workload, namespace string) bool {
	return slices.ContainsFunc(w.Bindings, func(b policy.Binding) bool {
		f, ok := b.Field("namespace")
		return ok && b.Target.Value == "kubernetes" && f.Text.Value == namespace
	})
}

// decide asks the policy about a call: the permission that holds it, or why none does.
func (a *egressAuditor) decide(workload string, c *calls.Call, special string) (*policy.Permission, string) {
	if a.in == nil || workload == "" {
		return nil, ""
	}
	k := egressQuestion{workload: workload, host: c.Host, protocol: c.Protocol, method: c.Method, endpoint: c.Endpoint, port: c.Port}
	if c.Host == "" || special != "" {
		k.addr = c.Addr // any public one is as good as its name
	}
	x, known := a.asked[k]
	if !known {
		x.rule, x.why = a.ask(&k)
		if len(a.asked) < maxCalls {
			a.asked[k] = x
		}
	}
	return x.rule, x.why
}

func (a *egressAuditor) ask(k *egressQuestion) (*policy.Permission, string) {
	protocol, ok := netset.ParseProtocol(k.protocol)
	if !ok || !protocol.HasPorts() {
		return nil, "it is " + k.protocol + ", and no rule permits that outside"
	}
	q := policy.Question{From: policy.Party{Kind: policy.WorkloadParty, Name: k.workload}, Protocol: protocol, Port: k.port, Whole: k.method == ""}
	if k.endpoint != "" {
		q.To = policy.Party{Kind: policy.OutsideParty, Name: policy.EndpointPrefix + k.endpoint}
	} else {
		q.To, q.Host, q.Addr = policy.Outside, k.host, k.addr
		if g := a.in.Policy.Gateway; g != nil {
			q.Via, _, _ = strings.Cut(g.Through.Value, "/")
		}
	}
	answer := a.in.Decide(q)
	if answer.Permission != nil && q.Whole {
		return answer.Permission, ""
	}
	if q.Whole {
		// Perhaps the gateway read its requests: a log of tunnels does not say.
		q.Whole = false
		if some := a.in.Decide(q); some.Permission != nil && some.Permission.Inspect {
			return some.Permission, ""
		} else if some.Permission != nil {
			return nil, fmt.Sprintf("its requests are hidden, and %s allows only %s", some.Permission.Name, some.Permission.Traffic)
		}
		return nil, answer.Why()
	}
	if answer.Permission == nil {
		return nil, answer.Why()
	}
	// Of a request the log has the method and nothing else that can be believed.
	method, err := netset.ParseRequests(k.method + " /**")
	if err != nil {
		return nil, err.Error()
	}
	traffic := netset.Port(protocol, k.port).Limit(method)
	near := a.in.Naming(q.From, q.Host)
	if q.Host == "" {
		near = a.in.PermissionsTo(answer.Permission.To)
	}
	for _, p := range near {
		if p.To == answer.Permission.To && p.From.Has(q.From) && p.Kind == answer.Permission.Kind && p.Traffic.Overlaps(traffic) {
			return p, ""
		}
	}
	return nil, fmt.Sprintf("it is a %s, and %s allows only %s", k.method, answer.Permission.Name, answer.Permission.Traffic)
}

// knownPlaces finds destinations by host.
type knownPlaces struct {
	exact map[string][]*policy.Destination
	wild  []wildPlace
}

// wildPlace is a pattern with a wildcard or a region.
type wildPlace struct {
	suffix      string // behind the last of them
	pattern     *regexp.Regexp
	destination *policy.Destination
}

const regionField = "{region}"

func placesOf(all []policy.Destination) *knownPlaces {
	x := &knownPlaces{exact: map[string][]*policy.Destination{}}
	for i := range all {
		for _, h := range all[i].Hosts {
			host := strings.ToLower(h.Value)
			if strings.HasPrefix(host, "*.") || strings.Contains(host, regionField) {
				x.wild = append(x.wild, wildPlace{host[strings.LastIndexAny(host, "*}")+1:], hostPattern(host), &all[i]})
			} else {
				x.exact[host] = append(x.exact[host], &all[i])
			}
		}
	}
	return x
}

// hostPattern returns what hosts a pattern means, in any region.
func hostPattern(host string) *regexp.Regexp {
	text := strings.ReplaceAll(regexp.QuoteMeta(host), regexp.QuoteMeta(regionField), `[^.]+`)
	if rest, ok := strings.CutPrefix(text, `\*`); ok {
		text = ".+" + rest
	}
	return regexp.MustCompile("^" + text + "$")
}

// of returns the destination that a host belongs to, an exact one first, nil if there
// is none.
func (x *knownPlaces) of(host string) *policy.Destination {
	if exact := x.exact[host]; len(exact) > 0 {
		return exact[0]
	}
	for _, w := range x.wild {
		if strings.HasSuffix(host, w.suffix) && w.pattern.MatchString(host) {
			return w.destination
		}
	}
	return nil
}

// The categories of the catalogue that are there to be noticed.
const (
	resolverCategory = "resolver"
	fileDropCategory = "file-drop"
)

// metadataNames are those under which clouds know their metadata services.
var metadataNames = []string{"metadata.google.internal", "metadata.goog", "metadata", "instance-data", "instance-data.ec2.internal", "metadata.tencentyun.com", "metadata.packet.net"}

func risksOf(c *render.EgressCall, places ...*policy.Destination) []string {
	var out []string
	add := func(risk string) {
		if !slices.Contains(out, risk) {
			out = append(out, risk)
		}
	}
	switch {
	case netset.LeadsToMetadata(c.Addr), slices.Contains(metadataNames, c.Host):
		add(render.RiskMetadata)
	case c.Host == "":
		add(render.RiskAddress)
	case c.Addr.IsValid():
		add(render.RiskPrivate)
	}
	// A rule or a name of the policy's own makes no place another one.
	for _, d := range places {
		switch {
		case d == nil:
		case d.Category.Value == resolverCategory:
			add(render.RiskResolver)
		case d.Category.Value == fileDropCategory:
			add(render.RiskFileDrop)
		case d.MultiTenant:
			add(render.RiskMultiTenant)
		}
	}
	if c.Port == 80 {
		add(render.RiskCleartext)
	}
	return out
}

// notDrafted says why no rule is drafted for a call, empty if one is.
func notDrafted(c *render.EgressCall) string {
	switch _, err := outside.Canonical(c.Host); {
	case c.Workload == "":
		return "it is no known workload (--source " + c.Source + "=WORKLOAD)"
	case c.Dangerous(), c.Host == "", slices.Contains(c.Risks, render.RiskPrivate):
		return strings.Join(c.Risks, ", ")
	case err != nil:
		return err.Error()
	case c.Protocol != "tcp":
		return "it is " + c.Protocol
	case c.Port == 0:
		return "its port is not known"
	}
	return ""
}

// EgressDraft writes rules for what was called and no rule needs. Nothing is drafted
// for what should never be called, nor for addresses: these stand in the header.
func (e *Env) EgressDraft(a *render.EgressAudit) ([]byte, error) {
	d := policyfile.Draft{Policy: &policy.Policy{}, Comments: map[policyfile.Entry]string{}}
	var left []string // not drafted
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
		if why := notDrafted(c); why != "" {
			left = append(left, "not drafted: "+from+" → "+says+": "+why)
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
	const mostLeft = 100
	if n := len(left); n > mostLeft {
		left = append(left[:mostLeft], fmt.Sprintf("not drafted: %d more; the audit lists them with --all", n-mostLeft))
	}
	d.Header = strings.Join(append(header, left...), "\n")
	text, err := policyfile.Marshal(d)
	if err != nil {
		return nil, wrongInput("name workloads with --source as a policy can, such as trainer", "the rules cannot be written: %v", err)
	}
	return text, nil
}

// covering returns the destination that a rule for a call can name, empty for none:
// it has that very host and port, and naming it lets nobody else's tenants through.
func (x *knownPlaces) covering(c *render.EgressCall) string {
	for _, d := range x.exact[c.Host] {
		port := slices.ContainsFunc(d.Ports, func(p policy.Text) bool { return p.Value == strconv.Itoa(int(c.Port)) }) || len(d.Ports) == 0 && c.Port == 443
		regional := slices.ContainsFunc(d.Hosts, func(h policy.Text) bool { return strings.Contains(strings.ToLower(h.Value), regionField) })
		wide := d.MultiTenant && slices.ContainsFunc(d.Hosts, func(h policy.Text) bool { return strings.HasPrefix(h.Value, "*") })
		if port && !regional && !wide {
			return d.Name.Value
		}
	}
	return ""
}

// draftTarget names where a rule for a call leads.
func draftTarget(c *render.EgressCall) (to, ports string) {
	switch {
	case c.Covers != "":
		return c.Covers, ""
	case c.Port != 443:
		return c.Host, strconv.Itoa(int(c.Port))
	}
	return c.Host, ""
}

func timesText(n int) string {
	if n == 1 {
		return "once"
	}
	return strconv.Itoa(n) + " times"
}
