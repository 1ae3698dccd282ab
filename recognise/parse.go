package recognise

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Limits on a table. A table is written by hand; one that exceeds them is a
// mistake or an attack.
const (
	maxBytes      = 1 << 20
	maxSignatures = 2000
	maxList       = 100
	maxText       = 300
	maxProblems   = 100
)

// Problem is one thing that is wrong with a table.
type Problem struct {
	File      string
	Line, Col int
	// Message names the object, the rule and the fix.
	Message string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Message)
}

// Problems is everything that is wrong with a table, in the order of the text.
type Problems []Problem

// Error joins the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Parse reads a table. The name appears in positions. The error, if any, is a
// [Problems] with all that is wrong.
//
//	sidecars: [istio/proxyv2]   # images that never decide for their workload
//	signatures:
//	  - id: vllm
//	    title: vLLM
//	    class: inference-server
//	    zone: serving
//	    match:                  # one clause is enough, each needs all its fields
//	      - images: [vllm-openai]
//	      - commands: [vllm serve]
//	    unless:                 # one clause is enough to say no
//	      - commands: [sleep infinity]
//	    sensitive:
//	      - {port: 8000, name: api, why: unauthenticated by default}
//	    reference: https://docs.vllm.ai
func Parse(name string, data []byte) (*Table, error) {
	p := &parser{file: name}
	root := p.load(data)
	var signatures []*Signature
	var sidecars []string
	if root != nil {
		p.mapping(root, "table", map[string]func(*yaml.Node){
			"sidecars": func(n *yaml.Node) { sidecars = p.texts(n, "sidecars", checkImage) },
			"signatures": func(n *yaml.Node) {
				signatures = p.signatures(n)
			},
		})
	}
	if len(p.problems) > 0 {
		return nil, p.sorted()
	}
	return newTable(signatures, sidecars), nil
}

type parser struct {
	file     string
	problems Problems
}

func (p *parser) errorf(n *yaml.Node, format string, args ...any) {
	if len(p.problems) == maxProblems {
		format, args = "too many problems, the rest is left out", nil
	} else if len(p.problems) > maxProblems {
		return
	}
	p.problems = append(p.problems, Problem{p.file, n.Line, n.Column, fmt.Sprintf(format, args...)})
}

func (p *parser) sorted() Problems {
	slices.SortStableFunc(p.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return p.problems
}

// load returns the one document's root, or nil after a problem or for an
// empty text, which is an empty table.
func (p *parser) load(data []byte) *yaml.Node {
	if len(data) > maxBytes {
		p.errorf(&yaml.Node{}, "table has %d bytes, the limit is %d; split it", len(data), maxBytes)
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		p.errorf(&yaml.Node{}, "%v", err)
		return nil
	}
	var doc, next yaml.Node
	if err := loader.Load(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			p.syntax(err)
		}
		return nil
	}
	if err := loader.Load(&next); !errors.Is(err, io.EOF) {
		if err != nil {
			p.syntax(err)
		} else {
			p.errorf(&next, "second document; a table is one document, remove the ---")
		}
		return nil
	}
	root := &doc
	if root.Kind == yaml.DocumentNode {
		if len(root.Content) == 0 {
			return nil
		}
		root = root.Content[0]
	}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if !p.plain(root) {
		return nil
	}
	return root
}

func (p *parser) syntax(err error) {
	var list *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case errors.As(err, &list):
		for _, e := range list.Errors {
			p.errorf(&yaml.Node{Line: e.Mark.Line, Column: e.Mark.Column}, "not valid YAML: %s", e.Message)
		}
	case errors.As(err, &one):
		p.errorf(&yaml.Node{Line: one.Mark.Line, Column: one.Mark.Column}, "not valid YAML: %s", one.Message)
	default:
		p.errorf(&yaml.Node{}, "not valid YAML: %v", err)
	}
}

// plain refuses anchors and aliases, with which a short text can mean a very
// long one, and reports whether there were none.
func (p *parser) plain(n *yaml.Node) bool {
	ok := true
	if n.Kind == yaml.AliasNode {
		p.errorf(n, "alias *%s is not allowed; write the value out", n.Value)
		return false
	}
	if n.Anchor != "" {
		p.errorf(n, "anchor &%s is not allowed; write the value where it is needed", n.Anchor)
		ok = false
	}
	for _, c := range n.Content {
		ok = p.plain(c) && ok
	}
	return ok
}

// mapping calls the reader of every key in n and refuses unknown and repeated
// keys. It returns where the known keys stand.
func (p *parser) mapping(n *yaml.Node, what string, keys map[string]func(*yaml.Node)) map[string]*yaml.Node {
	at := map[string]*yaml.Node{}
	if n.Kind != yaml.MappingNode {
		p.errorf(n, "%s is %s, want a mapping", what, describe(n))
		return at
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, known := keys[key.Value]
		if !known || key.Kind != yaml.ScalarNode {
			names := make([]string, 0, len(keys))
			for k := range keys {
				names = append(names, k)
			}
			slices.Sort(names)
			p.errorf(key, "%s has no key %q; keys are %s", what, clip(key.Value), strings.Join(names, ", "))
			continue
		}
		if first, twice := at[key.Value]; twice {
			p.errorf(key, "%s has the key %q twice, first at %s; remove one", what, key.Value, p.place(first))
			continue
		}
		at[key.Value] = key
		read(value)
	}
	return at
}

func (p *parser) place(n *yaml.Node) string {
	return fmt.Sprintf("%s:%d:%d", p.file, n.Line, n.Column)
}

func (p *parser) sequence(n *yaml.Node, what string, limit int) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		p.errorf(n, "%s is %s, want a list", what, describe(n))
		return nil
	}
	if len(n.Content) == 0 {
		p.errorf(n, "%s is empty; remove it or add an entry", what)
	}
	if len(n.Content) > limit {
		p.errorf(n, "%s has %d entries, the limit is %d", what, len(n.Content), limit)
		return nil
	}
	return n.Content
}

// text reads a string and runs the check, which returns what is wrong.
func (p *parser) text(n *yaml.Node, what string, check func(string) string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.errorf(n, "%s is %s, want a text", what, describe(n))
		return ""
	}
	v := n.Value
	wrong := ""
	switch {
	case strings.TrimSpace(v) == "":
		wrong = "is empty"
	case v != strings.TrimSpace(v):
		wrong = "has blanks at an end; remove them"
	case len(v) > maxText:
		wrong = fmt.Sprintf("has %d bytes, the limit is %d", len(v), maxText)
	case strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		wrong = "has a control character; remove it"
	case check != nil:
		wrong = check(v)
	}
	if wrong != "" {
		p.errorf(n, "%s %q %s", what, clip(v), wrong)
		return ""
	}
	return v
}

// texts reads a list of strings without repeats.
func (p *parser) texts(n *yaml.Node, what string, check func(string) string) []string {
	var out []string
	seen := map[string]*yaml.Node{}
	for _, c := range p.sequence(n, what, maxList) {
		v := p.text(c, what, check)
		if v == "" {
			continue
		}
		if first, twice := seen[v]; twice {
			p.errorf(c, "%s has %q twice, first at %s; remove one", what, v, p.place(first))
			continue
		}
		seen[v] = c
		out = append(out, v)
	}
	return out
}

func (p *parser) port(n *yaml.Node, what string) int {
	v, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < 1 || v > 65535 || strconv.Itoa(v) != n.Value {
		p.errorf(n, "%s is %s, want a port number from 1 to 65535", what, describe(n))
		return 0
	}
	return v
}

func (p *parser) signatures(n *yaml.Node) []*Signature {
	var out []*Signature
	seen := map[string]*yaml.Node{}
	for _, c := range p.sequence(n, "signatures", maxSignatures) {
		s, id := p.signature(c)
		if s.ID == "" {
			continue
		}
		if first, twice := seen[s.ID]; twice {
			p.errorf(id, "signature %q is written twice, first at %s; rename or merge one", s.ID, p.place(first))
			continue
		}
		seen[s.ID] = id
		out = append(out, s)
	}
	return out
}

var idForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

func (p *parser) signature(n *yaml.Node) (s *Signature, id *yaml.Node) {
	s, id = &Signature{At: p.place(n)}, n
	at := p.mapping(n, "signature", map[string]func(*yaml.Node){
		"id": func(n *yaml.Node) {
			id = n
			s.ID = p.text(n, "id", func(v string) string {
				if !idForm.MatchString(v) {
					return "is not lower case words joined by single hyphens, such as ray-head"
				}
				return ""
			})
		},
		"title": func(n *yaml.Node) { s.Title = p.text(n, "title", nil) },
		"class": func(n *yaml.Node) { s.Class = Class(p.text(n, "class", oneOf(Classes()))) },
		"zone":  func(n *yaml.Node) { s.Zone = Zone(p.text(n, "zone", oneOf(Zones()))) },
		"match": func(n *yaml.Node) {
			for _, c := range p.sequence(n, "match", maxList) {
				before := len(p.problems)
				clause := p.clause(c, "match clause")
				if len(p.problems) == before {
					p.decides(c, clause)
				}
				s.Match = append(s.Match, clause)
			}
		},
		"unless": func(n *yaml.Node) {
			for _, c := range p.sequence(n, "unless", maxList) {
				s.Unless = append(s.Unless, p.clause(c, "unless clause"))
			}
		},
		"sensitive": func(n *yaml.Node) { s.Sensitive = p.sensitive(n) },
		"reference": func(n *yaml.Node) { s.Reference = p.text(n, "reference", checkURL) },
	})
	if n.Kind == yaml.MappingNode {
		p.require(n, "signature", at, "id", "title", "class", "zone", "match", "reference")
	}
	return s, id
}

func (p *parser) require(n *yaml.Node, what string, at map[string]*yaml.Node, keys ...string) {
	for _, k := range keys {
		if at[k] == nil {
			p.errorf(n, "%s has no %s; add it", what, k)
		}
	}
}

func (p *parser) sensitive(n *yaml.Node) []SensitivePort {
	var out []SensitivePort
	seen := map[int]*yaml.Node{}
	for _, c := range p.sequence(n, "sensitive", maxList) {
		var sp SensitivePort
		at := p.mapping(c, "sensitive port", map[string]func(*yaml.Node){
			"port": func(n *yaml.Node) { sp.Port = p.port(n, "port") },
			"name": func(n *yaml.Node) { sp.Name = p.text(n, "name", nil) },
			"why":  func(n *yaml.Node) { sp.Why = p.text(n, "why", nil) },
		})
		if c.Kind == yaml.MappingNode {
			p.require(c, "sensitive port", at, "port", "name", "why")
		}
		if first, twice := seen[sp.Port]; twice && sp.Port != 0 {
			p.errorf(c, "sensitive port %d is written twice, first at %s; remove one", sp.Port, p.place(first))
			continue
		}
		seen[sp.Port] = c
		out = append(out, sp)
	}
	return out
}

func (p *parser) clause(n *yaml.Node, what string) Clause {
	var c Clause
	p.mapping(n, what, map[string]func(*yaml.Node){
		"kinds":    func(n *yaml.Node) { c.Kinds = p.texts(n, "kinds", checkKind) },
		"parts":    func(n *yaml.Node) { c.Parts = p.texts(n, "parts", nil) },
		"images":   func(n *yaml.Node) { c.Images = p.texts(n, "images", checkImage) },
		"labels":   func(n *yaml.Node) { c.Labels = p.labels(n) },
		"commands": func(n *yaml.Node) { c.Commands = p.texts(n, "commands", checkPhrase) },
		"names":    func(n *yaml.Node) { c.Names = p.texts(n, "names", checkName) },
		"ports": func(n *yaml.Node) {
			for _, e := range p.sequence(n, "ports", maxList) {
				if v := p.port(e, "ports"); v != 0 && !slices.Contains(c.Ports, v) {
					c.Ports = append(c.Ports, v)
				}
			}
		},
	})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		p.errorf(n, "%s is empty and would match everything; remove it", what)
	}
	return c
}

// sharedPorts are those that many programs use, so that none of them says
// anything on its own.
var sharedPorts = []int{
	2222, 3000, 3001, 3306, 4000, 4040, 4200, 4317, 4318, 5000, 5001, 5432, 6006, 6379, 7000, 7001,
	7860, 8000, 8001, 8002, 8003, 8008, 8080, 8081, 8082, 8083, 8088, 8090, 8443, 8500, 8501, 8787, 8888,
	9000, 9001, 9002, 9090, 9091, 9092, 9093, 9100, 9200, 9400, 9443, 9999, 10000, 10250, 50051,
}

// decides refuses a clause that would recognise far more than it means to.
func (p *parser) decides(n *yaml.Node, c Clause) {
	if !c.weak() {
		return
	}
	switch {
	case len(c.Names) == 0 && len(c.Ports) == 0:
		p.errorf(n, "match clause rests on a built-in kind or a part alone, which says nothing about what runs; add images, labels or commands")
	case len(c.Ports) == 0:
		p.errorf(n, "match clause rests on a name alone; add images, labels, commands or ports")
	case len(c.Names) == 0:
		for _, port := range c.Ports {
			if port < 1024 || slices.Contains(sharedPorts, port) {
				p.errorf(n, "match clause rests on port %d, which many programs use; add images, labels, commands or names", port)
			}
		}
	}
}

func (p *parser) labels(n *yaml.Node) []Label {
	if n.Kind != yaml.MappingNode {
		p.errorf(n, "labels is %s, want a mapping of key to value", describe(n))
		return nil
	}
	if len(n.Content) == 0 || len(n.Content) > 2*maxList {
		p.errorf(n, "labels has %d entries, want 1 to %d", len(n.Content)/2, maxList)
		return nil
	}
	var out []Label
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := p.text(n.Content[i], "label key", nil)
		v := p.text(n.Content[i+1], "label value", nil)
		if first, twice := seen[k]; twice && k != "" {
			p.errorf(n.Content[i], "labels has %q twice, first at %s; remove one", k, p.place(first))
			continue
		}
		seen[k] = n.Content[i]
		if k != "" && v != "" {
			out = append(out, Label{k, v})
		}
	}
	return out
}

func oneOf[T ~string](allowed []T) func(string) string {
	return func(v string) string {
		if slices.Contains(allowed, T(v)) {
			return ""
		}
		names := make([]string, len(allowed))
		for i, a := range allowed {
			names[i] = string(a)
		}
		return "is not known; use one of " + strings.Join(names, ", ")
	}
}

func checkKind(v string) string {
	group, kind, ok := strings.Cut(v, "/")
	if !ok {
		group, kind = "core", v
	}
	if group == "" || kind == "" || strings.ContainsAny(v, " *") || strings.Contains(kind, "/") {
		return "is not group/Kind without a version, such as ray.io/RayCluster"
	}
	return ""
}

func checkImage(v string) string {
	if strings.ContainsAny(v, " @") || slices.Contains(strings.Split(v, "/"), "") {
		return "is not an image glob, such as vllm/vllm-openai*"
	}
	first, _, more := strings.Cut(v, "/")
	if more && strings.Contains(first, ".") {
		return "starts with a registry; write only the repository, images come through many mirrors"
	}
	p := newImagePattern(v)
	if tooBroad(p.base().text) && (len(p.path) == 1 || tooBroad(p.path[0].text)) {
		return "matches nearly every image; write more of the name"
	}
	return ""
}

func checkName(v string) string {
	if tooBroad(v) {
		return "matches nearly every name; write more of it"
	}
	return ""
}

func checkPhrase(v string) string {
	fields := strings.Fields(v)
	if strings.Join(fields, " ") != v {
		return "has blanks other than single spaces"
	}
	if strings.ContainsAny(v, ";&|()'\"`\\") {
		return "has a character of the shell; write plain words"
	}
	flags := false
	for i, f := range fields {
		flag := strings.HasPrefix(f, "-")
		if i == 0 && flag {
			return "starts with a flag; name the command first"
		}
		if flags && !flag {
			return "has a word after a flag; write the words, then the flags"
		}
		flags = flags || flag
	}
	if tooBroad(fields[0]) {
		return "matches nearly every command; write more of the first word"
	}
	return ""
}

// tooBroad reports whether fewer than two characters of the pattern are not
// wildcards.
func tooBroad(v string) bool { return len(v)-strings.Count(v, "*") < 2 }

func checkURL(v string) string {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "is not an https address"
	}
	return ""
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "empty"
		}
		return strconv.Quote(clip(n.Value))
	}
	return "something else"
}

// clip keeps a message readable when the input is not.
func clip(v string) string {
	const most = 60
	if len(v) <= most {
		return v
	}
	return strings.ToValidUTF8(v[:most], "") + "…"
}
