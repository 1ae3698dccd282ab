package reach

import (
	"crypto/sha256"

	"bulkhead/core/network"
)

// Analysis answers questions about one network.
type Analysis struct {
	Net *network.Network

	part   *partition
	digest [sha256.Size]byte // of part
	cache  *cache
	sides  [][2]*side // by layer and direction

	ruleIDs map[*network.Rule]uint32
	hitIDs  []uint32 // by predicate, one more than the id
	paths   map[[2]network.End][]*network.Path
	memo    map[composeKey]decisionID
	// sources is the inverse of the ingress rows: for a class of sources, the
	// rows that treat it specially.
	sources  [][]*row
	rowUsers map[*row][]ClassID
	groups   []destGroup
	groupOf  []int32
	index    *memberIndex // nil until a front is looked at
}

// Analyzer makes analyses of successive versions of a network and reuses what
// did not change between them. The result never depends on what came before.
type Analyzer struct {
	cache *cache
}

// NewAnalyzer returns an Analyzer that remembers nothing yet.
func NewAnalyzer() *Analyzer { return &Analyzer{cache: newCache()} }

// Analyze returns the analysis of n. Analyses of one Analyzer share memo
// tables: they belong to one goroutine together.
func (z *Analyzer) Analyze(n *network.Network) *Analysis {
	a := &Analysis{
		Net:     n,
		cache:   z.cache,
		ruleIDs: map[*network.Rule]uint32{},
		paths:   map[[2]network.End][]*network.Path{},
		memo:    map[composeKey]decisionID{},
	}
	a.part = newPartition(n)
	a.hitIDs = make([]uint32, len(n.Predicates()))
	a.digest = a.part.digest()
	z.cache.begin(a.digest)
	for i := range n.Layers {
		a.sides = append(a.sides, [2]*side{
			a.buildSide(&n.Layers[i], network.Egress),
			a.buildSide(&n.Layers[i], network.Ingress),
		})
	}
	z.cache.end()
	a.group()
	return a
}

// New returns the analysis of a single network.
func New(n *network.Network) *Analysis { return NewAnalyzer().Analyze(n) }

// Classes returns the classes; the caller must not change them.
func (a *Analysis) Classes() []Class { return a.part.classes }

// EndpointClasses returns how many classes are of endpoints.
func (a *Analysis) EndpointClasses() int { return int(a.part.outside) }

// ClassOf returns the class of an endpoint.
func (a *Analysis) ClassOf(endpoint int) ClassID { return a.part.of[endpoint] }

// cache is what successive analyses share.
type cache struct {
	decisions *decisions
	rules     map[string]uint32
	hits      map[string]uint32
	partition [sha256.Size]byte // that rows belong to
	rows      map[rowKey]*row
	next      map[rowKey]*row
}

type rowKey struct {
	layer string
	dir   network.Direction
	key   string
}

func newCache() *cache {
	return &cache{
		decisions: newDecisions(),
		rules:     map[string]uint32{},
		hits:      map[string]uint32{},
		rows:      map[rowKey]*row{},
	}
}

// begin drops the rows of another partition: their classes mean something else.
func (c *cache) begin(digest [sha256.Size]byte) {
	if digest != c.partition {
		c.rows = map[rowKey]*row{}
	}
	c.partition = digest
	c.next = map[rowKey]*row{}
}

func (c *cache) row(layer string, dir network.Direction, key string) *row {
	return c.rows[rowKey{layer, dir, key}]
}

func (c *cache) keep(layer string, dir network.Direction, key string, r *row) {
	c.next[rowKey{layer, dir, key}] = r
}

// end forgets the rows that the latest analysis did not use.
func (c *cache) end() { c.rows, c.next = c.next, nil }
