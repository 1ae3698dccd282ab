// Package netset holds exact sets of traffic: addresses, protocols, ports,
// requests and the identities of peers.
//
// Every type is an immutable value in canonical form: two values are equal
// exactly when they denote the same set, so that containment, equality and
// difference are proofs and not heuristics. IPv4 and IPv6 are treated alike
// everywhere. Zero values are empty sets.
//
// [Traffic] is what passes between two parties (protocol, destination port or
// ICMP type and code, request); [Addrs] is where a party may be; [Identities]
// is who it may prove to be.
package netset
