package verify

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/finding"
	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

// Invariant is a rule that no permission may break unless a relaxation says
// so, with an owner and a date.
type Invariant struct {
	ID     string
	Says   string
	Reason string
	Remedy string
	// breaks returns why a single permission breaks it, for one source and
	// its target, or the empty string.
	breaks func(c *checker, p *policy.Permission, from policy.Party) string
	sev    finding.Severity
}

// Invariants lists the built-in invariants.
var Invariants = []Invariant{
	{
		ID: "data-internet", sev: finding.High,
		Says:   "the data zone never talks to the internet, nor the internet to it",
		Reason: "data that can be reached from outside, or can leave directly, has no other boundary",
		Remedy: "reach data through a workload in another zone, or relax data-internet with an owner and a date",
		breaks: dataInternet,
	},
	{
		ID: "training-reads-data", sev: finding.High,
		Says:   "training may read data but not write it",
		Reason: "a training job that can write data can poison what the next one learns from (AML.T0020)",
		Remedy: "say may: read on a protocol that tells reading from writing, or enforcedBy: application, or relax training-reads-data",
		breaks: trainingReadsData,
	},
	{
		ID: "training-egress", sev: finding.High,
		Says:   "training reaches the internet only through the egress gateway and only named destinations",
		Reason: "a job that can call any address can carry data out and tools in (AML.T0025, AML.T0072)",
		Remedy: "name destinations (bulkhead knows the common ones) instead of addresses, or relax training-egress",
		breaks: trainingEgress,
	},
	{
		ID: "training-writes-artefacts", sev: finding.Medium,
		Says:   "training writes only to artefacts",
		Reason: "what training writes elsewhere has no review between it and production",
		Remedy: "let training write to the artefacts zone, say may: read, or relax training-writes-artefacts",
		breaks: trainingWrites,
	},
	{
		ID: "serving-reads-artefacts", sev: finding.High,
		Says:   "serving reads artefacts and never writes them",
		Reason: "an inference server is the most exposed part: it must not be able to replace models (AML.T0010.003)",
		Remedy: "say may: read, or relax serving-reads-artefacts",
		breaks: servingWrites,
	},
	{
		ID: "serving-isolated", sev: finding.High,
		Says:   "serving never reaches training, and reaches data only workload by workload",
		Reason: "an exploited inference server must not be a way back into training or the whole data zone",
		Remedy: "name the two workloads instead of zones, or relax serving-isolated",
		breaks: servingIsolated,
	},
	{
		ID: "logging-write-only", sev: finding.Medium,
		Says:   "logs are written by declared writers and read by none of them",
		Reason: "who can read or change the log can hide in it",
		Remedy: "say may: write, or relax logging-write-only",
		breaks: loggingWriteOnly,
	},
	{
		ID: "exposure-dated", sev: finding.Medium,
		Says:   "every public exposure has an owner and a date",
		Reason: "exposures without a date are forgotten",
		Remedy: "add owner: and until: to the exposure",
		breaks: exposureDated,
	},
	{
		ID: "reasoned", sev: finding.Low,
		Says:   "every permission has a reason and an owner",
		Reason: "nobody can review a permission that nobody explains",
		Remedy: "add because: and owner:",
		breaks: reasoned,
	},
}

// InternetChain is the id of the invariant about chains, which no single
// permission breaks.
const InternetChain = "internet-chain"

// InvariantIDs returns the ids that a relaxation can name, the intent's own
// invariants included.
func InvariantIDs(p *policy.Policy) []string {
	var ids []string
	for _, i := range Invariants {
		ids = append(ids, i.ID)
	}
	ids = append(ids, InternetChain)
	for i := range p.Invariants {
		ids = append(ids, p.Invariants[i].ID.Value)
	}
	return ids
}

type checker struct {
	in  *policy.Intent
	out []finding.Finding
}

// Check holds an intent against the built-in and the declared invariants, announces
// permissions that end within thirty days, and reports what weakens the way out.
func Check(in *policy.Intent) []finding.Finding {
	c := &checker{in: in}
	for i := range Invariants {
		c.single(&Invariants[i])
	}
	c.chains()
	c.declared()
	c.relaxations()
	c.expiring()
	c.exempt()
	c.egress()
	finding.Sort(c.out)
	return c.out
}

// single reports each permission that breaks an invariant, once, naming the
// sources that do.
func (c *checker) single(inv *Invariant) {
	for i := range c.in.Permissions {
		p := &c.in.Permissions[i]
		if p.Kind == policy.GatewayKind {
			continue
		}
		var why string
		var from []string
		for _, m := range p.From.Members {
			says := inv.breaks(c, p, m)
			if says == "" || c.relaxed(inv.ID, m, p.To) {
				continue
			}
			why = says
			from = append(from, m.Name)
		}
		if why == "" {
			continue
		}
		f := finding.New("invariant/"+inv.ID, inv.sev, p.Name, strings.Join(from, ","))
		f.Title = fmt.Sprintf("%s: %s", p.Name, why)
		if len(p.From.Members) > len(from) {
			f.Title += fmt.Sprintf(" (through %s)", list(from, 3))
		}
		f.Detail = inv.Says + ": " + inv.Reason
		f.Pos, f.Remedy = p.Pos, inv.Remedy
		c.out = append(c.out, f)
	}
}

// relaxed reports whether a relaxation in force covers either side.
func (c *checker) relaxed(id string, parties ...policy.Party) bool {
	for i := range c.in.Policy.Relaxations {
		r := &c.in.Policy.Relaxations[i]
		if r.Invariant.Value != id || r.Until.Expired(c.in.At) {
			continue
		}
		if len(r.For) == 0 {
			return true
		}
		for _, f := range r.For {
			for _, p := range parties {
				if f.Value == p.Name || c.inZone(p, strings.TrimPrefix(f.Value, policy.ZonePrefix)) && strings.HasPrefix(f.Value, policy.ZonePrefix) {
					return true
				}
			}
		}
	}
	return false
}

func (c *checker) inZone(p policy.Party, zone string) bool {
	w := c.in.Workload(p.Name)
	return p.Kind == policy.WorkloadParty && w != nil && c.in.InZone(w, zone)
}

func (c *checker) role(p policy.Party) policy.Role {
	if w := c.in.Workload(p.Name); p.Kind == policy.WorkloadParty && w != nil {
		return c.in.RoleOf(w)
	}
	return ""
}

// goesOut reports whether a permission leads to the internet: as egress, or as
// a private endpoint that is at a public address, as it is without an address.
func goesOut(p *policy.Permission) bool {
	return p.Kind == policy.EgressKind || atPublicAddress(p) || p.Kind == policy.EndpointKind && p.To.Kind == policy.OutsideParty && p.Addrs.IsEmpty()
}

func atPublicAddress(p *policy.Permission) bool {
	return p.Kind == policy.EndpointKind && p.Addrs.Overlaps(netset.PublicAddrs())
}

func dataInternet(c *checker, p *policy.Permission, from policy.Party) string {
	switch {
	case goesOut(p) && c.role(from) == policy.Data:
		return "a data workload reaches out to " + p.To.Name
	case p.Kind == policy.ExposureKind && from.Kind == policy.OutsideParty && c.role(p.To) == policy.Data:
		return "a data workload is exposed to " + from.Name
	}
	return ""
}

func trainingReadsData(c *checker, p *policy.Permission, from policy.Party) string {
	if c.role(from) == policy.Training && c.role(p.To) == policy.Data && p.CanWrite() {
		return "training can write to " + p.To.Name
	}
	return ""
}

func trainingEgress(c *checker, p *policy.Permission, from policy.Party) string {
	if goesOut(p) && c.role(from) == policy.Training && (len(p.Names) == 0 || atPublicAddress(p)) {
		return "training reaches addresses (" + p.To.Name + ") instead of named destinations"
	}
	return ""
}

func trainingWrites(c *checker, p *policy.Permission, from policy.Party) string {
	if c.role(from) != policy.Training || p.To.Kind != policy.WorkloadParty || !p.CanWrite() {
		return ""
	}
	switch c.role(p.To) {
	case policy.Artefacts, policy.Logging, policy.Training, policy.Data:
		return "" // data has its own invariant, and training may talk to itself
	}
	if p.Kind == policy.DNSKind || p.Kind == policy.TelemetryKind {
		return ""
	}
	return fmt.Sprintf("training can write to %s in zone %s", p.To.Name, c.in.Workload(p.To.Name).Zone.Value)
}

func servingWrites(c *checker, p *policy.Permission, from policy.Party) string {
	if c.role(from) == policy.Serving && c.role(p.To) == policy.Artefacts && p.CanWrite() {
		return "serving can write to " + p.To.Name
	}
	return ""
}

func servingIsolated(c *checker, p *policy.Permission, from policy.Party) string {
	if c.role(from) != policy.Serving {
		return ""
	}
	switch c.role(p.To) {
	case policy.Training:
		return "serving reaches training (" + p.To.Name + ")"
	case policy.Data:
		if p.Kind != policy.TelemetryKind && len(p.From.Members) > 1 {
			return "all of " + p.From.Name + " reaches data (" + p.To.Name + ")"
		}
	}
	return ""
}

func loggingWriteOnly(c *checker, p *policy.Permission, from policy.Party) string {
	if c.role(p.To) == policy.Logging && c.role(from) != policy.Logging && from.Kind == policy.WorkloadParty && p.CanRead() {
		return fmt.Sprintf("%s can read the logs of %s", from.Name, p.To.Name)
	}
	return ""
}

func exposureDated(_ *checker, p *policy.Permission, from policy.Party) string {
	if p.Kind != policy.ExposureKind || from.Kind != policy.OutsideParty || !p.FromInternet() {
		return ""
	}
	switch {
	case p.Why.Owner.Value == "":
		return "a public exposure without an owner"
	case p.Why.Until.Time.IsZero():
		return "a public exposure without a date"
	}
	return ""
}

func reasoned(_ *checker, p *policy.Permission, _ policy.Party) string {
	switch {
	case p.Why.Because.Value == "" && p.Why.Owner.Value == "":
		return "it has neither a reason nor an owner"
	case p.Why.Because.Value == "":
		return "it has no reason"
	case p.Why.Owner.Value == "":
		return "it has no owner"
	}
	return ""
}

// chain is a way over permissions; each step is the permission that it ends
// with.
type chain struct {
	at   policy.Party
	from *chain
	by   *policy.Permission
}

func (ch *chain) hops() []finding.Hop {
	var hops []finding.Hop
	for s := ch; s.by != nil; s = s.from {
		hops = append(hops, finding.Hop{At: s.from.at.Name + " → " + s.at.Name, Verdict: finding.Allowed,
			Why: s.by.Name + " permits " + s.by.Traffic.String(), Rules: []finding.Rule{{Name: s.by.Name, Pos: s.by.Pos}}})
	}
	slices.Reverse(hops)
	return hops
}

// spread yields every party that can be reached from start over permitted
// connections, nearest first, with the permission that reaches it. Each
// permission is followed once.
func (c *checker) spread(start []policy.Party, yield func(*chain) bool) {
	byFrom := map[policy.Party][]*policy.Permission{}
	for i := range c.in.Permissions {
		p := &c.in.Permissions[i]
		if p.To.Kind != policy.WorkloadParty {
			continue
		}
		for _, m := range p.From.Members {
			byFrom[m] = append(byFrom[m], p)
		}
	}
	seen := map[policy.Party]bool{}
	var queue []*chain
	for _, s := range start {
		seen[s] = true
		queue = append(queue, &chain{at: s})
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, p := range byFrom[at.at] {
			next := &chain{at: p.To, from: at, by: p}
			if !yield(next) {
				return
			}
			if !seen[p.To] {
				seen[p.To] = true
				queue = append(queue, next)
			}
		}
	}
}

// internet returns the parties of the internet: itself, and every network of
// public addresses that an exposure names.
func (c *checker) internet() []policy.Party {
	out := []policy.Party{{Kind: policy.OutsideParty, Name: policy.Internet}}
	for i := range c.in.Permissions {
		if p := &c.in.Permissions[i]; p.FromInternet() && !slices.Contains(out, p.From.Members[0]) {
			out = append(out, p.From.Members[0])
		}
	}
	return out
}

// chains reports the ways from the internet to something that changes data or
// artefacts.
func (c *checker) chains() {
	reported := map[string]bool{}
	c.spread(c.internet(), func(ch *chain) bool {
		role := c.role(ch.at)
		if role != policy.Data && role != policy.Artefacts || !ch.by.CanWrite() || ch.from.by == nil && role == policy.Data {
			return true
		}
		key := ch.from.at.Name + ">" + ch.at.Name
		if reported[key] || c.relaxed(InternetChain, ch.at, ch.from.at) {
			return true
		}
		reported[key] = true
		f := finding.New("invariant/"+InternetChain, finding.High, ch.at.Name, ch.from.at.Name)
		f.Title = fmt.Sprintf("a chain of permitted flows leads from the internet to writing %s", ch.at.Name)
		f.Detail = "no chain may lead from the internet to data or artefacts that it can change: whoever takes over each workload on the way can replace them"
		f.Pos = ch.by.Pos
		f.Remedy = "break the chain (may: read at the last step, or no exposure at the first), or relax " + InternetChain + " with an owner and a date"
		f.Witness = &finding.Witness{From: policy.Internet, To: ch.at.Name, Traffic: ch.by.Traffic.String(), Verdict: finding.Allowed, Hops: ch.hops()}
		c.out = append(c.out, f)
		return true
	})
}

// declared holds the intent against its own invariants.
func (c *checker) declared() {
	for i := range c.in.Policy.Invariants {
		inv := &c.in.Policy.Invariants[i]
		to := map[policy.Party]bool{}
		outside := false
		for _, t := range inv.To {
			if t.Value == policy.Internet {
				outside = true
				continue
			}
			for _, p := range c.members(t) {
				to[p] = true
			}
		}
		var from []policy.Party
		for _, t := range inv.From {
			from = append(from, c.members(t)...)
		}
		c.forbid(inv, from, to, outside)
	}
}

func (c *checker) members(t policy.Text) []policy.Party {
	if t.Value == policy.Internet {
		return c.internet()
	}
	var out []policy.Party
	for i := range c.in.Policy.Workloads {
		w := &c.in.Policy.Workloads[i]
		if t.Value == policy.All || t.Value == w.Name.Value ||
			strings.HasPrefix(t.Value, policy.ZonePrefix) && c.in.InZone(w, strings.TrimPrefix(t.Value, policy.ZonePrefix)) {
			out = append(out, policy.Party{Kind: policy.WorkloadParty, Name: w.Name.Value})
		}
	}
	return out
}

// wayOut returns a permission of a party that leads outside, nil if it has none.
func (c *checker) wayOut(from policy.Party) *policy.Permission {
	for i := range c.in.Permissions {
		if p := &c.in.Permissions[i]; p.To.Kind == policy.OutsideParty && p.From.Has(from) {
			return p
		}
	}
	return nil
}

func (c *checker) forbid(inv *policy.Invariant, from []policy.Party, to map[policy.Party]bool, outside bool) {
	report := func(p *policy.Permission, source policy.Party, hops []finding.Hop) {
		if c.relaxed(inv.ID.Value, source, p.To) {
			return
		}
		f := finding.New("invariant/"+inv.ID.Value, finding.High, p.Name, source.Name)
		f.Title = fmt.Sprintf("%s lets %s reach %s, which %s forbids", p.Name, source.Name, p.To.Name, inv.ID.Value)
		f.Detail = inv.Says.Value
		f.Pos, f.Remedy = p.Pos, "remove the permission, or relax the invariant with an owner and a date"
		f.Notes = append(f.Notes, noteAt(inv))
		if len(hops) > 1 {
			f.Witness = &finding.Witness{From: source.Name, To: p.To.Name, Traffic: p.Traffic.String(), Verdict: finding.Allowed, Hops: hops}
		}
		c.out = append(c.out, f)
	}
	for _, source := range from {
		if inv.Transitive {
			found := map[policy.Party]bool{}
			c.spread([]policy.Party{source}, func(ch *chain) bool {
				if to[ch.at] && ch.at != source && !found[ch.at] {
					found[ch.at] = true
					report(ch.by, source, ch.hops())
				}
				if p := c.wayOut(ch.at); outside && p != nil && ch.at != source && !found[p.To] {
					found[p.To] = true
					report(p, source, (&chain{at: p.To, from: ch, by: p}).hops())
				}
				return true
			})
			if p := c.wayOut(source); outside && p != nil {
				report(p, source, nil)
			}
			continue
		}
		for i := range c.in.Permissions {
			p := &c.in.Permissions[i]
			leaves := outside && p.To.Kind == policy.OutsideParty
			if p.From.Has(source) && (to[p.To] && p.To != source || leaves) {
				report(p, source, nil)
			}
		}
	}
}
