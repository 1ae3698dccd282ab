// Package dns asks for addresses on behalf of the gateway, and answers the name
// queries of workloads with no more than each may know.
//
// A [Client] asks recursive servers and promises:
//
//   - One [Client.Lookup] is one answer. What it returns is what the caller checks
//     and dials; nothing is asked a second time in between.
//   - Only records on the chain of CNAMEs that begins at the question count. What
//     a server adds for other names is never used, nor remembered.
//   - Each query has its own socket, and so its own source port, its own id and
//     its own pattern of upper and lower case. Over UDP an answer counts only from
//     the address that was asked, with this id and this question. Where the
//     server does not repeat the case, the same is asked by TCP; the answer
//     that differs in case only is taken where TCP leads to none.
//   - That a name does not exist ([ErrNoSuchName]), that it has no address
//     ([ErrNoAddress]), and that nobody could say are three errors.
//
// A [Server] stands before workloads and promises:
//
//   - A private name is answered to its consumers. To everybody else it is
//     refused exactly like a name that does not exist.
//   - Outside, only permitted names are asked for, and only their A and AAAA
//     records. Other types get an empty answer: an HTTPS or SVCB record would
//     carry addresses and keys of ECH past the gateway, TXT and NULL
//     any data.
//   - A special-purpose address of a name outside is given to nobody whose [View]
//     does not believe it, so that no name outside leads inside.
//   - What looks like a tunnel is counted and recorded, and new names of a client
//     that asks for too many are refused; names that it asked for before still
//     work.
//
// What is not permitted gets REFUSED, with the extended error 18 (RFC 8914) if
// the client speaks EDNS. NXDOMAIN would be a lie that caches keep for long after
// the policy changed, and would hide from whoever looks why it does not work. Its
// price: some stub resolvers ask their next server, or, like musl's, wait until
// their timeout.
//
// What is dangerous: a client is who the caller says it is, by listener or
// address. A server bound to the unspecified address may answer from another
// address than was asked. The recursive servers are trusted with what names
// mean: no DNSSEC signature is checked. And [Client] does not know what is
// special about an address: its caller must ask before it dials.
package dns
