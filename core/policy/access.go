package policy

import (
	"bulkhead/core/netset"
	"bulkhead/core/source"
)

// The operations that access words mean, by the form of the requests. They are
// methods of RFC 9110; S3 maps its operations to them (reads are GET and HEAD,
// writes PUT, POST and DELETE).
var operations = map[RequestForm]map[string][]string{
	HTTP: {Read: {"GET", "HEAD", "OPTIONS"}, Write: {"POST", "PUT", "PATCH", "DELETE"}},
	S3:   {Read: {"GET", "HEAD"}, Write: {"PUT", "POST", "DELETE"}},
}

// access is what a `may` comes to at one service.
type access struct {
	requests netset.Requests
	byApp    bool
}

// resolveAccess turns the access words and request patterns of a permission
// into the requests of a service that speaks proto. read and write are the
// service's own operations, for protocols that define none.
func resolveAccess(may []Text, proto Protocol, svc *Service, enforcedBy Text, ds *source.Diagnostics) access {
	if len(may) == 0 {
		return access{requests: netset.AnyRequest()}
	}
	if enforcedBy.Value == EnforcedByApplication {
		return access{requests: netset.AnyRequest(), byApp: true}
	}
	var parts []netset.Requests
	for _, word := range may {
		r, ok := resolveWord(word, proto, svc, ds)
		if ok {
			parts = append(parts, r)
		}
	}
	all, err := netset.UnionOfRequests(parts)
	if err != nil {
		ds.Errorf("too-complex", may[0].Pos, "the request patterns are too many to combine: %v", err).
			WithFix("split the flow or use a prefix such as /v1/**")
	}
	return access{requests: all}
}

func resolveWord(word Text, proto Protocol, svc *Service, ds *source.Diagnostics) (netset.Requests, bool) {
	at := proto.Name
	if svc != nil && svc.Name.Value != "" {
		at = "service " + svc.Name.Value + " (" + proto.Name + ")"
	}
	switch word.Value {
	case Connect:
		return netset.AnyRequest(), true
	case Call:
		switch proto.Requests {
		case HTTP, S3:
			return netset.AnyRequest(), true
		case GRPC:
			return methods("POST"), true
		}
		ds.Errorf("access-opaque", word.Pos, "call has no meaning at %s: nothing on the way can tell its requests apart", at).
			WithFix("write may: connect")
		return netset.Requests{}, false
	case Read, Write:
		if ops := operations[proto.Requests][word.Value]; ops != nil {
			return methods(ops...), true
		}
		if proto.Requests == GRPC {
			return listedOperations(word, svc, at, ds)
		}
		ds.Errorf("access-opaque", word.Pos, "%s has no meaning at %s: no layer can tell reading from writing there", word.Value, at).
			WithFix("write may: connect, or add enforcedBy: application if the application itself tells them apart")
		return netset.Requests{}, false
	}
	if proto.Requests == Opaque {
		ds.Errorf("access-opaque", word.Pos, "request pattern %q has no meaning at %s: no layer sees requests there", word.Value, at).
			WithFix("write may: connect, or give the service a protocol with requests (http, grpc, s3)")
		return netset.Requests{}, false
	}
	r, err := netset.ParseRequests(word.Value)
	if err != nil {
		ds.Errorf("access", word.Pos, "%q is neither an access word nor a request pattern: %v", word.Value, err).
			WithFix("write connect, read, write, call, or a pattern such as GET /features/*")
		return netset.Requests{}, false
	}
	return r, true
}

func listedOperations(word Text, svc *Service, at string, ds *source.Diagnostics) (netset.Requests, bool) {
	var list []Text
	if svc != nil {
		list = svc.Read
		if word.Value == Write {
			list = svc.Write
		}
	}
	if len(list) == 0 {
		d := ds.Errorf("access-unlisted", word.Pos, "%s is not defined at %s: gRPC does not say which methods %s", word.Value, at, word.Value).
			WithFix("list them at the service: %s: [POST /package.Service/Method]", word.Value)
		if svc != nil {
			d.WithNote(svc.Name.Pos, "the service is declared here")
		}
		return netset.Requests{}, false
	}
	var out netset.Requests
	for _, t := range list {
		r, err := netset.ParseRequests(t.Value)
		if err != nil {
			ds.Errorf("access", t.Pos, "%q is not a request pattern: %v", t.Value, err).
				WithFix("write POST /package.Service/Method")
			continue
		}
		out = out.Union(r)
	}
	return out, true
}

func methods(names ...string) netset.Requests {
	return netset.RequestsOf(netset.Pattern{Methods: names, Hosts: netset.AnyString(), Paths: netset.AnyString()})
}

// traffic returns the traffic of a service, limited to some requests.
func (s *Service) traffic(a access) netset.Traffic {
	proto, ok := ProtocolByName(s.Protocol.Value)
	if !ok {
		return netset.Traffic{}
	}
	var t netset.Traffic
	for _, transport := range proto.Transports {
		t = t.Union(netset.Ports(transport, s.Lo, s.Hi))
	}
	return t.Limit(a.requests)
}

// Traffic returns all traffic of a service.
func (s *Service) Traffic() netset.Traffic { return s.traffic(access{requests: netset.AnyRequest()}) }

// CanWrite reports whether p lets its sources change what it reaches: whether
// it holds anything beyond the read operations of the service. Where nothing
// on the way tells reading from writing, it does, unless the access is left to
// the application.
func (p *Permission) CanWrite() bool {
	if p.ByApplication || p.Traffic.IsEmpty() {
		return false
	}
	return !p.Traffic.SubsetOf(p.operations(Read))
}

// CanRead reports whether p lets its sources read what it reaches, as far as
// the service's protocol tells reading from writing.
func (p *Permission) CanRead() bool {
	return !p.ByApplication && p.Traffic.Overlaps(p.operations(Read))
}

// operations returns the traffic of p's service that an access word means,
// nothing where the protocol does not tell.
func (p *Permission) operations(word string) netset.Traffic {
	form := HTTP
	svc := &Service{Protocol: Text{Value: "https"}, Lo: 1, Hi: 65535}
	if p.Service != nil {
		svc = p.Service
		proto, _ := ProtocolByName(svc.Protocol.Value)
		form = proto.Requests
	}
	var ds source.Diagnostics
	proto, _ := ProtocolByName(svc.Protocol.Value)
	switch form {
	case Opaque:
		return netset.Traffic{}
	case GRPC:
		r, _ := listedOperations(Text{Value: word}, svc, "", &ds)
		return svc.traffic(access{requests: r})
	}
	a := resolveAccess([]Text{{Value: word}}, proto, svc, Text{}, &ds)
	return svc.traffic(a)
}
