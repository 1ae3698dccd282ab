package reach

import "bulkhead/core/network"

// Side is what the layers of one direction alone let pass from src to dst:
// only the egress policies of the source, or only the ingress policies of the
// destination. What passes is in both sides, but the sides do not make up the
// whole where a pair has several paths: use it to say which side decides, and
// [Analysis.Between] for the verdict.
func (a *Analysis) Side(dir network.Direction, src, dst ClassID) Decision {
	var d Decision
	for _, p := range a.pathsBetween(a.part.classes[src].end, a.part.classes[dst].end) {
		one := *p
		one.Steps = nil
		for _, s := range p.Steps {
			if s.Kind != network.Filter || s.Direction == dir {
				one.Steps = append(one.Steps, s)
			}
		}
		passes := a.compose(&one, src, dst)
		if p.Uncertain != "" {
			passes = passes.doubt()
		}
		d = d.Or(passes)
	}
	return d
}
