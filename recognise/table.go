package recognise

import (
	_ "embed"
	"slices"
	"sync"
)

// Class says what a workload does.
type Class string

// Zone is the role of the zone in which a workload of this kind belongs.
type Zone string

// Classes lists the classes that a table may use.
func Classes() []Class {
	return []Class{
		"cache", "data-pipeline", "database", "experiment-tracker", "feature-store", "gateway",
		"gpu-infrastructure", "inference-server", "llm-ui", "log-store", "message-queue",
		"model-cache", "model-registry", "monitoring", "notebook", "object-store", "ray-head",
		"ray-worker", "training-job", "vector-store", "workflow-engine",
	}
}

// Zones lists the zone roles that a table may use.
func Zones() []Zone {
	return []Zone{"artefacts", "custom", "data", "logging", "serving", "training"}
}

// Signature describes one kind of workload. It is read-only.
type Signature struct {
	ID    string
	Title string
	Class Class
	Zone  Zone
	// Match holds the clauses of which one is enough.
	Match []Clause
	// Unless holds the clauses of which one is enough to say no.
	Unless []Clause
	// Sensitive lists the ports that give more than the workload's users need.
	Sensitive []SensitivePort
	// Reference is where the project documents itself.
	Reference string
	// At is where the signature was written, as file:line:col.
	At string
}

// Clause is evidence that must all be there: one entry of every field that is
// not empty, except that all labels and all ports are needed.
type Clause struct {
	// Kinds are API kinds as group/Kind without a version.
	Kinds []string
	// Parts are globs on [Facts.Part]. They never hold for an empty part.
	Parts []string
	// Images are globs on the last components of the repository, without
	// registry, with an optional :tag glob.
	Images []string
	// Labels pair a key with a glob on its value.
	Labels []Label
	// Commands are words that follow each other in one command, then flags
	// that appear anywhere after them.
	Commands []string
	// Names are globs on the workload's name.
	Names []string
	// Ports are port numbers.
	Ports []int
}

// Label is a label key and a glob on its value.
type Label struct{ Key, Value string }

// SensitivePort is a port worth a policy of its own.
type SensitivePort struct {
	Port int
	Name string
	// Why says what whoever reaches the port can do.
	Why string
}

// weak reports whether the clause rests on names and ports only.
func (c Clause) weak() bool {
	return len(c.Images) == 0 && len(c.Labels) == 0 && len(c.Commands) == 0 &&
		!slices.ContainsFunc(c.Kinds, func(k string) bool { return !genericKind(lower(k)) })
}

// Table is a set of signatures, indexed. It never changes; the zero Table
// recognises nothing.
type Table struct {
	signatures []*Signature
	sidecars   []string

	clauses []clause
	vetoes  [][]clause

	// Every strong clause stands in exactly one of these, under the rarest
	// thing it needs, so that a lookup finds few clauses to check.
	byKind  map[string][]int
	byImage map[string][]int // by literal last component
	byLabel map[string][]int
	byWord  map[string][]int // by literal first word
	globs   []globEntry      // images whose last component has a wildcard
	words   []globEntry      // commands whose first word has one
	weak    []int

	sidecarBase map[string][]imagePattern
	sidecarGlob []imagePattern
}

type globEntry struct {
	pattern glob
	clause  int
}

//go:embed signatures.yaml
var builtinText []byte

// BuiltinName is the file name that positions in the built-in table carry.
const BuiltinName = "recognise/signatures.yaml"

var builtin = sync.OnceValue(func() *Table {
	t, err := Parse(BuiltinName, builtinText)
	if err != nil {
		panic(err) // a test parses the same bytes
	}
	return t
})

// Builtin returns the table that comes with bulkhead.
func Builtin() *Table { return builtin() }

// Extend returns a table with the signatures and sidecars of both. A signature
// of more replaces the one of t with the same id. Neither table changes.
func (t *Table) Extend(more *Table) *Table {
	var signatures []*Signature
	var sidecars []string
	at := map[string]int{}
	for _, from := range []*Table{t, more} {
		if from == nil {
			continue
		}
		for _, s := range from.signatures {
			if i, ok := at[s.ID]; ok {
				signatures[i] = s
				continue
			}
			at[s.ID] = len(signatures)
			signatures = append(signatures, s)
		}
		sidecars = append(sidecars, from.sidecars...)
	}
	slices.Sort(sidecars)
	return newTable(signatures, slices.Compact(sidecars))
}

func newTable(signatures []*Signature, sidecars []string) *Table {
	t := &Table{
		signatures: signatures, sidecars: sidecars,
		byKind: map[string][]int{}, byImage: map[string][]int{},
		byLabel: map[string][]int{}, byWord: map[string][]int{},
		sidecarBase: map[string][]imagePattern{},
	}
	for i, s := range signatures {
		for _, c := range s.Match {
			t.clauses = append(t.clauses, compileClause(i, c))
		}
		var vetoes []clause
		for _, c := range s.Unless {
			vetoes = append(vetoes, compileClause(i, c))
		}
		t.vetoes = append(t.vetoes, vetoes)
	}
	for i := range t.clauses {
		t.index(i)
	}
	for _, text := range sidecars {
		p := newImagePattern(text)
		if p.base().literal() {
			t.sidecarBase[p.base().text] = append(t.sidecarBase[p.base().text], p)
		} else {
			t.sidecarGlob = append(t.sidecarGlob, p)
		}
	}
	return t
}

func (t *Table) index(i int) {
	c := &t.clauses[i]
	add := func(m map[string][]int, key string) {
		if n := len(m[key]); n == 0 || m[key][n-1] != i {
			m[key] = append(m[key], i)
		}
	}
	switch {
	case c.weak:
		t.weak = append(t.weak, i)
	case len(c.kinds) > 0 && !slices.ContainsFunc(c.kinds, genericKind):
		for _, k := range c.kinds {
			add(t.byKind, k)
		}
	case len(c.images) > 0:
		for _, p := range c.images {
			if p.base().literal() {
				add(t.byImage, p.base().text)
			} else {
				t.globs = append(t.globs, globEntry{*p.base(), i})
			}
		}
	case len(c.labels) > 0:
		add(t.byLabel, c.labels[0].key)
	case len(c.lines) > 0:
		for _, p := range c.lines {
			if p.words[0].literal() {
				add(t.byWord, p.words[0].text)
			} else {
				t.words = append(t.words, globEntry{p.words[0], i})
			}
		}
	}
}

// strong returns the clauses that may hold, in order, without weak ones.
func (t *Table) strong(s *subject) []int {
	var out []int
	if s.kind != "" {
		out = append(out, t.byKind[s.kind]...)
	}
	for i := range s.images {
		base := s.images[i].base()
		out = append(out, t.byImage[base]...)
		for j := range t.globs {
			if t.globs[j].pattern.match(base) {
				out = append(out, t.globs[j].clause)
			}
		}
	}
	for k := range s.facts.Labels {
		out = append(out, t.byLabel[k]...)
	}
	for _, w := range s.words {
		if w == "" {
			continue
		}
		out = append(out, t.byWord[w]...)
		p := program(w)
		if p != w {
			out = append(out, t.byWord[p]...)
		}
		for j := range t.words {
			if t.words[j].pattern.match(w) || t.words[j].pattern.match(p) {
				out = append(out, t.words[j].clause)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (t *Table) isSidecar(img image) bool {
	match := func(p imagePattern) bool { return p.match(&img) }
	return slices.ContainsFunc(t.sidecarBase[img.base()], match) || slices.ContainsFunc(t.sidecarGlob, match)
}
