package policyfile

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

// PrivateService is a service of a provider that a private endpoint can lead to.
// Its public counterpart is each destination that names it as Private.
type PrivateService struct {
	Name  string // PROVIDER/SERVICE
	Title string
	// Kinds are the kinds of endpoint that lead to it: words of [EndpointKinds].
	Kinds []string
	// Endpoint is the name of the endpoint service, with {region}; empty where it
	// is not the same for everybody.
	Endpoint string
	// Group and Zones are the sub-resource and the private DNS zones on Azure.
	Group string
	Zones []string
	// Hosts are the names that consumers use, with {region}; `*.` stands for any
	// names below.
	Hosts []string
	// Policies is PoliciesSupported or PoliciesUnsupported, empty if it is not known
	// whether the endpoint takes a policy.
	Policies string
	Protocol string // as that of a service
	Ports    []uint16
	Note     string
	Source   string
	// Date is when Endpoint and Zones were compared with the source, zero if they
	// were not.
	Date time.Time
}

// The kinds of endpoint.
const (
	InterfaceEndpoint   = "interface"
	GatewayEndpoint     = "gateway"
	PSCEndpoint         = "psc"
	PrivateLinkEndpoint = "privatelink"
)

// EndpointKinds lists them.
var EndpointKinds = []string{InterfaceEndpoint, GatewayEndpoint, PSCEndpoint, PrivateLinkEndpoint}

// What [PrivateService.Policies] says.
const (
	PoliciesSupported   = "supported"
	PoliciesUnsupported = "unsupported"
)

//go:embed catalogue/services.yaml
var servicesText []byte

// servicesName is the file that errors in the table show.
const servicesName = "services.yaml"

// servicesLanguage is the form of the table.
var servicesLanguage = &shape{
	doc: "Services of providers that a private endpoint can lead to.",
	record: fixed(
		required("version", "The version of the form; always 1.", one(versionNumber)),
		namedSection("services", "The services, as PROVIDER/SERVICE.", "service", reference,
			required("title", "What it is called.", one(prose)),
			required("kinds", "The kinds of endpoint.", oneOrMore(wordsOf("endpointKind", "a kind", EndpointKinds))),
			optional("endpoint", "The name of the endpoint service.", one(prose)),
			optional("group", "The sub-resource, on Azure.", one(word)),
			optional("zones", "The private DNS zones, on Azure.", oneOrMore(hostPattern)),
			required("hosts", "The names that consumers use.", oneOrMore(hostPattern)),
			optional("policies", "Whether the endpoint takes a policy.",
				one(wordsOf("policies", "a word", []string{PoliciesSupported, PoliciesUnsupported}))),
			required("protocol", "What it speaks.", one(protocol)),
			required("ports", "Its ports.", oneOrMore(port)),
			optional("note", "What to know before relying on it.", one(prose)),
			required("source", "Where the names were read.", one(prose)),
			optional("date", "When that was compared.", one(date)),
		),
	),
}

var serviceTable = sync.OnceValue(func() map[string]*PrivateService {
	list, ds := readServices(File{Name: servicesName, Text: servicesText})
	if ds.HasErrors() {
		panic("policyfile: the built-in table of services is broken:\n" + ds.Error()) // a test reads it
	}
	byName := make(map[string]*PrivateService, len(list))
	for i := range list {
		byName[list[i].Name] = &list[i]
	}
	return byName
})

// Services returns the services of providers that a private endpoint can lead to,
// by name. The slice is the caller's; what the services hold is shared and must
// not be changed.
func Services() []PrivateService {
	all := serviceTable()
	out := make([]PrivateService, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[name])
	}
	return out
}

// ServiceByName returns the service of that name, such as aws/bedrock-runtime.
func ServiceByName(name string) (PrivateService, bool) {
	s, ok := serviceTable()[name]
	if !ok {
		return PrivateService{}, false
	}
	return *s, true
}

func readServices(f File) ([]PrivateService, source.Diagnostics) {
	c := newChecker()
	root, ok := c.document(f, servicesLanguage, "the table")
	if !ok {
		return nil, c.ds.done()
	}
	var out []PrivateService
	for k, v := range root.Get("services").Entries() {
		s := PrivateService{Name: text(k).Value, Title: proseText(v.Get("title")).Value, Kinds: values(v.Get("kinds")),
			Endpoint: text(v.Get("endpoint")).Value, Group: text(v.Get("group")).Value, Zones: values(v.Get("zones")),
			Hosts: values(v.Get("hosts")), Policies: text(v.Get("policies")).Value, Protocol: text(v.Get("protocol")).Value,
			Note: proseText(v.Get("note")).Value, Source: proseText(v.Get("source")).Value, Date: day(v.Get("date")).Time}
		for _, p := range values(v.Get("ports")) {
			n, _ := parsePort(p)
			s.Ports = append(s.Ports, n)
		}
		out = append(out, s)
	}
	return out, c.ds.done()
}

func values(v yamldoc.Value) []string {
	var out []string
	for _, t := range texts(v) {
		out = append(out, t.Value)
	}
	return out
}

// fillEndpoints gives each endpoint to a provider's service the hosts, ports and
// protocol that it leaves out. They have the position of the service, by which
// [ownEndpoints] knows them again.
func fillEndpoints(p *policy.Policy, ds *bounded) {
	workloads := make(map[string]bool, len(p.Workloads))
	for i := range p.Workloads {
		workloads[p.Workloads[i].Name.Value] = true
	}
	for i := range p.Endpoints {
		e := &p.Endpoints[i]
		provider, _, ok := strings.Cut(e.Service.Value, "/")
		if !ok || workloads[provider] {
			continue
		}
		if s := serviceTable()[e.Service.Value]; s != nil {
			s.fill(e)
		} else if len(e.Hosts) == 0 {
			ds.errorf(ruleService, e.Service.Pos, serviceFix(p, e.Service.Value),
				"endpoint %s: %s is neither a service of a workload nor a known one of a provider", unquoted(e.Name.Value),
				quoted(e.Service.Value))
		}
	}
}

func serviceFix(p *policy.Policy, wrong string) string {
	known := slices.Collect(maps.Keys(serviceTable()))
	for i := range p.Workloads {
		for _, s := range p.Workloads[i].Serves {
			known = append(known, p.Workloads[i].Name.Value+"/"+s.Name.Value)
		}
	}
	slices.Sort(known) // of two that are as near, the same one each time
	fix := "add hosts: NAME, the names that its consumers use"
	if near := source.Nearest(wrong, known); near != "" {
		fix = fmt.Sprintf("write %s? Otherwise %s", near, fix)
	}
	return fix
}

func (s *PrivateService) fill(e *policy.Endpoint) {
	at := func(value string) policy.Text { return policy.Text{Value: value, Pos: e.Service.Pos} }
	if len(e.Hosts) == 0 {
		for _, h := range s.Hosts {
			e.Hosts = append(e.Hosts, at(h))
		}
	}
	if len(e.Ports) == 0 {
		for _, n := range s.Ports {
			e.Ports = append(e.Ports, at(strconv.Itoa(int(n))))
		}
	}
	if e.Protocol.Value == "" {
		e.Protocol = at(s.Protocol)
	}
}

// ownEndpoints returns the endpoints as the text has them, without what was
// filled in.
func ownEndpoints(p *policy.Policy) []policy.Endpoint {
	own := slices.Clone(p.Endpoints)
	for i := range own {
		e := &own[i]
		filled := func(t policy.Text) bool { return t.Pos.IsValid() && t.Pos == e.Service.Pos }
		if len(e.Hosts) > 0 && filled(e.Hosts[0]) {
			e.Hosts = nil
		}
		if len(e.Ports) > 0 && filled(e.Ports[0]) {
			e.Ports = nil
		}
		if filled(e.Protocol) {
			e.Protocol = policy.Text{}
		}
	}
	return own
}
