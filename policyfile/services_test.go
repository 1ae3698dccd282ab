package policyfile

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/core/policy"
	"bulkhead/core/source"
)

func TestServicesAreSound(t *testing.T) {
	all := Services()
	if len(all) < 90 || !slices.IsSortedFunc(all, func(a, b PrivateService) int { return strings.Compare(a.Name, b.Name) }) {
		t.Fatalf("%d services", len(all))
	}
	list, ds := readServices(File{servicesName, servicesText})
	if len(ds) > 0 || !slices.IsSortedFunc(list, func(a, b PrivateService) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("the table is not sorted by name: %s", render(ds))
	}
	placeholder := regexp.MustCompile(`\{[^}]*\}?`)
	for _, s := range all {
		provider, _, _ := strings.Cut(s.Name, "/")
		for _, h := range append(append(slices.Clone(s.Hosts), s.Zones...), s.Endpoint) {
			if p := placeholder.FindString(h); p != "" && p != "{region}" {
				t.Errorf("%s: %s has the placeholder %s", s.Name, h, p)
			}
		}
		if len(slices.Compact(slices.Clone(s.Hosts))) != len(s.Hosts) || !slices.IsSorted(s.Hosts) {
			t.Errorf("%s: hosts are not sorted: %v", s.Name, s.Hosts)
		}
		if strings.HasPrefix(s.Endpoint, "com.amazonaws.") != (provider == "aws" && s.Endpoint != "" && !strings.HasPrefix(s.Endpoint, "aws.")) {
			t.Errorf("%s: endpoint %s", s.Name, s.Endpoint)
		}
		for _, z := range s.Zones {
			if provider != "azure" || !strings.HasPrefix(z, "privatelink.") {
				t.Errorf("%s: zone %s", s.Name, z)
			}
		}
		if !strings.HasPrefix(s.Source, "https://") || s.Date.After(time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: source %s, date %s", s.Name, s.Source, s.Date)
		}
	}
	if s, ok := ServiceByName("aws/bedrock-runtime"); !ok || s.Policies != PoliciesSupported || s.Endpoint != "com.amazonaws.{region}.bedrock-runtime" {
		t.Errorf("bedrock-runtime: %+v", s)
	}
	if _, ok := ServiceByName("aws/nothing"); ok {
		t.Error("there is no such service")
	}
}

// TestPrivateServicesExist: whatever a destination names as its private way is in
// the table, and the private way leads to some host of a destination or says by
// its name that it does not.
func TestPrivateServicesExist(t *testing.T) {
	used := map[string]bool{}
	for _, d := range Catalogue() {
		for _, p := range d.Private {
			used[p.Value] = true
			if _, ok := ServiceByName(p.Value); !ok {
				t.Errorf("destination %s: there is no service %s", d.Name.Value, p.Value)
			}
		}
	}
	if len(used) < 30 {
		t.Errorf("only %d services are used", len(used))
	}
}

// TestCatalogueCoversTheServices: where a public host of a service is a host of a
// destination, the destination says that it can be replaced.
func TestCatalogueCoversTheServices(t *testing.T) {
	for _, s := range Services() {
		for _, d := range Catalogue() {
			for _, h := range d.Hosts {
				if !slices.Contains(s.Hosts, h.Value) || d.Private == nil {
					continue
				}
				if !slices.ContainsFunc(d.Private, func(p policy.Text) bool {
					o, _ := ServiceByName(p.Value)
					return p.Value == s.Name || slices.Contains(o.Hosts, h.Value)
				}) {
					t.Errorf("destination %s has %s of %s and does not name it as private", d.Name.Value, h.Value, s.Name)
				}
			}
		}
	}
}

const withEndpoints = `version: 1
zones: {serving: {role: serving}}
workloads:
  llm: {zone: serving, serves: {api: http/80}}
  azure: {zone: serving, serves: {redis: redis/6379}}
endpoints:
  filled: {service: aws/bedrock-runtime, region: eu-west-1, consumers: llm}
  own: {service: azure/openai, consumers: llm}
  partly: {service: gcp/aiplatform, hosts: mine.example.com, consumers: llm}
  ported: {service: aws/s3, ports: 8443, protocol: s3, consumers: llm}
`

func TestEndpointsGetTheHostsOfTheirService(t *testing.T) {
	p, ds := Parse([]File{{"p.yaml", []byte(strings.Replace(withEndpoints, "azure/openai", "azure/redis", 1))}})
	if p == nil {
		t.Fatal(render(ds))
	}
	e := p.Endpoints[0]
	if len(e.Hosts) != 1 || e.Hosts[0].Value != "bedrock-runtime.{region}.amazonaws.com" || e.Hosts[0].Pos != (source.Pos{File: "p.yaml", Line: 7, Col: 21}) {
		t.Errorf("hosts: %+v", e.Hosts)
	}
	if len(e.Ports) != 1 || e.Ports[0].Value != "443" || e.Protocol.Value != "https" {
		t.Errorf("ports %+v, protocol %+v", e.Ports, e.Protocol)
	}
	if own := p.Endpoints[1]; len(own.Hosts) > 0 || own.Protocol.Value != "" {
		t.Errorf("a workload with the name of a provider is a workload: %+v", own)
	}
	if x := p.Endpoints[2]; len(x.Hosts) != 1 || x.Hosts[0].Value != "mine.example.com" || x.Ports[0].Value != "443" {
		t.Errorf("hosts that are given are kept: %+v", x.Hosts)
	}
	if x := p.Endpoints[3]; len(x.Hosts) != 2 || x.Ports[0].Value != "8443" || x.Protocol.Value != "s3" {
		t.Errorf("ports and protocol that are given are kept: %+v", x)
	}
	// What is filled in is no part of the text.
	text, err := Marshal(Draft{Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "amazonaws") || strings.Contains(string(text), "443]") {
		t.Errorf("written as\n%s", text)
	}
	again, ds := Parse([]File{{"p.yaml", text}})
	if again == nil {
		t.Fatal(render(ds))
	}
	if at, same := equal(reflect.ValueOf(p), reflect.ValueOf(again), "policy"); !same {
		t.Errorf("%s differs\n%s", at, text)
	}
}

// TestEveryServiceResolves: each of them can be used as it is, with a region.
func TestEveryServiceResolves(t *testing.T) {
	for _, s := range Services() {
		text := "version: 1\nzones: {z: {role: custom}}\nworkloads: {w: {zone: z}}\nendpoints:\n  e: {service: " + s.Name +
			", region: eu-west-1, consumers: w, because: x, owner: y}\n"
		p, ds := Parse([]File{{"p.yaml", []byte(text)}})
		if p == nil {
			t.Fatalf("%s: %s", s.Name, render(ds))
		}
		in, ds := policy.Resolve(p, time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC))
		if len(ds) > 0 || len(in.Permissions) != 1 || len(in.Permissions[0].Names) != len(s.Hosts) || in.Permissions[0].Traffic.IsEmpty() {
			t.Errorf("%s: %+v\n%s", s.Name, in.Permissions, render(ds))
		}
	}
}

// FuzzServices checks that no table makes the reader panic.
func FuzzServices(f *testing.F) {
	f.Add([]byte("version: 1\nservices:\n  aws/x: {title: X, kinds: interface, hosts: x.example.com, protocol: https, ports: 443, source: s}\n"))
	f.Add([]byte("version: 1\nservices: {aws/x: {kinds: [], ports: [0, x], zones: 5}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, ds := readServices(File{"s.yaml", text})
		for _, s := range list {
			if !ds.HasErrors() && (s.Name == "" || len(s.Hosts) == 0 || len(s.Ports) == 0) {
				t.Errorf("%+v", s)
			}
		}
	})
}

// FuzzProxyURL checks that a proxy that is accepted is a host and a port, with
// nothing else in it.
func FuzzProxyURL(f *testing.F) {
	for _, s := range []string{"http://a:1", "http://[::1]:3128", "http://10.0.0.1:80", "http://a@b:1", "http://a:1/", "http://a.b:99999", "http://:1"} {
		f.Add(s)
	}
	plain := regexp.MustCompile(`^http://([a-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$`)
	f.Fuzz(func(t *testing.T, text string) {
		if checkProxyURL(text) == nil && !plain.MatchString(text) {
			t.Errorf("accepted %q", text)
		}
	})
}
