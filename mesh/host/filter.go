package host

import "net/netip"

// table is a filter as plain data: what builds it is a pure function of the
// plan, what loads it knows nothing of plans, and tests ask it about packets.
type table struct {
	name   string
	chains []chain
	sets   []*set
}

// chain is an ordered list of rules. One with a hook is a base chain, whose
// policy decides what no rule decided.
type chain struct {
	name string
	hook hook
	nat  bool
	drop bool // the policy, of a base chain
	rule []rule
}

type hook uint8

const (
	noHook hook = iota
	inputHook
	outputHook
	forwardHook
)

// rule matches what all its conditions match; the zero value of a condition
// matches everything.
type rule struct {
	family   uint8 // 4 or 6
	in, out  string
	proto    uint8
	fromPort ports
	toPort   ports
	mark     uint32
	ctMark   uint32
	dir      direction
	broken   bool // conntrack has no place for it
	dnat     bool
	syn      bool // TCP: SYN without ACK, which opens a connection
	rst      bool // TCP: RST
	socketIn *cgroup
	within   *lookup

	do verdict
}

type ports struct{ lo, hi uint16 }

func port(p uint16) ports { return ports{p, p} }

type direction uint8

const (
	anyDirection direction = iota
	original
	reply
)

// cgroup is a folder of the cgroup v2 hierarchy, of which a socket must be.
type cgroup struct {
	level uint32
	id    uint64
}

// lookup matches packets whose key is in a set. With back the source is taken
// for the destination and the other way round: replies to what the set allows.
type lookup struct {
	set  *set
	back bool
	not  bool
}

// verdict is what a rule does with a packet. log, setMark and setCtMark go on
// with the next rule.
type verdict struct {
	kind  verdictKind
	port  uint16 // redirect
	set   *set   // redirectBy
	chain string // jump
	mark  uint32 // setMark, setCtMark
}

type verdictKind uint8

const (
	accept verdictKind = iota + 1
	drop
	refuse     // an ICMP error to the sender
	reset      // a TCP reset to the sender
	redirect   // to port of loopback
	redirectBy // the same, the port is the set's value
	jump
	logged
	setMark
	setCtMark
)

// set holds elements of one key. Its pointer is its identity within a table.
type set struct {
	name    string
	v6      bool
	key     []field
	ranges  bool // elements are ranges
	ports   bool // elements have a port as value
	counted bool
	has     map[element]bool
}

// field is a part of a packet that a key is made of, in the order of the key.
type field uint8

const (
	fieldIn field = iota
	fieldFrom
	fieldTo
	fieldProto
	fieldToPort
)

// element is one element of a set; only the fields of its key are used.
type element struct {
	in       string
	from, to netip.Prefix
	proto    uint8
	toPort   ports
	value    uint16
}

func (s *set) add(e element) { s.has[e] = true }

// sets4and6 makes the two sets of one purpose, since a set has one family.
func sets4and6(name string, like set) [2]*set {
	var out [2]*set
	for i := range out {
		s := like
		s.has = map[element]bool{}
		s.v6 = i == 1
		s.name = name + [2]string{"4", "6"}[i]
		out[i] = &s
	}
	return out
}

// both returns a rule for each family that looks into that family's set.
func both(sets [2]*set, r rule, l lookup) []rule {
	var out []rule
	for i, s := range sets {
		each, look := r, l
		each.family = [2]uint8{4, 6}[i]
		look.set = s
		each.within = &look
		out = append(out, each)
	}
	return out
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

const (
	protoTCP    = 6
	protoUDP    = 17
	protoICMP   = 1
	protoICMPv6 = 58
)

func protoOf(network string) uint8 {
	if network == "udp" {
		return protoUDP
	}
	return protoTCP
}

// proxyMark is the mark of the proxy's own packets. It stays in the low byte,
// since the upper ones are used by others on a machine with bound workloads.
const proxyMark = 0xb7

// meshLink is the interface of a workload's namespace.
const meshLink = "mesh0"
