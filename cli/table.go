package cli

import "strings"

// reportFormats are the formats of findings.
var reportFormats = []string{"text", "json", "sarif", "markdown"}

const onPaths = `PATH is a file, a folder that is searched for .yaml, .yml and .json, or - for
standard input.`

const onNames = `A workload is named as in the answers, namespace/Kind/name, or by an ending of
that which only one has: web, shop/web, Deployment/web. Where a policy is read,
its own names come first. Besides workloads there are addresses, domain names
and internet. Everything after the names and the port is a PATH.`

// verbs is the command table, in the order of the path that users walk.
func verbs() []*verb {
	return []*verb{
		auditVerb(), initVerb(), checkVerb(), fmtVerb(), compileVerb(), verifyVerb(), reachVerb(), explainVerb(),
		whoCanReachVerb(), blastVerb(), diffVerb(), upVerb(), statusVerb(), flowsVerb(), quarantineVerb(), releaseVerb(), execVerb(), probeVerb(), egressVerb(), gatewayVerb(), credentialVerb(), authorityVerb(), schemaVerb(), completionVerb(), versionVerb(),
	}
}

func auditVerb() *verb {
	return &verb{
		name: "audit", args: "PATH…", names: []string{"something to read: a file, a folder, or - for standard input"},
		short: "find exposed, flat and unguarded parts of what is deployed",
		long: `Audit needs no policy. It looks for endpoints that the internet reaches,
workloads that everything reaches, unguarded ways out, open consoles of AI
software, and policies that do nothing. Each finding has a witness: a connection
that shows it, with the rule that decides at each step.

` + onPaths,
		examples: []example{
			{"bulkhead audit k8s/", "what the manifests of a folder lead to"},
			{"kubectl get all,ingress,networkpolicy,namespace -A -o yaml | bulkhead audit -", "what a cluster has now"},
			{"helm template my-release ./chart | bulkhead audit - --strict", "what a chart would make, with unknowns as findings"},
			{"bulkhead audit k8s/ --format sarif > audit.sarif", "for code scanning"},
		},
		formats: reportFormats, flags: []flagAdder{inputFlags, signaturesFlag, strictFlag, allFlag}, min: 1, max: -1,
		exits: "there are findings", run: (*call).audit,
	}
}

func initVerb() *verb {
	return &verb{
		name: "init", args: "PATH…", names: []string{"something to read: a file, a folder, or - for standard input"},
		short: "draft a policy from what is deployed",
		long: `The draft declares what works today, so that nothing breaks on the day it is
enforced. Every guess is marked with what it rests on: go through them, tighten,
and say why.

` + onPaths,
		examples: []example{
			{"bulkhead init k8s/ > bulkhead.yaml", "a policy for what is there"},
			{"bulkhead init k8s/ --out bulkhead.yaml", "the same, and never over a file that is there"},
		},
		flags: []flagAdder{inputFlags, signaturesFlag, draftFlag, allFlag}, min: 1, max: -1, run: (*call).init,
	}
}

func checkVerb() *verb {
	return &verb{
		name: "check", short: "check a policy: its text, its invariants, its tests",
		long: `All errors are shown at once, each at its line and column with the fix.`,
		examples: []example{
			{"bulkhead check", "the policy of this folder"},
			{"bulkhead check --policy platform/policy.yaml", "another one"},
			{"bulkhead check --format sarif > policy.sarif", "for code scanning"},
		},
		formats: reportFormats, flags: []flagAdder{policyFlag, strictFlag, allFlag}, max: 0,
		exits: "an invariant is broken, a test fails, or a permission ends soon", run: (*call).check,
	}
}

func fmtVerb() *verb {
	return &verb{
		name: "fmt", args: "[PATH…]", short: "format policy files",
		long: `Without PATH it formats ./bulkhead.yaml or the files of ./bulkhead/. With -
it formats standard input to standard output. A file with errors is left alone.`,
		examples: []example{
			{"bulkhead fmt", "the policy of this folder, in place"},
			{"bulkhead fmt --check", "for continuous integration"},
			{"bulkhead fmt - < draft.yaml", "as a filter, for editors"},
		},
		flags: []flagAdder{checkFlag}, max: -1, exits: "--check found files that are not formatted", run: (*call).fmt,
	}
}

func compileVerb() *verb {
	return &verb{
		name: "compile", short: "turn a policy into the configuration that enforces it",
		long: `What a target cannot express is printed to standard error, permission by
permission, with what the configuration allows instead.`,
		examples: []example{
			{"bulkhead compile", "prints the manifests"},
			{"bulkhead compile --out k8s/policies", "writes them, one file for each namespace"},
			{"bulkhead compile | kubectl diff -f -", "what applying them would change"},
			{"bulkhead compile --target kubernetes-admin --out k8s/admin", "isolation that owners of namespaces cannot undo"},
		},
		flags: []flagAdder{policyFlag, targetFlags, strictFlag, allFlag}, max: 0,
		exits: "with --strict, the configuration would allow more than is declared", run: (*call).compile,
	}
}

func verifyVerb() *verb {
	return &verb{
		name: "verify", args: "PATH…", names: []string{"something to compare the policy with: a file, a folder, or - for standard input"},
		short: "prove that what is deployed allows what the policy declares, and no more",
		long: `Each leak and each broken flow comes with a witness. What the input does not
decide is reported and counts as a finding only with --strict.

` + onPaths,
		examples: []example{
			{"bulkhead verify k8s/", "the manifests of a folder against ./bulkhead.yaml"},
			{"kubectl get all,networkpolicy,namespace -A -o yaml | bulkhead verify - --strict", "a cluster, with unknowns as findings"},
			{"bulkhead verify k8s/ --cni none", "as if no network plugin enforced anything"},
		},
		formats: reportFormats, flags: []flagAdder{policyFlag, inputFlags, strictFlag, allFlag}, min: 1, max: -1,
		exits: "the two differ", run: (*call).verify,
	}
}

func reachVerb() *verb {
	return &verb{
		name: "reach", args: "PATH…", names: []string{"something to read: a file, a folder, or - for standard input"},
		short: "list who can reach what, between all workloads and from and to outside",
		long: onPaths + `

As json the answer has the schema bulkhead/reach/v1. An edge that is denied is
not printed, and neither is one of a workload to itself. Exposures are what the
layers let in from outside; whether anything leads there is in published.`,
		examples: []example{
			{"bulkhead reach k8s/", "a summary, with equal edges folded"},
			{"bulkhead reach k8s/ --to db", "only what is opened to one workload"},
			{"bulkhead reach k8s/ --format json | jq '.edges[] | select(.unknown != \"\")'", "what the input does not decide"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{inputFlags, betweenFlags, strictFlag, allFlag}, min: 1, max: -1,
		exits: "with --strict, something is unknown or was not understood", run: (*call).reach,
	}
}

func explainVerb() *verb {
	return &verb{
		name: "explain", args: "FROM TO [PORT] [PATH…]", names: []string{"FROM and TO", "TO"},
		short: "say whether one can reach another, with the rule that decides at each step",
		long: `Without PATH the policy answers. With PATH what is deployed answers, and where
there is a policy too, both are shown side by side.

` + onNames + `

PORT is 8080, tcp/8080, udp/53 or icmp, or a request: 8080 GET /x, http GET /x.
Without it the answer is everything that passes.`,
		examples: []example{
			{"bulkhead explain web db 5432 k8s/", "one connection"},
			{"bulkhead explain internet web k8s/", "whether the internet gets in, and through what"},
			{"bulkhead explain trainer feature-store http GET /features/1", "what the policy says of a request"},
			{"bulkhead explain web 169.254.169.254 80 k8s/", "whether credentials of the cloud are in reach"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{policyFlag, inputFlags, strictFlag, allFlag}, min: 2, max: -1,
		exits: "what is deployed and what is declared differ; with --strict, the answer is unknown", run: (*call).explain,
	}
}

func whoCanReachVerb() *verb {
	return &verb{
		name: "who-can-reach", args: "TO [PORT] [PATH…]", names: []string{"the name of what is reached"},
		short: "list what can reach a workload, directly and over others",
		long:  "Without PATH the policy answers.\n\n" + onNames,
		examples: []example{
			{"bulkhead who-can-reach db k8s/", "everything, nearest first"},
			{"bulkhead who-can-reach db 5432 k8s/ --hops 1", "only direct connections to one port"},
			{"bulkhead who-can-reach model-store", "what the policy declares"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{policyFlag, inputFlags, hopsFlag, strictFlag, allFlag}, min: 1, max: -1,
		exits: "with --strict, something was not understood", run: (*call).whoCanReach,
	}
}

func blastVerb() *verb {
	return &verb{
		name: "blast", args: "FROM [PATH…]", names: []string{"the name of what is taken over"},
		short: "list what an attacker reaches from a workload, directly and over others",
		long: `It is assumed that whatever is reached can be made to open further connections:
the answer is an upper bound. Without PATH the policy answers.

` + onNames,
		examples: []example{
			{"bulkhead blast notebook k8s/", "everything, nearest first"},
			{"bulkhead blast notebook k8s/ --hops 2", "no further than two connections"},
			{"bulkhead blast llm", "what the policy would let it reach"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{policyFlag, inputFlags, hopsFlag, strictFlag, allFlag}, min: 1, max: -1,
		exits: "with --strict, something was not understood", run: (*call).blast,
	}
}

func diffVerb() *verb {
	return &verb{
		name: "diff", args: "BEFORE AFTER", names: []string{"two things to compare", "the later of two things to compare"},
		short: "list which flows appear and vanish between two versions",
		long: `BEFORE and AFTER are two policies, or two files or folders of configuration.
The findings that the change brings and takes away are listed too.`,
		examples: []example{
			{"bulkhead diff old/bulkhead.yaml bulkhead.yaml", "two versions of a policy"},
			{"git worktree add ../base origin/main && bulkhead diff ../base/k8s k8s", "what a branch changes"},
			{"bulkhead diff base/k8s k8s --format markdown > comment.md", "as a comment for a pull request"},
			{"bulkhead diff base/k8s k8s --format sarif > diff.sarif", "what the change opens, for code scanning"},
		},
		formats: reportFormats, flags: []flagAdder{inputFlags, strictFlag, allFlag}, min: 2, max: 2,
		exits: "the change brings findings", run: (*call).diff,
	}
}

func schemaVerb() *verb {
	return &verb{
		name: "schema", short: "print the JSON Schema of the policy language, for editors",
		examples: []example{
			{"bulkhead schema > bulkhead.schema.json", "to be named in a policy as # yaml-language-server: $schema=bulkhead.schema.json"},
			{"bulkhead schema | jq '.properties | keys'", "the sections that a policy can have"},
		},
		max: 0, run: (*call).schema,
	}
}

func completionVerb() *verb {
	return &verb{
		name: "completion", args: strings.Join(shells, "|"), names: []string{"the name of a shell: " + strings.Join(shells, ", ")},
		short: "print the completion of verbs and flags for a shell",
		examples: []example{
			{"source <(bulkhead completion bash)", "for this shell"},
			{"bulkhead completion zsh > \"${fpath[1]}/_bulkhead\"", "for every shell to come"},
			{"bulkhead completion fish > ~/.config/fish/completions/bulkhead.fish", "the same for fish"},
		},
		min: 1, max: 1, run: (*call).completion,
	}
}

func versionVerb() *verb {
	return &verb{
		name: "version", short: "print the version",
		examples: []example{{"bulkhead version", "such as bulkhead v1.2.0"}},
		max:      0, run: (*call).version,
	}
}
