// Package egress is the one door out: it lets workloads reach what the policy
// names outside, and nothing else, and records every request.
//
// A [Gateway] is a forward proxy (CONNECT and absolute-form HTTP/1.1, HTTP/2
// CONNECT), and takes connections of workloads that know of no proxy, whose
// destination is what they say in their first bytes. Who asks is said by the
// caller ([Client]): the embedded mesh, a client certificate, or a network.
//
// Three steps are kept apart: decide, by identity, name, port and, where requests
// are read, method and path; resolve, and decide again with the address; dial
// that very address. It promises:
//
//   - One authority. The CONNECT name, the TLS server name and every Host header
//     that is read are the same name, or nothing passes.
//   - A special-purpose address (private, loopback, link-local, metadata, embedded
//     forms) is dialled only if the permission declares it, in every mode.
//   - What is open is decided again with every generation, and ends when it is
//     denied, when its budget is used up, or when its workload is cut off.
//   - No log, no traffic: while records cannot be kept nothing new passes, unless
//     the policy says otherwise.
//   - Requests are written anew, with one framing, so that no two programs can
//     disagree about where one ends. Where nothing is read, the kernel moves the
//     bytes.
//
// What is dangerous: a [Client] is believed. TLS inspection ends the encryption of
// the destinations that a permission inspects; whoever has its authority's key can
// pretend to be any of them. In the modes report and observe names that no
// permission holds pass.
package egress
