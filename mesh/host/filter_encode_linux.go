package host

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// denialGroup is the NFLOG group of what a filter refuses. Groups belong to a
// namespace; in the machine's own the number must not meet another's.
const denialGroup = 15008

// What a filter reports at most.
const (
	denialsPerSecond = 100
	denialSnap       = 128 // bytes of each packet: the headers
)

// Keys are loaded into the 32-bit registers from the first; everything else
// uses one register above them.
const (
	firstKeyRegister = unix.NFT_REG32_00
	register         = unix.NFT_REG_4
)

// compile says a rule in the kernel's terms.
func compile(r rule, sets map[string]*nftables.Set) []expr.Any {
	var out []expr.Any
	if r.family != 0 {
		out = append(out, meta(expr.MetaKeyNFPROTO), equal([]byte{map[uint8]byte{4: unix.NFPROTO_IPV4, 6: unix.NFPROTO_IPV6}[r.family]}))
	}
	if r.in != "" {
		out = append(out, meta(expr.MetaKeyIIFNAME), equal(linkName(r.in)))
	}
	if r.out != "" {
		out = append(out, meta(expr.MetaKeyOIFNAME), equal(linkName(r.out)))
	}
	if r.mark != 0 {
		out = append(out, meta(expr.MetaKeyMARK), equal(native(r.mark)))
	}
	if r.socketIn != nil {
		id := binary.NativeEndian.AppendUint64(nil, r.socketIn.id)
		out = append(out, &expr.Socket{Key: expr.SocketKeyCgroupv2, Level: r.socketIn.level, Register: register}, equal(id))
	}
	out = append(out, compileTracked(r)...)
	out = append(out, compileTransport(r)...)
	if r.within != nil {
		out = append(out, loadKey(r.within.set, r.within.back)...)
		k := sets[r.within.set.name]
		out = append(out, &expr.Lookup{SourceRegister: firstKeyRegister, SetName: k.Name, SetID: k.ID, Invert: r.within.not})
	}
	return append(out, compileVerdict(r.do, sets)...)
}

// compileTracked is what conntrack knows of a packet.
func compileTracked(r rule) []expr.Any {
	var out []expr.Any
	if r.broken {
		out = append(out, conntrack(expr.CtKeySTATE), masked(4, expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), unequal(native(0)))
	}
	if r.dnat {
		const ipsDstNAT = 1 << 5
		out = append(out, conntrack(expr.CtKeySTATUS), masked(4, ipsDstNAT), unequal(native(0)))
	}
	if r.ctMark != 0 {
		out = append(out, conntrack(expr.CtKeyMARK), equal(native(r.ctMark)))
	}
	if r.dir != anyDirection {
		out = append(out, conntrack(expr.CtKeyDIRECTION), equal([]byte{map[direction]byte{original: 0, reply: 1}[r.dir]}))
	}
	return out
}

func compileTransport(r rule) []expr.Any {
	var out []expr.Any
	if r.proto != 0 {
		out = append(out, meta(expr.MetaKeyL4PROTO), equal([]byte{r.proto}))
	}
	for _, side := range []struct {
		p      ports
		offset uint32
	}{{r.fromPort, 0}, {r.toPort, 2}} {
		if side.p.hi == 0 {
			continue
		}
		out = append(out, payload(expr.PayloadBaseTransportHeader, side.offset, 2, register),
			&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: binaryutil.BigEndian.PutUint16(side.p.lo)},
			&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: binaryutil.BigEndian.PutUint16(side.p.hi)})
	}
	const syn, rst, ack = 2, 4, 16
	if r.syn {
		out = append(out, payload(expr.PayloadBaseTransportHeader, 13, 1, register), masked(1, syn|ack), equal([]byte{syn}))
	}
	if r.rst {
		out = append(out, payload(expr.PayloadBaseTransportHeader, 13, 1, register), masked(1, rst), equal([]byte{rst}))
	}
	return out
}

func compileVerdict(v verdict, sets map[string]*nftables.Set) []expr.Any {
	switch v.kind {
	case accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	case drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case jump:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: v.chain}}
	case refuse:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
	case reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	case redirect:
		return []expr.Any{
			&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(v.port)},
			&expr.Redir{RegisterProtoMin: register},
		}
	case redirectBy:
		k := sets[v.set.name]
		return append(loadKey(v.set, false),
			&expr.Lookup{SourceRegister: firstKeyRegister, SetName: k.Name, SetID: k.ID, DestRegister: register, IsDestRegSet: true},
			&expr.Redir{RegisterProtoMin: register})
	case setMark:
		return []expr.Any{
			&expr.Immediate{Register: register, Data: native(v.mark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
		}
	case setCtMark:
		return []expr.Any{
			&expr.Immediate{Register: register, Data: native(v.mark)},
			&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: register},
		}
	case logged:
		return []expr.Any{
			&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: refusedCounter},
			&expr.Limit{Type: expr.LimitTypePkts, Rate: denialsPerSecond, Unit: expr.LimitTimeSecond, Burst: denialsPerSecond},
			&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: reportedCounter},
			&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN, Group: denialGroup, Snaplen: denialSnap},
		}
	}
	// A rule that decides nothing must not fall through to one that allows.
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
}

// loadKey puts the fields of a set's key one behind the other.
func loadKey(s *set, back bool) []expr.Any {
	var out []expr.Any
	at := uint32(firstKeyRegister)
	for _, f := range s.key {
		switch f {
		case fieldIn:
			out = append(out, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: at})
			at += unix.IFNAMSIZ / 4
		case fieldProto:
			out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at})
			at++
		case fieldToPort:
			offset := uint32(2)
			if back {
				offset = 0
			}
			out = append(out, payload(expr.PayloadBaseTransportHeader, offset, 2, at))
			at++
		case fieldFrom, fieldTo:
			offset, size := uint32(12), uint32(4)
			if s.v6 {
				offset, size = 8, 16
			}
			if (f == fieldTo) != back {
				offset += size
			}
			out = append(out, payload(expr.PayloadBaseNetworkHeader, offset, size, at))
			at += size / 4
		}
	}
	return out
}

func (s *set) keyType() nftables.SetDatatype {
	var types []nftables.SetDatatype
	for _, f := range s.key {
		switch f {
		case fieldIn:
			types = append(types, nftables.TypeIFName)
		case fieldProto:
			types = append(types, nftables.TypeInetProto)
		case fieldToPort:
			types = append(types, nftables.TypeInetService)
		case fieldFrom, fieldTo:
			if s.v6 {
				types = append(types, nftables.TypeIP6Addr)
			} else {
				types = append(types, nftables.TypeIPAddr)
			}
		}
	}
	return nftables.MustConcatSetType(types...)
}

func (s *set) encode(elements []element) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, len(elements))
	for _, e := range elements {
		var k nftables.SetElement
		for _, f := range s.key {
			lo, hi := e.field(f)
			k.Key = pad(append(k.Key, lo...))
			k.KeyEnd = pad(append(k.KeyEnd, hi...))
		}
		if !s.ranges {
			k.KeyEnd = nil
		}
		if s.ports {
			k.Val = binary.BigEndian.AppendUint16(nil, e.value)
		}
		out = append(out, k)
	}
	return out
}

// field returns the first and the last value of a field.
func (e element) field(f field) (lo, hi []byte) {
	span := func(p netip.Prefix) ([]byte, []byte) {
		return p.Masked().Addr().AsSlice(), netipx.PrefixLastIP(p).AsSlice()
	}
	switch f {
	case fieldIn:
		return linkName(e.in), linkName(e.in)
	case fieldFrom:
		return span(e.from)
	case fieldTo:
		return span(e.to)
	case fieldProto:
		return []byte{e.proto}, []byte{e.proto}
	default:
		return binary.BigEndian.AppendUint16(nil, e.toPort.lo), binary.BigEndian.AppendUint16(nil, e.toPort.hi)
	}
}

// pad fills a key up to the next register.
func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func meta(k expr.MetaKey) expr.Any    { return &expr.Meta{Key: k, Register: register} }
func conntrack(k expr.CtKey) expr.Any { return &expr.Ct{Key: k, Register: register} }

func payload(base expr.PayloadBase, offset, size, into uint32) expr.Any {
	return &expr.Payload{Base: base, Offset: offset, Len: size, DestRegister: into}
}

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func unequal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: data}
}

// masked keeps the bits of mask; size is 1 for a byte, 4 for a word of the
// machine's byte order.
func masked(size uint32, mask uint32) expr.Any {
	m := native(mask)
	if size == 1 {
		m = []byte{byte(mask)}
	}
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: m, Xor: make([]byte, size)}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
