package policyfile

import "slices"

// language is the policy language: the sections and keys in the order in which
// they are written. Everything else in this package follows it.
var language = &shape{
	doc: "A bulkhead policy: which workload may talk to which, how, why and for how long. " +
		"What is not declared is denied.",
	record: &record{keys: slices.Concat(headKeys, estateKeys, flowKeys, outsideKeys, assuranceKeys)},
}

var headKeys = []key{
	required("version", "The version of the language; always 1.", one(versionNumber)),
	optional("platform", "The name of everything that this policy describes.", one(name)),
	optional("trustDomain", "The SPIFFE trust domain of the workloads' identities.", one(trustDomain)),
}

var estateKeys = []key{
	namedSection("zones", "The compartments of the platform.", "zone", name,
		required("role", "What the zone is for. The built-in invariants speak of roles.", one(role)),
		optional("in", "The zone that this one is part of.", one(name)),
	),
	namedSection("workloads", "What runs: each has one identity and runs in one zone.", "workload", workloadName,
		required("zone", "The zone that the workload runs in.", one(name)),
		optional("serves", "The named ports that it serves.", &shape{named: &named{name: name, item: service}}),
		optional("at", "Where it is found, by target. The fields belong to the target.",
			&shape{named: &named{name: name, item: binding}}),
	),
}

// service is `http/8080`, or a map where the operations must be listed.
var service = &shape{
	noun:   "service",
	doc:    "A served port: PROTOCOL/PORT, or a map where the protocol does not say which requests read and which write.",
	scalar: protocolPort,
	record: fixed(
		required("protocol", "What the service speaks.", one(protocol)),
		required("port", "Its port, or a range of ports.", one(portRange)),
		optional("read", "The requests that read.", oneOrMore(request)),
		optional("write", "The requests that write.", oneOrMore(request)),
	),
}

// binding is one place on a target, or several. Its fields are free: scalars,
// lists of scalars and maps of scalars.
var binding = &shape{noun: "binding", named: place.named, list: place, mayBeEmpty: true,
	doc: "Where the workload is found on this target; a list where it is found in several places."}

var place = &shape{noun: "binding", mayBeEmpty: true, named: &named{name: fieldName, item: &shape{
	scalar: fieldValue,
	list:   one(fieldValue),
	named:  &named{name: fieldName, item: one(fieldValue)},
}}}

const evidenceDoc = "Keeps it open in a quarantine that keeps evidence."

var flowKeys = []key{
	section("flows", "Permissions between workloads.", "flow", permission(
		required("from", "Who may talk.", oneOrMore(party)),
		required("to", "Whom it may talk to.", oneOrMore(served)),
		optional("may", "What it may do: connect, read, write, call, or requests. Without it: connect.",
			oneOrMore(access)),
		optional("enforcedBy", "Accepts that no layer can tell the access apart.", one(enforcer)),
		optional("plaintext", "Exempts the flow from the mesh: no mutual TLS, and only addresses and ports are enforced. "+
			"For collectives and rendezvous; it needs `because` and `owner`.", one(boolean)),
		optional("rate", "The most bytes per second that each workload in `from` may exchange with a service: all its "+
			"connections and both directions together.", one(rate)),
		optional("evidence", evidenceDoc, one(boolean)),
	)...),
	{name: "dns", doc: "Name resolution: every workload, or those in `from`, may ask `to`.",
		shape: noun("dns", shortOr(resolver, permission(
			required("to", "The resolver: one that a target knows, or WORKLOAD/SERVICE.", one(resolver)),
			optional("from", "Who may ask; all by default.", oneOrMore(party)),
		)...))},
	{name: "telemetry", doc: "Metrics, traces and logs: every workload, or those in `from`, may send to `to`.",
		shape: noun("telemetry", shortOr(served, permission(
			required("to", "The service that collects.", one(served)),
			optional("from", "Who may send; all by default.", oneOrMore(party)),
			optional("evidence", evidenceDoc, one(boolean)),
		)...))},
}

var outsideKeys = []key{
	section("egress", "Permissions to reach destinations outside.", "egress", permission(
		required("from", "Who may go out.", oneOrMore(party)),
		required("to", "The destinations: names of the catalogue or of `destinations`, host names, or CIDRs.",
			oneOrMore(outside)),
		optional("ports", "The ports; by default those of the destination, or 443.", oneOrMore(port)),
		optional("region", "Stands for {region} in the hosts of a destination.", one(name)),
		optional("may", "What it may do: connect, read, write, call, or requests. Without it: connect.",
			oneOrMore(access)),
		optional("enforcedBy", "Accepts that nobody on the way reads the access.", one(enforcer)),
		optional("inspect", "Lets the gateway end TLS, with a certificate of its own, so that it reads the requests.",
			one(boolean)),
		optional("accept", "What may be said besides TLS with the destination's own name: TLS without a server name, "+
			"TLS with an encrypted client hello, what is neither TLS nor HTTP.", oneOrMore(acceptance)),
		budget,
	)...),
	{name: "gateway", doc: "How egress goes out, and the service through which all of it does.",
		shape: withOneOf(noun("gateway", shortOr(reference, permission(
			optional("through", "The service through which all egress goes: WORKLOAD/SERVICE.", one(reference)),
			optional("mode", "What becomes of what no permission holds: enforce refuses it (the default), report lets it "+
				"pass and marks it, observe lets it pass. The last two need because, owner and until.", one(gatewayMode)),
			optional("for", "The sources that the mode is for; all by default.", oneOrMore(party)),
			optional("aliases", "Whether a name may be an alias of one that no permission names: follow (the default) "+
				"or refuse.", one(aliases)),
			optional("withoutLog", "What becomes of requests that cannot be recorded: stop refuses them (the default), "+
				"drop lets them pass and counts them.", one(withoutLog)),
			optional("upstream", "The proxy through which the gateway itself goes out.", one(proxyURL)),
		)...)), "through", "mode", "aliases", "withoutLog", "upstream")},
	namedSection("destinations", "Named places outside. One with the name of a built-in destination replaces it.",
		"destination", name,
		optional("title", "What it is called.", one(prose)),
		optional("category", "What kind of place it is.", one(word)),
		optional("owner", "Who answers for it.", one(prose)),
		required("hosts", "Its host names; `*.` stands for any names below, {region} for the region of the egress.",
			oneOrMore(hostPattern)),
		optional("addresses", "Special-purpose addresses (private, loopback and such) that its hosts may have: CIDRs. "+
			"Without them only public ones are believed.", oneOrMore(address)),
		optional("ports", "Its ports; 443 by default.", oneOrMore(port)),
		optional("multiTenant", "Says that anybody can have an account there, so that reaching it allows "+
			"exfiltration.", one(boolean)),
		optional("private", "The private services that can replace it.", oneOrMore(word)),
		optional("risk", "What can go wrong.", one(prose)),
		optional("source", "Where the host names are documented.", one(prose)),
		optional("date", "When that was last read.", one(date)),
	),
	itemsOneOf(namedSection("endpoints", "Private ways to services; each exists only for its consumers.", "endpoint", name,
		permission(
			optional("service", "What it leads to: PROVIDER/SERVICE such as aws/bedrock-runtime, or WORKLOAD/SERVICE.",
				one(reference)),
			optional("hosts", "The names that its consumers use; by default those of the provider's service.",
				oneOrMore(hostPattern)),
			optional("region", "The region of the provider.", one(name)),
			optional("address", "The address or CIDR of the endpoint, if known.", one(address)),
			optional("ports", "Its ports; by default those of the provider's service, or 443.", oneOrMore(port)),
			optional("protocol", "What it speaks; by default what the provider's service does, or https.", one(protocol)),
			required("consumers", "Who may use it.", oneOrMore(party)),
			optional("may", "What they may do: connect, read, write, call, or requests. Without it: connect.",
				oneOrMore(access)),
			optional("enforcedBy", "Accepts that nobody on the way reads the access.", one(enforcer)),
			optional("inspect", "Lets the endpoint end TLS, with a certificate of its own, so that it reads the requests.",
				one(boolean)),
			budget,
			optional("accepted", "That the owner of what it leads to agreed. An endpoint to a service of the platform "+
				"permits nothing before.", &shape{noun: "acceptance", record: fixed(
				required("by", "Who agreed.", one(prose)),
				required("on", "When.", one(date)),
			)}),
		)...), "service", "hosts"),
	section("exposures", "Permissions for something outside to reach a service.", "exposure", permission(
		required("to", "What may be reached.", oneOrMore(served)),
		required("from", "From where: internet, hosts, control-plane, or CIDRs.", oneOrMore(origin)),
		optional("may", "What may be done: connect, read, write, call, or requests. Without it: connect.",
			oneOrMore(access)),
	)...),
}

var budget = optional("budget", "How much each workload may use of each destination.",
	withOneOf(&shape{noun: "budget", record: fixed(
		optional("bytes", "Both directions together in any such time.", one(byteBudget)),
		optional("requests", "In any such time; a tunnel is one.", one(countBudget)),
		optional("concurrent", "How many may be open at once.", one(concurrent)),
	)}, "bytes", "requests", "concurrent"))

var assuranceKeys = []key{
	section("threats", "What the policy answers.", "threat",
		required("id", "A short name to cite it by.", one(identifier)),
		optional("technique", "The technique in MITRE ATLAS or ATT&CK.", one(identifier)),
		optional("says", "The threat in a sentence.", one(prose)),
		optional("controls", "The controls that answer it.", oneOrMore(word)),
		optional("owner", "Who answers for it.", one(prose)),
		optional("status", "Where it stands.", one(status)),
	),
	section("invariants", "Rules that no permission may break: `from` never reaches `to`.", "invariant",
		required("id", "A short name to cite it by.", one(identifier)),
		optional("says", "The rule in a sentence.", one(prose)),
		required("from", "Who.", oneOrMore(party)),
		required("to", "Never reaches whom; `internet` stands for everything outside.", oneOrMore(party)),
		optional("transitive", "Says that it holds over chains of permissions too.", one(boolean)),
		optional("owner", "Who answers for it.", one(prose)),
	),
	section("relaxations", "Accepted exceptions from invariants.", "relaxation", permission(
		required("invariant", "The id of the invariant.", one(identifier)),
		optional("for", "The workloads or zones that it is relaxed for; all by default.", oneOrMore(party)),
	)...),
	itemsOneOf(section("tests", "What must be allowed and what denied.", "test",
		required("from", "Who; `internet` stands for everything outside.", one(party)),
		required("to", "Whom: a workload, service, zone, destination or host name, or `internet`.", one(testTarget)),
		optional("allow", "What must be allowed: requests, connect, or any.", oneOrMore(operation)),
		optional("deny", "What must be denied: requests, connect, or any.", oneOrMore(operation)),
	), "allow", "deny"),
}

// permission puts the justification behind the keys of a permission.
func permission(keys ...key) []key {
	return append(keys,
		optional("because", "Why: a reason that a stranger understands, with a ticket.", one(prose)),
		optional("owner", "Who answers for it.", one(prose)),
		optional("until", "The last day, UTC, on which it holds.", one(date)),
	)
}

func noun(n string, s *shape) *shape {
	s.noun = n
	return s
}

// withOneOf demands that at least one of some keys of a record is there.
func withOneOf(s *shape, names ...string) *shape {
	s.record.oneOf = names
	return s
}

// itemsOneOf demands it of each item of a section.
func itemsOneOf(k key, names ...string) key {
	if k.shape.list != nil {
		withOneOf(k.shape.list, names...)
	} else {
		withOneOf(k.shape.named.item, names...)
	}
	return k
}
