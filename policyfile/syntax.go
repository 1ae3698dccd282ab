package policyfile

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"bulkhead/core/netset"
	"bulkhead/core/policy"
)

// A syntax is a kind of scalar. The schema knows it by name and checks kind,
// words and pattern; check is exact and is what decides.
type syntax struct {
	name    string
	doc     string
	wants   string // "a date such as 2027-06-30"
	plural  string // "dates"
	kind    scalarKind
	words   []string // all values, or those beside pattern
	most    int      // of a number
	pattern string
	format  string // JSON Schema format, if it has one
	check   func(text string) *fault
	// prose is text for people: white space in it is not significant.
	prose bool
}

// A scalarKind says which scalars of YAML are meant. Being strict here keeps
// `owner: 0123` and `because: yes` from meaning different things to different
// readers of YAML.
type scalarKind uint8

const (
	textual scalarKind = iota
	number
	truth
	numberOrText
	anyScalar
)

// A fault is what is wrong with the text of a scalar.
type fault struct{ rule, says, fix string }

func wrong(rule, fix, format string, args ...any) *fault {
	return &fault{rule: rule, fix: fix, says: fmt.Sprintf(format, args...)}
}

// The limits on the length of texts.
const (
	maxName  = 63
	maxHost  = 253
	maxProse = 4000
	maxField = 1000
	maxKey   = 317 // a Kubernetes label key: prefix of 253, slash, name of 63
)

// The patterns of the schema.
const (
	namePattern = `[a-z0-9]([a-z0-9._-]*[a-z0-9])?`
	portPattern = `[1-9][0-9]{0,4}`
	hostLabels  = `([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)+[a-z0-9]([a-z0-9-]*[a-z0-9])?`
	addrPattern = `[0-9a-f:.]*[:.][0-9a-f:.]*(/[0-9]{1,3})?`
	reqPattern  = `(\*|[A-Z0-9!#$%&'+.^_|~,-]+)( +/[^ ]*)?`
)

var (
	name = &syntax{name: "name", wants: "a name", plural: "names", pattern: "^" + namePattern + "$", check: checkName,
		doc: "Lower-case letters, digits, '.', '_' and '-', beginning and ending with a letter or digit; at most 63."}
	workloadName = &syntax{name: "workloadName", wants: "a name", plural: "names",
		pattern: "^" + namePattern + "$", check: checkWorkloadName,
		doc: "A name other than the words that stand for parties: all, any, zone, internet, hosts, control-plane."}
	identifier = &syntax{name: "identifier", wants: "an identifier such as T1 or AML.T0025", plural: "identifiers",
		pattern: `^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`, check: checkIdentifier,
		doc: "Letters, digits, '.', '_' and '-'; at most 63."}
	word = &syntax{name: "word", wants: "a word", plural: "words",
		pattern: `^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$`, check: checkWord,
		doc: "Letters, digits, '.', '_', '-' and '/'."}
	trustDomain = &syntax{name: "trustDomain", wants: "a trust domain such as ai.acme.internal",
		pattern: `^[a-z0-9._-]{1,255}$`, check: checkTrustDomain,
		doc: "A SPIFFE trust domain: lower-case letters, digits, '.', '_' and '-'; at most 255."}
	party = &syntax{name: "party", wants: "a workload, zone/NAME or all", plural: "parties",
		pattern: "^(zone/)?" + namePattern + "$", check: checkParty,
		doc: "A workload, `zone/NAME` for each workload of a zone, or `all`."}
	served = &syntax{name: "served", wants: "WORKLOAD/SERVICE, a workload or zone/NAME", plural: "services",
		pattern: "^" + namePattern + "(/" + namePattern + ")?$", check: checkServed,
		doc: "`WORKLOAD/SERVICE`, or `WORKLOAD` for each of its services, or `zone/NAME` for each of its workloads."}
	reference = &syntax{name: "reference", wants: "a pair of names such as WORKLOAD/SERVICE", plural: "references",
		pattern: "^" + namePattern + "/" + namePattern + "$", check: checkReference,
		doc: "Two names with a slash between."}
	resolver = &syntax{name: "resolver", wants: "a resolver: kubernetes, openshift or WORKLOAD/SERVICE",
		pattern: "^" + namePattern + "(/" + namePattern + ")?$", check: checkServed,
		doc: "`kubernetes`, `openshift`, or `WORKLOAD/SERVICE`."}
	testTarget = &syntax{name: "testTarget", wants: "a workload, WORKLOAD/SERVICE, zone/NAME, a destination or a host name",
		pattern: "^(" + namePattern + "(/" + namePattern + ")?|(\\*\\.)?" + hostLabels + ")$", check: checkTestTarget,
		doc: "A workload, `WORKLOAD/SERVICE`, `zone/NAME`, a destination, a host name, or `internet`."}
	outside = &syntax{name: "outside", wants: "a destination, a host name or a CIDR", plural: "destinations",
		pattern: "^(" + namePattern + "|(\\*\\.)?" + hostLabels + "|" + addrPattern + ")$", check: checkOutside,
		doc: "The name of a destination, a host name (`*.` stands for any names below), an address, or a CIDR."}
	hostPattern = &syntax{name: "hostPattern", wants: "a host name", plural: "host names",
		pattern: `^(\*\.)?[a-z0-9_{}.-]+$`, check: checkHostPattern,
		doc: "A lower-case host name; `*.` in front stands for any names below, {region} for a region."}
	address = &syntax{name: "address", wants: "an address or CIDR", plural: "CIDRs",
		pattern: "^" + addrPattern + "$", check: checkAddress,
		doc: "An IPv4 or IPv6 address or CIDR with no bits behind its mask."}
	origin = &syntax{name: "origin", wants: "internet, hosts, control-plane or a CIDR", plural: "origins",
		words: origins, pattern: "^" + addrPattern + "$",
		check: checkOrigin, doc: "`internet`, `hosts`, `control-plane`, an address, or a CIDR."}
	access = &syntax{name: "access", wants: "connect, read, write, call or a request such as GET /models/**",
		plural: "requests", words: accesses,
		pattern: "^" + reqPattern + "$", check: checkAccess,
		doc: "`connect`, `read`, `write`, `call`, or a request: methods and a path, such as `GET,HEAD /models/**`."}
	operation = &syntax{name: "operation", wants: "any, connect or a request such as GET /models/7", plural: "requests",
		words: anyOperation, pattern: "^" + reqPattern + "$", check: checkOperation,
		doc: "`any`, `connect`, or a request: methods and a path, such as `GET /models/7`."}
	request = &syntax{name: "request", wants: "a request such as POST /pkg.Service/Method", plural: "requests",
		pattern: "^" + reqPattern + "$", check: checkRequest,
		doc: "Methods and a path, such as `POST /pkg.Service/Method`; `*` is one segment, a last `**` one or more."}
	protocolPort = &syntax{name: "protocolPort", wants: "PROTOCOL/PORT such as http/8080",
		pattern: "^(" + strings.Join(protocolNames(), "|") + ")/" + portPattern + "(-" + portPattern + ")?$",
		check:   checkProtocolPort, doc: "PROTOCOL/PORT such as http/8080, or a range such as tcp/6000-6010."}
	portRange = &syntax{name: "portRange", wants: "a port or a range such as 6000-6010", kind: numberOrText,
		pattern: "^" + portPattern + "-" + portPattern + "$", most: 65535, check: checkPortRange,
		doc: "A port from 1 to 65535, or a range such as 6000-6010."}
	port = &syntax{name: "port", wants: "a port", plural: "ports", kind: number, most: 65535, check: checkPort,
		doc: "A port from 1 to 65535."}
	rate = &syntax{name: "rate", wants: "a rate such as 100MiB/s",
		pattern: "^[1-9][0-9]*(" + strings.Join(policy.RateUnits(), "|") + ")/s$", check: checkRate,
		doc: "Bytes per second: a whole number, one of " + strings.Join(policy.RateUnits(), ", ") + ", and /s."}
	byteBudget = &syntax{name: "byteBudget", wants: "an amount such as 50GiB/day",
		pattern: "^[1-9][0-9]*(" + strings.Join(policy.RateUnits(), "|") + ")/(minute|hour|day|week)$", check: checkByteBudget,
		doc: "Bytes in some time: a whole number, one of " + strings.Join(policy.RateUnits(), ", ") +
			", and /minute, /hour, /day or /week."}
	countBudget = &syntax{name: "countBudget", wants: "a number such as 1000/hour",
		pattern: "^[1-9][0-9]*/(minute|hour|day|week)$", check: checkCountBudget,
		doc: "How many in some time: a whole number and /minute, /hour, /day or /week."}
	concurrent = &syntax{name: "concurrent", wants: "a number such as 32", kind: number, most: policy.MaxConcurrent,
		check: checkConcurrent, doc: "A whole number from 1 on."}
	proxyURL = &syntax{name: "proxyURL", wants: "a proxy such as http://proxy.example.com:3128",
		pattern: `^http://[^/@]+:` + portPattern + `$`, check: checkProxyURL,
		doc: "The address of an HTTP proxy: http://HOST:PORT."}
	date = &syntax{name: "date", wants: "a date such as 2027-06-30", plural: "dates",
		pattern: `^[0-9]{4}-[0-9]{2}-[0-9]{2}$`, format: "date", check: checkDate,
		doc: "A day as YYYY-MM-DD. The permission holds through that day, UTC."}
	prose = &syntax{name: "prose", wants: "a text", plural: "texts", pattern: `\S`, check: checkProse, prose: true,
		doc: "A text for people. White space in it is not significant."}
	fieldName = &syntax{name: "fieldName", wants: "a key", plural: "keys", pattern: `\S`, check: checkFieldName,
		doc: "A key that the target knows."}
	fieldValue = &syntax{name: "fieldValue", wants: "a value", plural: "values", kind: anyScalar, check: checkFieldValue,
		doc: "A text, number or boolean, which the target reads as it is written."}
	boolean       = &syntax{name: "boolean", wants: "true or false", kind: truth, doc: "true or false."}
	versionNumber = &syntax{name: "version", wants: "the number 1", kind: number, words: []string{"1"}, check: checkVersion,
		doc: "The version of the language."}

	role     = wordsOf("role", "a role", roleNames())
	status   = wordsOf("status", "a status", []string{"mitigated", "accepted", "open"})
	enforcer = wordsOf("enforcer", "an enforcer", []string{policy.EnforcedByApplication})
	protocol = wordsOf("protocol", "a protocol", protocolNames())

	acceptance  = wordsOf("acceptance", "something to accept", policy.Accepts)
	gatewayMode = wordsOf("gatewayMode", "a mode", policy.GatewayModes)
	aliases     = wordsOf("aliases", "a rule for aliases", []string{policy.AliasesFollow, policy.AliasesRefuse})
	withoutLog  = wordsOf("withoutLog", "a rule for what cannot be recorded", []string{policy.LogStop, policy.LogDrop})
)

// The words beside which a pattern is accepted.
var (
	origins      = []string{policy.Internet, policy.Hosts, policy.ControlPlane}
	accesses     = []string{policy.Connect, policy.Read, policy.Write, policy.Call}
	anyOperation = []string{"any", policy.Connect}
)

func roleNames() []string {
	names := make([]string, len(policy.Roles))
	for i, r := range policy.Roles {
		names[i] = string(r)
	}
	return names
}

func protocolNames() []string {
	names := make([]string, len(policy.Protocols))
	for i, p := range policy.Protocols {
		names[i] = p.Name
	}
	return names
}

func wordsOf(name, noun string, words []string) *syntax {
	list := strings.Join(words, ", ")
	return &syntax{name: name, wants: noun + ": " + list, words: words, doc: "One of " + list + ".",
		check: func(text string) *fault { return checkWords(text, noun, words) }}
}

func checkWords(text, noun string, words []string) *fault {
	if slices.Contains(words, text) {
		return nil
	}
	return wrong(ruleValue, suggestion(text, words), "%s is not %s", quoted(text), noun)
}

func checkVersion(text string) *fault {
	if text == "1" {
		return nil
	}
	return wrong(ruleValue, "write version: 1", "version %s is not known to this program", quoted(text))
}

func checkRate(text string) *fault {
	if _, err := policy.ParseRate(text); err != nil {
		return wrong(ruleRate, "write a number, a unit and /s without spaces, such as 100MiB/s or 2Gbit/s", "%v", err)
	}
	return nil
}

func checkByteBudget(text string) *fault {
	if _, err := policy.ParseByteBudget(text); err != nil {
		return wrong(ruleBudget, "write a number, a unit and a time without spaces, such as 50GiB/day", "%v", err)
	}
	return nil
}

func checkCountBudget(text string) *fault {
	if _, err := policy.ParseCountBudget(text); err != nil {
		return wrong(ruleBudget, "write a number and a time without spaces, such as 1000/hour", "%v", err)
	}
	return nil
}

func checkConcurrent(text string) *fault {
	if _, err := policy.ParseConcurrent(text); err != nil {
		return wrong(ruleBudget, "write a decimal number without leading zeros, such as 32", "%v", err)
	}
	return nil
}

func checkDate(text string) *fault {
	const fix = "write the last day as YYYY-MM-DD, such as 2027-06-30"
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		if t.Year() < 1970 {
			return wrong(ruleDate, fix, "%s is before 1970", text)
		}
		return nil
	}
	if len(text) == len(time.DateOnly) && strings.Trim(text, "0123456789-") == "" {
		return wrong(ruleDate, fix, "there is no day %s", text)
	}
	return wrong(ruleDate, fix, "%s is not a date", quoted(text))
}

func checkProse(text string) *fault {
	if strings.TrimSpace(text) == "" {
		return wrong(ruleEmpty, "say it in a sentence, or remove the key", "the text is empty")
	}
	return checkText(text, maxProse)
}

func checkFieldValue(text string) *fault { return checkText(text, maxField) }

func checkFieldName(text string) *fault {
	if strings.TrimSpace(text) == "" {
		return wrong(ruleEmpty, "write the name of a field", "the key is empty")
	}
	if len(text) > maxKey { // of bytes, so that it stays a key when it is escaped
		return wrong(ruleTooLong, "shorten it", "the key has %d bytes, more than %d", len(text), maxKey)
	}
	return checkText(text, maxKey)
}

// checkText refuses what does not show. A line break or tab can stand in a
// text for people, so white space that it may be folded at is accepted.
func checkText(text string, limit int) *fault {
	if n := utf8.RuneCountInString(text); n > limit {
		return wrong(ruleTooLong, "shorten it and cite a document", "the text has %d characters, more than %d", n, limit)
	}
	for _, r := range text {
		if r != '\n' && r != '\t' && isHidden(r) {
			return wrong(ruleHidden, "remove it", "the text has the character %U, which does not show", r)
		}
	}
	return nil
}

func checkRequest(text string) *fault {
	if _, err := netset.ParseRequests(text); err != nil {
		return wrong(ruleRequest, "write methods and a path, such as GET /models/7 or GET,HEAD /models/**", "%s", err)
	}
	return nil
}

func checkAccess(text string) *fault {
	return checkWordOrRequest(text, accesses, "an access word or a request")
}

func checkOperation(text string) *fault {
	return checkWordOrRequest(text, anyOperation, "an operation")
}

func checkWordOrRequest(text string, words []string, wants string) *fault {
	if slices.Contains(words, text) {
		return nil
	}
	// Methods are upper case, so what has no upper case and no path was
	// meant to be a word.
	if strings.ToLower(text) == text && !strings.ContainsAny(text, "/* ") {
		fix := suggestion(text, words) + ", or a request such as GET /models/**"
		return wrong(ruleValue, fix, "%s is not %s", quoted(text), wants)
	}
	return checkRequest(text)
}
