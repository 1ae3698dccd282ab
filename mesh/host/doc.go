// Package host makes the machine keep workloads apart: a network namespace for
// each, with a filter that drops everything, and a namespace between them, the
// fabric, that routes and drops everything too, until a [Plan] says otherwise.
//
// It promises: a workload's TCP reaches the capture port of its own namespace
// and nothing else; what it may not send is refused at once and reported; a
// packet whose source is not the address of the workload that sent it goes
// nowhere; IPv6 is treated as IPv4 is. A filter exists before the interface it
// filters. [Host.Apply] takes permissions away everywhere before it gives any,
// and ends the established connections of what it took away. The namespaces
// have no names: when this process dies, however it dies, the kernel removes
// them with everything in them.
//
// A workload that is bound to processes that already run (by control group)
// stays in the machine's own namespace. Its rules are in a table that is named
// after the platform, the only thing that Host creates there. The table stays
// closed when this process dies, until the next run takes it over. Such a
// workload also gets an empty namespace on the fabric, for its tunnels, so that
// the machine gets no address and no route. It can reach addresses only if the
// machine has a route for them (a default route is enough), and a declared
// plaintext flow is not possible with it.
//
// What is dangerous: packets with the mark of [Host.Sockets] pass the filter to
// tunnels; only a process with CAP_NET_ADMIN in the namespace can set it, and
// workloads have no capability. In [Cooperative] mode nothing is enforced: a
// workload that ignores the addresses it was given is not stopped.
package host
