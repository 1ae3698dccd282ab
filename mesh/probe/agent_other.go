//go:build !linux

package probe

// identityOnce is used on Linux only.
type identityOnce struct{}

// Main returns an error code: Linux only.
func Main() int { return 1 }

func (a *agent) do(*Task) Observation {
	return Observation{Untried: "workloads are isolated on Linux only"}
}
