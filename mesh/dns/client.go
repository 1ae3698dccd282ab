package dns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/singleflight"
)

const (
	defaultTimeout = 2 * time.Second
	defaultNames   = 10_000
	// maxFlights is how many names may be asked for at the same time.
	maxFlights = 1024
	// rounds is how often all servers are asked before the lookup fails.
	rounds = 2
	// failureTTL is how long a failure is remembered, so that callers who try again
	// at once do not add to what may be the cause (RFC 9520).
	failureTTL = time.Second
	// grace is how long the addresses of one family wait for those of the other,
	// halfTTL how long they count without. Some networks drop AAAA queries.
	grace   = 500 * time.Millisecond
	halfTTL = 10 * time.Second
	// hostsTTL is what an answer of the hosts table says.
	hostsTTL = 5 * time.Second
)

// ClientOptions are what a Client needs. All but Servers have defaults.
type ClientOptions struct {
	// Servers are asked in this order, the one that answered last first. The
	// first eight count. They must recurse.
	Servers []netip.AddrPort
	// Hosts are names that no server is asked for.
	Hosts map[string][]netip.Addr
	// Timeout is for one query to one server, 2 s by default.
	Timeout time.Duration
	// Names is how many the cache holds, 10,000 by default.
	Names  int
	Now    func() time.Time
	Random io.Reader // of ids and case; the kernel's by default
	// Dial opens a connection to a server: udp or tcp. A UDP one must deliver
	// packets from this address only, and have a port of its own.
	Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
}

// Client asks recursive servers, and remembers. Its methods may be called from
// any goroutine.
type Client struct {
	o       ClientOptions
	hosts   map[string]Answer
	cache   *cache
	flights singleflight.Group
	flying  atomic.Int64
	// first is the server that answered last.
	first atomic.Int32

	random sync.Mutex // guards o.Random
	stats  clientCounters
}

type clientCounters struct{ lookups, cached, queries, stray, uncased, failures atomic.Uint64 }

// ClientStats are counters since the Client was made.
type ClientStats struct {
	Lookups uint64 // calls
	Cached  uint64 // of them, answered from memory
	Queries uint64 // messages sent to servers
	// Stray are messages that did not answer the question: late, broken, or forged.
	Stray uint64
	// Uncased are answers taken from a server that does not keep the case of names.
	Uncased  uint64
	Failures uint64 // lookups that no server answered
}

// NewClient returns a Client with an empty cache.
func NewClient(o ClientOptions) *Client {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Names <= 0 {
		o.Names = defaultNames
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, to.String())
		}
	}
	o.Servers = o.Servers[:min(len(o.Servers), maxServers)]
	c := &Client{o: o, hosts: map[string]Answer{}, cache: newCache(o.Names)}
	for name, addrs := range o.Hosts {
		if len(addrs) > 0 {
			c.hosts[name] = Answer{Name: name, Addrs: addrs[:min(len(addrs), maxAddrs)], TTL: hostsTTL}
		}
	}
	return c
}

// Stats returns the counters.
func (c *Client) Stats() ClientStats {
	s := &c.stats
	return ClientStats{s.lookups.Load(), s.cached.Load(), s.queries.Load(), s.stray.Load(), s.uncased.Load(), s.failures.Load()}
}

// Lookup returns the addresses of a host: of the hosts table, from memory, or by
// asking. Any number of callers who ask for one name at the same time are one
// question, which goes on when a caller gives up.
func (c *Client) Lookup(ctx context.Context, host string) (Answer, error) {
	c.stats.lookups.Add(1)
	if a, ok := c.hosts[host]; ok {
		return a, nil
	}
	if strings.HasSuffix(host, ".localhost") {
		return Answer{Name: host, Addrs: localhost, TTL: hostsTTL}, nil
	}
	if h, ok := c.cache.get(host, c.o.Now()); ok {
		c.stats.cached.Add(1)
		return h.answer, h.err
	}
	if err := checkHost(host); err != nil {
		return Answer{}, fmt.Errorf("dns: the host name %.300q %w", host, err)
	}
	if len(c.o.Servers) == 0 {
		return Answer{}, fmt.Errorf("dns: %s: there is no DNS server to ask: name one", host)
	}
	flight := c.flights.DoChan(host, func() (any, error) { return c.fly(ctx, host) })
	select {
	case r := <-flight:
		a, _ := r.Val.(Answer)
		return a, r.Err
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("dns: %s: %w", host, context.Cause(ctx))
	}
}

// localhost is what names below localhost have, whatever a server says (RFC 6761
// section 6.3).
var localhost = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// fly is the one question of all who wait for a name.
func (c *Client) fly(ctx context.Context, host string) (Answer, error) {
	// Who saw nothing in the cache may come here after the flight that filled it.
	if h, ok := c.cache.get(host, c.o.Now()); ok {
		return h.answer, h.err
	}
	if c.flying.Add(1) > maxFlights {
		c.flying.Add(-1)
		return Answer{}, fmt.Errorf("dns: %s: %d names are being asked for, which is the limit: try again later", host, maxFlights)
	}
	defer c.flying.Add(-1)
	a, err := c.askBoth(context.WithoutCancel(ctx), host)
	ttl := a.TTL
	if err != nil {
		a = Answer{}
		if !errors.Is(err, ErrNoSuchName) && !errors.Is(err, ErrNoAddress) {
			c.stats.failures.Add(1)
		}
	}
	if ttl > 0 {
		c.cache.put(host, held{a, err, c.o.Now().Add(ttl)})
	}
	return a, err
}

// family is what asking for one type led to.
type family struct {
	kind  dnsmessage.Type
	reply reply
	err   error
}

// askBoth asks for A and AAAA at the same time. With an error the TTL of the
// answer is how long that counts.
func (c *Client) askBoth(ctx context.Context, host string) (Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	came := make(chan family, 2)
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		go func() {
			r, err := c.ask(ctx, host, kind)
			came <- family{kind, r, err}
		}()
	}
	one := <-came
	if one.err != nil || len(one.reply.addrs) == 0 {
		return join(host, one, <-came)
	}
	wait := time.NewTimer(grace)
	defer wait.Stop()
	select {
	case other := <-came:
		return join(host, one, other)
	case <-wait.C:
		return join(host, one, family{err: context.DeadlineExceeded})
	}
}

// join makes one answer of those for both families.
func join(host string, a, b family) (Answer, error) {
	if a.kind == dnsmessage.TypeAAAA || b.kind == dnsmessage.TypeA {
		a, b = b, a
	}
	out := Answer{Name: host, TTL: maxTTL}
	for _, f := range []family{a, b} {
		if len(f.reply.addrs) > 0 {
			out.add(&f.reply)
		}
	}
	failed := a.err
	if failed == nil {
		failed = b.err
	}
	switch {
	case len(out.Addrs) > 0:
		if failed != nil {
			out.TTL = min(out.TTL, halfTTL)
		}
		return out, nil
	case failed != nil:
		return Answer{TTL: failureTTL}, fmt.Errorf("dns: %s: %w", host, failed)
	}
	ttl, err := min(a.reply.ttl, b.reply.ttl), ErrNoAddress
	if a.reply.code == dnsmessage.RCodeNameError && b.reply.code == dnsmessage.RCodeNameError {
		err = ErrNoSuchName
	}
	return Answer{TTL: ttl}, fmt.Errorf("dns: %s: %w", host, err)
}

func (a *Answer) add(r *reply) {
	a.Addrs = append(a.Addrs, r.addrs[:min(len(r.addrs), maxAddrs-len(a.Addrs))]...)
	for _, name := range r.aliases {
		if !slices.Contains(a.Aliases, name) {
			a.Aliases = append(a.Aliases, name)
		}
	}
	a.TTL = min(a.TTL, r.ttl)
}
