// Package outside reads what a workload writes on its way outside: host names,
// the authorities and URLs of requests, and the first bytes of connections.
//
// It is pure: no name is resolved and nothing is dialled. It promises:
//
//   - A name has one canonical form ([Canonical]), so that what is decided, what
//     is resolved and what is recorded are the same text. Nothing is mapped or
//     repaired on the way but letter case and one trailing dot: what would need
//     more is refused.
//   - What some resolver would take for an IP address is no name, in whatever
//     notation. As an address it is read in one notation only ([Target]).
//   - A name that [ParseHello] reports is the one that the server sees in the
//     same bytes. Where TLS implementations could disagree it is an error.
//   - Errors show what was refused bounded and escaped, and never a password, a
//     path or a query.
//
// What is dangerous: [Hello.ServerName] is as the client wrote it, and means
// nothing before [Canonical] has read it. A server may ask for a second
// ClientHello (HelloRetryRequest, RFC 8446 section 4.1.4), in which a client that
// breaks the protocol can write another name; who passes bytes on unread after
// the first has not seen it. [Hello.EncryptedHello] says that the name which
// counts may be another one. [Canonical] accepts every valid internationalised
// label, whatever it looks like: whether two names look alike is not its question.
package outside
