package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"bulkhead/core/network"
	"bulkhead/core/policy"
	"bulkhead/draft"
	"bulkhead/internal/atomicfile"
	"bulkhead/policyfile"
	"bulkhead/target"
)

// Init drafts a policy from an estate.
func (e *Env) Init(in Input) (*Estate, []byte, error) {
	est, err := e.readEstate(in)
	if err != nil {
		return nil, nil, err
	}
	table, err := e.signatures(in)
	if err != nil {
		return nil, nil, err
	}
	b := bind(&policy.Intent{Policy: &policy.Policy{}}, est.Net)
	d := draft.New(draft.Options{
		Analysis:  est.Analysis,
		Recognise: recogniser(est.Net, table),
		Describe:  describer(targets(), est.Net),
		Bound: func(b policy.Binding) []int {
			sure, maybe := map[string][]int{}, map[string][]int{}
			if p, ds := targetOf(b.Target.Value).Bind(b); !ds.HasErrors() {
				find(est.Net, p, "", sure, maybe)
			}
			return append(sure[""], maybe[""]...)
		},
		Resolvers: b.Resolvers,
		Catalogue: policyfile.Catalogue(),
		Now:       e.Now,
	})
	text, err := policyfile.Marshal(policyfile.Draft{Policy: d.Policy, Header: d.Header, Comments: draftComments(&d)})
	if err != nil {
		return nil, nil, fmt.Errorf("the draft cannot be written, which is a fault of bulkhead: %w", err)
	}
	return est, text, nil
}

func describer(ts []target.Target, n *network.Network) func(int) (policy.Binding, bool) {
	return func(endpoint int) (policy.Binding, bool) {
		for _, t := range ts {
			if d, ok := t.(target.Describer); ok {
				return d.Describe(n, endpoint)
			}
		}
		return policy.Binding{}, false
	}
}

func draftComments(d *draft.Draft) map[policyfile.Entry]string {
	out := map[policyfile.Entry]string{}
	put := func(at policyfile.Entry, text string) {
		if text != "" {
			out[at] = text
		}
	}
	for name, text := range d.Zones {
		put(policyfile.NamedEntry("zones", name), text)
	}
	for name, text := range d.Works {
		put(policyfile.NamedEntry("workloads", name), text)
	}
	for section, texts := range map[string][]string{
		"flows": d.Flows, "egress": d.Egress, "exposures": d.Exposed, "relaxations": d.Relaxed,
	} {
		for i, text := range texts {
			put(policyfile.NumberedEntry(section, i), text)
		}
	}
	return out
}

// WriteNew writes a file that must not be there yet.
func (e *Env) WriteNew(path string, text []byte) error {
	_, err := os.Lstat(e.abs(path))
	switch {
	case err == nil:
		return wrongInput("move it away, or name another file", "%s is already there", path)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return atomicfile.Write(e.abs(path), text, 0o644)
}
