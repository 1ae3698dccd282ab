package netset

import (
	"slices"
	"strings"
)

// String describes the set for people, the same way for equal sets: "GET,HEAD /features/*", "any method except PUT
// on host a.example path /x*", several joined with " | ", "any request", "no request". Paths and hosts are
// described by [Language.String]. A method without a path means any path.
func (r Requests) String() string {
	switch {
	case r.IsEmpty():
		return "no request"
	case r.IsAll():
		return "any request"
	}
	// One clause per group of hosts and paths, for all methods that have it.
	clauses := map[hostGroup]string{}
	for _, group := range r.others {
		clauses[group] = r.methodsText(group, true)
	}
	for _, allowed := range r.named {
		for _, group := range allowed {
			if _, done := clauses[group]; !done {
				clauses[group] = r.methodsText(group, false)
			}
		}
	}
	texts := make([]string, 0, len(clauses))
	for group, methods := range clauses {
		texts = append(texts, methods+group.String())
	}
	slices.Sort(texts)
	return strings.Join(texts, " | ")
}

// methodsText names the methods that have the group: all but some, or only some.
func (r Requests) methodsText(group hostGroup, others bool) string {
	var methods []string
	for _, method := range r.methods() {
		if slices.Contains(r.named[method], group) != others {
			methods = append(methods, quoted(method))
		}
	}
	list := strings.Join(methods, ",")
	switch {
	case !others:
		return list
	case list == "":
		return "any method"
	}
	return "any method except " + list
}

// String begins with a space, unless the group is everything.
func (g hostGroup) String() string {
	switch {
	case g.hosts.IsAll() && g.paths.IsAll():
		return ""
	case g.hosts.IsAll():
		return " " + g.paths.String()
	case g.paths.IsAll():
		return " on host " + g.hosts.String()
	}
	return " on host " + g.hosts.String() + " path " + g.paths.String()
}
