package kubernetes

import (
	"net/netip"
	"slices"
	"strings"

	"bulkhead/core/netset"
	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
	"bulkhead/target/kube"
)

// importer collects objects and turns them into a network at the end. It holds
// values of its own only: no document outlives Add.
type importer struct {
	opts     target.Options
	profile  *Profile
	ds       source.Diagnostics
	coverage network.Coverage
	names    interner
	seen     map[identity]sighting

	handlers  map[groupKind]handler
	operators map[groupKind]operator

	namespaces map[string]*namespace
	nodes      []node
	workloads  []*workload
	policies   []netpol
	admin      []adminPolicy
	exposed
	asked
	ipv6 bool // the input shows that the cluster uses it
}

// identity is what makes two objects the same one.
type identity struct{ group, kind, namespace, name string }

// sighting is where an object was seen first.
type sighting struct {
	digest uint64
	pos    source.Pos
}

// interner keeps one copy of each string, so that labels that thousands of
// objects share cost once and no string keeps its document alive.
type interner map[string]string

func (in interner) text(s string) string {
	if s == "" {
		return ""
	}
	if got, ok := in[s]; ok {
		return got
	}
	s = strings.Clone(s)
	in[s] = s
	return s
}

func newImporter(o target.Options, p *Profile) *importer {
	im := &importer{
		opts: o, profile: p,
		operators:  operators(),
		names:      interner{},
		seen:       map[identity]sighting{},
		namespaces: map[string]*namespace{},
		exposed:    exposed{services: map[objectName]*service{}},
	}
	im.handlers = im.makeHandlers()
	return im
}

// objectName names a namespaced object of a kind that the context tells.
type objectName struct{ namespace, name string }

func (n objectName) String() string {
	if n.namespace == "" {
		return n.name
	}
	return n.namespace + "/" + n.name
}

// Add takes an object, or a list of them. What the list holds and no part of
// the package knows is listed in the coverage; expand lists with [kube.Expand]
// before offering them, so that other targets see their items.
func (im *importer) Add(d target.Document) bool {
	kind, _ := d.Value.Get("kind").Text()
	if !strings.HasSuffix(kind, "List") || d.Value.Get("items").Kind() != yamldoc.List {
		return im.addObject(d.Value)
	}
	claimed := false
	var left []yamldoc.Value
	for v := range kube.Expand(d.Value) {
		if im.addObject(v) {
			claimed = true
		} else {
			left = append(left, v)
		}
	}
	if claimed {
		for _, v := range left {
			im.coverage.Objects++
			im.ignore(ignoredItem(v), "it is in a list and is no object of this platform", true)
		}
	}
	return claimed || d.Value.Get("items").Len() == 0 && kube.IsObject(d.Value)
}

func ignoredItem(v yamldoc.Value) *kube.Object {
	o := &kube.Object{Pos: v.Pos(), Value: v}
	o.Kind, _ = v.Get("kind").Text()
	o.Name, _ = v.At("metadata", "name").Text()
	return o
}

func (im *importer) ignore(o *kube.Object, why string, matters bool) {
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + o.Name
	}
	im.coverage.Ignored = append(im.coverage.Ignored, network.Ignored{
		Pos: o.Pos, Kind: strings.Clone(o.Kind), Name: strings.Clone(name), Why: why, Matters: matters})
}

func (im *importer) addObject(v yamldoc.Value) bool {
	if !kube.IsObject(v) {
		return false
	}
	kind, _ := v.Get("kind").Text()
	version, _ := v.Get("apiVersion").Text()
	h := im.handlerOf(version, kind)
	if h.read == nil && !im.hasPods(v, h) {
		return false
	}
	o, _ := kube.ReadObject(v, &im.ds)
	o.Kind, o.Namespace, o.Name = im.names.text(o.Kind), im.names.text(o.Namespace), im.names.text(o.Name)
	im.coverage.Objects++
	if o.Name == "" && !h.nameless {
		im.ds.Errorf("missing-field", o.Pos, "%s has no metadata.name", o.Kind).WithFix("give it a name")
	}
	if h.clusterScoped {
		o.Namespace = ""
	} else if o.Namespace == "" && !h.asWritten {
		o.Namespace = "default"
	}
	if !im.first(&o) {
		im.coverage.Understood++ // its first copy speaks for it
		return true
	}
	if h.read == nil {
		h.read = (*importer).readCustom
	}
	if h.read(im, &o) {
		im.coverage.Understood++
	}
	return true
}

// first reports whether o is to be read: whether it was not seen before, or is
// another version that can be taken beside the first. It reports second
// sightings.
func (im *importer) first(o *kube.Object) bool {
	if strings.HasSuffix(o.Name, "*") || o.Name == "" {
		return true
	}
	id := identity{im.names.text(o.Group), o.Kind, o.Namespace, o.Name}
	digest := o.Digest()
	before, ok := im.seen[id]
	switch {
	case !ok:
		im.seen[id] = sighting{digest, o.Pos}
		return true
	case before.digest == digest:
		im.ds.Warnf("duplicate-object", o.Pos, "%s is given twice with the same content", o.String()).
			WithNote(before.pos, "first given here").WithFix("remove one of them")
	case decides[o.Kind]:
		im.ds.Errorf("duplicate-object", o.Pos, "%s is defined twice with different content", o.String()).
			WithNote(before.pos, "first defined here").
			WithFix("keep one of them, or read the two files separately")
	default:
		im.ds.Warnf("conflicting-object", o.Pos, "%s is defined twice with different content: both are taken as deployed", o.String()).
			WithNote(before.pos, "first defined here").
			WithFix("keep one of them, or read the two files separately")
		return true
	}
	return false
}

// decides lists the kinds of which two versions cannot both be taken: what
// they allow or select depends on which one is deployed. Two versions of a
// workload or a service only add to what there is.
var decides = map[string]bool{
	"Namespace": true, "NetworkPolicy": true, "AdminNetworkPolicy": true, "BaselineAdminNetworkPolicy": true, "ClusterNetworkPolicy": true,
}

// reader returns where the nodes of o report to.
func (im *importer) reader(o *kube.Object) *kube.Reader {
	return &kube.Reader{Object: o.String(), Diags: &im.ds}
}

func (im *importer) root(o *kube.Object) kube.Node { return kube.Root(o.Value, im.reader(o)) }

// Finish appends the network that was read to n.
func (im *importer) Finish(n *network.Network) source.Diagnostics {
	if im.coverage.Objects == 0 {
		return im.ds
	}
	b := &builder{importer: im, n: n, scopes: map[string]int{}}
	b.space = im.space()
	b.finishOwners()
	b.addScopes()
	b.addHosts()
	b.addEndpoints()
	if im.profile.Enforces {
		b.addLayer()
	}
	b.addPaths()
	b.addFronts()
	b.assume()
	c := &n.Coverage
	c.Objects += im.coverage.Objects
	c.Understood += im.coverage.Understood
	c.Ignored = append(c.Ignored, im.coverage.Ignored...)
	im.ds.Sort()
	return im.ds
}

// space is where pods and nodes of unknown address may be.
func (im *importer) space() netset.Addrs {
	if !im.opts.Workloads.IsEmpty() {
		return im.opts.Workloads
	}
	if im.ipv6 {
		return privateV4.Union(privateV6)
	}
	return privateV4
}

// builder turns what an importer collected into a network.
type builder struct {
	*importer
	n      *network.Network
	scopes map[string]int // by namespace
	space  netset.Addrs
	layer  int // index of the policy layer, -1 when nothing enforces it
	first  int // index of the first endpoint of this importer

	// For fronts: the predicate that means no one, and the endpoints of this
	// importer by what fronts find them by.
	none        network.PredicateID
	byAddr      map[netip.Addr]int
	byScope     map[int][]int
	byLabel     map[scopedLabel][]int
	livePods    map[objectName]*workload
	controllers map[string]controllerFound

	addressUnknown bool // some endpoint's address is not in the input
	awsAssumed     bool // some front rests on a default of AWS
}

// sortedKeys returns the keys of m in order, so that the same input gives the
// same network.
func sortedKeys[K interface{ ~string }, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
