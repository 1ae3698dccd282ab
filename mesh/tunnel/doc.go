// Package tunnel carries a connection from one proxy to another, over TLS 1.3
// with both certificates.
//
// It promises that a stream belongs to the identity of the verified certificate
// and to nothing that the peer says; that no stream exists which the other side
// did not accept; that what arrives is what was sent, in order, or an error,
// never less that looks like an end; and that nothing is written after the
// policy took the stream back.
//
// It also moves bytes between two connections without a tunnel, a [Pair], with the
// same promises.
//
// Dangerous are the sockets of what is relayed: for the time of a [Relay] or
// [Pair.Relay] they are taken out of the runtime's poller and belong to a loop of
// this package (loop_linux.go). The net.Conn that was given is closed from then on;
// what is relayed is ended by [Stream.Reset] or [Pair.Reset] and by nothing else.
// The loop asks the gate, which therefore must not wait.
//
// # Connections
//
// A tunnel connection carries one stream at a time. After an orderly end it
// goes back to its [Pool] and carries the next one, so that a new stream costs
// one round trip instead of a handshake. Streams share no buffer and no window:
// a reader that stalls is the kernel's own backpressure, and stalls nobody else.
//
// An open connection costs a descriptor for each tunnel and for each
// application: two in a proxy, four in a node that is both ends of it.
//
// New streams never use a connection after one of its two certificates has
// expired, nor after the own certificate was renewed. A stream that is open when
// a certificate expires goes on: what ends it is the policy (see mesh/registry),
// not the clock.
//
// # Wire format, version "bulkhead/1" (the ALPN)
//
// Everything is frames inside the TLS connection: one byte of kind, three bytes
// of length (big endian), the payload.
//
//	kind      from    payload
//	1 open    client  network (1 tcp, 2 udp), port (2 bytes), and three short
//	                  strings (1 byte of length): workload, connection id, probe
//	2 accept  server  empty
//	3 refuse  server  generation (8 bytes), and three strings (2 bytes of
//	                  length): code, says, rule
//	4 data    both    1 to 262,144 bytes of a tcp stream
//	5 fin     both    empty: no more data in this direction
//	6 packet  both    0 to 65,535 bytes: one datagram of a udp stream
//
// The client opens; the server answers once. After accept both send data, or
// packets, and at the end fin. When each has sent and received fin, the client
// may open again. After refuse it may open again at once. Anything else closes
// the connection: another kind, a control frame above 4,096 bytes, an empty data
// frame, bytes that are left over, text that is not printable.
//
// There is no frame for a reset: the TCP connection is reset. An end of the
// connection without fin is an error, whatever TLS says of it.
package tunnel
