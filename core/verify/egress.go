package verify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// egress reports what weakens the way out, or keeps it from working as it is
// declared.
func (c *checker) egress() {
	c.gatewayMode()
	for i := range c.in.Policy.Endpoints {
		c.pending(&c.in.Policy.Endpoints[i])
		c.publicWays(&c.in.Policy.Endpoints[i])
	}
	for i := range c.in.Permissions {
		p := &c.in.Permissions[i]
		if !isWayOut(p) {
			continue
		}
		c.unreadable(p)
		c.inspected(p)
		c.multiTenant(p)
	}
}

// isWayOut reports whether a permission is one of egress, or of an endpoint to a
// service outside.
func isWayOut(p *policy.Permission) bool {
	return p.Kind == policy.EgressKind || p.Kind == policy.EndpointKind && p.To.Kind == policy.OutsideParty
}

// gatewayMode reports a mode in which not everything is enforced.
func (c *checker) gatewayMode() {
	var relaxed []string
	for i := range c.in.Policy.Workloads {
		w := c.in.Policy.Workloads[i].Name.Value
		if c.in.Mode(policy.Party{Kind: policy.WorkloadParty, Name: w}) != policy.Enforce {
			relaxed = append(relaxed, w)
		}
	}
	if len(relaxed) == 0 {
		return
	}
	g := c.in.Policy.Gateway
	until := g.Until.Time.Format(time.DateOnly)
	f := finding.New("gateway-mode", finding.Medium, "gateway", g.Mode.Value)
	f.Title = fmt.Sprintf("until %s the gateway lets %s reach anything outside, and only reports it", until, list(relaxed, 3))
	if g.Mode.Value == policy.Observe {
		f.Title = fmt.Sprintf("until %s the gateway lets %s reach anything outside, and only observes it", until, list(relaxed, 3))
	}
	f.Detail = "What no permission holds passes in this mode; special-purpose addresses and what is in quarantine do not. It says why: " + g.Because.Value
	f.Pos, f.Remedy = g.Mode.Pos, "declare what is needed, and write mode: enforce"
	f.Facts = map[string]string{"mode": g.Mode.Value, "until": until}
	c.out = append(c.out, f)
}

// pending reports an endpoint that permits nothing yet.
func (c *checker) pending(e *policy.Endpoint) {
	if !c.isInternal(e) || e.Accepted.By.Value != "" || e.Until.Expired(c.in.At) {
		return
	}
	f := finding.New("endpoint-pending", finding.Low, e.Name.Value, e.Service.Value)
	f.Title = fmt.Sprintf("endpoint %s is pending: the owner of %s has not accepted it", e.Name.Value, e.Service.Value)
	f.Detail = "Until then it permits nothing to its consumers."
	f.Pos, f.Remedy = e.Pos, "add accepted: {by: OWNER, on: DATE} once they have, or remove the endpoint"
	c.out = append(c.out, f)
}

// isInternal reports whether an endpoint leads to a service of the platform.
func (c *checker) isInternal(e *policy.Endpoint) bool {
	workload, _, ok := strings.Cut(e.Service.Value, "/")
	return ok && c.in.Workload(workload) != nil
}

// publicWays reports permissions of egress that lead to the public hosts of a
// service which an endpoint is the private way to.
func (c *checker) publicWays(e *policy.Endpoint) {
	if c.isInternal(e) {
		return
	}
	consumers := map[policy.Party]bool{}
	party := policy.Party{Kind: policy.OutsideParty, Name: policy.EndpointPrefix + e.Name.Value}
	permitted := c.in.PermissionsTo(party)
	for _, p := range permitted {
		for _, m := range p.From.Members {
			consumers[m] = true
		}
	}
	if len(permitted) == 0 {
		return // expired, or wrong
	}
	public := c.publicHosts(e, permitted[0].Names)
	for i := range c.in.Permissions {
		p := &c.in.Permissions[i]
		if p.Kind != policy.EgressKind {
			continue
		}
		host := public.firstOf(p)
		if host == "" {
			continue
		}
		var who []string
		for _, m := range p.From.Members {
			if consumers[m] {
				who = append(who, m.Name)
			}
		}
		c.out = append(c.out, publicWay(e, p, host, who))
	}
}

func publicWay(e *policy.Endpoint, p *policy.Permission, host string, consumers []string) finding.Finding {
	f := finding.New("endpoint-public-way", finding.Low, e.Name.Value, p.Name)
	who := p.From.Name
	if len(consumers) > 0 {
		f.Severity, who = finding.Medium, list(consumers, 3)
	}
	f.Title = fmt.Sprintf("the public way beside endpoint %s is open: %s lets %s reach %s", e.Name.Value, p.Name, who, host)
	f.Detail = "A private endpoint keeps nothing in while its service can be reached the public way too, where its policy does not hold."
	f.Pos, f.Remedy = p.Pos, "remove the permission, or name other destinations in it"
	f.Notes = []source.Note{{Pos: e.Pos, Text: "the endpoint is declared here"}}
	return f
}

// publicHosts are the public names of the service that an endpoint leads to, and
// the destinations of which it is any region.
type publicHosts struct {
	names     []string
	anyRegion []string
}

// publicHosts returns the names of the endpoint and the hosts of each destination
// that its service can replace. Hosts that differ by region are those of the
// endpoint's.
func (c *checker) publicHosts(e *policy.Endpoint, names []string) publicHosts {
	out := publicHosts{names: slices.Clone(names)}
	if e.Service.Value == "" {
		return out
	}
	for i := range c.in.Policy.Destinations {
		d := &c.in.Policy.Destinations[i]
		if !slices.ContainsFunc(d.Private, func(s policy.Text) bool { return s.Value == e.Service.Value }) {
			continue
		}
		if e.Region.Value == "" {
			out.anyRegion = append(out.anyRegion, d.Name.Value)
		}
		for _, h := range d.Hosts {
			if name := strings.ReplaceAll(h.Value, "{region}", e.Region.Value); e.Region.Value != "" || name == h.Value {
				out.names = append(out.names, strings.ToLower(name))
			}
		}
	}
	return out
}

// firstOf returns the first name of a permission that leads to one of the hosts,
// empty if none does. A permission by address leads to them if it leads to the
// whole internet; of a smaller part nobody knows here whose it is.
func (h publicHosts) firstOf(p *policy.Permission) string {
	if len(p.Names) == 0 {
		if netset.PublicAddrs().Intersect(netset.AnyV4()).SubsetOf(p.Addrs) {
			return "every address of the internet"
		}
		return ""
	}
	for _, n := range p.Names {
		if slices.ContainsFunc(h.names, func(host string) bool { return namesMeet(strings.ToLower(n), host) }) {
			return n
		}
	}
	if slices.Contains(h.anyRegion, p.To.Name) {
		return p.Names[0]
	}
	return ""
}

// namesMeet reports whether some host is meant by two names, each of which may
// begin with `*.`.
func namesMeet(a, b string) bool {
	return a == b || holdsName([]string{a}, b) || holdsName([]string{b}, a)
}

// tlsPorts are those on which TLS is expected.
var tlsPorts = []uint16{443, 4443, 6443, 8443, 9443}

// unreadable reports a permission for some requests that nobody can read.
func (c *checker) unreadable(p *policy.Permission) {
	if p.Inspect {
		return
	}
	for _, port := range tlsPorts {
		if !p.Traffic.Opens(netset.TCP, port) || p.Traffic.Has(netset.TCP, port) {
			continue
		}
		f := finding.New("egress-unreadable", finding.Medium, p.Name, "")
		f.Title = fmt.Sprintf("%s allows only some requests on port %d, which nobody can read in TLS: all of it is refused", p.Name, port)
		f.Detail = "Requests in TLS are readable only where TLS is ended, and what cannot be read is not allowed."
		f.Pos, f.Remedy = p.Pos, "add inspect: true, or enforcedBy: application if the other side tells them apart, or remove may:"
		c.out = append(c.out, f)
		return
	}
}

// inspected lists where TLS is ended, so that a review sees each.
func (c *checker) inspected(p *policy.Permission) {
	if !p.Inspect {
		return
	}
	f := finding.New("egress-inspected", finding.Info, p.Name, "")
	f.Title = p.Name + ": TLS is ended at the gateway, which reads every request"
	f.Detail = "Its clients trust a certificate authority of the gateway for this, and whoever holds the gateway can read along."
	f.Pos, f.Remedy = p.Pos, "remove inspect: true where no requests need to be told apart"
	c.out = append(c.out, f)
}

// multiTenant reports a way to write without a limit where others receive.
func (c *checker) multiTenant(p *policy.Permission) {
	if p.Kind != policy.EgressKind || !p.Budget.IsZero() || !p.CanWrite() {
		return
	}
	d, host := c.sharedPlace(p)
	if d == nil {
		return
	}
	f := finding.New("multi-tenant-egress", finding.Low, p.Name, d.Name.Value)
	f.Title = fmt.Sprintf("%s can send any amount to %s, where anybody can receive it", p.Name, host)
	f.Detail = "Its name does not tell your tenant from another: " + d.Name.Value + " is multi-tenant."
	if d.Risk.Value != "" {
		f.Detail += " The risk: " + d.Risk.Value + "."
	}
	f.Pos, f.Remedy = p.Pos, "add budget: {bytes: 1GiB/day} with what is needed, or may: read with inspect: true, or name your own tenant's host"
	c.out = append(c.out, f)
}

// sharedPlace returns a multi-tenant destination that a permission leads to, and
// the host by which it does, nil if there is none. A host below one of its patterns
// may be one's own.
func (c *checker) sharedPlace(p *policy.Permission) (*policy.Destination, string) {
	if d := c.in.Destination(p.To.Name); d != nil {
		if d.MultiTenant {
			return d, d.Name.Value
		}
		return nil, ""
	}
	for i := range c.in.Policy.Destinations {
		d := &c.in.Policy.Destinations[i]
		if !d.MultiTenant {
			continue
		}
		for _, h := range d.Hosts {
			if holdsName(p.Names, strings.ToLower(h.Value)) {
				return d, h.Value
			}
		}
	}
	return nil, ""
}
