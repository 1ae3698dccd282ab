package recognise

import (
	"path"
	"slices"
	"strings"
)

// glob is a pattern in which * stands for any run of characters.
type glob struct {
	text   string
	pieces []string // what stands between the stars; nil without a star
}

func newGlob(text string) glob {
	g := glob{text: text}
	if strings.Contains(text, "*") {
		g.pieces = strings.Split(text, "*")
	}
	return g
}

func (g *glob) literal() bool { return g.pieces == nil }

func (g *glob) match(s string) bool {
	if g.pieces == nil {
		return s == g.text
	}
	first, last := g.pieces[0], g.pieces[len(g.pieces)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, p := range g.pieces[1 : len(g.pieces)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return true
}

// image is a container image reference taken apart.
type image struct {
	path    []string // repository without registry and without library/
	tag     string
	index   int
	sidecar bool
}

// parseImage takes ref apart. The registry goes, because the same image is
// pulled through many mirrors; so does a digest, which says nothing.
func parseImage(ref string) (image, bool) {
	ref = lower(strings.TrimSpace(ref))
	ref = strings.TrimPrefix(ref, "docker://")
	ref, _, _ = strings.Cut(ref, "@")
	var img image
	slash := strings.LastIndexByte(ref, '/')
	if colon := strings.LastIndexByte(ref, ':'); colon > slash {
		ref, img.tag = ref[:colon], ref[colon+1:]
	}
	if ref == "" {
		return image{}, false
	}
	img.path = strings.Split(ref, "/")
	if len(img.path) > 1 && (strings.ContainsAny(img.path[0], ".:") || img.path[0] == "localhost") {
		img.path = img.path[1:]
	}
	if len(img.path) > 1 && img.path[0] == "library" {
		img.path = img.path[1:]
	}
	if img.base() == "" {
		return image{}, false
	}
	return img, true
}

func (i *image) base() string       { return i.path[len(i.path)-1] }
func (i *image) repository() string { return strings.Join(i.path, "/") }

// imagePattern is matched against the last components of a repository, so
// that vllm/vllm-openai also knows the copy under mirror/docker-hub/.
type imagePattern struct {
	path []glob
	tag  *glob
}

func newImagePattern(text string) imagePattern {
	text = lower(text)
	var p imagePattern
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, '/') {
		g := newGlob(text[colon+1:])
		text, p.tag = text[:colon], &g
	}
	for part := range strings.SplitSeq(text, "/") {
		p.path = append(p.path, newGlob(part))
	}
	return p
}

func (p *imagePattern) base() *glob { return &p.path[len(p.path)-1] }

func (p *imagePattern) literal() bool {
	return !slices.ContainsFunc(p.path, func(g glob) bool { return !g.literal() })
}

func (p *imagePattern) match(img *image) bool {
	if len(p.path) > len(img.path) || !p.base().match(img.base()) {
		return false
	}
	tail := img.path[len(img.path)-len(p.path):]
	for i := range p.path {
		if !p.path[i].match(tail[i]) {
			return false
		}
	}
	return p.tag == nil || p.tag.match(img.tag)
}

// phrase is a command as a person would name it, "ray start --head": words
// that follow each other, then flags that stand anywhere later in the same
// command.
type phrase struct {
	text  string
	words []glob
	flags []string
}

func newPhrase(text string) phrase {
	p := phrase{text: text}
	for _, w := range strings.Fields(text) {
		if strings.HasPrefix(w, "-") {
			p.flags = append(p.flags, w)
		} else {
			p.words = append(p.words, newGlob(w))
		}
	}
	return p
}

func (p *phrase) literal() bool {
	return !slices.ContainsFunc(p.words, func(g glob) bool { return !g.literal() })
}

func (p *phrase) match(words []string) bool {
	for i := range words {
		if p.matchAt(words, i) {
			return true
		}
	}
	return false
}

func (p *phrase) matchAt(words []string, i int) bool {
	if i+len(p.words) > len(words) {
		return false
	}
	for j := range p.words {
		if w := words[i+j]; w == "" || !p.words[j].match(w) && !p.words[j].match(program(w)) {
			return false
		}
	}
	if len(p.words) == 1 && i > 0 && takesValue(words[i-1]) {
		return false
	}
	rest := words[i+len(p.words):]
	if end := slices.Index(rest, ""); end >= 0 {
		rest = rest[:end]
	}
	for _, f := range p.flags {
		if !slices.ContainsFunc(rest, func(w string) bool {
			return w == f || strings.HasPrefix(w, f) && len(w) > len(f) && w[len(f)] == '='
		}) {
			return false
		}
	}
	return true
}

// program strips the folder from a word that may be a path to a program. An
// assignment, a flag and a URL are none.
func program(w string) string {
	if !strings.Contains(w, "/") || w[0] == '-' || strings.Contains(w, "=") || strings.Contains(w, "://") {
		return w
	}
	return path.Base(w)
}

// takesValue reports whether the word before a lone word makes that word a
// value: "nc -h qdrant" does not run qdrant. Flags that run what follows
// (-m of python, -c of a shell, -- of a wrapper) do not.
func takesValue(before string) bool {
	if !strings.HasPrefix(before, "-") || before == "--" || before == "-m" || strings.Contains(before, "=") {
		return false
	}
	shell := !strings.HasPrefix(before, "--") && len(before) <= 8 && strings.HasSuffix(before, "c")
	// bash -cx and friends put the c elsewhere.
	return !shell && before != "-cx" && before != "-ce"
}

// maxWords bounds the work on a script of any length; what makes a workload
// what it is stands at the start.
const maxWords = 4096

// splitCommands splits every element as a shell would at the coarsest: blanks
// part words, ; & | ( ) and a line end part commands, quotes vanish. An empty
// word in the result ends a command.
func splitCommands(elements []string) []string {
	var sp splitter
	for _, e := range elements {
		switch {
		case len(sp.out) >= maxWords:
			return sp.out
		case e == "":
			sp.end()
		case !strings.ContainsAny(e, " \t\r\n;&|()'\"`\\"):
			sp.out = append(sp.out, e)
		default:
			sp.script(e)
		}
	}
	return sp.out
}

type splitter struct {
	out  []string
	word []byte
}

func (sp *splitter) flush() {
	if len(sp.word) > 0 {
		sp.out = append(sp.out, string(sp.word))
		sp.word = sp.word[:0]
	}
}

func (sp *splitter) end() {
	sp.flush()
	if len(sp.out) > 0 && sp.out[len(sp.out)-1] != "" {
		sp.out = append(sp.out, "")
	}
}

func (sp *splitter) script(text string) {
	for i := 0; i < len(text) && len(sp.out) < maxWords; i++ {
		switch c := text[i]; c {
		case ' ', '\t', '\r':
			sp.flush()
		case '\n', ';', '&', '|', '(', ')', '`':
			sp.end()
		case '\'', '"':
		case '\\':
			if i+1 < len(text) && text[i+1] == '\n' {
				i++
				sp.flush()
			}
		default:
			sp.word = append(sp.word, c)
		}
	}
	sp.flush()
}
