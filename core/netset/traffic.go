package netset

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Protocol is a transport as filters tell them apart.
type Protocol uint8

// The protocols. TCP, UDP and SCTP carry ports 1-65535; port 0 is reserved
// (RFC 6335 section 6) and not part of the universe. ICMP and ICMPv6 carry
// type*256+code. Other carries the IP protocol number of everything else.
const (
	TCP Protocol = iota
	UDP
	SCTP
	ICMP
	ICMPv6
	Other
	protocols
)

var protocolNames = [protocols]string{"TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "IP"}

func (p Protocol) String() string {
	if p < protocols {
		return protocolNames[p]
	}
	return "invalid"
}

// HasPorts reports whether p carries ports.
func (p Protocol) HasPorts() bool { return p <= SCTP }

// bounds returns the universe of the 16-bit value of p.
func (p Protocol) bounds() (lo, hi uint16) {
	switch p {
	case TCP, UDP, SCTP:
		return 1, 65535
	case ICMP, ICMPv6:
		return 0, 65535
	default:
		return 0, 255
	}
}

// segment is a run of values of one protocol that carry the same requests.
// A nil requests means every request, and every octet stream that is none.
type segment struct {
	proto    Protocol
	lo, hi   uint16
	requests *Requests
}

// Traffic is a set of connections or requests to one destination. The zero
// value is the empty set. Values are immutable and canonical.
type Traffic struct {
	// segs is sorted by protocol and lo; neighbours that touch differ in
	// their requests.
	segs []segment
}

var all = func() Traffic {
	var t Traffic
	for p := range protocols {
		lo, hi := p.bounds()
		t.segs = append(t.segs, segment{proto: p, lo: lo, hi: hi})
	}
	return t
}()

// All returns every protocol, port and request.
func All() Traffic { return all }

// Ports returns the destination ports lo to hi of a protocol, clipped to its
// universe. It is empty when lo > hi.
func Ports(p Protocol, lo, hi uint16) Traffic {
	if p >= protocols {
		return Traffic{}
	}
	first, last := p.bounds()
	lo, hi = max(lo, first), min(hi, last)
	if lo > hi {
		return Traffic{}
	}
	return Traffic{segs: []segment{{proto: p, lo: lo, hi: hi}}}
}

// Port returns a single destination port.
func Port(p Protocol, port uint16) Traffic { return Ports(p, port, port) }

// Whole returns everything of one protocol.
func Whole(p Protocol) Traffic { return Ports(p, 0, 65535) }

// ICMPTypes returns ICMP or ICMPv6 messages of the types lo to hi with any code.
func ICMPTypes(p Protocol, lo, hi uint8) Traffic {
	return Ports(p, uint16(lo)<<8, uint16(hi)<<8|0xff)
}

// ICMPType returns the messages of one type and code.
func ICMPType(p Protocol, typ, code uint8) Traffic { return Port(p, uint16(typ)<<8|uint16(code)) }

// Limit returns the part of t whose requests are in r. Only TCP and UDP carry
// requests: any other protocol is kept only if r is every request.
func (t Traffic) Limit(r Requests) Traffic {
	if r.IsAll() {
		return t
	}
	var out []segment
	for _, s := range t.segs {
		if s.proto != TCP && s.proto != UDP {
			continue
		}
		got := r
		if s.requests != nil {
			got = s.requests.Intersect(r)
		}
		if !got.IsEmpty() {
			s.requests = &got
			out = append(out, s)
		}
	}
	return canonical(out)
}

// AnyRequests returns t with every limit on requests removed: the smallest set
// that holds t and can be told by protocol and port alone.
func (t Traffic) AnyRequests() Traffic {
	if !t.HasRequests() {
		return t
	}
	out := slices.Clone(t.segs)
	for i := range out {
		out[i].requests = nil
	}
	return canonical(out)
}

// HasRequests reports whether any part of t is limited to some requests.
func (t Traffic) HasRequests() bool {
	return slices.ContainsFunc(t.segs, func(s segment) bool { return s.requests != nil })
}

// IsEmpty reports whether nothing is in t.
func (t Traffic) IsEmpty() bool { return len(t.segs) == 0 }

// IsAll reports whether t holds everything.
func (t Traffic) IsAll() bool { return t.Equal(all) }

// Equal reports whether t and u are the same set.
func (t Traffic) Equal(u Traffic) bool {
	return slices.EqualFunc(t.segs, u.segs, func(a, b segment) bool {
		return a.proto == b.proto && a.lo == b.lo && a.hi == b.hi && sameRequests(a.requests, b.requests)
	})
}

// Union returns what is in t or u.
func (t Traffic) Union(u Traffic) Traffic {
	switch {
	case t.IsEmpty():
		return u
	case u.IsEmpty():
		return t
	}
	return combine(t, u, func(a, b *Requests) (*Requests, bool) {
		if a == nil || b == nil {
			return nil, true
		}
		r := a.Union(*b)
		return limit(r)
	}, true, true)
}

// Intersect returns what is in both t and u.
func (t Traffic) Intersect(u Traffic) Traffic {
	return combine(t, u, func(a, b *Requests) (*Requests, bool) {
		switch {
		case a == nil:
			return b, true
		case b == nil:
			return a, true
		}
		return limit(a.Intersect(*b))
	}, false, false)
}

// Subtract returns what is in t and not in u.
func (t Traffic) Subtract(u Traffic) Traffic {
	return combine(t, u, func(a, b *Requests) (*Requests, bool) {
		if b == nil {
			return nil, false
		}
		if a == nil {
			return limit(b.Complement())
		}
		return limit(a.Subtract(*b))
	}, true, false)
}

// SubsetOf reports whether all of t is in u.
func (t Traffic) SubsetOf(u Traffic) bool { return t.Subtract(u).IsEmpty() }

// Overlaps reports whether t and u share anything.
func (t Traffic) Overlaps(u Traffic) bool { return !t.Intersect(u).IsEmpty() }

// Has reports whether the connection to port of p is in t with every request.
// For ICMP the value is type*256+code, for Other the protocol number.
func (t Traffic) Has(p Protocol, port uint16) bool {
	s, ok := t.find(p, port)
	return ok && s.requests == nil
}

// Opens reports whether any request to port of p is in t, so that a connection
// has to be let through to tell which.
func (t Traffic) Opens(p Protocol, port uint16) bool {
	_, ok := t.find(p, port)
	return ok
}

// HasRequest reports whether one request to port of p is in t.
func (t Traffic) HasRequest(p Protocol, port uint16, r Request) bool {
	s, ok := t.find(p, port)
	return ok && (s.requests == nil || s.requests.Contains(r))
}

func (t Traffic) find(p Protocol, port uint16) (segment, bool) {
	i, _ := slices.BinarySearchFunc(t.segs, segment{proto: p, lo: port}, func(s, want segment) int {
		return cmp.Or(cmp.Compare(s.proto, want.proto), cmp.Compare(s.hi, want.lo))
	})
	if i < len(t.segs) && t.segs[i].proto == p && t.segs[i].lo <= port {
		return t.segs[i], true
	}
	return segment{}, false
}

// Example returns one member: the lowest port of the first protocol, and a
// request where the member is limited to some. ok is false for the empty set.
func (t Traffic) Example() (p Protocol, port uint16, r Request, ok bool) {
	if t.IsEmpty() {
		return 0, 0, Request{}, false
	}
	s := t.segs[0]
	if s.requests != nil {
		r, _ = s.requests.Example()
	}
	return s.proto, s.lo, r, true
}

// Run is a part of a Traffic: the values Lo to Hi of one protocol, limited to
// Requests unless AnyRequest is set.
type Run struct {
	Protocol   Protocol
	Lo, Hi     uint16
	Requests   Requests
	AnyRequest bool
}

// Runs returns the parts of t, sorted and disjoint.
func (t Traffic) Runs() []Run {
	out := make([]Run, len(t.segs))
	for i, s := range t.segs {
		out[i] = Run{Protocol: s.proto, Lo: s.lo, Hi: s.hi, AnyRequest: s.requests == nil}
		if s.requests != nil {
			out[i].Requests = *s.requests
		} else {
			out[i].Requests = AnyRequest()
		}
	}
	return out
}

// Protocol returns the part of t that is of protocol p.
func (t Traffic) Protocol(p Protocol) Traffic {
	lo, _ := slices.BinarySearchFunc(t.segs, p, func(s segment, p Protocol) int { return cmp.Compare(s.proto, p) })
	hi := lo
	for hi < len(t.segs) && t.segs[hi].proto == p {
		hi++
	}
	return Traffic{segs: t.segs[lo:hi:hi]}
}

// Key returns a string that is equal for equal sets and for no others.
func (t Traffic) Key() string {
	b := make([]byte, 0, 6*len(t.segs))
	for _, s := range t.segs {
		b = append(b, byte(s.proto))
		b = binary.BigEndian.AppendUint16(b, s.lo)
		b = binary.BigEndian.AppendUint16(b, s.hi)
		if s.requests == nil {
			b = append(b, 0)
			continue
		}
		k := s.requests.Key()
		b = append(b, 1)
		b = binary.BigEndian.AppendUint32(b, uint32(len(k)))
		b = append(b, k...)
	}
	return string(b)
}

// combine walks the common refinement of t and u. both decides where the two
// overlap; what only t (or only u) covers is kept when keepT (keepU) is set.
func combine(t, u Traffic, both func(a, b *Requests) (*Requests, bool), keepT, keepU bool) Traffic {
	var out []segment
	emit := func(p Protocol, lo, hi uint32, r *Requests) {
		out = append(out, segment{proto: p, lo: uint16(lo), hi: uint16(hi), requests: r})
	}
	i, j := 0, 0
	for p := range protocols {
		// at is the first value of p not yet decided; 32 bits so that it can
		// stand one past 65535.
		at := uint32(0)
		for {
			for i < len(t.segs) && (t.segs[i].proto < p || t.segs[i].proto == p && uint32(t.segs[i].hi) < at) {
				i++
			}
			for j < len(u.segs) && (u.segs[j].proto < p || u.segs[j].proto == p && uint32(u.segs[j].hi) < at) {
				j++
			}
			a, inA := run(t.segs, i, p, at)
			b, inB := run(u.segs, j, p, at)
			if !inA && !inB && a.next == noNext && b.next == noNext {
				break
			}
			switch {
			case inA && inB:
				end := min(a.end, b.end)
				if r, ok := both(a.requests, b.requests); ok {
					emit(p, at, end, r)
				}
				at = end + 1
			case inA:
				end := min(a.end, b.next-1)
				if keepT {
					emit(p, at, end, a.requests)
				}
				at = end + 1
			case inB:
				end := min(b.end, a.next-1)
				if keepU {
					emit(p, at, end, b.requests)
				}
				at = end + 1
			default:
				at = min(a.next, b.next)
			}
		}
	}
	return canonical(out)
}

const noNext = 1 << 17

// cursor is what a set says at one value: the run it stands in (end,
// requests), or else where the next run starts.
type cursor struct {
	end, next uint32
	requests  *Requests
}

func run(segs []segment, i int, p Protocol, at uint32) (cursor, bool) {
	if i >= len(segs) || segs[i].proto != p {
		return cursor{next: noNext}, false
	}
	s := segs[i]
	if uint32(s.lo) > at {
		return cursor{next: uint32(s.lo)}, false
	}
	return cursor{end: uint32(s.hi), next: noNext, requests: s.requests}, true
}

// canonical joins neighbours that carry the same requests. segs is sorted.
func canonical(segs []segment) Traffic {
	out := segs[:0]
	for _, s := range segs {
		if n := len(out); n > 0 {
			last := &out[n-1]
			if last.proto == s.proto && uint32(last.hi)+1 == uint32(s.lo) && sameRequests(last.requests, s.requests) {
				last.hi = s.hi
				continue
			}
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return Traffic{}
	}
	return Traffic{segs: slices.Clip(out)}
}

// limit normalises a request set: nil for every request, false for none.
func limit(r Requests) (*Requests, bool) {
	switch {
	case r.IsEmpty():
		return nil, false
	case r.IsAll():
		return nil, true
	}
	return &r, true
}

func sameRequests(a, b *Requests) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Equal(*b)
}
