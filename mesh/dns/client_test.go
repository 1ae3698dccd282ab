package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const host = "www.example.com"

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// TestLookup: what a server may say, and what is believed of it.
func TestLookup(t *testing.T) {
	v4 := func(records ...dnsmessage.Resource) server {
		return func(network string, q dnsmessage.Message) [][]byte {
			m := answerTo(q, records...)
			m.Truncated = network == "udp" && len(records) > 50
			if m.Truncated || !isA(q) {
				m.Answers = nil
			}
			return packed(m)
		}
	}
	chain := func(n int) (out []dnsmessage.Resource) {
		name := host
		for i := range n {
			next := fmt.Sprintf("c%d.example.net", i)
			out = append(out, alias(name, next, 60))
			name = next
		}
		return append(out, address(name, "198.41.0.4", 60))
	}
	var many []dnsmessage.Resource
	var manyAddrs []netip.Addr
	for i := range 257 {
		a := fmt.Sprintf("198.41.%d.%d", i/200, i%200)
		many = append(many, address(host, a, 60))
		manyAddrs = append(manyAddrs, netip.MustParseAddr(a))
	}
	mangled := func(f func(q dnsmessage.Message, m *dnsmessage.Message)) server {
		return func(network string, q dnsmessage.Message) [][]byte {
			m := answerTo(q, address(host, "198.41.0.66", 60))
			if f(q, &m); !isA(q) {
				m.Answers = nil
			}
			return packed(m)
		}
	}
	for _, c := range []struct {
		name    string
		server  server
		addrs   []netip.Addr
		aliases []string
		err     string
	}{
		{"both families", honest(60), addrs("198.41.0.4", "2a00:1450::1"), nil, ""},
		{"alias", v4(alias(host, "Cdn.Example.NET", 60), address("cdn.example.net", "198.41.0.4", 60)), addrs("198.41.0.4"), []string{"cdn.example.net"}, ""},
		{"aliases in any order", v4(address("b.example.net", "198.41.0.4", 60), alias("a.example.net", "b.example.net", 60), alias(host, "a.example.net", 60)),
			addrs("198.41.0.4"), []string{"a.example.net", "b.example.net"}, ""},
		{"records of other names", v4(address("other.example.com", "198.41.0.66", 60), address(host, "198.41.0.4", 60), address("example.com", "198.41.0.67", 60)), addrs("198.41.0.4"), nil, ""},
		{"only records of other names", v4(address("other.example.com", "198.41.0.66", 60)), nil, nil, ErrNoAddress.Error()},
		{"an alias of another name", v4(alias("x.example.com", host, 60), address("x.example.com", "198.41.0.66", 60)), nil, nil, ErrNoAddress.Error()},
		{"addresses in the middle of the chain", v4(address(host, "198.41.0.66", 60), alias(host, "a.example.net", 60), address("a.example.net", "198.41.0.4", 60)), addrs("198.41.0.4"), []string{"a.example.net"}, ""},
		{"two aliases", v4(alias(host, "a.example.net", 60), alias(host, "b.example.net", 60), address("a.example.net", "198.41.0.4", 60)), nil, nil, "alias of both"},
		{"loop", v4(alias(host, "a.example.net", 60), alias("a.example.net", host, 60), address(host, "198.41.0.66", 60)), nil, nil, "lead from a.example.net back"},
		{"its own alias", v4(alias(host, host, 60), address(host, "198.41.0.66", 60)), nil, nil, "back to"},
		{"chain of 8", v4(chain(8)...), addrs("198.41.0.4"), []string{"c0.example.net", "c1.example.net", "c2.example.net", "c3.example.net", "c4.example.net", "c5.example.net", "c6.example.net", "c7.example.net"}, ""},
		{"chain of 9", v4(chain(9)...), nil, nil, "more than 8 aliases"},
		{"chain without end", v4(alias(host, "a.example.net", 60)), nil, nil, ErrNoAddress.Error()},
		{"alias that is no host name", v4(alias(host, "a b.example.net", 60), address("a b.example.net", "198.41.0.66", 60)), nil, nil, "not a host name"},
		{"alias that is an address", v4(alias(host, "198.41.0.66", 60), address("198.41.0.66", "198.41.0.66", 60)), nil, nil, "not a host name"},
		{"200 addresses", v4(many[:200]...), manyAddrs[:200], nil, ""},
		{"257 addresses", v4(many...), nil, nil, "more than 256 addresses"},
		{"public and private", v4(address(host, "198.41.0.4", 60), address(host, "10.0.0.1", 60)), addrs("198.41.0.4", "10.0.0.1"), nil, ""},
		{"the same twice", v4(address(host, "198.41.0.4", 60), address(host, "198.41.0.4", 60)), addrs("198.41.0.4"), nil, ""},
		{"mapped stays mapped", func(_ string, q dnsmessage.Message) [][]byte {
			if isA(q) {
				return packed(answerTo(q))
			}
			r := address(host, "::1", 60)
			r.Body = &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("::ffff:169.254.169.254").As16()}
			return packed(answerTo(q, r))
		}, addrs("::ffff:169.254.169.254"), nil, ""},
		{"A where AAAA was asked", func(_ string, q dnsmessage.Message) [][]byte {
			if isA(q) {
				return packed(answerTo(q, address(host, "2a00:1450::66", 60)))
			}
			return packed(answerTo(q, address(host, "198.41.0.66", 60)))
		}, nil, nil, ErrNoAddress.Error()},
		{"NXDOMAIN", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }), nil, nil, ErrNoSuchName.Error()},
		{"NODATA", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.Answers = nil }), nil, nil, ErrNoAddress.Error()},
		{"poison in the other sections", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) {
			m.Authorities, m.Additionals, m.Answers = m.Answers, m.Answers, nil
		}), nil, nil, ErrNoAddress.Error()},
		{"SERVFAIL with addresses", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }), nil, nil, "SERVFAIL"},
		{"REFUSED", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeRefused }), nil, nil, "REFUSED"},
		{"a code of EDNS", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) {
			h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(".")}
			h.SetEDNS0(1232, 16, false)
			m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{}})
		}), nil, nil, "response code 16"},
		{"referral", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.Answers, m.RecursionAvailable = nil, false }), nil, nil, "does not recurse"},
		{"wrong id", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.ID++ }), nil, nil, "no answer in time"},
		{"wrong question", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) {
			m.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("xww.example.com."), Type: q.Questions[0].Type, Class: 1}}
		}), nil, nil, "no answer in time"},
		{"wrong type in the question", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) {
			m.Questions = []dnsmessage.Question{{Name: q.Questions[0].Name, Type: dnsmessage.TypeTXT, Class: 1}}
		}), nil, nil, "no answer in time"},
		{"two questions", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) {
			m.Questions = append(m.Questions, m.Questions[0])
		}), nil, nil, "no answer in time"},
		{"no question", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.Questions = nil }), nil, nil, "no answer in time"},
		{"a query", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.Response = false }), nil, nil, "no answer in time"},
		{"class CH", mangled(func(q dnsmessage.Message, m *dnsmessage.Message) { m.Answers[0].Header.Class = dnsmessage.ClassCHAOS }), nil, nil, ErrNoAddress.Error()},
		{"garbage", func(network string, q dnsmessage.Message) [][]byte {
			return [][]byte{[]byte("garbage that is long enough")}
		}, nil, nil, "no answer in time"},
		{"silence", func(network string, q dnsmessage.Message) [][]byte { return nil }, nil, nil, "no answer in time"},
		{"cut in the middle", func(network string, q dnsmessage.Message) [][]byte {
			b := packed(answerTo(q, address(host, "198.41.0.66", 60)))[0]
			return [][]byte{b[:len(b)-2]}
		}, nil, nil, "malformed"},
		{"an address of no bytes before others", func(network string, q dnsmessage.Message) [][]byte {
			b := packed(answerTo(q, address(host, "198.41.0.66", 60)))[0]
			size := 4
			if !isA(q) {
				b, size = packed(answerTo(q, address(host, "2a00:1450::66", 60)))[0], 16
			}
			b[len(b)-size-1] = 0 // its length: the bytes of the address follow the record
			return [][]byte{b}
		}, nil, nil, "malformed: an address of 0 bytes"},
		{"strays before the answer", func(network string, q dnsmessage.Message) [][]byte {
			m := answerTo(q, address(host, "198.41.0.66", 60))
			m.ID++
			return append(packed(m, m, m), honest(60)(network, q)...)
		}, addrs("198.41.0.4", "2a00:1450::1"), nil, ""},
		{"no IPv6 but errors", func(network string, q dnsmessage.Message) [][]byte {
			m := answerTo(q)
			if m.RCode = dnsmessage.RCodeServerFailure; isA(q) {
				return honest(60)(network, q)
			}
			return packed(m)
		}, addrs("198.41.0.4"), nil, ""},
		{"no address of one, an error for the other", func(network string, q dnsmessage.Message) [][]byte {
			m := answerTo(q)
			if m.RCode = dnsmessage.RCodeServerFailure; isA(q) {
				m.RCode = 0
			}
			return packed(m)
		}, nil, nil, "SERVFAIL"},
		{"no EDNS", func(network string, q dnsmessage.Message) [][]byte {
			if len(q.Additionals) > 0 {
				return packed(dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RCode: dnsmessage.RCodeFormatError}})
			}
			return honest(60)(network, q)
		}, addrs("198.41.0.4", "2a00:1450::1"), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, err := newClient(c.server).Lookup(t.Context(), host)
				if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				if !reflect.DeepEqual(a.Addrs, c.addrs) || !reflect.DeepEqual(a.Aliases, c.aliases) {
					t.Errorf("got %v by %v, want %v by %v", a.Addrs, a.Aliases, c.addrs, c.aliases)
				}
				if err == nil && a.Name != host {
					t.Errorf("the answer is for %q", a.Name)
				}
				// That nothing is there and that nobody knows are never taken for each other.
				known := errors.Is(err, ErrNoAddress) || errors.Is(err, ErrNoSuchName)
				if want := c.err == ErrNoAddress.Error() || c.err == ErrNoSuchName.Error(); known != want {
					t.Errorf("%v: known=%v", err, known)
				}
				time.Sleep(time.Hour) // whatever still waits has ended
			})
		})
	}
}

// TestCase: over UDP a server that does not keep the case is asked again by TCP,
// and what TCP says counts.
func TestCase(t *testing.T) {
	lowering := func(tcp bool) server {
		return func(network string, q dnsmessage.Message) [][]byte {
			name := dnsmessage.MustNewName(strings.ToLower(q.Questions[0].Name.String()))
			m := answerTo(q, address(host, "198.41.0.66", 60))
			m.Questions = []dnsmessage.Question{{Name: name, Type: q.Questions[0].Type, Class: 1}}
			if network == "tcp" && tcp {
				m.Answers = []dnsmessage.Resource{address(host, "198.41.0.4", 60)}
			} else if network == "tcp" {
				return nil
			}
			if !isA(q) {
				m.Answers = nil
			}
			return packed(m)
		}
	}
	for _, c := range []struct {
		tcp  bool
		want string
	}{{true, "198.41.0.4"}, {false, "198.41.0.66"}} {
		synctest.Test(t, func(t *testing.T) {
			client := newClient(lowering(c.tcp))
			a, err := client.Lookup(t.Context(), host)
			if err != nil || len(a.Addrs) != 1 || a.Addrs[0].String() != c.want {
				t.Errorf("tcp=%v: got %v, %v, want %s", c.tcp, a.Addrs, err, c.want)
			}
			if got := client.Stats().Uncased > 0; got == c.tcp {
				t.Errorf("tcp=%v: counted as uncased: %v", c.tcp, got)
			}
		})
	}
}

// TestGuessing: who sends many messages in the hope that one fits makes the
// client go to TCP.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(func(network string, q dnsmessage.Message) (out [][]byte) {
			if network == "tcp" {
				return honest(60)(network, q)
			}
			for i := range 100 {
				m := answerTo(q, address(host, "198.41.0.66", 60))
				m.ID = q.ID - 50 + uint16(i)
				out = append(out, packed(m)...)
			}
			return out
		})
		a, err := client.Lookup(t.Context(), host)
		if err != nil || !reflect.DeepEqual(a.Addrs, addrs("198.41.0.4", "2a00:1450::1")) {
			t.Errorf("got %v, %v", a.Addrs, err)
		}
	})
}

// TestTruncated: what does not fit comes by TCP, whole.
func TestTruncated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := newClient(func(network string, q dnsmessage.Message) [][]byte {
			if network == "tcp" {
				return honest(60)(network, q)
			}
			m := answerTo(q, address(host, "198.41.0.66", 60))
			m.Truncated = true
			return packed(m)
		}).Lookup(t.Context(), host)
		if err != nil || !reflect.DeepEqual(a.Addrs, addrs("198.41.0.4", "2a00:1450::1")) {
			t.Errorf("got %v, %v", a.Addrs, err)
		}
		_, err = newClient(func(network string, q dnsmessage.Message) [][]byte {
			m := answerTo(q, address(host, "198.41.0.66", 60))
			m.Truncated = true
			return packed(m)
		}).Lookup(t.Context(), host)
		if err == nil || !strings.Contains(err.Error(), "truncated over TCP") {
			t.Errorf("truncated everywhere: %v", err)
		}
	})
}

// TestServers: one that fails, does not answer or is not there leads to the next,
// which is then the first to be asked; the error names all.
func TestServers(t *testing.T) {
	servfail := func(_ string, q dnsmessage.Message) [][]byte {
		m := answerTo(q)
		m.RCode = dnsmessage.RCodeServerFailure
		return packed(m)
	}
	silent := func(string, dnsmessage.Message) [][]byte { return nil }
	for name, bad := range map[string]server{"silent": silent, "servfail": servfail, "not there": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clientOf(world{first.String(): bad, second.String(): honest(0)}, first, second)
				if _, err := c.Lookup(t.Context(), host); err != nil {
					t.Error(err)
				}
				before := c.Stats().Queries
				if _, err := c.Lookup(t.Context(), host); err != nil || c.Stats().Queries != before+2 {
					t.Errorf("%v; %d queries, want 2", err, c.Stats().Queries-before)
				}
				c = clientOf(world{first.String(): bad, second.String(): servfail}, first, second)
				_, err := c.Lookup(t.Context(), host)
				if err == nil || !strings.Contains(err.Error(), first.String()) || !strings.Contains(err.Error(), second.String()+": SERVFAIL") {
					t.Errorf("the error does not name both: %v", err)
				}
				if errors.Is(err, ErrNoSuchName) || errors.Is(err, ErrNoAddress) {
					t.Errorf("not knowing is not knowing that there is none: %v", err)
				}
			})
		})
	}
}

// TestCache: an answer counts for its TTL, bounded, and what is nothing is not
// kept. The clock is the one given.
func TestCache(t *testing.T) {
	for _, c := range []struct {
		name   string
		server server
		counts time.Duration
	}{
		{"ttl", honest(60), time.Minute},
		{"ttl of a year", honest(365 * 24 * 3600), maxTTL},
		{"ttl with the highest bit", honest(1<<31 + 60), 0},
		{"ttl 0", honest(0), 0},
		{"the least of the chain", func(_ string, q dnsmessage.Message) [][]byte {
			kind := "198.41.0.4"
			if !isA(q) {
				kind = "2a00:1450::1"
			}
			return packed(answerTo(q, alias(host, "a.example.net", 7), address("a.example.net", kind, 60)))
		}, 7 * time.Second},
		{"no such name", func(_ string, q dnsmessage.Message) [][]byte {
			m := answerTo(q)
			m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa(20)}
			return packed(m)
		}, 20 * time.Second},
		{"no such name for a day", func(_ string, q dnsmessage.Message) [][]byte {
			m := answerTo(q)
			m.RCode, m.Authorities = dnsmessage.RCodeNameError, []dnsmessage.Resource{soa(24 * 3600)}
			return packed(m)
		}, maxNegative},
		{"no address, without SOA", func(_ string, q dnsmessage.Message) [][]byte { return packed(answerTo(q)) }, unsaidNegative},
		{"failure", func(_ string, q dnsmessage.Message) [][]byte {
			m := answerTo(q)
			m.RCode = dnsmessage.RCodeServerFailure
			return packed(m)
		}, failureTTL},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := newClock()
			client := NewClient(ClientOptions{Servers: []netip.AddrPort{first}, Dial: world{first.String(): c.server}.dial, Now: clock.now})
			a, err := client.Lookup(t.Context(), host)
			if err == nil && a.TTL != c.counts {
				t.Errorf("TTL %v, want %v", a.TTL, c.counts)
			}
			asked := client.Stats().Queries
			if c.counts > 0 {
				clock.advance(c.counts - 1)
				b, again := client.Lookup(t.Context(), host)
				if client.Stats().Queries != asked {
					t.Errorf("asked again before %v", c.counts)
				}
				if !reflect.DeepEqual(a.Addrs, b.Addrs) || fmt.Sprint(err) != fmt.Sprint(again) {
					t.Errorf("remembered %v, %v as %v, %v", a, err, b, again)
				}
				if again == nil && b.TTL != 1 {
					t.Errorf("TTL %v at the end, want 1ns", b.TTL)
				}
				clock.advance(1)
			}
			client.Lookup(t.Context(), host)
			if client.Stats().Queries == asked {
				t.Errorf("not asked again after %v", c.counts)
			}
		})
	}
}

// TestRebinding: answers that alternate are never mixed, nor does the answer in
// use change under its caller.
func TestRebinding(t *testing.T) {
	var n atomic.Int64
	clock := newClock()
	client := NewClient(ClientOptions{Servers: []netip.AddrPort{first}, Now: clock.now, Dial: world{first.String(): func(_ string, q dnsmessage.Message) [][]byte {
		if !isA(q) {
			return packed(answerTo(q))
		}
		if n.Add(1)%2 == 0 {
			return packed(answerTo(q, address(host, "169.254.169.254", 1)))
		}
		return packed(answerTo(q, address(host, "198.41.0.4", 1)))
	}}.dial})
	var old Answer
	for i := range 10 {
		a, err := client.Lookup(t.Context(), host)
		if err != nil || len(a.Addrs) != 1 {
			t.Fatalf("got %v, %v", a.Addrs, err)
		}
		want := addrs("198.41.0.4", "169.254.169.254")[i%2]
		if a.Addrs[0] != want {
			t.Errorf("answer %d is %v, want %v", i, a.Addrs[0], want)
		}
		if i > 0 && old.Addrs[0] == a.Addrs[0] {
			t.Error("the answer before changed")
		}
		old = a
		clock.advance(time.Second)
	}
}

// TestOneQuestion: a thousand who ask for one name are one question, which goes
// on when the first of them gives up.
func TestOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(func(network string, q dnsmessage.Message) [][]byte {
			time.Sleep(time.Second)
			return honest(60)(network, q)
		})
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error)
		go func() {
			_, err := client.Lookup(ctx, host)
			gaveUp <- err
		}()
		synctest.Wait()
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if a, err := client.Lookup(t.Context(), host); err != nil || len(a.Addrs) != 2 {
					t.Errorf("got %v, %v", a.Addrs, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got %v", err)
		}
		all.Wait()
		if s := client.Stats(); s.Queries != 2 {
			t.Errorf("%d queries, want 2", s.Queries)
		}
	})
}

// TestHalf: addresses do not wait for ever for those of the other family, and
// count for a short time then.
func TestHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		a, err := newClient(func(network string, q dnsmessage.Message) [][]byte {
			if isA(q) {
				return honest(300)(network, q)
			}
			return nil
		}).Lookup(t.Context(), host)
		if err != nil || len(a.Addrs) != 1 || a.TTL != halfTTL {
			t.Errorf("got %v for %v, %v", a.Addrs, a.TTL, err)
		}
		if d := time.Since(start); d != grace {
			t.Errorf("took %v, want %v", d, grace)
		}
		synctest.Wait()
	})
}

// TestBounds: neither many names nor many at once cost more than they may.
func TestBounds(t *testing.T) {
	client := NewClient(ClientOptions{Servers: []netip.AddrPort{first}, Names: 160, Dial: world{first.String(): honest(60)}.dial})
	for i := range 2000 {
		if _, err := client.Lookup(t.Context(), fmt.Sprintf("n%d.example.com", i)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for i := range client.cache.shards {
		n += len(client.cache.shards[i].held)
	}
	if n > 160 {
		t.Errorf("%d names in a cache of 160", n)
	}
	synctest.Test(t, func(t *testing.T) {
		client := newClient(func(string, dnsmessage.Message) [][]byte { return nil })
		var busy atomic.Int64
		var all sync.WaitGroup
		for i := range maxFlights + 50 {
			all.Go(func() {
				_, err := client.Lookup(t.Context(), fmt.Sprintf("n%d.example.com", i))
				if err == nil {
					t.Error("an answer from nobody")
				} else if strings.Contains(err.Error(), "try again later") {
					busy.Add(1)
				}
			})
		}
		all.Wait()
		if busy.Load() != 50 {
			t.Errorf("%d were over the limit, want 50", busy.Load())
		}
	})
}

// TestNames: what is not a canonical host name is never asked for.
func TestNames(t *testing.T) {
	client := newClient(func(_ string, q dnsmessage.Message) [][]byte {
		panic("asked for " + q.Questions[0].Name.String())
	})
	for _, name := range []string{"", ".", "WWW.example.com", "www.example.com.", ".example.com", "a..b", "a b.com", "a/b.com", "evil.test%00.allowed.test",
		"127.0.0.1", "127.1", "2852039166", "0x7f.0x1", "example.0x7f", "0x", "0251.0376.0251.0376", "::1", "[::1]", "fe80::1%lo", "ⓔvil.test", "é.com", "a\x00b.com",
		strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 127) + "a"} {
		if a, err := client.Lookup(t.Context(), name); err == nil || errors.Is(err, ErrNoSuchName) {
			t.Errorf("%q: got %v, %v", name, a, err)
		}
	}
	for _, name := range []string{"a", "localhost", "_dmarc.example.com", "xn--fiqs8s", "a-.example.com", strings.Repeat("a", 63) + ".com", strings.Repeat("a.", 126) + "a"} {
		if err := checkHost(name); err != nil {
			t.Errorf("%q %v", name, err)
		}
	}
	if _, err := NewClient(ClientOptions{}).Lookup(t.Context(), host); err == nil || !strings.Contains(err.Error(), "no DNS server") {
		t.Errorf("without servers: %v", err)
	}
}

// TestUnforeseeable: on real sockets, each query comes from a port of its own with
// an id and a case of its own, and an answer from another address does not count.
func TestUnforeseeable(t *testing.T) {
	liar, _ := listen(t)
	l := newLoopback(t, func(l *loopback, from netip.AddrPort, q dnsmessage.Message) {
		liar.WriteToUDPAddrPort(packed(answerTo(q, address(host, "198.41.0.66", 0)))[0], from)
		l.udp.WriteToUDPAddrPort(honest(0)("udp", q)[0], from)
	})
	client := NewClient(ClientOptions{Servers: []netip.AddrPort{l.at}})
	const n = 20
	for range n {
		a, err := client.Lookup(t.Context(), host)
		if err != nil || !reflect.DeepEqual(a.Addrs, addrs("198.41.0.4", "2a00:1450::1")) {
			t.Fatalf("got %v, %v", a.Addrs, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// 40 draws of 2^13 patterns and 2^16 ids, and ports of which one may come back.
	if len(l.ports) < n || len(l.ids) < 2*n-2 || len(l.names) < 2*n-3 {
		t.Errorf("%d queries came from %d ports with %d ids and %d patterns", 2*n, len(l.ports), len(l.ids), len(l.names))
	}
}

// TestRandomFails: without random numbers nothing is asked.
func TestRandomFails(t *testing.T) {
	client := NewClient(ClientOptions{Servers: []netip.AddrPort{first}, Random: strings.NewReader("x"), Dial: world{first.String(): honest(60)}.dial})
	if _, err := client.Lookup(t.Context(), host); err == nil || !strings.Contains(err.Error(), "no random numbers") {
		t.Errorf("got %v", err)
	}
}

func TestFiles(t *testing.T) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	servers, err := SystemServers(file("# x\nsearch example.com\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # y\nnameserver nonsense\n;nameserver 192.0.2.9\noptions ndots:5\n"))
	if want := []netip.AddrPort{first, netip.MustParseAddrPort("[2001:db8::1]:53")}; err != nil || !reflect.DeepEqual(servers, want) {
		t.Errorf("got %v, %v, want %v", servers, err, want)
	}
	if _, err := SystemServers(file("search x\n")); err == nil {
		t.Error("a file without servers is no error")
	}
	hosts, err := ReadHosts(file("127.0.0.1 localhost LocalHost. mirror # comment\n::1 localhost\nfe80::1%lo0 localhost\nnonsense mirror\n10.0.0.1 a/b 127.1\n"))
	want := map[string][]netip.Addr{"localhost": addrs("127.0.0.1", "::1"), "mirror": addrs("127.0.0.1")}
	if err != nil || !reflect.DeepEqual(hosts, want) {
		t.Errorf("got %v, %v, want %v", hosts, err, want)
	}
	if _, err := ReadHosts(file(strings.Repeat("x", maxLine+1))); err == nil {
		t.Error("a line without end is no error")
	}
	if _, err := ReadHosts(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	client := NewClient(ClientOptions{Hosts: hosts})
	if a, err := client.Lookup(t.Context(), "localhost"); err != nil || !reflect.DeepEqual(a.Addrs, want["localhost"]) {
		t.Errorf("got %v, %v", a, err)
	}
}
