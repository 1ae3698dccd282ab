package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bulkhead/core/source"
)

// targetService is a service of a workload.
type targetService struct {
	workload *Workload
	service  *Service
}

// targets resolves WORKLOAD/SERVICE, WORKLOAD or zone/NAME.
func (r *resolver) targets(to Text) []targetService {
	var out []targetService
	add := func(w *Workload) {
		for i := range w.Serves {
			out = append(out, targetService{w, &w.Serves[i]})
		}
	}
	if strings.HasPrefix(to.Value, ZonePrefix) || to.Value == All {
		g := r.group(to)
		if g == nil {
			return nil
		}
		for _, m := range g.Members {
			add(r.in.workloads[m.Name])
		}
		if len(out) == 0 {
			r.ds.Errorf("no-service", to.Pos, "no workload in %s serves anything", to.Value).WithFix("add serves: to a workload of the zone")
		}
		return out
	}
	name, service, named := strings.Cut(to.Value, "/")
	w := r.in.workloads[name]
	switch {
	case w == nil:
		r.unknown("workload", Text{name, to.Pos}, keys(r.in.workloads))
	case named:
		for i := range w.Serves {
			if w.Serves[i].Name.Value == service {
				return []targetService{{w, &w.Serves[i]}}
			}
		}
		d := r.ds.Errorf("unknown-service", to.Pos, "workload %s serves no %q", name, service)
		d.WithNote(w.Name.Pos, "the workload is declared here")
		d.WithFix("%s", serviceFix(w, service))
	default:
		add(w)
		if len(out) == 0 {
			r.ds.Errorf("no-service", to.Pos, "workload %s serves nothing", name).
				WithNote(w.Name.Pos, "it is declared here").WithFix("add serves: {NAME: PROTOCOL/PORT} to it")
		}
	}
	return out
}

func serviceFix(w *Workload, wrong string) string {
	if len(w.Serves) == 0 {
		return fmt.Sprintf("add serves: {%s: PROTOCOL/PORT} to the workload", wrong)
	}
	names := make([]string, len(w.Serves))
	for i, s := range w.Serves {
		names[i] = w.Name.Value + "/" + s.Name.Value
	}
	return "use " + strings.Join(names, " or ")
}

func (r *resolver) groups(from []Text) []*Group {
	var out []*Group
	for _, f := range from {
		if g := r.group(f); g != nil {
			out = append(out, g)
		}
	}
	return out
}

func (r *resolver) groupsOrAll(from []Text) []*Group {
	if len(from) == 0 {
		from = []Text{{Value: All}}
	}
	return r.groups(from)
}

// group resolves a workload, zone/NAME or all. A service after a workload is
// an error: only the receiving side has one.
func (r *resolver) group(t Text) *Group {
	if g := r.in.groups[t.Value]; g != nil {
		return g
	}
	var names []string
	switch {
	case t.Value == All:
		for i := range r.in.Policy.Workloads {
			names = append(names, r.in.Policy.Workloads[i].Name.Value)
		}
	case strings.HasPrefix(t.Value, ZonePrefix):
		zone := strings.TrimPrefix(t.Value, ZonePrefix)
		if r.in.zones[zone] == nil {
			r.unknown("zone", Text{zone, t.Pos}, keys(r.in.zones))
			return nil
		}
		for i := range r.in.Policy.Workloads {
			if w := &r.in.Policy.Workloads[i]; r.in.InZone(w, zone) {
				names = append(names, w.Name.Value)
			}
		}
	default:
		name, _, named := strings.Cut(t.Value, "/")
		if r.in.workloads[name] == nil {
			r.unknown("workload", Text{name, t.Pos}, keys(r.in.workloads))
			return nil
		}
		if named {
			r.ds.Errorf("service-as-source", t.Pos, "%q names a service where a workload is meant", t.Value).WithFix("write %s", name)
			return nil
		}
		names = []string{name}
	}
	g := &Group{Name: t.Value, set: make(map[Party]bool, len(names))}
	for _, n := range names {
		p := Party{WorkloadParty, n}
		if !g.set[p] {
			g.set[p] = true
			g.Members = append(g.Members, p)
		}
	}
	r.in.groups[t.Value] = g
	return g
}

func (r *resolver) single(p Party) *Group {
	key := fmt.Sprintf("\x00%d %s", p.Kind, p.Name)
	if p.Kind == WorkloadParty {
		key = p.Name
	}
	if g := r.in.groups[key]; g != nil {
		return g
	}
	g := newGroup(p.Name, []Party{p})
	r.in.groups[key] = g
	return g
}

func (r *resolver) unknown(what string, t Text, known []string) {
	d := r.ds.Errorf("unknown-"+what, t.Pos, "%s %q is not declared", what, t.Value)
	if near := source.Nearest(t.Value, known); near != "" {
		d.WithFix("did you mean %s?", near)
		return
	}
	slices.Sort(known)
	if len(known) > 8 {
		known = append(known[:8], "…")
	}
	d.WithFix("known: %s", cmp.Or(strings.Join(known, ", "), "none"))
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func protocolNames() []string {
	out := make([]string, len(Protocols))
	for i, p := range Protocols {
		out[i] = p.Name
	}
	return out
}
