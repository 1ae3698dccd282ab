package example

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
	"bulkhead/internal/yamltext"
	"bulkhead/target"
	"bulkhead/target/targettest"
)

func TestFenceIsWhatIsDeclared(t *testing.T) {
	targettest.Run(t, targettest.Suite{
		Target: New(), Bind: drawBindings, Estate: drawEstate,
		Resolvers: []string{"kubernetes"}, // which it cannot reach, and says so
		Examples:  []*policy.Policy{everyLimit()},
	})
}

func text(s string) policy.Text { return policy.Text{Value: s} }

func on(name string) policy.Binding {
	return policy.Binding{Target: text("fence"), Fields: []policy.Field{{Key: text("machine"), Text: text(name)}}}
}

// drawBindings puts most workloads on machines of their own, some on one
// together, and some nowhere.
func drawBindings(t *rapid.T, p *policy.Policy) {
	for i := range p.Workloads {
		w := &p.Workloads[i]
		switch rapid.IntRange(0, 9).Draw(t, "machine") {
		case 0:
		case 1, 2:
			w.Bindings = []policy.Binding{on("shared")}
		case 3:
			w.Bindings = []policy.Binding{on(fmt.Sprint("yes: ", i)), on(fmt.Sprint("# ", i))}
		default:
			w.Bindings = []policy.Binding{on(fmt.Sprint("m", i))}
		}
	}
}

// drawEstate makes a machine for each binding and one for nobody.
func drawEstate(_ *rapid.T, in *policy.Intent) targettest.Estate {
	e := targettest.Estate{Options: target.Options{Workloads: netset.MustAddrs("10.244.0.0/16")}}
	var machines []yamltext.Node
	at := map[string]int{}
	add := func(name string, is policy.Party) {
		if i, ok := at[name]; ok {
			e.Deployed[i].Like = append(e.Deployed[i].Like, is.Name)
			return
		}
		at[name] = len(machines)
		machines = append(machines, yamltext.Map(yamltext.At("name", yamltext.String(name)),
			yamltext.At("address", yamltext.String(fmt.Sprintf("10.244.0.%d", len(machines)+1)))))
		e.Deployed = append(e.Deployed, targettest.Deployed{Name: "fence/Machine/" + name, Is: is})
	}
	for i := range in.Policy.Workloads {
		w := &in.Policy.Workloads[i]
		for _, b := range w.Bindings {
			add(b.Fields[0].Text.Value, policy.Party{Kind: policy.WorkloadParty, Name: w.Name.Value})
		}
	}
	add("bystander", policy.Party{})
	e.Files = []target.File{{Path: "machines.yaml", Data: yamltext.Documents(
		yamltext.Map(yamltext.At("fence", yamltext.String("v1")), yamltext.At("machines", yamltext.List(machines...))))}}
	return e
}

// everyLimit is a policy whose residue has every limit.
func everyLimit() *policy.Policy {
	web := policy.Service{Name: text("web"), Protocol: text("http"), Lo: 80, Hi: 80}
	return &policy.Policy{
		Zones: []policy.Zone{{Name: text("z")}},
		Workloads: []policy.Workload{
			{Name: text("a"), Zone: text("z"), Serves: []policy.Service{web}, Bindings: []policy.Binding{on("m")}},
			{Name: text("b"), Zone: text("z"), Bindings: []policy.Binding{on("m")}},
			{Name: text("c"), Zone: text("z")},
		},
		Flows:  []policy.Flow{{From: []policy.Text{text("b")}, To: []policy.Text{text("a")}, May: []policy.Text{text("read")}}},
		Egress: []policy.Egress{{From: []policy.Text{text("b")}, To: []policy.Text{text("pypi.org")}}},
	}
}
