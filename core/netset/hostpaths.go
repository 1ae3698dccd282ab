package netset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// MaxHostGroups bounds into how many groups [UnionOfRequests] divides the hosts by the patterns that hold them.
const MaxHostGroups = 1 << 12

// hostPaths is a relation between hosts and paths: the hosts grouped by the paths allowed on them. Groups share no
// host, no two have the same paths, no group is empty on either side, and they are sorted by their paths' keys;
// so equal relations are equal slices. Each group is what one set of paths has as its hosts, so the form is unique.
type hostPaths []hostGroup

type hostGroup struct {
	hosts, paths Language
}

func hostPathsOf(hosts, paths Language) hostPaths {
	if hosts.IsEmpty() || paths.IsEmpty() {
		return nil
	}
	return hostPaths{{hosts, paths}}
}

// mergeHostGroups gives the canonical form: it merges groups with equal paths. The groups must share no host.
func mergeHostGroups(groups []hostGroup) hostPaths {
	hosts := map[Language]Language{}
	for _, g := range groups {
		if !g.hosts.IsEmpty() && !g.paths.IsEmpty() {
			hosts[g.paths] = hosts[g.paths].Union(g.hosts)
		}
	}
	var out hostPaths
	for paths, h := range hosts {
		out = append(out, hostGroup{h, paths})
	}
	slices.SortFunc(out, func(a, b hostGroup) int { return compareLanguages(a.paths, b.paths) })
	return out
}

// remainder is the set of the hosts on which nothing is allowed.
func (r hostPaths) remainder() Language {
	some := make([]Language, len(r))
	for i, g := range r {
		some[i] = g.hosts
	}
	all, _ := unionOfSome(some, unbounded)
	return all.Complement()
}

func (r hostPaths) union(s hostPaths) hostPaths {
	switch {
	case len(r) == 0 || slices.Equal(r, s):
		return s
	case len(s) == 0:
		return r
	}
	return r.pointwise(s, Language.Union)
}

func (r hostPaths) intersect(s hostPaths) hostPaths {
	switch {
	case len(r) == 0 || slices.Equal(r, s):
		return r
	case len(s) == 0:
		return nil
	}
	return r.pointwise(s, Language.Intersect)
}

func (r hostPaths) subtract(s hostPaths) hostPaths {
	switch {
	case len(r) == 0 || len(s) == 0:
		return r
	case slices.Equal(r, s):
		return nil
	}
	return r.pointwise(s, Language.Subtract)
}

// pointwise applies an operation, of which nothing and nothing give nothing, to the paths of every host.
func (r hostPaths) pointwise(s hostPaths, operation func(a, b Language) Language) hostPaths {
	var out []hostGroup
	for _, a := range append(slices.Clone(r), hostGroup{hosts: r.remainder()}) {
		for _, b := range append(slices.Clone(s), hostGroup{hosts: s.remainder()}) {
			if common := a.hosts.Intersect(b.hosts); !common.IsEmpty() {
				out = append(out, hostGroup{common, operation(a.paths, b.paths)})
			}
		}
	}
	return mergeHostGroups(out)
}

// hostPathsUnion is the relation that allows whatever any group allows. The groups may overlap.
func hostPathsUnion(groups []hostGroup) (hostPaths, error) {
	// First one path list per distinct set of hosts, because most lists use few, often one.
	paths := map[Language][]Language{}
	for _, g := range groups {
		paths[g.hosts] = append(paths[g.hosts], g.paths)
	}
	type part struct {
		hosts Language
		paths []Language
	}
	var parts []part // share no host
	for _, hosts := range slices.SortedFunc(maps.Keys(paths), compareLanguages) {
		rest, divided := hosts, make([]part, 0, len(parts)+1)
		for _, p := range parts {
			common := p.hosts.Intersect(rest)
			if common.IsEmpty() {
				divided = append(divided, p)
				continue
			}
			divided = append(divided, part{common, slices.Concat(p.paths, paths[hosts])})
			if outside := p.hosts.Subtract(rest); !outside.IsEmpty() {
				divided = append(divided, part{outside, p.paths})
			}
			rest = rest.Subtract(p.hosts)
		}
		if !rest.IsEmpty() {
			divided = append(divided, part{rest, paths[hosts]})
		}
		if parts = divided; len(parts) > MaxHostGroups {
			return nil, fmt.Errorf("the host patterns overlap in more than %d ways: use fewer of them", MaxHostGroups)
		}
	}
	disjoint := make([]hostGroup, len(parts))
	for i, p := range parts {
		all, err := UnionOf(p.paths)
		if err != nil {
			return nil, err
		}
		disjoint[i] = hostGroup{p.hosts, all}
	}
	return mergeHostGroups(disjoint), nil
}

func compareLanguages(a, b Language) int { return cmp.Compare(a.encoded, b.encoded) }

func (r hostPaths) subsetOf(s hostPaths) bool {
	if slices.Equal(r, s) {
		return true
	}
	for _, a := range r {
		var covered Language
		for _, b := range s {
			common := a.hosts.Intersect(b.hosts)
			if !common.IsEmpty() && !a.paths.SubsetOf(b.paths) {
				return false
			}
			covered = covered.Union(common)
		}
		if covered != a.hosts {
			return false
		}
	}
	return true
}

func (r hostPaths) states() int {
	n := 0
	for _, g := range r {
		n += g.hosts.States() + g.paths.States()
	}
	return n
}

func (r hostPaths) appendKey(b *strings.Builder) {
	fmt.Fprintf(b, "%d;", len(r))
	for _, g := range r {
		appendSized(b, g.hosts.Key())
		appendSized(b, g.paths.Key())
	}
}

// example prefers a path that can be sent for real, then the shortest texts.
func (r hostPaths) example() (host, path string, ok bool) {
	best := func(paths Language) (string, bool) {
		if p, ok := paths.Intersect(NormalPaths()).Example(); ok {
			return p, true
		}
		p, _ := paths.Example()
		return p, false
	}
	normal := false
	for _, g := range r {
		h, _ := g.hosts.Example()
		p, n := best(g.paths)
		better := n && !normal || n == normal && cmp.Or(cmp.Compare(len(h)+len(p), len(host)+len(path)),
			cmp.Compare(h, host), cmp.Compare(p, path)) < 0
		if !ok || better {
			host, path, normal, ok = h, p, n, true
		}
	}
	return host, path, ok
}
