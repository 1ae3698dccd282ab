package app

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// adminHandler answers about health, and gives metrics in the text format of
// Prometheus.
func (r *gatewayRun) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := r.ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		if r.gateway.Draining() {
			http.Error(w, "not ready: draining", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		r.metrics(w)
	})
	return mux
}

// metrics writes what was counted. Names follow the conventions of Prometheus.
func (r *gatewayRun) metrics(w io.Writer) {
	metric := func(name, kind, help string, value any, labels ...string) {
		fmt.Fprintf(w, "# HELP bulkhead_%s %s\n# TYPE bulkhead_%s %s\n", name, help, name, kind)
		fmt.Fprintf(w, "bulkhead_%s%s %v\n", name, strings.Join(labels, ""), value)
	}
	s := r.gateway.Stats()
	fmt.Fprint(w, "# HELP bulkhead_egress_requests_total Tunnels and requests, by what became of them.\n# TYPE bulkhead_egress_requests_total counter\n")
	for _, v := range []struct {
		verdict string
		n       uint64
	}{{"allowed", s.Allowed}, {"denied", s.Denied}, {"failed", s.Failed}, {"malformed", s.Malformed}, {"unrecorded", s.Unrecorded}} {
		fmt.Fprintf(w, "bulkhead_egress_requests_total{verdict=%q} %d\n", v.verdict, v.n)
	}
	fmt.Fprint(w, "# HELP bulkhead_egress_bytes_total Bytes that passed.\n# TYPE bulkhead_egress_bytes_total counter\n")
	fmt.Fprintf(w, "bulkhead_egress_bytes_total{direction=\"out\"} %d\nbulkhead_egress_bytes_total{direction=\"in\"} %d\n", s.BytesOut, s.BytesIn)
	metric("egress_open", "gauge", "Connections of clients that are open.", s.Open)
	metric("egress_records_lost_total", "counter", "Records that could not be kept.", r.records.Lost())
	r.mu.Lock()
	rejected := 0
	if r.rejected != "" {
		rejected = 1
	}
	number := r.number
	r.mu.Unlock()
	metric("policy_generation", "gauge", "The generation in force.", number)
	metric("policy_rejected", "gauge", "1 while a changed policy is not in force because it has errors.", rejected)
	c := r.client.Stats()
	metric("dns_lookups_total", "counter", "Names that were looked up.", c.Lookups)
	metric("dns_failures_total", "counter", "Lookups that failed.", c.Failures)
	if r.server != nil {
		r.dnsMetrics(w)
	}
	fmt.Fprint(w, "# HELP bulkhead_budget_bytes Bytes used of a budget, by source and destination.\n# TYPE bulkhead_budget_bytes gauge\n")
	for _, u := range r.budgets.Usage() {
		fmt.Fprintf(w, "bulkhead_budget_bytes{from=%q,to=%q} %d\n", u.From, u.To, u.Bytes)
	}
}

// dnsMetrics writes what the resolver of clients counted.
func (r *gatewayRun) dnsMetrics(w io.Writer) {
	s := r.server.Stats()
	fmt.Fprint(w, "# HELP bulkhead_dns_queries_total Queries of clients, by verdict.\n# TYPE bulkhead_dns_queries_total counter\n")
	for _, v := range []struct {
		verdict string
		n       uint64
	}{{"answered", s.Answered}, {"private", s.Private}, {"refused", s.Refused}, {"failed", s.Failed}, {"malformed", s.Malformed}, {"dropped", s.Dropped}} {
		fmt.Fprintf(w, "bulkhead_dns_queries_total{verdict=%q} %d\n", v.verdict, v.n)
	}
	fmt.Fprint(w, "# HELP bulkhead_dns_signs_total Queries that look like a tunnel, by sign.\n# TYPE bulkhead_dns_signs_total counter\n")
	for _, sign := range slices.Sorted(maps.Keys(s.Signs)) {
		fmt.Fprintf(w, "bulkhead_dns_signs_total{sign=%q} %d\n", sign, s.Signs[sign])
	}
}
