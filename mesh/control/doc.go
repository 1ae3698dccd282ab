// Package control turns a policy into signed generations and carries them to the
// nodes that enforce them, over NATS JetStream.
//
// [Control] watches the policy, signs an [generation.Order] for every change, and
// hears from nodes what they enforce. [Client] is a node's end: it takes orders,
// keeps the last good one, and asks for certificates. [Server] is the embedded
// bus, [Bus] a connection to it or to an existing cluster. [Roster] is who may
// speak as which node, [Credential] what a node needs to join.
//
// It promises that the number of a generation is on disk before anybody hears of
// it and is never used twice; that a node enforces nothing that control did not
// sign, never an order older than the one it has, and keeps what it has when
// control or the bus is away; and that nobody gets a certificate or token for a
// workload that the policy in force does not place on the node that asks.
//
// The bus is not trusted: it may be shared, read, delayed and replayed. Orders
// and plans are signed by control, what nodes say is signed by them, and answers
// that hold secrets are encrypted to who asked. What a hostile bus can do is to
// withhold.
//
// What is dangerous: the signing key in [Options].Dir commands every node. Whoever
// reads it rules the platform; whoever loses it must give every node a new
// credential.
package control
