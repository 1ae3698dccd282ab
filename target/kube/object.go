package kube

import (
	"hash/maphash"
	"iter"
	"strings"

	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

// Object is a Kubernetes object with its identity read.
type Object struct {
	Group, Version, Kind string
	// Namespace is as written, empty for none.
	Namespace string
	// Name is metadata.name, or metadata.generateName with a `*`.
	Name  string
	Value yamldoc.Value
	Pos   source.Pos
}

// IsObject reports whether v has the two fields that every object has.
func IsObject(v yamldoc.Value) bool {
	_, isKind := v.Get("kind").Text()
	_, isVersion := v.Get("apiVersion").Text()
	return isKind && isVersion
}

// Expand yields the objects of a document: its items when it is a `List` or
// any `…List` with items, nested ones too, and else the document itself.
func Expand(v yamldoc.Value) iter.Seq[yamldoc.Value] {
	return func(yield func(yamldoc.Value) bool) { expand(v, yield) }
}

func expand(v yamldoc.Value, yield func(yamldoc.Value) bool) bool {
	kind, _ := v.Get("kind").Text()
	items := v.Get("items")
	if !strings.HasSuffix(kind, "List") || items.Kind() != yamldoc.List {
		return yield(v)
	}
	for _, item := range items.Items() {
		if !expand(item, yield) {
			return false
		}
	}
	return true
}

// ReadObject reads the identity of v. It reports false for what is not a
// Kubernetes object; what is wrong with the metadata of one is appended to ds.
func ReadObject(v yamldoc.Value, ds *source.Diagnostics) (Object, bool) {
	if !IsObject(v) {
		return Object{}, false
	}
	kind, _ := v.Get("kind").Text()
	version, _ := v.Get("apiVersion").Text()
	o := Object{Kind: kind, Version: version, Value: v, Pos: v.Pos()}
	if group, rest, ok := strings.Cut(version, "/"); ok {
		o.Group, o.Version = group, rest
	}
	meta := v.Get("metadata")
	if k := meta.Kind(); k != yamldoc.Map && k != yamldoc.Missing && k != yamldoc.Null {
		ds.Errorf("wrong-type", meta.Pos(), "%s: metadata must be a map, not %s", kind, k)
	}
	text := func(key string) string {
		f := meta.Get(key)
		if f.Kind() == yamldoc.Missing || f.Kind() == yamldoc.Null {
			return ""
		}
		t, _ := f.Text()
		if !f.IsString() {
			ds.Errorf("wrong-type", f.Pos(), "%s: metadata.%s must be a string", kind, key).WithFix("quote it")
		}
		return t
	}
	o.Namespace, o.Name = text("namespace"), text("name")
	if o.Name == "" {
		if g := text("generateName"); g != "" {
			o.Name = g + "*"
		}
	}
	return o, true
}

// String returns `Kind namespace/name`, or `Kind name` without a namespace.
func (o *Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Annotation returns the value of an annotation, or nothing.
func (o *Object) Annotation(key string) string {
	t, _ := o.Value.At("metadata", "annotations", key).Text()
	return t
}

// Owner is a reference of an object to the one that made it.
type Owner struct {
	Group, Kind, Name string
}

// OwnerOf returns the owner of v: the one marked as its controller, or the
// only one.
func OwnerOf(v yamldoc.Value) (Owner, bool) {
	refs := v.At("metadata", "ownerReferences")
	var found Owner
	for _, r := range refs.Items() {
		controller, _ := r.Get("controller").Bool()
		if !controller && refs.Len() > 1 {
			continue
		}
		found.Kind, _ = r.Get("kind").Text()
		found.Name, _ = r.Get("name").Text()
		version, _ := r.Get("apiVersion").Text()
		if group, _, ok := strings.Cut(version, "/"); ok {
			found.Group = group
		}
		return found, found.Kind != "" && found.Name != ""
	}
	return Owner{}, false
}

var digestSeed = maphash.MakeSeed()

// volatile are the fields that the API server keeps: two dumps of one object
// differ in them without being different.
var volatile = map[string]bool{
	"managedFields": true, "resourceVersion": true, "uid": true, "generation": true,
	"creationTimestamp": true, "selfLink": true,
}

// Digest returns a number that is equal for objects of equal content,
// whatever the order of their fields. Status and what the API server keeps in
// the metadata do not count. It differs between runs of the program.
func (o *Object) Digest() uint64 {
	var sum uint64
	for k, v := range o.Value.Entries() {
		key, _ := k.Text()
		switch key {
		case "status":
		case "metadata":
			for mk, mv := range v.Entries() {
				if name, _ := mk.Text(); !volatile[name] {
					sum += digestEntry("metadata."+name, mv)
				}
			}
		default:
			sum += digestEntry(key, v)
		}
	}
	return sum
}

func digestEntry(key string, v yamldoc.Value) uint64 {
	var h maphash.Hash
	h.SetSeed(digestSeed)
	h.WriteString(key)
	maphash.WriteComparable(&h, digest(v))
	return h.Sum64()
}

// digest adds up the entries of a map, so that their order does not count,
// and chains the items of a list, so that theirs does.
func digest(v yamldoc.Value) uint64 {
	var h maphash.Hash
	h.SetSeed(digestSeed)
	h.WriteByte(byte(v.Kind()))
	switch v.Kind() {
	case yamldoc.Scalar:
		t, _ := v.Text()
		h.WriteString(t)
	case yamldoc.List:
		for _, item := range v.Items() {
			maphash.WriteComparable(&h, digest(item))
		}
	case yamldoc.Map:
		var sum uint64
		for k, val := range v.Entries() {
			key, _ := k.Text()
			sum += digestEntry(key, val)
		}
		maphash.WriteComparable(&h, sum)
	}
	return h.Sum64()
}
