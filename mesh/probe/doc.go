// Package probe attacks a running platform from the inside, and says what that
// proved.
//
// [Plan] lists the cases: from every workload of a node to every other one, all
// that is permitted, all that is not, and what an attacker tries who has taken a
// workload over. What the policy says about a case is [policy.Intent.Decide] and
// nothing else. [Agent] tries them where the workload is, with no more rights than
// it; [Tunnel] attacks the mutual TLS behind the filter, which nobody reaches from
// inside a workload. [Judge] compares what was expected with what happened.
//
// It promises that green means proven. A refusal counts only if it is accounted
// for: by the flow record of the proxy that refused, marked with the case's id, or
// by the error with which the kernel refuses. Silence, an unknown error, or a
// refusal that nobody recorded is never taken for one.
//
// What is dangerous: the cases are real. Every attack is chosen so that it does no
// harm if it succeeds, and permitted requests are only GET and HEAD; a server that
// changes something by these is changed.
package probe
