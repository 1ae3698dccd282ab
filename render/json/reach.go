package json

import (
	"bufio"
	"bytes"
	"io"
	"iter"

	"bulkhead/render"
)

// grant is the part of an edge that many edges share.
type grant struct {
	Allow   string   `json:"allow"`
	Unknown string   `json:"unknown"`
	Rules   []string `json:"rules"`
}

type outsideGrant struct {
	Allow   string `json:"allow"`
	Unknown string `json:"unknown"`
}

type published struct {
	By      string   `json:"by"`
	To      string   `json:"to"`
	Reach   string   `json:"reach"`
	Why     string   `json:"why,omitempty"`
	Clients []string `json:"clients"`
	Port    string   `json:"port"`
	Allow   string   `json:"allow"`
	Unknown string   `json:"unknown"`
	At      string   `json:"at,omitempty"`
}

// stream writes a document piece by piece: an estate may have more edges than
// fit into memory.
type stream struct {
	w     *bufio.Writer
	buf   bytes.Buffer
	names map[string][]byte
	tails map[tailKey][]byte
}

type tailKey struct {
	grant *render.Grant
	rules bool
}

// Reach writes who can reach what as one document, one edge a line, while the
// edges are made.
func Reach(w io.Writer, r *render.Reach) error {
	s := &stream{w: bufio.NewWriterSize(w, 1<<16), names: map[string][]byte{}, tails: map[tailKey][]byte{}}
	s.text(`{"schema": "` + ReachSchema + `",` + "\n")
	s.edges("edges", r.Edges)
	s.text(",\n")
	s.outside("exposures", "to", "from", r.Exposures)
	s.text(",\n")
	s.outside("egress", "from", "to", r.Egress)
	s.text(",\n")
	pubs := make([]published, 0, len(r.Published))
	for i := range r.Published {
		pubs = append(pubs, publishedOf(&r.Published[i]))
	}
	s.values("published", pubs)
	s.edges("platform", func(yield func(render.Edge) bool) {
		for _, e := range r.Platform {
			if !yield(e) {
				return
			}
		}
	})
	s.text(",\n")
	s.value("facts", facts(r.Facts))
	s.text(",\n")
	s.value("assumptions", assumptions(r.Assumptions))
	s.text(",\n")
	s.value("coverage", coverageOf(&r.Coverage))
	s.text("}\n")
	return s.w.Flush()
}

func publishedOf(p *render.Published) published {
	return published{p.By, p.To, p.Reach, p.Why, list(p.Clients), p.At, p.Allow, p.Unknown, p.Pos.Short()}
}

func (s *stream) text(t string) { s.w.WriteString(t) }

func (s *stream) value(name string, v any) {
	s.text(` "` + name + `": `)
	s.w.Write(compact(&s.buf, v))
}

// values writes a list with one value a line and a comma behind it.
func (s *stream) values(name string, vs []published) {
	l := s.list(name)
	for _, v := range vs {
		l.next()
		s.w.Write(compact(&s.buf, v))
	}
	l.end()
	s.text(",\n")
}

// lines is a list that is being written.
type lines struct {
	s     *stream
	begun bool
}

func (s *stream) list(name string) *lines {
	s.text(` "` + name + `": [`)
	return &lines{s: s}
}

func (l *lines) next() {
	if l.begun {
		l.s.w.WriteByte(',')
	}
	l.begun = true
	l.s.text("\n  ")
}

func (l *lines) end() { l.s.text("]") }

func (s *stream) edges(name string, seq iter.Seq[render.Edge]) {
	l := s.list(name)
	for e := range seq {
		l.next()
		s.text(`{"from":`)
		s.w.Write(s.name(e.From))
		s.text(`,"to":`)
		s.w.Write(s.name(e.To))
		s.w.WriteByte(',')
		if _, err := s.w.Write(s.tail(e.Grant, true)); err != nil {
			return // what follows would be lost too; Flush reports it
		}
	}
	l.end()
}

func (s *stream) outside(name, workload, place string, seq iter.Seq[render.Outside]) {
	l := s.list(name)
	for o := range seq {
		l.next()
		s.text(`{"` + workload + `":`)
		s.w.Write(s.name(o.Workload))
		s.text(`,"` + place + `":`)
		s.w.Write(s.name(o.Place))
		s.w.WriteByte(',')
		if _, err := s.w.Write(s.tail(o.Grant, false)); err != nil {
			return
		}
	}
	l.end()
}

// remembered bounds the memory for encoded texts.
const remembered = 1 << 16

// name returns a name as JSON.
func (s *stream) name(text string) []byte {
	if b, ok := s.names[text]; ok {
		return b
	}
	if len(s.names) > remembered {
		clear(s.names)
	}
	b := bytes.Clone(compact(&s.buf, text))
	s.names[text] = b
	return b
}

// tail returns a grant as JSON without its opening brace, with its rules or
// without.
func (s *stream) tail(g *render.Grant, rules bool) []byte {
	key := tailKey{g, rules}
	if b, ok := s.tails[key]; ok {
		return b
	}
	if len(s.tails) > remembered {
		clear(s.tails)
	}
	var b []byte
	if rules {
		b = compact(&s.buf, grant{g.Allow, g.Unknown, list(g.Rules)})
	} else {
		b = compact(&s.buf, outsideGrant{g.Allow, g.Unknown})
	}
	b = bytes.Clone(b[1:])
	s.tails[key] = b
	return b
}
