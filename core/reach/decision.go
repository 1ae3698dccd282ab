package reach

import "bulkhead/core/netset"

// Decision is what a layer, or all of them, let pass. The two sets are
// disjoint; what is in neither is denied.
type Decision struct {
	Allow   netset.Traffic
	Unknown netset.Traffic
}

// IsDenied reports whether nothing passes for certain.
func (d Decision) IsDenied() bool { return d.Allow.IsEmpty() && d.Unknown.IsEmpty() }

// May returns what is not denied.
func (d Decision) May() netset.Traffic { return d.Allow.Union(d.Unknown) }

// bounds makes a decision of what must and what may pass.
func bounds(must, may netset.Traffic) Decision {
	return Decision{Allow: must, Unknown: may.Subtract(must)}
}

// and is the decision of two filters in a row.
func (d Decision) and(e Decision) Decision {
	if d.Unknown.IsEmpty() && e.Unknown.IsEmpty() {
		return Decision{Allow: d.Allow.Intersect(e.Allow)}
	}
	return bounds(d.Allow.Intersect(e.Allow), d.May().Intersect(e.May()))
}

// Or is the decision of two paths side by side.
func (d Decision) Or(e Decision) Decision {
	allow := d.Allow.Union(e.Allow)
	return Decision{Allow: allow, Unknown: d.Unknown.Union(e.Unknown).Subtract(allow)}
}

// doubt is d on a path that may not exist.
func (d Decision) doubt() Decision { return Decision{Unknown: d.May()} }

// decisionID names an interned decision.
type decisionID int32

const (
	deniedID decisionID = iota
	allID
)

// decisions interns decisions, so that equal ones have equal ids and the
// matrices of an analysis hold ids only.
type decisions struct {
	list []Decision
	ids  map[string]decisionID
}

func newDecisions() *decisions {
	ds := &decisions{ids: map[string]decisionID{}}
	ds.id(Decision{})
	ds.id(Decision{Allow: netset.All()})
	return ds
}

func (ds *decisions) id(d Decision) decisionID {
	key := d.Allow.Key() + "|" + d.Unknown.Key()
	if id, ok := ds.ids[key]; ok {
		return id
	}
	id := decisionID(len(ds.list))
	ds.list = append(ds.list, d)
	ds.ids[key] = id
	return id
}

func (ds *decisions) get(id decisionID) Decision { return ds.list[id] }
