package cli

import (
	"flag"
	"fmt"
	"path/filepath"

	"bulkhead/app"
	"bulkhead/core/source"
	"bulkhead/render/json"
	"bulkhead/render/text"
)

// egressOptions are the flags of the audit of what leaves.
type egressOptions struct {
	sources values
	draft   string
}

func egressFlags(fs *flag.FlagSet, o *options) {
	fs.Var(&o.egress.sources, "source", "`SOURCE=WORKLOAD`: which workload an address, a network or a name of the logs is; may be given several times")
	fs.StringVar(&o.egress.draft, "draft", "", "write rules for what was called and none needs to this new `FILE`, or - to print them instead")
}

func egressVerb() *verb {
	return &verb{
		name: "egress", args: "audit PATH…", names: []string{"what to do: audit", "a log to read: a file, or - for standard input"},
		short: "list what was called outside that no rule needs, and draft rules for it",
		long: `PATH is a log, packed or not: bulkhead's own flow records, Squid's access.log,
tinyproxy, smokescreen, Envoy's access log as JSON, Hubble as JSON, AWS VPC flow
logs, Zeek, or a table with a header (CSV). What is not understood is counted.

Without a policy it lists what was called. With one it says what no rule needs,
and which rules nothing needed. Places to drop files, resolvers and the metadata of
clouds are marked, and rules are never drafted for them.`,
		examples: []example{
			{"bulkhead egress audit /var/log/squid/access.log --source 10.1.2.0/24=trainer", "what a network called, against ./bulkhead.yaml"},
			{"hubble observe --to-fqdn '*' -o json | bulkhead egress audit -", "what a cluster calls"},
			{"bulkhead egress audit access.log --draft bulkhead/egress.yaml", "rules for what is called, every one a guess"},
			{"bulkhead flows --format json | bulkhead egress audit - --format json | jq '.unused'", "rules that nothing needs"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{policyFlag, egressFlags, strictFlag, allFlag}, min: 2, max: -1,
		exits: "something was called that no rule needs, or that nothing should call; with --strict, a line was not understood or a source is unknown", run: (*call).egress,
	}
}

func (k *call) egress() (int, error) {
	if k.args[0] != "audit" {
		return Invalid, &app.InputError{Says: fmt.Sprintf("egress has no %q", k.args[0]), Hint: "write bulkhead egress audit PATH…"}
	}
	a, err := k.env.EgressAudit(app.EgressAudit{Paths: k.args[1:], Policy: k.opts.policy, Sources: k.opts.egress.sources,
		Warn: func(ds source.Diagnostics, lines app.Lines) error { return k.warn(ds, lines) }})
	if err != nil {
		return Incomplete, err
	}
	code := Clean
	if a.Found() {
		code = Findings
	}
	if k.opts.strict && len(a.Unmapped)+a.Cut > 0 {
		code = Findings
	}
	for _, f := range a.Files {
		if f.Unknown > 0 && k.opts.strict {
			code = Findings
		}
	}
	if to := k.opts.egress.draft; to != "" {
		draft, err := k.env.EgressDraft(a)
		if err != nil {
			return Incomplete, err
		}
		if to == "-" {
			_, err = k.out.Write(draft)
			return code, err
		}
		if err := k.env.WriteNew(filepath.Clean(to), draft); err != nil {
			return Incomplete, err
		}
	}
	if k.opts.format == "json" {
		return code, json.Document(k.out, json.EgressAuditSchema, a)
	}
	return code, text.EgressAudit(k.out, a, k.text())
}
