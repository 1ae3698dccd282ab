package cli

import (
	"bytes"
	"fmt"
	"strings"

	"bulkhead/app"
	"bulkhead/core/source"
	"bulkhead/target"
)

func (k *call) init() (int, error) {
	est, draft, err := k.env.Init(k.input(k.args))
	if err != nil {
		return Incomplete, err
	}
	if err := k.warnEstate(est); err != nil {
		return Incomplete, err
	}
	if k.opts.out == "" {
		_, err := k.out.Write(draft)
		return Clean, err
	}
	if err := k.env.WriteNew(k.opts.out, draft); err != nil {
		return Incomplete, err
	}
	next := strings.Join(k.args, " ")
	fmt.Fprintf(k.Stderr, "wrote %s; now read it, then: bulkhead check && bulkhead verify %s\n", k.opts.out, next)
	return Clean, nil
}

func (k *call) fmt() (int, error) {
	files, err := k.env.Fmt(k.args, !k.opts.check)
	if err != nil {
		return Incomplete, err
	}
	code := Clean
	for _, f := range files {
		switch {
		case k.opts.check && f.Changed:
			fmt.Fprintln(k.out, f.Name)
			code = Findings
		case !k.opts.check && f.Name == app.Stdin:
			k.out.Write(f.Text)
		case f.Changed && !k.opts.check:
			fmt.Fprintf(k.Stderr, "formatted %s\n", f.Name)
		}
	}
	return code, nil
}

func (k *call) compile() (int, error) {
	d, out, err := k.env.Compile(k.opts.policy, k.opts.target)
	if err != nil {
		return Incomplete, err
	}
	if err := k.warn(d.Warnings, d.Lines); err != nil {
		return Incomplete, err
	}
	if k.opts.out == "" {
		k.print(out.Files)
	} else if err := k.write(out); err != nil {
		return Incomplete, err
	}
	if err := k.residue(out.Residue); err != nil {
		return Incomplete, err
	}
	for _, r := range out.Residue {
		if r.Wider && k.opts.strict {
			return Findings, nil
		}
	}
	return Clean, nil
}

// print writes files as one stream of documents.
func (k *call) print(files []target.File) {
	for _, f := range files {
		fmt.Fprintf(k.out, "---\n# %s\n", f.Path)
		k.out.Write(bytes.TrimPrefix(f.Data, []byte("---\n")))
	}
}

func (k *call) write(out target.Output) error {
	paths, err := k.env.WriteOutput(k.opts.out, out)
	if err != nil {
		return err
	}
	for _, p := range paths {
		fmt.Fprintln(k.out, p)
	}
	for _, p := range k.env.Stale(k.opts.out, out) {
		k.complain("%s is not of this policy: remove it, here and where it was applied, if bulkhead made it", p)
	}
	return nil
}

// residueFold is how many permissions are shown for one limit of a target.
const residueFold = 5

// residue says what the target cannot express, by limit.
func (k *call) residue(rs []target.Residue) error {
	if len(rs) == 0 {
		return nil
	}
	var order []string
	byLimit := map[string][]target.Residue{}
	wider := 0
	for _, r := range rs {
		if byLimit[r.Limit] == nil {
			order = append(order, r.Limit)
		}
		byLimit[r.Limit] = append(byLimit[r.Limit], r)
		if r.Wider {
			wider++
		}
	}
	var ds source.Diagnostics
	for _, limit := range order {
		group := byLimit[limit]
		shown := group
		if len(group) > residueFold+1 && !k.opts.all {
			shown = group[:residueFold]
		}
		ds = append(ds, app.Residue(shown)...)
		if rest := len(group) - len(shown); rest > 0 {
			ds.Warnf(limit, source.Pos{}, "and %d more (--all shows them)", rest)
		}
	}
	if err := k.warn(ds, nil); err != nil {
		return err
	}
	k.complain("%s cannot express %d parts of the policy; %d of them end up wider than declared", k.opts.target, len(rs), wider)
	return nil
}
