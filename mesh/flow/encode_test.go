package flow_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"bulkhead/mesh/flow"
)

// TestAppendJSONIsEncodingJSON: what is written by hand is what the standard library
// writes.
func TestAppendJSONIsEncodingJSON(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "egress a → b", "<&>\"\\", "\x00\x1f\x7f", "\xff\xfe", "→", "\xe2\x86", "\u2028", "é"}),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	addr := rapid.Custom(func(t *rapid.T) netip.AddrPort {
		a := netip.Addr{}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 1:
			a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
		case 2:
			a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")))
		case 3:
			a = netip.MustParseAddr("fe80::1%eth0")
		case 4:
			a = netip.MustParseAddr("::ffff:1.2.3.4")
		}
		return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, "port"))
	})
	peer := rapid.Custom(func(t *rapid.T) flow.Peer {
		return flow.Peer{Workload: text.Draw(t, "w"), Zone: text.Draw(t, "z"), Service: text.Draw(t, "s"), Name: text.Draw(t, "n"),
			Port: rapid.Uint16().Draw(t, "p"), ID: text.Draw(t, "id"), Addr: addr.Draw(t, "a")}
	})
	rapid.Check(t, func(t *rapid.T) {
		r := flow.Record{ID: text.Draw(t, "id"), Seq: rapid.Uint64().Draw(t, "seq"), Event: flow.Event(text.Draw(t, "event")), Node: text.Draw(t, "node"),
			Time: time.Unix(rapid.Int64Range(0, 1<<36).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(),
			Side: flow.Side(text.Draw(t, "side")), From: peer.Draw(t, "from"), To: peer.Draw(t, "to"), Transport: text.Draw(t, "tr"), Wire: text.Draw(t, "wire"),
			Verdict: text.Draw(t, "v"), Rule: text.Draw(t, "rule"), Generation: rapid.Uint64().Draw(t, "g"), Why: text.Draw(t, "why"),
			BytesOut: rapid.Int64().Draw(t, "o"), BytesIn: rapid.Int64().Draw(t, "i"), Duration: time.Duration(rapid.Int64().Draw(t, "d")),
			Method: text.Draw(t, "m"), Status: rapid.Int().Draw(t, "st"), Mode: text.Draw(t, "mode"), WouldDeny: rapid.Bool().Draw(t, "wd"),
			Aliases: text.Draw(t, "al"), Count: rapid.Uint64().Draw(t, "c"), Probe: text.Draw(t, "pr"), Lost: rapid.Uint64().Draw(t, "l")}
		want, err := json.Marshal(&r)
		if err != nil {
			t.Skip(err)
		}
		if got := flow.AppendJSON(nil, &r); string(got) != string(want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

func BenchmarkAppendJSON(b *testing.B) {
	r := flow.Record{ID: "1590f87f04d74557239e6a97102146f7", Seq: 17, Time: time.Now(), Event: flow.Request, Node: "gateway", Side: flow.Gateway,
		From: flow.Peer{Workload: "trainer", Zone: "training", Addr: netip.MustParseAddrPort("127.0.0.1:45318")},
		To:   flow.Peer{Service: "pypi", Name: "pypi.org", Addr: netip.MustParseAddrPort("151.101.0.223:443")}, Transport: "tcp", Wire: "mtls",
		Verdict: "allow", Rule: "bulkhead.yaml:10:5 egress trainer → pypi", Generation: 3, BytesOut: 96, BytesIn: 482, Duration: time.Second, Method: "GET", Status: 200}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = flow.AppendJSON(buf[:0], &r)
	}
}
