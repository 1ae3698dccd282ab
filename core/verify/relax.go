package verify

import (
	"fmt"
	"slices"
	"time"

	"bulkhead/core/finding"
	"bulkhead/core/policy"
	"bulkhead/core/source"
)

func noteAt(inv *policy.Invariant) source.Note {
	return source.Note{Pos: inv.Pos, Text: "the invariant is declared here"}
}

// relaxations reports relaxations that are incomplete or name nothing.
func (c *checker) relaxations() {
	ids := InvariantIDs(c.in.Policy)
	for i := range c.in.Policy.Relaxations {
		r := &c.in.Policy.Relaxations[i]
		id := r.Invariant.Value
		if !slices.Contains(ids, id) {
			f := finding.New("unknown-invariant", finding.Medium, id, "")
			f.Title = fmt.Sprintf("the relaxation of %s relaxes nothing: there is no such invariant", id)
			f.Pos, f.Remedy = r.Invariant.Pos, "correct its name"
			if near := source.Nearest(id, ids); near != "" {
				f.Remedy = "did you mean " + near + "?"
			}
			c.out = append(c.out, f)
		}
		missing := ""
		switch {
		case r.Because.Value == "":
			missing = "because"
		case r.Owner.Value == "":
			missing = "owner"
		case r.Until.Time.IsZero():
			missing = "until"
		default:
			continue
		}
		f := finding.New("relaxation-incomplete", finding.Medium, id, missing)
		f.Title = fmt.Sprintf("the relaxation of %s has no %s", id, missing)
		f.Detail = "Every relaxation needs its own because, owner and until."
		f.Pos, f.Remedy = r.Pos, "add "+missing+":"
		c.out = append(c.out, f)
	}
}

// Notice is how long before its end a permission is announced.
const Notice = 30 * 24 * time.Hour

func (c *checker) expiring() {
	for _, p := range c.in.Expiring(Notice) {
		f := finding.New("expiring", finding.Info, p.Name, p.Why.Until.Time.Format(time.DateOnly))
		f.Title = fmt.Sprintf("%s ends after %s", p.Name, p.Why.Until.Time.Format(time.DateOnly))
		f.Pos, f.Remedy = p.Why.Until.Pos, "renew until: after a review, or let it end"
		c.out = append(c.out, f)
	}
}

// exempt lists what is exempt from encryption, so that a review sees each.
func (c *checker) exempt() {
	for i := range c.in.Permissions {
		p := &c.in.Permissions[i]
		if !p.Plaintext {
			continue
		}
		f := finding.New("plaintext", finding.Info, p.Name, "")
		f.Title = p.Name + " is sent in the clear, and its identity is only an address"
		f.Detail = "It says why: " + p.Why.Because.Value
		f.Pos, f.Remedy = p.Pos, "remove plaintext: true where encryption costs too little to matter"
		c.out = append(c.out, f)
	}
}
