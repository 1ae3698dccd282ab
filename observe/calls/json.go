package calls

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"bulkhead/mesh/flow"
)

// document is what is looked at of a line that is JSON, whoever wrote it. Names are
// those of the logs.
type document struct {
	// bulkhead
	Event flow.Event `json:"event"`
	Side  flow.Side  `json:"side"`

	// smokescreen
	RequestedHost *string `json:"requested_host"`
	Role          string  `json:"role"`
	Allow         *bool   `json:"allow"`
	Msg           string  `json:"msg"`
	BytesIn       any     `json:"bytes_in"`
	BytesOut      any     `json:"bytes_out"`
	Time          any     `json:"time"`

	// Envoy, under the names that are usual
	Authority  string `json:"authority"`
	Authority2 string `json:":authority"`
	ServerName string `json:"requested_server_name"`
	Upstream   string `json:"upstream_host"`
	Downstream string `json:"downstream_remote_address"`
	Sent       any    `json:"bytes_sent"`
	Received   any    `json:"bytes_received"`
	Code       any    `json:"response_code"`
	Start      any    `json:"start_time"`

	// Hubble, alone or in an envelope
	Flow *hubble `json:"flow"`
	hubble

	// Zeek
	OrigH     string  `json:"id.orig_h"`
	RespH     string  `json:"id.resp_h"`
	RespP     float64 `json:"id.resp_p"`
	SNI       string  `json:"server_name"`
	ZeekHost  string  `json:"host"`
	OrigBytes float64 `json:"orig_bytes"`
	RespBytes float64 `json:"resp_bytes"`
	TS        any     `json:"ts"`
}

// hubble is a flow as Cilium's Hubble prints it.
type hubble struct {
	Verdict   string `json:"verdict"`
	Direction string `json:"traffic_direction"`
	IP        *struct {
		Source      string `json:"source"`
		Destination string `json:"destination"`
	} `json:"IP"`
	L4 *struct {
		TCP *struct {
			Port uint16 `json:"destination_port"`
		} `json:"TCP"`
	} `json:"l4"`
	Source *struct {
		Namespace string `json:"namespace"`
		Pod       string `json:"pod_name"`
		Workloads []struct {
			Name string `json:"name"`
		} `json:"workloads"`
	} `json:"source"`
	Destination *struct {
		Labels []string `json:"labels"`
	} `json:"destination"`
	Names []string `json:"destination_names"`
	Reply bool     `json:"is_reply"`
	At    string   `json:"time"`
}

func parseJSON(line string) (Call, outcome, string) {
	var d document
	if json.Unmarshal([]byte(line), &d) != nil {
		// Another program's fields may have our names with another type.
		var r flow.Record
		if json.Unmarshal([]byte(line), &r) == nil && r.Event != "" && r.Verdict != "" {
			return ownRecord(&r)
		}
		var env struct {
			Flow *hubble `json:"flow"`
		}
		if json.Unmarshal([]byte(line), &env) == nil && env.Flow != nil {
			return env.Flow.call()
		}
		var alone hubble
		if json.Unmarshal([]byte(line), &alone) == nil && alone.IP != nil {
			return alone.call()
		}
		return Call{}, unknown, ""
	}
	switch {
	case d.Event != "" && d.Side != "":
		var r flow.Record
		if json.Unmarshal([]byte(line), &r) != nil {
			return Call{}, unknown, ""
		}
		return ownRecord(&r)
	case d.RequestedHost != nil:
		return d.smokescreen()
	case d.Authority != "" || d.Authority2 != "" || d.ServerName != "" || d.Upstream != "":
		return d.envoy()
	case d.Flow != nil:
		return d.Flow.call()
	case d.IP != nil:
		return d.hubble.call()
	case d.OrigH != "":
		return d.zeek()
	}
	return Call{}, unknown, ""
}

// ownRecord reads a flow record of this program. What ended or was refused counts;
// what began ends later.
func ownRecord(r *flow.Record) (Call, outcome, string) {
	const format = "bulkhead flow records"
	c := Call{Source: r.From.Workload, Host: strings.ToLower(r.To.Name), Addr: r.To.Addr.Addr(), Port: r.To.Addr.Port(), Out: r.BytesOut, In: r.BytesIn,
		Time: r.Time.UTC(), Denied: r.Verdict == "deny"}
	if c.Port == 0 {
		c.Port = r.To.Port
	}
	if c.Source == "" && r.From.Addr.IsValid() {
		c.Source = r.From.Addr.Addr().String()
	}
	switch r.Event {
	case flow.Close, flow.Request, flow.Deny, flow.Fail:
		if r.To.Workload == "" {
			return c, call, format
		}
	}
	return Call{}, other, format
}

func (d *document) smokescreen() (Call, outcome, string) {
	c := Call{Source: d.Role, Denied: d.Allow != nil && !*d.Allow, Time: moment(text(d.Time)), In: number(text(d.BytesIn)), Out: number(text(d.BytesOut)),
		More: strings.Contains(d.Msg, "CN-CLOSE")}
	if c.Source == "" {
		c.Source = "unknown"
	}
	c.Host, c.Addr, c.Port = place(*d.RequestedHost, 443)
	return c, call, "smokescreen"
}

func (d *document) envoy() (Call, outcome, string) {
	c := Call{In: number(text(d.Sent)), Out: number(text(d.Received)), Time: moment(text(d.Start)), Denied: text(d.Code) == "403"}
	_, source, _ := place(d.Downstream, 0)
	if c.Source = d.Downstream; source.IsValid() {
		c.Source = source.String()
	}
	_, upstream, port := place(d.Upstream, 0)
	for _, name := range []string{d.ServerName, d.Authority, d.Authority2} {
		if name != "" && name != "-" && c.Host == "" {
			c.Host, c.Addr, c.Port = place(name, port)
		}
	}
	if upstream.IsValid() {
		c.Addr = upstream
	}
	if c.Port == 0 {
		c.Port = 443
	}
	return c, call, "Envoy access log"
}

func (h *hubble) call() (Call, outcome, string) {
	const format = "Hubble"
	if h.IP == nil {
		return Call{}, other, format
	}
	outside := h.Destination == nil
	if h.Destination != nil {
		for _, l := range h.Destination.Labels {
			outside = outside || l == "reserved:world" || strings.HasPrefix(l, "cidr:") || strings.HasPrefix(l, "fqdn:")
		}
	}
	if h.Direction == "INGRESS" || h.Reply || !outside || h.L4 == nil || h.L4.TCP == nil {
		return Call{}, other, format
	}
	c := Call{Source: h.IP.Source, Port: h.L4.TCP.Port, Time: moment(h.At), Denied: h.Verdict == "DROPPED"}
	if s := h.Source; s != nil {
		switch {
		case len(s.Workloads) > 0 && s.Workloads[0].Name != "":
			c.Source = s.Namespace + "/" + s.Workloads[0].Name
		case s.Pod != "":
			c.Source = s.Namespace + "/" + s.Pod
		}
	}
	if len(h.Names) > 0 {
		c.Host, _, _ = place(h.Names[0], 0)
	}
	if a, err := netip.ParseAddr(h.IP.Destination); err == nil {
		c.Addr = a.Unmap()
	}
	return c, call, format
}

func (d *document) zeek() (Call, outcome, string) {
	c := Call{Source: d.OrigH, Port: uint16(min(max(d.RespP, 0), 65535)), Out: int64(max(d.OrigBytes, 0)), In: int64(max(d.RespBytes, 0)), Time: moment(text(d.TS))}
	for _, name := range []string{d.SNI, d.ZeekHost} {
		if c.Host == "" {
			c.Host, _, _ = place(name, 0)
		}
	}
	if a, err := netip.ParseAddr(d.RespH); err == nil {
		c.Addr = a.Unmap()
	}
	return c, call, "Zeek"
}

// text writes a scalar of JSON.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}
