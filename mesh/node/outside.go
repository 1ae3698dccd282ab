package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/mesh/budget"
	"bulkhead/mesh/dns"
	"bulkhead/mesh/egress"
	"bulkhead/mesh/endpoint"
	"bulkhead/mesh/flow"
	"bulkhead/mesh/generation"
	"bulkhead/mesh/proxy"
	"bulkhead/mesh/registry"
	"bulkhead/mesh/report"
)

// GatewayName is the name under which workloads find the gateway.
const GatewayName = "egress." + endpoint.Domain

// OutsideOptions say where the way out of a node keeps what it must.
type OutsideOptions struct {
	Node string
	// Dir keeps records, budgets and the authority of inspected destinations.
	Dir string
	// Shown is a folder that workloads can read; the certificate of the authority
	// is put there.
	Shown string
	// Resolver answers about names outside.
	Resolver *dns.Recall
	Now      func() time.Time
	Log      *slog.Logger
}

// Outside is the way out of a node: the egress gateway, the private endpoints that
// lead outside, and the resolver. It is a [proxy.Outside].
type Outside struct {
	o         OutsideOptions
	records   *flow.File
	budgets   *budget.Ledger
	authority *egress.Authority

	here atomic.Pointer[map[netip.Addr]bool] // the gateway's own addresses

	registry *registry.Registry // set by attach, as are the following
	sink     flow.Sink
	gateway  *egress.Gateway
	names    *endpoint.Names
	resolver *dns.Server
}

// OpenOutside opens the files of the way out.
func OpenOutside(o OutsideOptions) (*Outside, error) {
	x := &Outside{o: o}
	var err error
	if x.budgets, err = budget.Open(budget.Options{Path: filepath.Join(o.Dir, "budgets.json"), Now: o.Now}); err != nil {
		return nil, err
	}
	if x.authority, err = egress.OpenAuthority(filepath.Join(o.Dir, "inspection.pem"), o.Now()); err != nil {
		return nil, err
	}
	if o.Shown != "" {
		if err := os.MkdirAll(o.Shown, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(o.Shown, AuthorityFile), x.authority.Certificate(), 0o644); err != nil {
			return nil, err
		}
	}
	x.records, err = flow.OpenFile(flow.FileOptions{Path: filepath.Join(o.Dir, "egress.log"), Now: o.Now, Log: o.Log})
	return x, err
}

// AuthorityFile is what workloads must trust where TLS is inspected, in the folder
// of prepared programs.
const AuthorityFile = "inspection-ca.pem"

// Close writes what is left.
func (x *Outside) Close() error { return errors.Join(x.budgets.Save(), x.records.Close()) }

// attach makes the parts that ask the registry of a node.
func (x *Outside) attach(r *registry.Registry, flows flow.Sink) {
	x.registry = r
	x.sink = flow.NewFolder(flow.Tee(x.records, flows))
	x.names = endpoint.NewNames(r)
	x.gateway = egress.New(egress.Options{Node: x.o.Node, Registry: r, Resolver: x.o.Resolver, Sink: x.sink, Ready: x.ready,
		Budgets: x.budgets, Authority: x.authority, Via: x.via, Here: x.isHere, Now: x.o.Now, Log: x.o.Log})
	x.resolver = dns.NewServer(dns.ServerOptions{View: x.names, Resolver: x.o.Resolver, Record: x.recordQuery, Now: x.o.Now, Log: x.o.Log})
}

// run keeps the books until ctx ends.
func (x *Outside) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return x.budgets.Run(ctx) })
	return g.Wait()
}

// ready says why nothing new may pass: records cannot be kept, and the policy does
// not say that this is accepted.
func (x *Outside) ready() error {
	if f := x.registry.Force(); f != nil && f.Intent.Policy.Gateway != nil && f.Intent.Policy.Gateway.WithoutLog.Value == policy.LogDrop {
		return nil
	}
	return x.records.Ready()
}

// isHere reports whether an address is the gateway's own.
func (x *Outside) isHere(a netip.Addr) bool {
	here := x.here.Load()
	return here != nil && (*here)[a]
}

// via is the workload that the gateway is, empty for none.
func (x *Outside) via() string {
	f := x.registry.Force()
	if f == nil {
		return ""
	}
	return played(f.Intent.Policy)
}

// played is the workload of a policy that the gateway of each machine is, empty
// for none.
func played(p *policy.Policy) string {
	if p.Gateway == nil {
		return ""
	}
	name, _, _ := strings.Cut(p.Gateway.Through.Value, "/")
	all, err := bindings(p)
	if b, ok := all[name]; err != nil || !ok || !b.Gateway {
		return ""
	}
	return name
}

func client(from flow.Peer, probe string) egress.Client {
	return egress.Client{Party: policy.Party{Kind: policy.WorkloadParty, Name: from.Workload}, Peer: from, Probe: probe}
}

// Proxied serves a connection that speaks to a forward proxy.
func (x *Outside) Proxied(ctx context.Context, conn net.Conn, from flow.Peer, probe string) {
	x.gateway.ServeProxy(ctx, conn, client(from, probe))
}

// Captured serves a connection that wanted to go to an address outside.
func (x *Outside) Captured(ctx context.Context, conn net.Conn, from flow.Peer, probe string, to netip.AddrPort) {
	x.gateway.ServeCaptured(ctx, conn, client(from, probe), to)
}

// Private serves a connection to a private endpoint.
func (x *Outside) Private(ctx context.Context, conn net.Conn, from flow.Peer, probe, name string, port uint16) {
	x.gateway.ServeEndpoint(ctx, conn, client(from, probe), name, port)
}

// Resolve serves a connection to the resolver.
func (x *Outside) Resolve(ctx context.Context, conn net.Conn, from flow.Peer) {
	if !x.mayResolve(from, netset.TCP, "tcp") {
		_ = conn.Close()
		return
	}
	if err := x.resolver.ServeConn(ctx, conn, from.Workload); err != nil && ctx.Err() == nil {
		x.o.Log.Debug("a connection to the resolver ended", "workload", from.Workload, "says", err)
	}
	_ = conn.Close()
}

// Answer answers a datagram to the resolver.
func (x *Outside) Answer(ctx context.Context, query []byte, from flow.Peer) []byte {
	if !x.mayResolve(from, netset.UDP, "udp") {
		return nil
	}
	return x.resolver.Answer(ctx, from.Workload, query, true)
}

// mayResolve asks whether a workload may use the resolver at all, and records it if
// it may not.
func (x *Outside) mayResolve(from flow.Peer, p netset.Protocol, transport string) bool {
	f := x.registry.Force()
	if f == nil {
		return false
	}
	why := "the policy declares no dns: for it"
	if d := f.Intent.Policy.DNS; d != nil {
		if port, known := policy.Resolvers[d.To.Value]; known {
			v := x.registry.Decide(policy.Question{From: policy.Party{Kind: policy.WorkloadParty, Name: from.Workload},
				To: policy.Party{Kind: policy.ResolverParty, Name: d.To.Value}, Protocol: p, Port: port, Whole: true})
			if v.Allowed {
				return true
			}
			why = v.Why()
		}
	}
	x.sink.Record(flow.Record{Time: x.o.Now(), Event: flow.Deny, Node: x.o.Node, Side: flow.Gateway, From: from, To: flow.Peer{Service: "resolver"},
		Transport: transport, Verdict: "deny", Why: why, Generation: f.Number})
	return false
}

// recordQuery keeps what a workload asked the resolver. What was answered goes to
// the file alone: there is much of it.
func (x *Outside) recordQuery(q dns.Query) {
	r := flow.Record{Time: x.o.Now(), Event: flow.Lookup, Node: x.o.Node, Side: flow.Gateway, From: flow.Peer{Workload: q.Client},
		To: flow.Peer{Service: "resolver", Name: q.Name}, Transport: q.Transport, Verdict: "allow", Method: q.Type, Why: q.Why, Duration: q.Took}
	if f := x.registry.Force(); f != nil {
		r.Generation = f.Number
		if w := f.Intent.Workload(q.Client); w != nil {
			r.From.Zone = w.Zone.Value
		}
	}
	if q.Sign != "" {
		r.Why = strings.TrimPrefix(r.Why+"; it looks like a tunnel: "+q.Sign, "; ")
	}
	if q.Verdict == "refused" || q.Verdict == "malformed" {
		r.Verdict = "deny"
		x.sink.Record(r)
		return
	}
	x.records.Record(r)
}

// set says where the endpoints of a layout are.
func (x *Outside) set(l *layout) {
	x.names.Set(l.endpoints, l.endpointsAt, map[string][]netip.Addr{GatewayName: l.gatewayAt}, l.gatewayAt)
	x.here.Store(&l.world.Gateway)
}

// status says how the way out is doing.
func (x *Outside) status() *report.Gateway {
	s := x.gateway.Stats()
	out := &report.Gateway{Mode: policy.Enforce, Address: "http://" + net.JoinHostPort(GatewayName, fmt.Sprint(proxy.ProxyPort)),
		Allowed: s.Allowed, Denied: s.Denied, Failed: s.Failed, Open: s.Open, Lost: x.records.Lost(), Log: filepath.Join(x.o.Dir, "egress.log")}
	if err := x.records.Ready(); err != nil {
		out.Problem = err.Error()
	}
	if f := x.registry.Force(); f != nil {
		if g := f.Intent.Policy.Gateway; g != nil && g.Mode.Value != "" && !g.Until.Expired(f.Intent.At) {
			out.Mode = g.Mode.Value
		}
		for i := range f.Intent.Permissions {
			if p := &f.Intent.Permissions[i]; p.Inspect {
				out.Inspected = append(out.Inspected, p.Name)
			}
		}
	}
	for _, u := range x.budgets.Usage() {
		out.Budgets = append(out.Budgets, report.BudgetUse{From: u.From, To: u.To, Bytes: u.Bytes, Requests: u.Requests, Concurrent: u.Concurrent,
			MostBytes: u.Limits.Bytes.Most, BytesPer: u.Limits.Bytes.Per, MostRequests: u.Limits.Requests.Most, RequestsPer: u.Limits.Requests.Per})
	}
	return out
}

// gatewayAt returns where the gateway of a platform is.
func gatewayAt(platform string) []netip.Addr {
	a := generation.Gateway(platform)
	return []netip.Addr{a.V4, a.V6}
}
