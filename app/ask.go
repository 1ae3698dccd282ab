package app

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"bulkhead/core/netset"
)

// Ask is what a question is about: a port, a request, or anything at all.
type Ask struct {
	// Any asks for everything that passes; the other fields are then unset.
	Any      bool
	Protocol netset.Protocol
	// Port is 0 where a request leaves it to what the destination serves.
	Port    uint16
	Request *netset.Request
}

// methods are the words that begin a request in a question.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}

// ParseAsk reads the words of a question that say what it is about, and
// returns how many of them do: `8080`, `udp/53`, `icmp`, `8080 GET /x`,
// `http GET /x`, `http/8080 GET /x`. Words that are none of this are left.
func ParseAsk(words []string) (ask Ask, used int, err error) {
	ask = Ask{Any: true}
	if len(words) == 0 {
		return ask, 0, nil
	}
	if fields := strings.Fields(words[0]); len(fields) > 1 {
		// Quoted as one word: 'http GET /x'.
		ask, used, err = ParseAsk(fields)
		if err == nil && used == len(fields) {
			return ask, 1, nil
		}
		return Ask{Any: true}, 0, err
	}
	word := strings.ToLower(words[0])
	proto, port, slash := strings.Cut(word, "/")
	switch {
	case isNumber(word):
		ask, err = askPort(netset.TCP, word)
	case proto == "http" || proto == "https" || proto == "grpc":
		if !slash {
			port = ""
		}
		if ask, err = askPort(netset.TCP, port); err == nil && !isRequest(words[1:]) {
			if ask.Port != 0 {
				return ask, 1, nil
			}
			return Ask{Any: true}, 0, nil // a path that is called http
		}
	case slash && isNumber(port):
		p, ok := netset.ParseProtocol(proto)
		if !ok || !p.HasPorts() {
			return Ask{Any: true}, 0, nil // a path such as k8s/1
		}
		ask, err = askPort(p, port)
	case word == "icmp" || word == "icmpv6":
		p, _ := netset.ParseProtocol(word)
		return Ask{Protocol: p}, 1, nil
	default:
		return ask, 0, nil
	}
	if err != nil || ask.Protocol != netset.TCP || !isRequest(words[1:]) {
		return ask, 1, err
	}
	ask.Request = &netset.Request{Method: words[1], Path: words[2]}
	return ask, 3, nil
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func isRequest(words []string) bool {
	return len(words) >= 2 && slices.Contains(methods, words[0]) && strings.HasPrefix(words[1], "/")
}

func askPort(p netset.Protocol, text string) (Ask, error) {
	if text == "" {
		return Ask{Protocol: p}, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return Ask{}, wrongInput("write a port such as 8080, udp/53 or http/8080 GET /x", "%q is not a port from 1 to 65535", text)
	}
	return Ask{Protocol: p, Port: uint16(n)}, nil
}

// traffic returns what is asked for.
func (q Ask) traffic() netset.Traffic {
	switch {
	case q.Any:
		return netset.All()
	case q.Protocol == netset.ICMP || q.Protocol == netset.ICMPv6:
		return netset.Whole(q.Protocol)
	}
	t := netset.Port(q.Protocol, q.Port)
	if q.Request != nil {
		if r, err := netset.ParseRequests(q.Request.Method + " " + q.Request.Path); err == nil {
			t = t.Limit(r)
		}
	}
	return t
}

func (q Ask) String() string {
	switch {
	case q.Any:
		return ""
	case q.Protocol == netset.ICMP || q.Protocol == netset.ICMPv6:
		return q.Protocol.String()
	case q.Request != nil:
		return fmt.Sprintf("%s %d %s %s", q.Protocol, q.Port, q.Request.Method, q.Request.Path)
	}
	return fmt.Sprintf("%s %d", q.Protocol, q.Port)
}

// settle fills in the port of a request that names none, where the destination
// serves exactly one.
func (q Ask) settle(served []uint16) (Ask, error) {
	if q.Any || q.Port != 0 || q.Protocol != netset.TCP {
		return q, nil
	}
	slices.Sort(served)
	served = slices.Compact(served)
	if len(served) == 1 {
		q.Port = served[0]
		return q, nil
	}
	err := wrongInput("name the port, such as http/8080 GET /x", "the destination declares %d ports", len(served))
	for _, p := range served {
		err.Choices = append(err.Choices, fmt.Sprintf("http/%d", p))
	}
	return q, err
}
