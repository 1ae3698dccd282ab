package host

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// filter is a table as the kernel has it. One goroutine at a time uses it.
type filter struct {
	in *thread // nil in the machine's own namespace

	mu    sync.Mutex // guards the following: a connection takes one at a time
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
	has   map[string]map[element]bool // what the sets hold, by name
}

// The counters of a table that reports: what it refused, and how much of that
// it reported. The difference was over the limit.
const (
	refusedCounter  = "refused"
	reportedCounter = "reported"
)

// elementsAtOnce keeps a message below the 64 KiB of a netlink attribute.
const elementsAtOnce = 400

// loadFilter puts a whole table in force in the thread's namespace, or in the
// machine's own for nil, in one transaction.
func loadFilter(in *thread, t table) (*filter, error) {
	f := &filter{in: in}
	if err := f.dial(); err != nil {
		return nil, err
	}
	if err := f.load(t); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *filter) dial() error {
	open := func() (err error) {
		f.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			return c.SetReadBuffer(4 << 20) // an acknowledgement for every message of a batch
		}))
		return err
	}
	var err error
	if f.in != nil {
		err = f.in.do(open)
	} else {
		err = open()
	}
	if err != nil {
		return fmt.Errorf("nftables cannot be reached: %w", err)
	}
	return nil
}

// load replaces the table of this name, whoever made it, by t in one
// transaction.
func (f *filter) load(t table) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table = &nftables.Table{Name: t.name, Family: nftables.TableFamilyINet}
	f.sets, f.has = map[string]*nftables.Set{}, map[string]map[element]bool{}
	f.conn.AddTable(f.table) // so that the deletion finds one
	f.conn.DelTable(f.table)
	f.conn.AddTable(f.table)
	f.addCounters()
	for _, s := range t.sets {
		if err := f.addSet(s); err != nil {
			return err
		}
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range t.chains { // all of them first: rules name them
		chains[c.name] = f.conn.AddChain(f.chain(c))
	}
	for _, c := range t.chains {
		for _, r := range c.rule {
			f.conn.AddRule(&nftables.Rule{Table: f.table, Chain: chains[c.name], Exprs: compile(r, f.sets)})
		}
	}
	return f.flush()
}

func (f *filter) addCounters() {
	for _, name := range []string{refusedCounter, reportedCounter} {
		f.conn.AddObj(&nftables.CounterObj{Table: f.table, Name: name})
	}
}

func (f *filter) chain(c chain) *nftables.Chain {
	out := &nftables.Chain{Name: c.name, Table: f.table}
	if c.hook == noHook {
		return out
	}
	out.Hooknum = map[hook]*nftables.ChainHook{
		inputHook: nftables.ChainHookInput, outputHook: nftables.ChainHookOutput, forwardHook: nftables.ChainHookForward,
	}[c.hook]
	out.Type, out.Priority = nftables.ChainTypeFilter, nftables.ChainPriorityFilter
	if c.nat {
		out.Type, out.Priority = nftables.ChainTypeNAT, nftables.ChainPriorityNATDest
	}
	policy := nftables.ChainPolicyAccept
	if c.drop {
		policy = nftables.ChainPolicyDrop
	}
	out.Policy = &policy
	return out
}

// setNumber gives sets the numbers by which rules of the same batch name them;
// the library's own counter is not safe for concurrent use.
var setNumber atomic.Uint32

func (f *filter) addSet(s *set) error {
	k := &nftables.Set{
		Table: f.table, ID: setNumber.Add(1), Name: s.name, KeyType: s.keyType(),
		Concatenation: len(s.key) > 1, Interval: s.ranges, Counter: s.counted,
	}
	if s.ports {
		k.IsMap, k.DataType = true, nftables.TypeInetService
	}
	if err := f.conn.AddSet(k, nil); err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	f.sets[s.name], f.has[s.name] = k, s.has
	return f.addElements(s, slices.Collect(maps.Keys(s.has)))
}

func (f *filter) addElements(s *set, add []element) error {
	for some := range slices.Chunk(add, elementsAtOnce) {
		if err := f.conn.SetAddElements(f.sets[s.name], s.encode(some)); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return nil
}

// shrink takes away what t does not have, in one transaction.
func (f *filter) shrink(t table) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	gone := map[string][]element{}
	for _, s := range t.sets {
		gone[s.name] = missing(f.has[s.name], s.has)
		for some := range slices.Chunk(gone[s.name], elementsAtOnce) {
			if err := f.conn.SetDeleteElements(f.sets[s.name], s.encode(some)); err != nil {
				return fmt.Errorf("set %s: %w", s.name, err)
			}
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	for name, elements := range gone {
		for _, e := range elements {
			delete(f.has[name], e)
		}
	}
	return nil
}

// grow adds what t has and the kernel does not, in one transaction.
func (f *filter) grow(t table) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := map[string][]element{}
	for _, s := range t.sets {
		fresh[s.name] = missing(s.has, f.has[s.name])
		if err := f.addElements(s, fresh[s.name]); err != nil {
			return err
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	for name, elements := range fresh {
		for _, e := range elements {
			f.has[name][e] = true
		}
	}
	return nil
}

// missing returns what a has and b does not.
func missing(a, b map[element]bool) []element {
	var out []element
	for e := range a {
		if !b[e] {
			out = append(out, e)
		}
	}
	return out
}

// flush sends the transaction. After an error the connection may still hold
// answers to it, so it is not used again.
func (f *filter) flush() error {
	err := f.conn.Flush()
	if err == nil {
		return nil
	}
	f.conn.CloseLasting()
	if again := f.dial(); again != nil {
		err = errors.Join(err, again)
	}
	return fmt.Errorf("the kernel refuses the filter %q: %w", f.table.Name, err)
}

// lost returns how much was refused and not reported so far.
func (f *filter) lost() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var count [2]uint64
	for i, name := range []string{refusedCounter, reportedCounter} {
		o, err := f.conn.GetObj(&nftables.CounterObj{Table: f.table, Name: name})
		if err != nil {
			return 0, err
		}
		for _, each := range o {
			if c, ok := each.(*nftables.CounterObj); ok && c.Name == name {
				count[i] = c.Packets
			}
		}
	}
	return count[0] - min(count[0], count[1]), nil
}

// remove takes the whole table away.
func (f *filter) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn.AddTable(f.table)
	f.conn.DelTable(f.table)
	return f.flush()
}

func (f *filter) close() { f.conn.CloseLasting() }
