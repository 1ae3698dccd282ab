package probe

import (
	"fmt"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

// The kinds about the way out.
var (
	wayOut       = Kind{ID: "egress", Title: "permitted ways out open"}
	ownEndpoint  = Kind{ID: "endpoint", Title: "private endpoints open for their consumers"}
	strayClient  = attack("endpoint-stranger", "private endpoints of others")
	publicWay    = attack("endpoint-public-way", "the public way to what has a private endpoint")
	unlistedName = attack("egress-name", "names outside that no permission holds, in any spelling")
	addressOut   = attack("egress-address", "addresses and metadata through the gateway, in any spelling")
	portOut      = attack("egress-port", "other ports of permitted names")
	grammarOut   = attack("egress-grammar", "requests to the gateway with two readings")
	insideOut    = attack("egress-inside", "something else inside a permitted tunnel")
)

const onlyDeclared = "only what egress declares leads outside"

// maxWays is how many hosts of each permission are tried.
const maxWays = 3

// egress adds what goes through the gateway: each permitted name, and what an
// attacker asks a forward proxy for.
func (pl *planner) egress(m *Member) {
	if !pl.Gateway.IsValid() {
		return
	}
	tunnel := pl.waysOut(m)
	refuse := func(kind Kind, name, raw string) {
		pl.add(Case{Kind: kind, Name: m.Name + " → the gateway: " + name, From: m.Name, Policy: onlyDeclared, want: wantNoWayOut,
			Task: Task{Do: AskProxy, To: pl.Gateway, Bind: pl.own(m.Name, pl.Gateway.Addr()), Raw: []byte(raw), Hold: holdOpen}})
	}
	connect := func(kind Kind, target string) { refuse(kind, "CONNECT "+target, connectTo(target, target)) }
	for _, target := range []string{"unlisted.example.com:443", "UNLISTED.example.COM.:443", "[unlisted.example.com]:443", "unlisted.example.com%00.localhost:443",
		"xn--nlisted-.example.com:443", "\u24e4nlisted.example.com:443", "user:pw@unlisted.example.com:443", "unlisted.example.com..:443"} {
		connect(unlistedName, target)
	}
	for _, target := range []string{"169.254.169.254:443", "2852039166:443", "0251.0376.0251.0376:443", "0xa9.0xfe.0xa9.0xfe:443", "0xa9fea9fe:443", "169.16689662:443",
		"[::ffff:169.254.169.254]:443", "[fd00:ec2::254]:443", "[64:ff9b::a9fe:a9fe]:443", "[2002:a9fe:a9fe::1]:443", "127.0.0.1:443", "127.1:443", "0.0.0.0:443",
		"[::1]:443", "[::]:443", "168.63.129.16:80", "10.0.0.1:443", "192.168.0.1:443"} {
		connect(addressOut, target)
	}
	refuse(addressOut, "GET of the metadata service", "GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
	refuse(grammarOut, "a Host that is another one", "GET http://unlisted.example.com/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
	refuse(grammarOut, "two Hosts", "GET http://unlisted.example.com/ HTTP/1.1\r\nHost: unlisted.example.com\r\nHost: localhost\r\n\r\n")
	refuse(grammarOut, "a folded Host", "GET http://unlisted.example.com/ HTTP/1.1\r\nHost: localhost\r\n unlisted.example.com\r\n\r\n")
	refuse(grammarOut, "another scheme", "GET ftp://unlisted.example.com/ HTTP/1.1\r\nHost: unlisted.example.com\r\n\r\n")
	refuse(grammarOut, "two framings", "POST http://unlisted.example.com/ HTTP/1.1\r\nHost: unlisted.example.com\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	refuse(grammarOut, "tabs", "CONNECT\tunlisted.example.com:443\tHTTP/1.1\r\nHost: unlisted.example.com:443\r\n\r\n")
	refuse(grammarOut, "a bare line feed", "CONNECT unlisted.example.com:443 HTTP/1.1\nHost: unlisted.example.com:443\n\n")
	if tunnel != nil {
		pl.besides(m, tunnel, connect)
	}
	for i := range pl.Endpoints {
		pl.endpoint(m, &pl.Endpoints[i], connect)
	}
}

// endpoint adds what concerns a private endpoint: its consumers get in, others do
// not, and nobody reaches the same by its public name.
func (pl *planner) endpoint(m *Member, e *Endpoint, connect func(Kind, string)) {
	c := Case{From: m.Name, Name: fmt.Sprintf("%s → endpoint %s at %s", m.Name, e.Name, e.At), Policy: "an endpoint exists for its consumers alone",
		Task: Task{To: e.At, Bind: pl.own(m.Name, e.At.Addr()), Hold: holdOpen}}
	switch {
	case !e.Consumers[m.Name]:
		c.Kind, c.want, c.Task.Do = strayClient, wantProxyRefusal, DialTCP
		pl.add(c)
	case e.TLS && len(e.Hosts) > 0:
		c.Kind, c.want, c.Task.Do, c.Task.ServerName = ownEndpoint, wantWayOut, AskProxy, e.Hosts[0]
		c.silent = "it is outside, and not this platform's to answer for"
		pl.add(c)
	}
	for _, host := range e.Hosts {
		q := policy.Question{From: party(m.Name), To: policy.Outside, Protocol: netset.TCP, Port: e.At.Port(), Host: host, Via: pl.Via}
		if !pl.Intent.Decide(q).Allowed {
			connect(publicWay, fmt.Sprintf("%s:%d", host, e.At.Port()))
		}
	}
}

func connectTo(target, host string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

// way is a name and a port that a workload may reach over TLS.
type way struct {
	host string
	port uint16
}

// waysOut adds each permitted way out, and returns one in which TLS must be for the
// name that was asked for, nil if there is none.
func (pl *planner) waysOut(m *Member) (tunnel *way) {
	for i := range pl.Intent.Permissions {
		p := &pl.Intent.Permissions[i]
		if p.Kind != policy.EgressKind || !p.From.Has(party(m.Name)) {
			continue
		}
		n := 0
		for _, host := range p.Names {
			if strings.HasPrefix(host, "*") || n == maxWays {
				continue
			}
			n++
			port := firstPort(p.Traffic)
			target := fmt.Sprintf("%s:%d", host, port)
			q := policy.Question{From: party(m.Name), To: policy.Outside, Protocol: netset.TCP, Port: port, Host: host, Via: pl.Via, Whole: true}
			a := pl.Intent.Decide(q)
			c := Case{Kind: wayOut, Name: fmt.Sprintf("%s → %s", m.Name, target), From: m.Name, Policy: says(a), want: wantWayOut,
				silent: "it is outside, and not this platform's to answer for",
				Task:   Task{Do: AskProxy, To: pl.Gateway, Bind: pl.own(m.Name, pl.Gateway.Addr()), Hold: holdOpen}}
			switch {
			case a.Allowed && !p.Inspect:
				c.Task.Raw = []byte(connectTo(target, target))
				if !p.AnyProtocol {
					c.Task.ServerName = host
				}
				if tunnel == nil && !p.AnyProtocol && a.Relaxed == "" {
					tunnel = &way{host, port}
				}
			case readable(p.Traffic, port):
				c.Task.Raw = fmt.Appendf(nil, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, target)
				if !pl.Intent.Decide(policy.Question{From: q.From, To: q.To, Protocol: q.Protocol, Port: port, Host: host, Via: pl.Via,
					Request: &netset.Request{Method: "GET", Host: host, Path: "/"}}).Allowed {
					continue
				}
			default:
				continue // its requests are nobody's to guess
			}
			pl.add(c)
		}
	}
	return tunnel
}

// readable reports whether some requests to a port, which is not that of TLS, are
// permitted.
func readable(t netset.Traffic, port uint16) bool { return port != 443 && t.Opens(netset.TCP, port) }

func firstPort(t netset.Traffic) uint16 {
	for _, r := range t.Runs() {
		if r.Protocol == netset.TCP {
			return r.Lo
		}
	}
	return 0
}

// besides adds what an attacker makes of a way that is permitted.
func (pl *planner) besides(m *Member, w *way, connect func(Kind, string)) {
	for _, target := range []string{"not" + w.host, w.host + ".example.com"} {
		connect(unlistedName, fmt.Sprintf("%s:%d", target, w.port))
	}
	for _, port := range []string{"22", "25", fmt.Sprint(65536 + int(w.port)), fmt.Sprintf("+%d", w.port), fmt.Sprintf("0%d", w.port), "0", ""} {
		connect(portOut, w.host+":"+port)
	}
	target := fmt.Sprintf("%s:%d", w.host, w.port)
	inside := func(name string, t Task) {
		t.Do, t.To, t.Bind, t.Hold = AskProxy, pl.Gateway, pl.own(m.Name, pl.Gateway.Addr()), holdOpen
		t.Raw = append([]byte(connectTo(target, target)), t.Raw...)
		pl.add(Case{Kind: insideOut, Name: fmt.Sprintf("%s → %s, inside: %s", m.Name, target, name), From: m.Name, Policy: onlyDeclared, want: wantNoWayOut,
			silent: "it is outside, and not this platform's to answer for", Task: t})
	}
	inside("TLS for another server", Task{ServerName: "unlisted.example.com"})
	inside("a request in the clear", Task{Inside: []byte("GET / HTTP/1.1\r\nHost: " + w.host + "\r\n\r\n")})
	inside("a request in the clear, sent early", Task{Raw: []byte("GET / HTTP/1.1\r\nHost: " + w.host + "\r\n\r\n")})
	inside("another protocol", Task{Inside: []byte("SSH-2.0-probe\r\n")})
	inside("TLS without a name", Task{ServerName: noServerName})
}

// noServerName asks for TLS without a server name.
const noServerName = "-"
