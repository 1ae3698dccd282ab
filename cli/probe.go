package cli

import (
	"flag"

	"bulkhead/mesh/report"
	"bulkhead/render/json"
	"bulkhead/render/junit"
	"bulkhead/render/text"
)

func probeFlags(fs *flag.FlagSet, o *options) {
	fs.StringVar(&o.from, "from", "", "attack only from this `WORKLOAD`")
	fs.StringVar(&o.to, "to", "", "attack only this `WORKLOAD`")
}

func probeVerb() *verb {
	return &verb{
		name: "probe", short: "attack what runs, from inside its workloads",
		long: `From inside each workload of this machine, with its rights and its identity, it
tries everything that is prohibited, everything that is permitted, and what an
attacker tries: forged and expired certificates, ways past the proxy, spoofed
addresses, raw sockets, metadata of the cloud, names outside, the sockets of
bulkhead itself. A refusal counts only with evidence: the record of the proxy that
refused, or the error of the kernel. The records of a probe are marked with its id.`,
		examples: []example{
			{"bulkhead probe", "everything"},
			{"bulkhead probe --from notebook", "what a notebook that was taken over can do"},
			{"bulkhead probe --format junit > probe.xml", "for continuous integration"},
			{`bulkhead probe --format json | jq '.results[] | select(.outcome == "surprise")'`, "only what differs from the policy"},
		},
		formats: []string{"text", "json", "junit"}, flags: []flagAdder{platformFlag, probeFlags}, max: 0,
		exits: "something is not as the policy says", run: (*call).probe,
	}
}

func (k *call) probe() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	p, err := k.env.Probe(ctx, k.opts.live.platform, k.opts.from, k.opts.to)
	if err != nil {
		return Incomplete, err
	}
	k.bar.clear()
	switch k.opts.format {
	case "json":
		err = json.Document(k.out, json.ProbeSchema, p)
	case "junit":
		err = junit.Probe(k.out, p)
	default:
		err = text.Probe(k.out, p, k.text())
	}
	return probeCode(p), err
}

// probeCode is the exit code of a probe. One that could try nothing is not clean.
func probeCode(p *report.Probe) int {
	if p.Clean {
		return Clean
	}
	for _, c := range p.Counts {
		if c.Surprises > 0 || c.Broken > 0 {
			return Findings
		}
	}
	return Incomplete
}
