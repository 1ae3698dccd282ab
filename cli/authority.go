package cli

import (
	"fmt"
	"time"

	"bulkhead/render/json"
	"bulkhead/render/text"
)

func authorityVerb() *verb {
	return &verb{
		name: "authority", args: "[status|prepare|activate|retire|bundle]",
		short: "show the certificate authority, and replace its root",
		long: `The intermediate, the keys of tokens and the certificates of workloads are
replaced by themselves. The root is replaced in three steps, none of which ends a
connection: prepare publishes a new one, activate signs with it once everybody
knows it (five minutes later), retire forgets the old one once what it signed has
expired (an hour later). A step that comes too early is refused.

bundle prints the trust bundle, which another trust domain needs to federate with
this one. It runs where control runs.`,
		examples: []example{
			{"bulkhead authority", "roots and intermediate, and which step can be done when"},
			{"bulkhead authority prepare", "the first step to a new root"},
			{"bulkhead authority --format json | jq '.roots[].until'", "for monitoring"},
			{"bulkhead authority bundle > bundle.json", "for the other side: up --federate TRUSTDOMAIN=URL,SPIFFE-ID,bundle.json"},
		},
		formats: []string{"text", "json"}, flags: []flagAdder{platformFlag}, max: 1, run: (*call).authority,
	}
}

func (k *call) authority() (int, error) {
	ctx, stop := interruptible()
	defer stop()
	step := ""
	if len(k.args) == 1 && k.args[0] != "status" {
		step = k.args[0]
	}
	if step == "bundle" {
		bundle, err := k.env.TrustBundle(ctx, k.opts.live.platform)
		if err != nil {
			return Incomplete, err
		}
		_, err = fmt.Fprintf(k.out, "%s\n", bundle)
		return Clean, err
	}
	a, err := k.env.Authority(ctx, k.opts.live.platform, step)
	if err != nil {
		return Incomplete, err
	}
	if k.opts.format == "json" {
		return Clean, json.Document(k.out, json.AuthoritySchema, a)
	}
	return Clean, text.Authority(k.out, a, time.Now(), k.text())
}
