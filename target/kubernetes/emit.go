package kubernetes

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"bulkhead/core/network"
	"bulkhead/internal/yamltext"
	"bulkhead/target"
)

// The annotations of everything that is emitted.
const (
	PlatformAnnotation = "bulkhead/platform"
	// GenerationAnnotation holds the digest of all objects of the output.
	GenerationAnnotation = "bulkhead/generation"
)

// defaultDeny is the name of the policy that closes a namespace.
const defaultDeny = "bulkhead-default-deny"

// object is an object to write.
type object struct {
	apiVersion, kind, namespace, name string
	spec                              yamltext.Node
	about                             string // the comment above it
}

// fileObjects is the objects of a file.
type fileObjects struct {
	path    string
	objects []object
}

// write writes the files. Every object carries the digest of all of them, so
// that it shows in a cluster whether they belong together.
func (p *plan) write(files []fileObjects) []target.File {
	digest := digestOf(files)
	platform := p.in.Policy.Platform.Value
	var out []target.File
	for _, f := range files {
		docs := make([]yamltext.Node, len(f.objects))
		for i := range f.objects {
			docs[i] = f.objects[i].node(platform, digest)
		}
		header := []string{
			fmt.Sprintf("Made by bulkhead compile from the policy of platform %s.", platform),
			"Change the policy and compile again: what is changed here is lost.", "",
		}
		docs[0] = docs[0].Before(header...)
		out = append(out, target.File{Path: f.path, Data: yamltext.Documents(docs...)})
	}
	return out
}

func digestOf(files []fileObjects) string {
	h := sha256.New()
	for _, f := range files {
		for i := range f.objects {
			h.Write(yamltext.Plain(f.objects[i].node("", "")))
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func (o *object) node(platform, digest string) yamltext.Node {
	meta := []yamltext.Entry{yamltext.At("name", yamltext.String(o.name))}
	if o.namespace != "" {
		meta = append(meta, yamltext.At("namespace", yamltext.String(o.namespace)))
	}
	meta = append(meta,
		yamltext.At("labels", yamltext.Map(yamltext.At("app.kubernetes.io/managed-by", yamltext.String("bulkhead")))),
		yamltext.At("annotations", yamltext.Map(
			yamltext.At(PlatformAnnotation, yamltext.String(platform)),
			yamltext.At(GenerationAnnotation, yamltext.String(digest)))))
	return yamltext.Map(
		yamltext.At("apiVersion", yamltext.String(o.apiVersion)),
		yamltext.At("kind", yamltext.String(o.kind)),
		yamltext.At("metadata", yamltext.Map(meta...)),
		yamltext.At("spec", o.spec),
	).Above(o.about)
}

// selectorNode writes a selector whose requirements are all of operator In.
func selectorNode(s network.Selector) yamltext.Node {
	var labels []yamltext.Entry
	var expressions []yamltext.Node
	for _, r := range s {
		if len(r.Values) == 1 {
			labels = append(labels, yamltext.At(r.Key, yamltext.String(r.Values[0])))
			continue
		}
		expressions = append(expressions, yamltext.Map(
			yamltext.At("key", yamltext.String(r.Key)),
			yamltext.At("operator", yamltext.String("In")),
			yamltext.At("values", yamltext.Strings(r.Values...))))
	}
	var entries []yamltext.Entry
	if len(labels) > 0 {
		entries = append(entries, yamltext.At("matchLabels", yamltext.Map(labels...)))
	}
	if len(expressions) > 0 {
		entries = append(entries, yamltext.At("matchExpressions", yamltext.List(expressions...)))
	}
	return yamltext.Map(entries...)
}

// objectNames gives objects names that the API server takes, each once in its
// namespace.
type objectNames struct {
	used map[string]bool
}

func newNames() *objectNames { return &objectNames{used: map[string]bool{}} }

// reserve keeps a name from being given.
func (n *objectNames) reserve(namespace, name string) { n.used[namespace+"/"+name] = true }

// subdomain is RFC 1123's form of a name.
var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// maxStem is how much of a workload's name is kept: a name has 253 characters,
// and room is needed for what is put around it.
const maxStem = 200

// of returns the name for an object of a workload's binding. A workload whose
// name has to be changed gets a digest of the real one, so that two of them
// never share an object.
func (n *objectNames) of(namespace, workload string, binding int, suffix string) string {
	id := sha256.Sum256([]byte(workload))
	stem := workload
	if len(stem) > maxStem || !subdomain.MatchString(stem) {
		stem = asSubdomain(stem) + "-" + hex.EncodeToString(id[:4])
	}
	name := "bulkhead-" + stem
	if binding > 1 {
		name += fmt.Sprintf("-%d", binding)
	}
	if suffix != "" {
		name += "-" + suffix
	}
	// Another workload may really have the name that was made for this one.
	for i := 0; n.used[namespace+"/"+name]; i++ {
		name += "-" + hex.EncodeToString(id[4+i%20:8+i%20])
	}
	n.reserve(namespace, name)
	return name
}

// asSubdomain keeps the letters and digits of a text.
func asSubdomain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	s = strings.Trim(s[:min(len(s), maxStem)], "-")
	if s == "" {
		return "workload"
	}
	return s
}
