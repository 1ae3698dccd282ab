package generation

import (
	"cmp"
	"strings"
	"time"

	"bulkhead/core/policy"
	"bulkhead/core/source"
)

// moment is when a generation is looked at: a clock that was set back does not
// bring back what expired, since time never runs before the order's own.
func (o *Order) moment(now time.Time) time.Time {
	if now.Before(o.At) {
		return o.At
	}
	return now
}

// Intent returns what a generation allows at now.
func Intent(o *Order, p *Plan, now time.Time) (*policy.Intent, source.Diagnostics) {
	in, ds := policy.Resolve(p.Policy, o.moment(now))
	return in.Quarantined(o.Quarantines), ds
}

// Resolver is [Intent] with a memory of the plan that it resolved last: an order
// that only quarantines does not resolve a whole platform anew. It belongs to one
// goroutine.
type Resolver struct {
	plan  string // its digest, empty for none
	base  *policy.Intent
	ds    source.Diagnostics
	until time.Time // when base allows less, zero for never
}

// Intent returns what a generation allows at now.
func (r *Resolver) Intent(o *Order, p *Plan, now time.Time) (*policy.Intent, source.Diagnostics) {
	at := o.moment(now)
	if o.Plan == "" || o.Plan != r.plan || at.Before(r.base.At) || !r.until.IsZero() && !at.Before(r.until) {
		r.base, r.ds = policy.Resolve(p.Policy, at)
		r.plan, r.until = o.Plan, Next(o, p, at)
	}
	return r.base.Quarantined(o.Quarantines), r.ds
}

// Next returns the next moment after now at which a permission of the plan
// expires, zero if there is none. From then on [Intent] allows less.
func Next(o *Order, p *Plan, now time.Time) time.Time {
	now = o.moment(now)
	var next time.Time
	for _, until := range dates(p.Policy) {
		if end := until.End(); end.After(now) && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	return next
}

// dates returns the last day of everything that permits.
func dates(p *policy.Policy) []policy.Date {
	var out []policy.Date
	for i := range p.Flows {
		out = append(out, p.Flows[i].Until)
	}
	for i := range p.Egress {
		out = append(out, p.Egress[i].Until)
	}
	for i := range p.Endpoints {
		out = append(out, p.Endpoints[i].Until)
	}
	for i := range p.Exposures {
		out = append(out, p.Exposures[i].Until)
	}
	if p.DNS != nil {
		out = append(out, p.DNS.Until)
	}
	if p.Telemetry != nil {
		out = append(out, p.Telemetry.Until)
	}
	if p.Gateway != nil {
		out = append(out, p.Gateway.Until)
	}
	return out
}

// TrustDomain returns the SPIFFE trust domain of a platform: the one that its
// policy declares, otherwise one made from its name. It is a valid name even if
// the policy was made by something that checks less than the parser.
func TrustDomain(p *policy.Policy) string {
	name := cmp.Or(p.TrustDomain.Value, cmp.Or(p.Platform.Value, "platform")+".bulkhead.internal")
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, name)
	return name[:min(len(name), 255)]
}
