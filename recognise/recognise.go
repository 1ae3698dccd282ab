// Package recognise says what a workload is: an inference server, a notebook,
// the head of a Ray cluster, a vector store.
//
// Evidence is what the workload says about itself: the kind of the object that
// declares it, its images, the commands it runs, its labels, its name and its
// ports. The knowledge is data, one table of signatures (signatures.yaml), and
// a user adds to it or overrides it with a file of the same form: [Parse] reads
// one, [Table.Extend] lays it over another.
//
// It promises: the same facts give the same answer, best first, each with the
// evidence for it; a port that many programs use never decides; names and ports
// are heard only when nothing stronger spoke; a sidecar's image never decides
// for the workload that carries it.
//
// The danger: an answer is a well-founded guess about what the declaration
// says, and anyone who writes the declaration can make it say something else.
// Use it to draft a policy, to name an exposed endpoint, to choose what to look
// at first. Never let it grant or withhold a permission.
package recognise

import (
	"cmp"
	"slices"
	"strconv"
)

// Facts is what is known about one workload. Every field may be empty.
type Facts struct {
	// Group and Kind name the API object that declares the workload, e.g.
	// "ray.io" and "RayCluster". A version after the group is ignored.
	Group, Kind string
	// Name is the workload's name.
	Name string
	// Part names the piece of the object when it declares several with
	// different roles: "head", "Launcher", "Worker", "executor". Empty means
	// the object as a whole, or an object that has only one.
	Part string
	// Images are container image references as written, the main one first.
	Images []string
	// Commands holds the words of command and args in order. A word may be a
	// shell script, which is split as a shell would. An empty string ends
	// one container's command line.
	Commands []string
	// Ports are the ports that the workload listens on.
	Ports []int
	// Labels are those of the workload and of its pods.
	Labels map[string]string
}

// Match is one answer.
type Match struct {
	Signature *Signature
	// Evidence lists what spoke for it, strongest first, each fragment ready
	// to follow "because of": "image vllm/vllm-openai", "label a=b".
	Evidence []string
}

// What evidence weighs. Only the order matters. A controller's own kind or
// label outweighs an image, because a training job may well run an inference
// image; an image outweighs a label that a user chose.
const (
	weightKind        = 100 // a custom resource
	weightOwnedLabel  = 70  // a label with a domain, set by a controller
	weightImage       = 60
	weightCommand     = 50
	weightLabel       = 40
	weightExactPart   = 20
	weightPart        = 12
	weightGenericKind = 10 // apps/Deployment says little
	weightName        = 8
	weightPort        = 5
	bonusLiteral      = 3 // a pattern without a wildcard
	bonusSupport      = 1 // a further clause or a known port
	maxSupport        = 3
)

// Recognise returns what the facts may be, best first, or nil. Matches of
// equal weight are ordered by the position of the image that spoke for them,
// then by id. It is safe for concurrent use.
func (t *Table) Recognise(f Facts) []Match {
	if t == nil {
		return nil
	}
	s := t.prepare(f)
	found := t.collect(&s, t.strong(&s))
	if len(found) == 0 {
		found = t.collect(&s, t.weak)
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(b.score, a.score),
			cmp.Compare(a.image, b.image),
			cmp.Compare(a.sig.ID, b.sig.ID))
	})
	var out []Match
	for _, c := range found {
		out = append(out, Match{Signature: c.sig, Evidence: c.evidence()})
	}
	return out
}

// subject is the facts in the form that clauses are checked against.
type subject struct {
	kind   string // lower case group/kind
	part   string // lower case
	name   string // lower case
	images []image
	words  []string // "" ends a command
	facts  Facts
}

func (t *Table) prepare(f Facts) subject {
	s := subject{kind: kindKey(f.Group, f.Kind), part: lower(f.Part), name: lower(f.Name), facts: f}
	own, total := 0, 0
	for i, ref := range f.Images {
		img, ok := parseImage(ref)
		if !ok {
			continue
		}
		img.index = i
		img.sidecar = t.isSidecar(img)
		s.images = append(s.images, img)
		total++
		if !img.sidecar {
			own++
		}
	}
	// A sidecar speaks only for a workload that is nothing else, such as a
	// gateway that consists of the mesh's proxy alone.
	if own > 0 && own < total {
		s.images = slices.DeleteFunc(s.images, func(i image) bool { return i.sidecar })
	}
	s.words = splitCommands(f.Commands)
	return s
}

// candidate is a signature with the best of its clauses that held.
type candidate struct {
	sig   *Signature
	score int
	image int // lowest index of an image that spoke, or a large number
	items []item
}

// item is one piece of evidence.
type item struct {
	weight int
	text   string
}

const noImage = 1 << 20

// collect checks the clauses, which are ordered by signature, and returns a
// candidate for every signature of which at least one holds and none vetoes.
func (t *Table) collect(s *subject, clauses []int) []candidate {
	var out []candidate
	for i := 0; i < len(clauses); {
		sig := t.clauses[clauses[i]].sig
		c := candidate{sig: t.signatures[sig], image: noImage}
		held := 0
		for ; i < len(clauses) && t.clauses[clauses[i]].sig == sig; i++ {
			score, ok := t.clauses[clauses[i]].check(s, &c)
			if !ok {
				continue
			}
			held++
			c.score = max(c.score, score)
		}
		if held == 0 || t.vetoed(sig, s) {
			continue
		}
		c.score += min(held-1, maxSupport) * bonusSupport
		c.support(s)
		out = append(out, c)
	}
	return out
}

func (t *Table) vetoed(sig int, s *subject) bool {
	for i := range t.vetoes[sig] {
		var scratch candidate
		if _, ok := t.vetoes[sig][i].check(s, &scratch); ok {
			return true
		}
	}
	return false
}

// support adds the ports that the signature knows and the workload has. They
// never decide, they only make a decision firmer.
func (c *candidate) support(s *subject) {
	n := 0
	for _, known := range c.sig.Sensitive {
		if n == maxSupport {
			return
		}
		if slices.Contains(s.facts.Ports, known.Port) {
			c.items = append(c.items, item{0, "port " + strconv.Itoa(known.Port)})
			c.score += bonusSupport
			n++
		}
	}
}

func (c *candidate) evidence() []string {
	slices.SortStableFunc(c.items, func(a, b item) int { return cmp.Compare(b.weight, a.weight) })
	var out []string
	for _, it := range c.items {
		if !slices.Contains(out, it.text) {
			out = append(out, it.text)
		}
	}
	return out
}
