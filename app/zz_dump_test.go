package app

import (
	"fmt"
	"testing"
	"time"

	"bulkhead/core/network"
	"bulkhead/recognise"
)

func TestZZDump(t *testing.T) {
	for _, in := range []string{"../../shared/inputs/kubeflow/install.yaml", "../../shared/inputs/ai-on-eks"} {
		e := &Env{Now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
		est, _, err := e.Init(Input{Paths: []string{in}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range est.Net.Endpoints {
			ep := &est.Net.Endpoints[i]
			if ep.Kind != network.Workload {
				continue
			}
			s := ""
			for _, m := range recognise.Builtin().Recognise(factsOf(ep)) {
				s += fmt.Sprintf(" | %s (%s/%s)", m.Signature.Title, m.Signature.Class, m.Signature.Zone)
			}
			fmt.Printf("%s%s   %v\n", ep.Name(), s, ep.Facts.Images)
		}
	}
}
