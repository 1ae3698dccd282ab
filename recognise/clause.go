package recognise

import (
	"slices"
	"strconv"
	"strings"
)

// clause is a [Clause] ready to be checked.
type clause struct {
	sig    int
	kinds  []string
	parts  []glob
	images []imagePattern
	labels []labelPattern
	lines  []phrase
	names  []glob
	ports  []int
	weak   bool // names and ports only
}

type labelPattern struct {
	key   string
	value glob
	owned bool
}

func compileClause(sig int, c Clause) clause {
	out := clause{sig: sig, ports: c.Ports}
	for _, k := range c.Kinds {
		out.kinds = append(out.kinds, lower(k))
	}
	for _, p := range c.Parts {
		out.parts = append(out.parts, newGlob(lower(p)))
	}
	for _, p := range c.Images {
		out.images = append(out.images, newImagePattern(p))
	}
	for _, l := range c.Labels {
		out.labels = append(out.labels, labelPattern{l.Key, newGlob(l.Value), ownedLabel(l.Key)})
	}
	for _, p := range c.Commands {
		out.lines = append(out.lines, newPhrase(p))
	}
	for _, p := range c.Names {
		out.names = append(out.names, newGlob(lower(p)))
	}
	out.weak = c.weak()
	return out
}

// check reports whether every field of the clause holds, and adds what spoke
// for it to into. Within a field one entry is enough, except that all labels
// and all ports must be there.
func (c *clause) check(s *subject, into *candidate) (score int, ok bool) {
	mark, image := len(into.items), into.image
	defer func() {
		if !ok {
			into.items, into.image = into.items[:mark], image
		}
	}()
	add := func(weight int, text string) {
		score += weight
		into.items = append(into.items, item{weight, text})
	}
	if len(c.kinds) > 0 {
		if !slices.Contains(c.kinds, s.kind) {
			return 0, false
		}
		w := weightKind
		if genericKind(s.kind) {
			w = weightGenericKind
		}
		add(w, "kind "+displayKind(s.facts))
	}
	if len(c.images) > 0 && !c.checkImages(s, into, add) {
		return 0, false
	}
	if len(c.lines) > 0 && !c.checkCommands(s, add) {
		return 0, false
	}
	for _, l := range c.labels {
		v, there := s.facts.Labels[l.key]
		if !there || !l.value.match(v) {
			return 0, false
		}
		w := weightLabel
		if l.owned {
			w = weightOwnedLabel
		}
		add(w, "label "+l.key+"="+v)
	}
	if len(c.parts) > 0 {
		i := slices.IndexFunc(c.parts, func(g glob) bool { return s.part != "" && g.match(s.part) })
		if i < 0 {
			return 0, false
		}
		w := weightPart
		if c.parts[i].literal() {
			w = weightExactPart
		}
		add(w, "part "+s.facts.Part)
	}
	if len(c.names) > 0 {
		i := slices.IndexFunc(c.names, func(g glob) bool { return s.name != "" && g.match(s.name) })
		if i < 0 {
			return 0, false
		}
		w := weightName
		if c.names[i].literal() {
			w += bonusLiteral
		}
		add(w, "name "+s.facts.Name)
	}
	for _, n := range c.ports {
		if !slices.Contains(s.facts.Ports, n) {
			return 0, false
		}
		add(weightPort, "port "+strconv.Itoa(n))
	}
	return score, true
}

func (c *clause) checkImages(s *subject, into *candidate, add func(int, string)) bool {
	best, weight := -1, 0
	for i := range s.images {
		for j := range c.images {
			if !c.images[j].match(&s.images[i]) {
				continue
			}
			w := weightImage
			if c.images[j].literal() {
				w += bonusLiteral
			}
			if w > weight {
				best, weight = i, w
			}
		}
	}
	if best < 0 {
		return false
	}
	into.image = min(into.image, s.images[best].index)
	add(weight, "image "+s.images[best].repository())
	return true
}

func (c *clause) checkCommands(s *subject, add func(int, string)) bool {
	for i := range c.lines {
		if c.lines[i].match(s.words) {
			w := weightCommand
			if c.lines[i].literal() {
				w += bonusLiteral
			}
			add(w, "command "+c.lines[i].text)
			return true
		}
	}
	return false
}

// kindKey is the form under which kinds are compared.
func kindKey(group, kind string) string {
	if kind == "" {
		return ""
	}
	group, _, _ = strings.Cut(group, "/")
	if group == "" {
		return lower(kind)
	}
	return lower(group + "/" + kind)
}

func displayKind(f Facts) string {
	group, _, _ := strings.Cut(f.Group, "/")
	if group == "" {
		return f.Kind
	}
	return group + "/" + f.Kind
}

// genericKind reports whether the kind belongs to the platform itself and so
// says nothing about what runs in it. Groups of extensions have a domain.
func genericKind(key string) bool {
	group, _, ok := strings.Cut(key, "/")
	return !ok || !strings.Contains(group, ".")
}

// ownedLabel reports whether the key belongs to a controller. The app.kubernetes.io
// keys are a convention that people fill in by hand.
func ownedLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	return ok && domain != "app.kubernetes.io"
}

// lower avoids an allocation for what is lower case already.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' || c >= 0x80 {
			return strings.ToLower(s)
		}
	}
	return s
}
