// Package proxy carries the connections of a node's workloads, and nothing that
// the policy in force does not allow.
//
// A [Proxy] stands on both ends. On the source's it accepts every connection
// that a workload opens, knows the source by the listener that accepted it,
// decides, and carries the bytes through a tunnel to the other proxy. On the
// destination's it takes the source from the tunnel's certificate, decides
// again, and dials the workload's own server. Where the permission names
// operations the destination's proxy reads the requests and decides each. An
// exposure has the second end only.
//
// It promises:
//
//   - A connection is registered before it is decided, under the very question
//     that allowed it. When a generation comes into force that denies this
//     question, both its sockets are reset, however it hangs: opening, idle,
//     or in the middle of a transfer.
//   - A connection whose requests nobody reads is allowed only if every request
//     is.
//   - What is refused is reset, not closed, and is recorded with the rule, the
//     generation and the reason.
//   - No timeout ends a stream. What is opening is bounded by time, and how much
//     a workload may have open by number.
//
// What is dangerous: the source of a captured connection is which listener it
// came to, so that a [socket.Maker] that opens a listener in the wrong namespace gives
// one workload the identity of another. And a [Publish] listener is as open as
// the address that it is bound to; which clients it serves is decided by
// their address, which no certificate proves.
//
// [Publish]: Proxy.Publish
package proxy
