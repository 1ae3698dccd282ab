package app

import (
	"testing"

	"bulkhead/core/netset"
)

func TestParseAsk(t *testing.T) {
	for _, c := range []struct {
		words   []string
		used    int
		traffic string
		fails   bool
	}{
		{nil, 0, "all", false},
		{[]string{"k8s/"}, 0, "all", false},
		{[]string{"8080", "k8s/"}, 1, "TCP 8080", false},
		{[]string{"tcp/443"}, 1, "TCP 443", false},
		{[]string{"UDP/53"}, 1, "UDP 53", false},
		{[]string{"icmp", "k8s"}, 1, "ICMP", false},
		{[]string{"k8s/1"}, 0, "all", false},
		{[]string{"http"}, 0, "all", false},
		{[]string{"http/8080", "k8s"}, 1, "TCP 8080", false},
		{[]string{"http/8080", "GET", "/x", "k8s"}, 3, "TCP 8080 [GET /x]", false},
		{[]string{"8080", "POST", "/v1/y"}, 3, "TCP 8080 [POST /v1/y]", false},
		{[]string{"8080 GET /x", "k8s"}, 1, "TCP 8080 [GET /x]", false},
		{[]string{"8080", "GET"}, 1, "TCP 8080", false}, // a folder called GET
		{[]string{"udp/53", "GET", "/x"}, 1, "UDP 53", false},
		{[]string{"8080", "get", "/x"}, 1, "TCP 8080", false},
		{[]string{"0"}, 1, "", true},
		{[]string{"65536"}, 1, "", true},
		{[]string{"tcp/99999"}, 1, "", true},
		{[]string{"ip/4"}, 0, "all", false},
	} {
		ask, used, err := ParseAsk(c.words)
		if (err != nil) != c.fails {
			t.Errorf("%q: %v", c.words, err)
			continue
		}
		if !c.fails && (used != c.used || ask.traffic().String() != c.traffic) {
			t.Errorf("%q uses %d words for %q, not %d for %q", c.words, used, ask.traffic(), c.used, c.traffic)
		}
	}
}

func TestARequestTakesTheOnlyPortThatIsServed(t *testing.T) {
	ask, _, err := ParseAsk([]string{"http", "GET", "/x"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask.settle([]uint16{8000, 8000}); err != nil || got.Port != 8000 {
		t.Errorf("%v, %v", got, err)
	}
	for _, served := range [][]uint16{nil, {80, 8080}} {
		if _, err := ask.settle(served); err == nil {
			t.Errorf("%v settled it", served)
		}
	}
	fixed := Ask{Protocol: netset.TCP, Port: 1}
	if got, err := fixed.settle(nil); err != nil || got != fixed {
		t.Errorf("%v, %v", got, err)
	}
}
