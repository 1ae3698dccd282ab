package dns

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxQuery is more than any honest query has: a name, and a few options.
	maxQuery = 4096
	// maxAdditional is how many records may come with a question.
	maxAdditional = 8
	minPayload    = 512

	codeBadVersion = dnsmessage.RCode(16)
)

// The extended errors (RFC 8914).
const (
	extendedBlocked    = 15 // by what the answer has
	extendedProhibited = 18 // to this client
)

// query is one question of a client.
type query struct {
	header  dnsmessage.Header
	asked   bool // question counts
	about   dnsmessage.Question
	host    string // canonical
	isHost  bool
	edns    bool
	payload int // that the client takes
	// code is how it must be answered without looking further, and why.
	code dnsmessage.RCode
	why  string
}

// readQuery reads a message; ok is false if it gets no answer at all.
func readQuery(msg []byte) (q query, ok bool) {
	var p dnsmessage.Parser
	var err error
	if q.header, err = p.Start(msg); err != nil || q.header.Response {
		return q, false // an answer to a response could go back and forth for ever
	}
	q.payload = minPayload
	switch questions := binary.BigEndian.Uint16(msg[4:]); {
	case q.header.OpCode != 0:
		return q.wrong(dnsmessage.RCodeNotImplemented, "the operation is not a query"), true
	case len(msg) > maxQuery:
		return q.wrong(dnsmessage.RCodeFormatError, "the message is too long"), true
	case questions != 1:
		return q.wrong(dnsmessage.RCodeFormatError, "there is not one question"), true
	}
	if q.about, err = p.Question(); err != nil {
		return q.wrong(dnsmessage.RCodeFormatError, "the question is malformed"), true
	}
	q.asked = true
	q.host, q.isHost = canonical(&q.about.Name)
	if why := q.readOptions(&p); why != "" {
		return q.wrong(dnsmessage.RCodeFormatError, why), true
	}
	if q.code == 0 && q.about.Class != dnsmessage.ClassINET {
		return q.wrong(dnsmessage.RCodeNotImplemented, "the class is not IN"), true
	}
	return q, true
}

func (q query) wrong(code dnsmessage.RCode, why string) query {
	q.code, q.why = code, why
	return q
}

// readOptions reads what follows the question, and says what is wrong with it. Of
// EDNS only the size counts: a subnet would tell servers who asks, and cookies
// are for clients far away.
func (q *query) readOptions(p *dnsmessage.Parser) string {
	if p.SkipQuestion() != dnsmessage.ErrSectionDone {
		return "the question is malformed"
	}
	if _, err := p.AnswerHeader(); err != dnsmessage.ErrSectionDone {
		return "the query has answers"
	}
	if _, err := p.AuthorityHeader(); err != dnsmessage.ErrSectionDone {
		return "the query has authorities"
	}
	for n := 0; ; n++ {
		h, err := p.AdditionalHeader()
		switch {
		case err == dnsmessage.ErrSectionDone:
			return ""
		case err != nil || n == maxAdditional:
			return "the additional section is malformed or too long"
		case h.Type != dnsmessage.TypeOPT:
			err = p.SkipAdditional()
		case q.edns || h.Name.Length != 1:
			return "the OPT record is not the only one, or not at the root"
		default:
			q.edns = true
			q.payload = min(max(int(h.Class), minPayload), payload)
			if h.TTL>>16&0xff != 0 {
				q.code, q.why = codeBadVersion, "the version of EDNS is not 0"
			}
			_, err = p.OPTResource()
		}
		if err != nil {
			return "the additional section is malformed"
		}
	}
}

// response is what a client is told.
type response struct {
	code          dnsmessage.RCode
	authoritative bool
	addrs         []netip.Addr
	ttl           time.Duration
	extended      uint16 // an extended error, with its text
	text          string
}

// write returns a message of at most so many bytes. What does not fit is left out,
// and the message says that it is truncated.
func (q *query) write(r response, limit int) []byte {
	var options []byte
	if q.edns && r.extended != 0 {
		const extendedError = 15
		options = binary.BigEndian.AppendUint16(options, extendedError)
		options = binary.BigEndian.AppendUint16(options, uint16(2+len(r.text)))
		options = binary.BigEndian.AppendUint16(options, r.extended)
		options = append(options, r.text...)
	}
	if q.edns {
		limit -= 11 + len(options)
	}
	b := make([]byte, 12, min(limit, minPayload)+64)
	binary.BigEndian.PutUint16(b, q.header.ID)
	b[2] = 0x80 | byte(q.header.OpCode)<<3&0x78
	b[3] = 0x80 | byte(r.code&0xf) // recursion is available
	setBit(&b[2], 0x04, r.authoritative)
	setBit(&b[2], 0x01, q.header.RecursionDesired)
	setBit(&b[3], 0x10, q.header.CheckingDisabled)
	if q.asked {
		b[5] = 1
		b = appendName(b, &q.about.Name)
		b = binary.BigEndian.AppendUint16(b, uint16(q.about.Type))
		b = binary.BigEndian.AppendUint16(b, uint16(q.about.Class))
	}
	for i, a := range r.addrs {
		size := 12 + a.BitLen()/8
		if len(b)+size > limit {
			b[2] |= 0x02
			break
		}
		b = q.appendAddr(b, a, r.ttl)
		binary.BigEndian.PutUint16(b[6:], uint16(i+1))
	}
	if q.edns {
		b[11] = 1
		b = appendOPT(b, byte(r.code>>4), options)
	}
	return b
}

func setBit(b *byte, bit byte, on bool) {
	if on {
		*b |= bit
	}
}

// appendAddr appends an address of the name in question, which is at offset 12.
func (q *query) appendAddr(b []byte, a netip.Addr, ttl time.Duration) []byte {
	b = append(b, 0xc0, 12)
	b = binary.BigEndian.AppendUint16(b, uint16(q.about.Type))
	b = binary.BigEndian.AppendUint16(b, uint16(dnsmessage.ClassINET))
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(ttl, 0), maxTTL)/time.Second))
	b = binary.BigEndian.AppendUint16(b, uint16(a.BitLen()/8))
	return append(b, a.AsSlice()...)
}
