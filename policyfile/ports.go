package policyfile

import (
	"strconv"
	"strings"

	"bulkhead/core/policy"
)

func checkPort(text string) *fault {
	if _, ok := parsePort(text); ok {
		return nil
	}
	if n, err := strconv.Atoi(text); err == nil && (n < 1 || n > 65535) {
		return wrong(rulePort, "write a number from 1 to 65535", "there is no port %d", n)
	}
	return wrong(rulePort, "write a decimal number from 1 to 65535 without leading zeros",
		"%s is not a port", quoted(text))
}

// parsePort reads plain decimal only: 010, 0x50 and 1e3 are numbers to YAML,
// but not the same ones to every reader of it.
func parsePort(text string) (uint16, bool) {
	if text == "" || text[0] == '0' || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil
}

func checkPortRange(text string) *fault {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange || low == "" {
		return checkPort(text)
	}
	for _, p := range []string{low, high} {
		if f := checkPort(p); f != nil {
			f.says = "in " + quoted(text) + ", " + f.says
			return f
		}
	}
	if lo, hi := parsePortRange(text); lo >= hi {
		return wrong(rulePort, "write the lower port first, or one port", "range %s ends at or before its begin", text)
	}
	return nil
}

// parsePortRange reads a text that checkPortRange accepts.
func parsePortRange(text string) (lo, hi uint16) {
	low, high, isRange := strings.Cut(text, "-")
	lo, _ = parsePort(low)
	if !isRange {
		return lo, lo
	}
	hi, _ = parsePort(high)
	return lo, hi
}

func checkProtocolPort(text string) *fault {
	const form = "write PROTOCOL/PORT, such as http/8080 or tcp/6000-6010"
	proto, ports, ok := strings.Cut(text, "/")
	if !ok {
		return wrong(ruleValue, form, "%s is not PROTOCOL/PORT", quoted(text))
	}
	if _, known := policy.ProtocolByName(proto); !known {
		if _, swapped := policy.ProtocolByName(ports); swapped {
			return wrong(ruleValue, "write "+ports+"/"+proto, "%s has the port before the protocol", quoted(text))
		}
		return checkWords(proto, "a protocol", protocolNames())
	}
	return checkPortRange(ports)
}
