package calls

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"bulkhead/mesh/flow"
)

// document is a line that is JSON. Fields are looked up by name and type, so that
// one of another program that has a name of ours does no harm.
type document map[string]any

// text returns a scalar, the first of names that is there.
func (d document) text(names ...string) string {
	for _, n := range names {
		switch v := d[n].(type) {
		case string:
			if v != "" && v != "-" {
				return v
			}
		case float64:
			return strconv.FormatFloat(v, 'f', -1, 64)
		case bool:
			return strconv.FormatBool(v)
		}
	}
	return ""
}

// in returns the document below a name, empty if there is none.
func (d document) in(name string) document {
	m, _ := d[name].(map[string]any)
	return m
}

func (d document) has(names ...string) bool {
	for _, n := range names {
		if _, ok := d[n]; ok {
			return true
		}
	}
	return false
}

func (d document) list(name string) []any {
	l, _ := d[name].([]any)
	return l
}

func (p *parser) json(line string) (Call, outcome) {
	var d document
	if err := json.Unmarshal([]byte(line), &d); err != nil {
		p.why = "it is no JSON document of one line"
		return Call{}, unknown
	}
	switch {
	case d.has("event") && d.has("side") && d.has("verdict"):
		p.format = "bulkhead flow records"
		var r flow.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			p.why = "a field of the flow record has another type"
			return Call{}, unknown
		}
		return ownRecord(&r)
	case d.has("requested_host"):
		p.format = "smokescreen"
		return d.smokescreen()
	case d.has("authority", ":authority", "requested_server_name", "upstream_host"):
		p.format = "Envoy access log"
		return d.envoy()
	case d.in("flow") != nil:
		p.format = "Hubble"
		return d.in("flow").hubble()
	case d.in("IP") != nil:
		p.format = "Hubble"
		return d.hubble()
	case d.has("id.orig_h"):
		p.format = "Zeek"
		return d.zeek()
	case p.last == "smokescreen" && d.has("msg"), p.last == "Hubble" && d.has("node_status", "lost_events"):
		p.format = p.last
		return Call{}, other
	}
	p.why = "its fields are those of no log that is known"
	return Call{}, unknown
}

// ownRecord reads a flow record of this program. What began counts: it may never
// end in this log. The end adds its bytes. What a probe tried is nobody's need.
func ownRecord(r *flow.Record) (Call, outcome) {
	if r.Probe != "" || r.To.Workload != "" || r.To.Name == "" && !r.To.Addr.IsValid() || r.Event == flow.Lookup || r.Event == flow.Count {
		return Call{}, other
	}
	c := Call{
		Source: r.From.Workload, Addr: r.To.Addr.Addr().Unmap(), Port: r.To.Addr.Port(), Protocol: r.Transport, Method: r.Method,
		Asked: r.Side == flow.Gateway, Out: max(r.BytesOut, 0), In: max(r.BytesIn, 0), Count: int(min(r.Count, 1<<31)), Time: r.Time.UTC(),
		Denied: r.Event == flow.Deny, More: r.Event == flow.Close || r.Event == flow.Request,
	}
	c.Host, _ = hostName(r.To.Name)
	if name, ok := strings.CutPrefix(r.To.Service, "endpoint/"); ok {
		c.Endpoint = name
	}
	if c.Port == 0 {
		c.Port = r.To.Port
	}
	if c.Source == "" && r.From.Addr.IsValid() {
		c.Source = r.From.Addr.Addr().Unmap().String()
	}
	return c, call
}

func (d document) smokescreen() (Call, outcome) {
	c := Call{
		Source: d.text("role", "inbound_remote_addr"), Asked: true, Denied: d.text("allow") == "false", Time: moment(d.text("start_time", "time")),
		In: number(d.text("bytes_in")), Out: number(d.text("bytes_out")), More: strings.Contains(d.text("msg"), "CN-CLOSE"),
	}
	if d.text("role") == "" {
		c.Source = sourceOf(c.Source)
	}
	c.Host, c.Addr, c.Port = place(d.text("requested_host"), 443)
	if _, a, _ := place(d.text("outbound_remote_addr"), 0); a.IsValid() {
		c.Addr = a
	}
	return c, call
}

// envoy reads an access log under the field names that are usual. A request that an
// upstream server answered was not refused, whatever it answered.
func (d document) envoy() (Call, outcome) {
	if strings.HasPrefix(d.text("upstream_cluster"), "inbound|") {
		return Call{}, other
	}
	c := Call{
		Source: d.text("downstream_peer_uri_san"), In: number(d.text("bytes_sent")), Out: number(d.text("bytes_received")),
		Time: moment(d.text("start_time")), Method: d.text("method", ":method"), Asked: d.text("method", ":method") == "CONNECT",
	}
	if c.Source == "" {
		c.Source = sourceOf(d.text("downstream_remote_address", "downstream_direct_remote_address"))
	}
	_, upstream, port := place(d.text("upstream_host"), 0)
	for _, name := range []string{"requested_server_name", "authority", ":authority"} {
		if text := d.text(name); text != "" && c.Host == "" && !c.Addr.IsValid() {
			c.Host, c.Addr, c.Port = place(text, port)
		}
	}
	if upstream.IsValid() {
		c.Addr = upstream
	}
	if c.Port == 0 {
		c.Port = port
	}
	if c.Port == 0 {
		c.Port = 443
	}
	details := d.text("response_code_details")
	c.Denied = !upstream.IsValid() && (d.text("upstream_cluster") == "BlackHoleCluster" ||
		strings.HasPrefix(details, "rbac_access_denied") || strings.HasPrefix(details, "ext_authz_denied") ||
		d.has("upstream_host") && d.text("response_code") == "403")
	return c, call
}

// hubble reads a flow of Cilium.
func (d document) hubble() (Call, outcome) {
	ip, l4, l7 := d.in("IP"), d.in("l4"), d.in("l7")
	if ip == nil || d.text("traffic_direction") == "INGRESS" || d.text("is_reply") == "true" || l7.in("dns") != nil || !d.leavesCluster() {
		return Call{}, other
	}
	c := Call{Source: sourceOf(ip.text("source")), Protocol: "unknown", Time: moment(d.text("time")), Denied: d.text("verdict") == "DROPPED"}
	for _, name := range []string{"TCP", "UDP", "SCTP", "ICMPv4", "ICMPv6"} {
		if to := l4.in(name); to != nil {
			c.Protocol = strings.TrimSuffix(strings.ToLower(name), "v4")
			c.Port, c.From = port(to.text("destination_port")), port(to.text("source_port"))
			break
		}
	}
	if s := d.in("source"); s != nil {
		name := s.text("pod_name")
		if w := s.list("workloads"); len(w) > 0 {
			if m, ok := w[0].(map[string]any); ok && document(m).text("name") != "" {
				name = document(m).text("name")
			}
		}
		if name != "" {
			c.Source = s.text("namespace") + "/" + name
		}
	}
	if http := l7.in("http"); http != nil {
		c.Method = http.text("method")
		c.Host, _, _ = fromURL(c.Method, http.text("url"))
	}
	if names := d.list("destination_names"); c.Host == "" {
		for _, n := range names[:min(len(names), maxNames)] {
			name, _ := n.(string)
			switch host, _, _ := place(name, 0); {
			case host == "":
			case c.Host == "":
				c.Host = host
			default:
				c.Others = append(c.Others, host)
			}
		}
	}
	_, c.Addr, _ = place(ip.text("destination"), 0)
	return c, call
}

// maxNames is how many names of one address are read.
const maxNames = 64

// leavesCluster reports whether a flow's destination is nothing that Cilium knows.
func (d document) leavesCluster() bool {
	to := d.in("destination")
	if to.text("pod_name") != "" {
		return false
	}
	labels := to.list("labels")
	for _, l := range labels {
		text, _ := l.(string)
		for _, outside := range []string{"reserved:world", "reserved:unknown", "reserved:unmanaged", "cidr:", "fqdn:"} {
			if strings.HasPrefix(text, outside) {
				return true
			}
		}
	}
	return len(labels) == 0
}

func (d document) zeek() (Call, outcome) {
	if !zeekPaths[d.text("_path")] {
		return Call{}, other
	}
	c := Call{
		Source: sourceOf(d.text("id.orig_h")), Protocol: protocol(d.text("proto")), Port: port(d.text("id.resp_p")), From: port(d.text("id.orig_p")),
		Out: number(d.text("orig_bytes", "request_body_len")), In: number(d.text("resp_bytes", "response_body_len")),
		Time: moment(d.text("ts")), Method: d.text("method"),
	}
	for _, name := range []string{"server_name", "host"} {
		if c.Host == "" {
			c.Host, _, _ = place(d.text(name), 0)
		}
	}
	_, c.Addr, _ = place(d.text("id.resp_h"), 0)
	return c, call
}

// sourceOf returns the address of ADDRESS:PORT, and any other text as it is.
func sourceOf(text string) string {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().String()
	}
	if _, a, _ := place(text, 0); a.IsValid() {
		return a.String()
	}
	return text
}
