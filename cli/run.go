package cli

import (
	"fmt"
	"iter"

	"bulkhead/app"
	"bulkhead/core/finding"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/render"
	"bulkhead/render/json"
	"bulkhead/render/markdown"
	"bulkhead/render/sarif"
	"bulkhead/render/text"
)

// text returns how the answer should look as text.
func (k *call) text() text.Options {
	o := k.look(k.Stdout)
	o.All = k.opts.all
	return o
}

// warn prints what is doubtful in the input to standard error. A machine that
// reads the answer finds it there too.
func (k *call) warn(ds source.Diagnostics, lines app.Lines) error {
	k.bar.clear()
	o := k.look(k.Stderr)
	o.All = k.opts.all
	return text.Diagnostics(k.Stderr, ds, text.Line(lines), o)
}

func (k *call) audit() (int, error) {
	est, r, err := k.env.Audit(k.input(k.args))
	if err != nil {
		return Incomplete, err
	}
	return k.report(r, est.Lines, est.Warnings)
}

func (k *call) verify() (int, error) {
	est, r, err := k.env.Verify(k.input(k.args), k.opts.policy)
	if err != nil {
		return Incomplete, err
	}
	return k.report(r, est.Lines, est.Warnings)
}

func (k *call) check() (int, error) {
	r, lines, err := k.env.Check(k.opts.policy)
	if err != nil {
		return Incomplete, err
	}
	code, err := k.report(r, lines, nil)
	if r.Diagnostics.HasErrors() {
		code = Invalid
	}
	return code, err
}

// report prints findings in the format that was asked for.
func (k *call) report(r *render.Report, lines app.Lines, warnings source.Diagnostics) (int, error) {
	if err := k.warn(warnings, lines); err != nil {
		return Incomplete, err
	}
	var err error
	switch k.opts.format {
	case "json":
		err = json.Report(k.out, r)
	case "sarif":
		err = sarif.Report(k.out, r)
	case "markdown":
		err = markdown.Report(k.out, r)
	default:
		err = text.Report(k.out, r, text.Line(lines), k.text())
	}
	code := k.judge(r.Findings)
	return max(code, k.strictly(r.Coverage, 0)), err
}

// judge returns the exit code that findings mean. What could not be decided,
// and what is only for information, is no finding unless it is asked for.
func (k *call) judge(fs []finding.Finding) int {
	for i := range fs {
		if render.Unknown(&fs[i]) {
			if k.opts.strict {
				return Findings
			}
			continue
		}
		if fs[i].Severity > finding.Info {
			return Findings
		}
	}
	return Clean
}

// strictly returns the exit code that gaps in the answer mean under --strict,
// and says why.
func (k *call) strictly(c *network.Coverage, unknown int) int {
	if !k.opts.strict {
		return Clean
	}
	code := Clean
	if render.Lowered(c) {
		k.complain("--strict: something that was not understood can change verdicts")
		code = Findings
	}
	if unknown > 0 {
		k.complain("--strict: the input leaves %d answers undecided", unknown)
		code = Findings
	}
	return code
}

func (k *call) reach() (int, error) {
	est, r, err := k.env.Reach(k.input(k.args), app.ReachFilter{From: k.opts.from, To: k.opts.to})
	if err != nil {
		return Incomplete, err
	}
	if err := k.warn(est.Warnings, est.Lines); err != nil {
		return Incomplete, err
	}
	unknown := 0
	r.Edges = counting(r.Edges, func(e render.Edge) bool { return e.Unknown != "" }, &unknown)
	r.Exposures = counting(r.Exposures, func(o render.Outside) bool { return o.Unknown != "" }, &unknown)
	r.Egress = counting(r.Egress, func(o render.Outside) bool { return o.Unknown != "" }, &unknown)
	if k.opts.format == "json" {
		err = json.Reach(k.out, r)
	} else {
		err = text.Reach(k.out, r, k.text())
	}
	return k.strictly(&r.Coverage, unknown), err
}

// counting passes a sequence on and counts what is undecided in it.
func counting[T any](seq iter.Seq[T], undecided func(T) bool, n *int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range seq {
			if undecided(v) {
				*n++
			}
			if !yield(v) {
				return
			}
		}
	}
}

// coverage returns how much of an estate was understood; a policy is
// understood as a whole.
func coverage(est *app.Estate) *network.Coverage {
	if est == nil {
		return nil
	}
	return &est.Net.Coverage
}

func (k *call) warnEstate(est *app.Estate) error {
	if est == nil {
		return nil
	}
	if render.Lowered(&est.Net.Coverage) && !k.opts.strict {
		k.complain("something in the input was not understood and can change the answer (bulkhead audit lists it)")
	}
	return k.warn(est.Warnings, est.Lines)
}

func (k *call) explain() (int, error) {
	ask, n, err := app.ParseAsk(k.args[2:])
	if err != nil {
		return Invalid, err
	}
	est, a, err := k.env.Explain(app.Question{From: k.args[0], To: k.args[1], Ask: ask,
		Input: k.input(k.args[2+n:]), Policy: k.opts.policy})
	if err != nil {
		return Incomplete, err
	}
	if err := k.warnEstate(est); err != nil {
		return Incomplete, err
	}
	if k.opts.format == "json" {
		err = json.Answer(k.out, a)
	} else {
		err = text.Answer(k.out, a, k.text())
	}
	unknown := 0
	if a.Deployed != nil && a.Deployed.Verdict == finding.Unknown {
		unknown = 1
	}
	code := k.strictly(coverage(est), unknown)
	if a.Differ() && a.Deployed.Verdict != finding.Unknown {
		code = Findings
	}
	return code, err
}

func (k *call) whoCanReach() (int, error) {
	ask, n, err := app.ParseAsk(k.args[1:])
	if err != nil {
		return Invalid, err
	}
	return k.closure(k.env.WhoCanReach(k.question(ask, k.args[1+n:])))
}

func (k *call) blast() (int, error) {
	return k.closure(k.env.Blast(k.question(app.Ask{Any: true}, k.args[1:])))
}

func (k *call) question(ask app.Ask, paths []string) app.ClosureQuestion {
	return app.ClosureQuestion{Name: k.args[0], Ask: ask, Hops: k.opts.hops, Unknown: k.opts.strict,
		Input: k.input(paths), Policy: k.opts.policy}
}

func (k *call) closure(est *app.Estate, c *render.Closure, err error) (int, error) {
	if err != nil {
		return Incomplete, err
	}
	if err := k.warnEstate(est); err != nil {
		return Incomplete, err
	}
	if k.opts.format == "json" {
		err = json.Closure(k.out, c)
	} else {
		err = text.Closure(k.out, c, k.text())
	}
	return k.strictly(coverage(est), 0), err
}

func (k *call) diff() (int, error) {
	est, d, err := k.env.Diff(k.args[0], k.args[1], k.input(nil))
	if err != nil {
		return Incomplete, err
	}
	if est != nil {
		if err := k.warn(est.Warnings, est.Lines); err != nil {
			return Incomplete, err
		}
	}
	switch k.opts.format {
	case "json":
		err = json.Delta(k.out, d)
	case "sarif":
		err = sarif.Delta(k.out, d)
	case "markdown":
		err = markdown.Delta(k.out, d)
	default:
		err = text.Delta(k.out, d, k.text())
	}
	return max(k.judge(d.Findings), k.strictly(d.Coverage, 0)), err
}

func (k *call) version() (int, error) {
	_, err := fmt.Fprintf(k.out, "bulkhead %s\n", k.Version)
	return Clean, err
}

func (k *call) schema() (int, error) {
	_, err := k.out.Write(app.Schema())
	return Clean, err
}
