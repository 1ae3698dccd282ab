package example

import "bulkhead/target"

const spec = "https://example.org/fence/v1" // of a firewall that does not exist

var (
	limitUnbound = target.Limit{ID: "unbound", Since: "v1", Verified: "2026-11-22", Source: spec,
		What: "a workload without a machine is nowhere", Fix: "add at: {fence: {machine: NAME}} to the workload"}
	limitShared = target.Limit{ID: "shared-machine", Wider: true, Since: "v1", Verified: "2026-11-22", Source: spec,
		What: "two workloads on one machine cannot be told apart", Fix: "give each its own machine"}
	limitRequests = target.Limit{ID: "requests", Wider: true, Since: "v1", Verified: "2026-11-22", Source: spec,
		What: "a fence sees ports and no requests", Fix: "enforce them at a proxy"}
	limitNoAddress = target.Limit{ID: "no-address", Since: "v1", Verified: "2026-11-22", Source: spec,
		What: "a fence knows machines and addresses only, no names", Fix: "declare the address"}
)

// Limits returns what a fence cannot express.
func (Target) Limits() []target.Limit {
	return []target.Limit{limitUnbound, limitShared, limitRequests, limitNoAddress}
}
