package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxAddrs   = 256
	maxChain   = 8
	maxRecords = 512 // of one section
	maxTTL     = 5 * time.Minute
	// maxNegative is how long it counts that a name or an address does not exist;
	// unsaidNegative where the server does not say.
	maxNegative    = 30 * time.Second
	unsaidNegative = time.Second
)

// question is one query on its way: what was sent, to be compared with what
// comes back.
type question struct {
	id   uint16
	name dnsmessage.Name // in mixed case
	kind dnsmessage.Type // A or AAAA
}

// reply is what one message says of the question.
type reply struct {
	code      dnsmessage.RCode
	truncated bool
	sameCase  bool // the question came back letter by letter
	// lame is an answer that sends us elsewhere: the server does not recurse.
	lame bool

	addrs   []netip.Addr
	aliases []string
	ttl     time.Duration // of addrs, or of there being none
}

// errStray is a message that does not answer the question. Whoever sent it may
// not be the server; what comes after it may be the answer.
var errStray = errors.New("not an answer to the question")

// record is one that can be on a chain.
type record struct {
	owner  string
	target string     // of a CNAME
	addr   netip.Addr // of the others
	ttl    uint32
}

// read reads a response. Any other error than errStray says that the answer is
// broken or breaks a rule, and that nothing in it counts.
func (q *question) read(msg []byte) (reply, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != q.id || h.OpCode != 0 {
		return reply{}, errStray
	}
	r := reply{code: h.RCode, truncated: h.Truncated}
	asked, err := p.Question()
	if err == dnsmessage.ErrSectionDone && (h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented) {
		return r, nil // what it did not understand it need not repeat
	}
	if err != nil || asked.Type != q.kind || asked.Class != dnsmessage.ClassINET || !sameName(&asked.Name, &q.name) {
		return reply{}, errStray
	}
	r.sameCase = asked.Name == q.name
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		return reply{}, errStray
	}
	if r.truncated || r.code != dnsmessage.RCodeSuccess && r.code != dnsmessage.RCodeNameError {
		return r, nil
	}
	records, err := q.answers(&p)
	if err != nil {
		return reply{}, err
	}
	negative, soa, err := negativeTTL(&p)
	if err != nil {
		return reply{}, err
	}
	if err := r.extend(&p); err != nil {
		return reply{}, err
	}
	if r.code != dnsmessage.RCodeSuccess && r.code != dnsmessage.RCodeNameError {
		return r, nil
	}
	name, ok := canonical(&q.name)
	if !ok {
		return reply{}, errStray
	}
	if err := r.follow(name, records); err != nil {
		return reply{}, err
	}
	if r.code == dnsmessage.RCodeNameError {
		r.addrs = nil
	}
	if len(r.addrs) == 0 {
		r.ttl = negative
		r.lame = r.code == dnsmessage.RCodeSuccess && !h.Authoritative && !h.RecursionAvailable && !soa
	}
	return r, nil
}

// answers returns the records of the answer section that can be on a chain.
func (q *question) answers(p *dnsmessage.Parser) (records []record, err error) {
	for n := 0; ; n++ {
		h, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			return records, nil
		}
		if err != nil {
			return nil, fmt.Errorf("answer %d is malformed: %w", n+1, err)
		}
		if n == maxRecords {
			return nil, fmt.Errorf("more than %d answers", maxRecords)
		}
		r, counts, err := q.record(p, &h)
		if err != nil {
			return nil, fmt.Errorf("answer %d is malformed: %w", n+1, err)
		}
		if counts {
			records = append(records, r)
		}
	}
}

func (q *question) record(p *dnsmessage.Parser, h *dnsmessage.ResourceHeader) (r record, counts bool, err error) {
	isAlias := h.Type == dnsmessage.TypeCNAME
	owner, ok := canonical(&h.Name)
	if h.Class != dnsmessage.ClassINET || !ok || !isAlias && h.Type != q.kind {
		return r, false, p.SkipAnswer()
	}
	r = record{owner: owner, ttl: h.TTL}
	size := 4
	switch {
	case isAlias:
		c, err := p.CNAMEResource()
		if err != nil {
			return r, false, err
		}
		if r.target, ok = canonical(&c.CNAME); !ok {
			return r, false, fmt.Errorf("the alias %s is not a host name", shown(&c.CNAME))
		}
		return r, true, nil
	case q.kind == dnsmessage.TypeA:
		a, e := p.AResource()
		r.addr, err = netip.AddrFrom4(a.A), e
	default:
		a, e := p.AAAAResource()
		r.addr, err, size = netip.AddrFrom16(a.AAAA), e, 16
	}
	if err == nil && int(h.Length) != size {
		err = fmt.Errorf("an address of %d bytes", h.Length)
	}
	return r, true, err
}

// negativeTTL reads the authority section: how long it counts that there is
// nothing, and whether a SOA record said so (RFC 2308 section 5).
func negativeTTL(p *dnsmessage.Parser) (ttl time.Duration, soa bool, err error) {
	ttl = unsaidNegative
	for n := 0; ; n++ {
		h, err := p.AuthorityHeader()
		if err == dnsmessage.ErrSectionDone {
			return ttl, soa, nil
		}
		if err == nil && n == maxRecords {
			err = fmt.Errorf("more than %d records", maxRecords)
		}
		if err == nil && h.Type == dnsmessage.TypeSOA {
			var s dnsmessage.SOAResource
			if s, err = p.SOAResource(); err == nil {
				soa, ttl = true, min(seconds(h.TTL), seconds(s.MinTTL), maxNegative)
			}
		} else if err == nil {
			err = p.SkipAuthority()
		}
		if err != nil {
			return 0, false, fmt.Errorf("the authority section is malformed: %w", err)
		}
	}
}

// extend reads the rest of the response code (RFC 6891 section 6.1.3).
func (r *reply) extend(p *dnsmessage.Parser) error {
	for n := 0; ; n++ {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return nil
		}
		if err == nil && n == maxRecords {
			err = fmt.Errorf("more than %d records", maxRecords)
		}
		if err == nil && h.Type == dnsmessage.TypeOPT {
			r.code = h.ExtendedRCode(r.code)
		}
		if err == nil {
			err = p.SkipAdditional()
		}
		if err != nil {
			return fmt.Errorf("the additional section is malformed: %w", err)
		}
	}
}

// follow goes along the CNAMEs from a name to the addresses at their end.
func (r *reply) follow(name string, records []record) error {
	r.ttl = maxTTL
	visited := []string{name}
	for {
		target, ttl, err := aliasOf(name, records)
		if err != nil {
			return err
		}
		if target == "" {
			break
		}
		if slices.Contains(visited, target) {
			return fmt.Errorf("the aliases lead from %s back to %s", name, target)
		}
		if len(r.aliases) == maxChain {
			return fmt.Errorf("more than %d aliases in a row", maxChain)
		}
		name, r.ttl = target, min(r.ttl, seconds(ttl))
		visited = append(visited, name)
		r.aliases = append(r.aliases, name)
	}
	for i := range records {
		a := &records[i]
		if a.owner != name || !a.addr.IsValid() || slices.Contains(r.addrs, a.addr) {
			continue
		}
		if len(r.addrs) == maxAddrs {
			return fmt.Errorf("%s has more than %d addresses", name, maxAddrs)
		}
		r.ttl = min(r.ttl, seconds(a.ttl))
		r.addrs = append(r.addrs, a.addr)
	}
	return nil
}

func aliasOf(name string, records []record) (target string, ttl uint32, err error) {
	for i := range records {
		c := &records[i]
		if c.owner != name || c.target == "" || c.target == target {
			continue
		}
		if target != "" {
			return "", 0, fmt.Errorf("%s is an alias of both %s and %s", name, target, c.target)
		}
		target, ttl = c.target, c.ttl
	}
	return target, ttl, nil
}

// seconds is a TTL; one with the highest bit set is nothing (RFC 2181 section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}
