package netset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Request is one request as the decision sees it. An HTTP method is case-sensitive; Host is a lower-case name without
// port or final dot, Path has no query and should be one of [NormalPaths]: the sets compare bytes and normalise nothing.
type Request struct {
	Method, Host, Path string
}

// Pattern is a set of requests in the form people write: some methods on some hosts at some paths.
type Pattern struct {
	// Methods are the methods, in any order; none means any method.
	Methods []string
	// Hosts and Paths are exactly these sets. The zero Language is the empty set, and a pattern with it holds
	// no request: write AnyString() for "any".
	Hosts, Paths Language
}

// Requests is an immutable set of requests. The zero value holds nothing.
//
// It is kept in canonical form: for each method that differs from the rest, and once for the rest, the hosts grouped by
// the paths allowed on them. Equal sets have equal forms. An operation on two sets takes one operation on paths per
// pair of host groups that overlap, and per method named in either; see [Language] for its cost. Combine long lists
// with [UnionOfRequests].
type Requests struct {
	others hostPaths            // methods that are not in named
	named  map[string]hostPaths // values differ from others; nil when empty
}

// AnyRequest is the set of all requests.
func AnyRequest() Requests { return Requests{others: hostPathsOf(AnyString(), AnyString())} }

// RequestsOf is the set of the requests that match p in method, host and path.
func RequestsOf(p Pattern) Requests {
	allowed := hostPathsOf(p.Hosts, p.Paths)
	if len(p.Methods) == 0 {
		return Requests{others: allowed}
	}
	named := make(map[string]hostPaths, len(p.Methods))
	for _, method := range p.Methods {
		named[method] = allowed
	}
	return newRequests(nil, named)
}

// newRequests drops the methods that are not special. It keeps named.
func newRequests(others hostPaths, named map[string]hostPaths) Requests {
	maps.DeleteFunc(named, func(_ string, allowed hostPaths) bool { return slices.Equal(allowed, others) })
	if len(named) == 0 {
		named = nil
	}
	return Requests{others: others, named: named}
}

// on is what is allowed with one method.
func (r Requests) on(method string) hostPaths {
	if allowed, ok := r.named[method]; ok {
		return allowed
	}
	return r.others
}

// methods are the methods treated specially, sorted.
func (r Requests) methods() []string { return slices.Sorted(maps.Keys(r.named)) }

func (r Requests) combine(s Requests, operation func(a, b hostPaths) hostPaths) Requests {
	named := make(map[string]hostPaths, len(r.named)+len(s.named))
	for method := range r.named {
		named[method] = operation(r.on(method), s.on(method))
	}
	for method := range s.named {
		if _, done := named[method]; !done {
			named[method] = operation(r.on(method), s.on(method))
		}
	}
	return newRequests(operation(r.others, s.others), named)
}

// Union is the set of the requests that are in r, in s or in both.
func (r Requests) Union(s Requests) Requests { return r.combine(s, hostPaths.union) }

// Intersect is the set of the requests that are in both r and s.
func (r Requests) Intersect(s Requests) Requests { return r.combine(s, hostPaths.intersect) }

// Subtract is the set of the requests that are in r and not in s.
func (r Requests) Subtract(s Requests) Requests { return r.combine(s, hostPaths.subtract) }

// Complement is the set of all requests that are not in r.
func (r Requests) Complement() Requests { return AnyRequest().Subtract(r) }

// UnionOfRequests is the set of the requests that are in at least one of parts. It is faster than repeated
// [Requests.Union], and bounded: it is an error if an automaton on the way has more than [MaxStates] states, or if
// the host patterns overlap in more than [MaxHostGroups] ways.
func UnionOfRequests(parts []Requests) (Requests, error) {
	special := map[string]bool{}
	for _, part := range parts {
		for method := range part.named {
			special[method] = true
		}
	}
	others, err := unionOn(parts, func(r Requests) hostPaths { return r.others })
	if err != nil {
		return Requests{}, fmt.Errorf("union of %d request sets: %w", len(parts), err)
	}
	named := make(map[string]hostPaths, len(special))
	for _, method := range slices.Sorted(maps.Keys(special)) {
		named[method], err = unionOn(parts, func(r Requests) hostPaths { return r.on(method) })
		if err != nil {
			return Requests{}, fmt.Errorf("union of %d request sets, method %q: %w", len(parts), method, err)
		}
	}
	return newRequests(others, named), nil
}

func unionOn(parts []Requests, allowed func(Requests) hostPaths) (hostPaths, error) {
	var all hostPaths
	for _, part := range parts {
		all = append(all, allowed(part)...)
	}
	return hostPathsUnion(all)
}

// Contains reports whether the request is in the set. It takes time in proportion to the request's length and the
// number of host groups, and allocates nothing.
func (r Requests) Contains(q Request) bool {
	for _, group := range r.on(q.Method) {
		if group.hosts.Contains(q.Host) {
			return group.paths.Contains(q.Path)
		}
	}
	return false
}

// Equal reports whether both hold the same requests.
func (r Requests) Equal(s Requests) bool {
	return slices.Equal(r.others, s.others) && maps.EqualFunc(r.named, s.named, slices.Equal[hostPaths])
}

// IsEmpty reports whether the set holds no request.
func (r Requests) IsEmpty() bool { return len(r.others) == 0 && len(r.named) == 0 }

// IsAll reports whether the set holds every request.
func (r Requests) IsAll() bool {
	return len(r.named) == 0 && len(r.others) == 1 && r.others[0] == hostGroup{anyString, anyString}
}

// SubsetOf reports whether every request of r is in s.
func (r Requests) SubsetOf(s Requests) bool {
	if !r.others.subsetOf(s.others) {
		return false
	}
	for method, allowed := range r.named {
		if !allowed.subsetOf(s.on(method)) {
			return false
		}
	}
	for method, allowed := range s.named {
		if !r.on(method).subsetOf(allowed) {
			return false
		}
	}
	return true
}

// States is the number of automaton states in the set, for comparing with [MaxStates] and for statistics.
func (r Requests) States() int {
	n := r.others.states()
	for _, allowed := range r.named {
		n += allowed.states()
	}
	return n
}

// Key is a string that is the same for equal sets and for no others, for use as a map key. It is not for reading
// or storing.
func (r Requests) Key() string {
	var b strings.Builder
	r.others.appendKey(&b)
	for _, method := range r.methods() {
		appendSized(&b, method)
		r.named[method].appendKey(&b)
	}
	return b.String()
}

// appendSized writes text so that no two sequences of texts give the same result.
func appendSized(b *strings.Builder, text string) {
	b.WriteString(strconv.Itoa(len(text)))
	b.WriteByte(':')
	b.WriteString(text)
}

// commonMethods are tried first for an example.
var commonMethods = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE"}

// Example returns one request of the set, and false if there is none. It prefers a common method and a path of
// [NormalPaths], which can be sent for real. It is the same for equal sets. An empty Host is one that no rule names.
func (r Requests) Example() (Request, bool) {
	candidates := append(slices.Clone(commonMethods), r.methods()...)
	for unnamed := "ANY"; ; unnamed += "X" { // ends: the named methods are finitely many
		if _, named := r.named[unnamed]; !named {
			candidates = append(candidates, unnamed)
			break
		}
	}
	for _, method := range candidates {
		if host, path, ok := r.on(method).example(); ok {
			return Request{Method: method, Host: host, Path: path}, true
		}
	}
	return Request{}, false
}
