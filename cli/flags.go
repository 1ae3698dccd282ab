package cli

import (
	"flag"
	"strings"

	"bulkhead/app"
)

// flagAdder adds a flag to the set of a verb.
type flagAdder = func(*flag.FlagSet, *options)

func policyFlag(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.policy, "policy", "", "the policy, a file or a folder as `PATH`; else ./bulkhead.yaml or ./bulkhead/")
}

func inputFlags(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.cni, "cni", "", "the network plugin by `NAME`, where plugins differ: "+strings.Join(app.Profiles(), ", "))
	fs.Var(&o.podCIDRs, "pod-cidr", "the addresses of pods, as `CIDR`; may be given several times")
}

func strictFlag(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.strict, "strict", false, "take what the input does not decide, or what was not understood, for a finding")
}

func allFlag(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.all, "all", false, "show what the text would fold")
}

func hopsFlag(fs *flag.FlagSet, o *options) {
	fs.IntVar(&o.hops, "hops", 0, "go only so `MANY` connections far; 0 is all the way")
}

func betweenFlags(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.from, "from", "", "only what this `WORKLOAD` opens, or a namespace such as shop/")
	fs.StringVar(&o.to, "to", "", "only what is opened to this `WORKLOAD`, or a namespace such as shop/")
}

func targetFlags(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.target, "target", app.TargetNames()[0], "what to compile to, as `TARGET`: "+strings.Join(app.TargetNames(), ", "))
	fs.StringVar(&o.out, "out", "", "write the files below this `FOLDER` instead of printing them")
}

func draftFlag(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.out, "out", "", "write the draft to this new `FILE` instead of printing it")
}

func signaturesFlag(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.signatures, "signatures", "", "a `FILE` with more components to recognise, in the form of recognise/signatures.yaml")
}

func checkFlag(fs *flag.FlagSet, o *options) {
	fs.BoolVar(&o.check, "check", false, "change nothing; list the files that are not formatted")
}

func (k *call) input(paths []string) app.Input {
	return app.Input{Paths: paths, Profile: k.opts.cni, PodCIDRs: k.opts.podCIDRs, Signatures: k.opts.signatures}
}
