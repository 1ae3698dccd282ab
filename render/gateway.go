package render

import "net/netip"

// Gateway is what an egress gateway that stands alone does.
type Gateway struct {
	Listen, Captured, DNS, Admin netip.AddrPort
	LogFile                      string
	Generation                   uint64
	Mode                         string
	// Clients say who is known by a network, one line each; TLS that clients may
	// be known by a certificate.
	Clients []string
	TLS     bool
	// Inspected is the file with the authority of inspected destinations, empty
	// if nothing is inspected.
	Inspected string
}
