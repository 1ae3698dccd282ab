package app

import (
	"slices"

	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
	"bulkhead/target/kube"
)

// Estate is configuration as it was read.
type Estate struct {
	Inputs []string
	Net    *network.Network
	// Analysis answers questions about Net.
	Analysis *reach.Analysis
	// Warnings are what is doubtful in the input and does not stop the work.
	Warnings source.Diagnostics
	// Lines gives lines of the input for the warnings.
	Lines Lines
}

// BadInput says that the input has errors; the diagnostics hold at least one.
type BadInput struct {
	Diagnostics source.Diagnostics
	Lines       Lines
}

func (e *BadInput) Error() string { return e.Diagnostics.Error() }

// readEstate reads configuration, offers every object to every target and
// analyses what they make of it. What no target claims is in the coverage.
func (e *Env) readEstate(in Input) (*Estate, error) {
	importers, err := in.importers()
	if err != nil {
		return nil, err
	}
	n := &network.Network{}
	l, err := e.load(in.Paths, func(v yamldoc.Value) { offer(v, importers, &n.Coverage) })
	if err != nil {
		return nil, err
	}
	ds := l.ds
	for _, im := range importers {
		ds = append(ds, im.Finish(n)...)
	}
	n.Coverage.Ignored = append(n.Coverage.Ignored, l.ignored...)
	ds.Sort()
	if ds.HasErrors() {
		return nil, &BadInput{ds, e.lines(l.stdin)}
	}
	if n.Coverage.Understood == 0 {
		return nil, noObjects(in.Paths, &n.Coverage)
	}
	if !slices.ContainsFunc(n.Endpoints, func(e network.Endpoint) bool { return e.Kind == network.Workload }) {
		ds.Warnf("no-workloads", source.Pos{}, "there is no workload in %s, so that nothing can reach anything", quoted(in.Paths)).
			WithFix("add what runs: Deployments, Pods and the like")
	}
	e.progress("analysing", 0, 0)
	est := &Estate{Inputs: in.Paths, Net: n, Analysis: reach.New(n), Warnings: ds}
	if len(ds) > 0 {
		est.Lines = e.lines(l.stdin)
	}
	return est, nil
}

// offer gives the objects of a document to the importers.
func offer(v yamldoc.Value, importers []target.Importer, c *network.Coverage) {
	if k := v.Kind(); k == yamldoc.Missing || k == yamldoc.Null {
		return // `---` twice, or nothing but comments
	}
	for item := range kube.Expand(v) {
		claimed := false
		for _, im := range importers {
			claimed = im.Add(target.Document{Value: item}) || claimed
		}
		if !claimed {
			disown(item, c)
		}
	}
}

func noObjects(paths []string, c *network.Coverage) error {
	hint := "give Kubernetes manifests, or the output of: kubectl get all,networkpolicy,ns -A -o yaml"
	if len(c.Ignored) > 0 {
		ig := c.Ignored[0]
		hint = "the first thing in it, " + ig.Kind + " at " + ig.Pos.Short() + ": " + ig.Why
	}
	return wrongInput(hint, "there is no configuration that can be understood in %s", quoted(paths))
}
