package dns

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"bulkhead/core/netset"
)

// View says what a client may know. It is asked with canonical host names only,
// anew for each query, from many goroutines.
//
// A View that has the method
//
//	Believes(client, name string, a netip.Addr) bool
//
// says with it which special-purpose addresses of names outside the client is
// given. Without it there are none.
type View interface {
	// Private returns the addresses of a private name, ok=false if the name is not
	// one of this client's.
	Private(client, name string) (addrs []netip.Addr, ok bool)
	// Permitted reports whether the client may resolve the name outside.
	Permitted(client, name string) bool
}

type believer interface {
	Believes(client, name string, a netip.Addr) bool
}

// ServerOptions are what a Server needs. All but View and Resolver have defaults.
type ServerOptions struct {
	View     View
	Resolver Resolver
	// Record takes the record of each query. It must not block.
	Record func(Query)
	Now    func() time.Time
	Log    *slog.Logger
	Limits Limits
	// Search are domains that stub resolvers append to names, besides the usual ones
	// of clusters and clouds. What is refused below them is no sign of a tunnel.
	Search []string
}

// Limits bound what a client may ask for and what it costs. Zero means the
// default.
type Limits struct {
	// NewNames is how many permitted names that it never asked for before a client
	// may ask for in a minute, 300; NewNamesBurst how many at once, 600.
	NewNames, NewNamesBurst int
	// Refused is how many queries for names that are refused or do not exist a
	// client may send in a minute, 600, before its new names are refused too.
	Refused int
	// Below is how many new names below one parent are the sign of a tunnel, 100 in
	// a minute.
	Below int
	// Names is how many names the server remembers of a client, 4096; Clients of how
	// many clients it remembers any, 1024.
	Names, Clients int
	// Open is how many names are resolved for one client at the same time, 64.
	Open int
	// Packets is how many packets are answered at the same time, 1024.
	Packets int
	// Connections is how many TCP connections are open, 512; ClientConnections how
	// many of one client, 32.
	Connections, ClientConnections int
	// Resolve is how long a client waits for a name outside, 5 s; Idle how long
	// a TCP connection stays open without a query, 10 s.
	Resolve, Idle time.Duration
}

func (l Limits) withDefaults() Limits {
	l.NewNames = cmp.Or(l.NewNames, 300)
	l.NewNamesBurst = cmp.Or(l.NewNamesBurst, 600)
	l.Refused = cmp.Or(l.Refused, 600)
	l.Below = cmp.Or(l.Below, 100)
	l.Names = cmp.Or(l.Names, 4096)
	l.Clients = cmp.Or(l.Clients, 1024)
	l.Open = cmp.Or(l.Open, 64)
	l.Packets = cmp.Or(l.Packets, 1024)
	l.Connections = cmp.Or(l.Connections, 512)
	l.ClientConnections = cmp.Or(l.ClientConnections, 32)
	l.Resolve = cmp.Or(l.Resolve, 5*time.Second)
	l.Idle = cmp.Or(l.Idle, 10*time.Second)
	return l
}

// The verdicts of a Query.
const (
	Answered  = "answered" // asked outside; an empty answer and NXDOMAIN are answers
	Private   = "private"
	Refused   = "refused"
	Failed    = "failed"
	Malformed = "malformed"
)

// Query is the record of one query.
type Query struct {
	Client string
	// Name is canonical; what is not the name of a host is escaped. It has at most
	// 253 bytes, and is empty where the question could not be read.
	Name      string
	Type      string
	Verdict   string
	Why       string
	Answers   int
	Transport string // udp or tcp
	Took      time.Duration
	// Sign says what looks like a tunnel.
	Sign string
}

// privateTTL is short, so that a client follows when an endpoint moves.
const privateTTL = 5 * time.Second

// Server answers the queries of workloads. Its methods may be called from any
// goroutine.
type Server struct {
	o        ServerOptions
	believes func(client, name string, a netip.Addr) bool
	search   []string
	watch    *watch
	conns    connections
	stats    serverCounters
}

type serverCounters struct {
	answered, private, refused, failed, malformed, dropped atomic.Uint64
	withheld, limited, search                              atomic.Uint64
	signs                                                  [signs]atomic.Uint64
}

// ServerStats are counters since the Server was made.
type ServerStats struct {
	// The queries by verdict.
	Answered, Private, Refused, Failed, Malformed uint64
	// Dropped are messages without an answer: responses, what is too short, packets
	// and connections over the limit or of nobody known.
	Dropped uint64
	// Withheld are special-purpose addresses that were not given; Limited are queries
	// refused because of a limit, Search those for a name with a search domain.
	// Both are among Refused.
	Withheld, Limited, Search uint64
	// Signs are the queries with each sign of a tunnel.
	Signs map[string]uint64
}

// NewServer returns a Server without listeners.
func NewServer(o ServerOptions) *Server {
	if o.Record == nil {
		o.Record = func(Query) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Limits = o.Limits.withDefaults()
	s := &Server{o: o, watch: newWatch(o.Limits), believes: func(string, string, netip.Addr) bool { return false }}
	if b, ok := o.View.(believer); ok {
		s.believes = b.Believes
	}
	s.search = append(s.search, usualSearch...)
	for _, domain := range o.Search {
		if domain = strings.ToLower(strings.Trim(domain, ".")); domain != "" {
			s.search = append(s.search, domain)
		}
	}
	s.conns.limit, s.conns.each = o.Limits.Connections, o.Limits.ClientConnections
	return s
}

// Stats returns the counters.
func (s *Server) Stats() ServerStats {
	c := &s.stats
	out := ServerStats{
		Answered: c.answered.Load(), Private: c.private.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(),
		Malformed: c.malformed.Load(), Dropped: c.dropped.Load(),
		Withheld: c.withheld.Load(), Limited: c.limited.Load(), Search: c.search.Load(),
		Signs: map[string]uint64{},
	}
	for i := 1; i < int(signs); i++ {
		out.Signs[sign(i).String()] = c.signs[i].Load()
	}
	return out
}

// decision is what a query gets, and what its record says.
type decision struct {
	response
	verdict, why string
	sign         sign
}

// Answer answers one message of a client, nil if it gets no answer.
func (s *Server) Answer(ctx context.Context, client string, msg []byte, udp bool) []byte {
	start := s.o.Now()
	q, ok := readQuery(msg)
	if !ok {
		s.stats.dropped.Add(1)
		return nil
	}
	d := s.decide(ctx, client, &q)
	limit, transport := 1<<16-1, "tcp"
	if udp {
		limit, transport = q.payload, "udp"
	}
	s.count(&d)
	record := Query{Client: client, Verdict: d.verdict, Why: d.why, Answers: len(d.addrs), Transport: transport,
		Took: s.o.Now().Sub(start), Sign: d.sign.String()}
	if q.asked {
		record.Type, record.Name = typeText(q.about.Type), q.host
		if !q.isHost {
			record.Name = shown(&q.about.Name)
		}
	}
	s.o.Record(record)
	return q.write(d.response, limit)
}

func (s *Server) count(d *decision) {
	c := &s.stats
	switch d.verdict {
	case Answered:
		c.answered.Add(1)
	case Private:
		c.private.Add(1)
	case Refused:
		c.refused.Add(1)
	case Failed:
		c.failed.Add(1)
	default:
		c.malformed.Add(1)
	}
	if d.sign != noSign {
		c.signs[d.sign].Add(1)
	}
}

func (s *Server) decide(ctx context.Context, client string, q *query) decision {
	if q.code != dnsmessage.RCodeSuccess {
		return decision{response: response{code: q.code}, verdict: Malformed, why: q.why}
	}
	if q.isHost {
		if addrs, ok := s.o.View.Private(client, q.host); ok {
			r := response{authoritative: true, ttl: privateTTL, addrs: ofType(addrs, q.about.Type)}
			return decision{response: r, verdict: Private}
		}
		if s.o.View.Permitted(client, q.host) {
			return s.permitted(ctx, client, q)
		}
	}
	return s.refused(client, q)
}

// refused decides about a name that the client may not know.
func (s *Server) refused(client string, q *query) decision {
	d := refuse(extendedProhibited, "the policy does not permit this name")
	if !q.isHost {
		d.why = "not the name of a host"
	}
	if s.searched(q.host) {
		// Nothing was asked for on purpose, and nothing leaves.
		s.stats.search.Add(1)
		d.why = "the policy does not permit this name, which a stub resolver asks for by itself"
		return d
	}
	d.sign = s.watch.refused(client, q.host, s.o.Now())
	return d
}

// permitted decides about a name that may be asked for outside.
func (s *Server) permitted(ctx context.Context, client string, q *query) decision {
	sign, pass := s.watch.permitted(client, q.host, s.o.Now())
	if !pass {
		s.stats.limited.Add(1)
		d := refuse(extendedProhibited, "too many new names")
		d.sign = sign
		return d
	}
	d := s.resolve(ctx, client, q)
	d.sign = sign
	if d.code == dnsmessage.RCodeNameError {
		if sign := s.watch.missing(client, s.o.Now()); d.sign == noSign {
			d.sign = sign
		}
	}
	return d
}

func refuse(extended uint16, why string) decision {
	r := response{code: dnsmessage.RCodeRefused, extended: extended, text: why}
	return decision{response: r, verdict: Refused, why: why}
}

func (s *Server) resolve(ctx context.Context, client string, q *query) decision {
	if q.about.Type != dnsmessage.TypeA && q.about.Type != dnsmessage.TypeAAAA {
		return decision{verdict: Answered, why: "only addresses are answered"}
	}
	if !s.watch.open(client, s.o.Now()) {
		s.stats.limited.Add(1)
		return fail("too many names are being resolved for this client")
	}
	defer s.watch.close(client)
	ctx, cancel := context.WithTimeout(ctx, s.o.Limits.Resolve)
	defer cancel()
	a, err := s.o.Resolver.Lookup(ctx, q.host)
	switch {
	case errors.Is(err, ErrNoSuchName):
		return decision{response: response{code: dnsmessage.RCodeNameError}, verdict: Answered, why: ErrNoSuchName.Error()}
	case errors.Is(err, ErrNoAddress):
		return decision{verdict: Answered, why: ErrNoAddress.Error()}
	case err != nil:
		return fail(err.Error())
	}
	return s.give(client, q, &a)
}

func fail(why string) decision {
	return decision{response: response{code: dnsmessage.RCodeServerFailure}, verdict: Failed, why: why}
}

// give gives a client what it may have of an answer.
func (s *Server) give(client string, q *query, a *Answer) decision {
	var given []netip.Addr
	why := ""
	for _, addr := range a.Addrs {
		if kind := netset.Special(addr); kind != "" && !s.believes(client, q.host, addr) {
			s.stats.withheld.Add(1)
			why = "the address " + addr.String() + " is withheld: " + kind
			continue
		}
		given = append(given, addr)
	}
	if len(given) == 0 {
		d := refuse(extendedBlocked, "the name leads to special-purpose addresses only")
		d.why = cmp.Or(why, ErrNoAddress.Error())
		return d
	}
	r := response{addrs: ofType(given, q.about.Type), ttl: a.TTL}
	return decision{response: r, verdict: Answered, why: why}
}

// ofType returns the addresses that records of a type can have. An IPv4-mapped
// address is one of IPv6.
func ofType(addrs []netip.Addr, kind dnsmessage.Type) (out []netip.Addr) {
	for _, a := range addrs {
		if a.Is4() && kind == dnsmessage.TypeA || a.Is6() && a.Zone() == "" && kind == dnsmessage.TypeAAAA {
			out = append(out, a)
		}
	}
	return out[:min(len(out), maxAddrs)]
}
