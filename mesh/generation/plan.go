package generation

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"bulkhead/core/policy"
)

// Plan is what a policy means for the mesh.
type Plan struct {
	Policy *policy.Policy
	// Addresses are where workloads are inside the mesh, the same on every node.
	Addresses Addresses
}

// maxPlan is the longest plan that is decoded, unpacked: that of about a million
// workloads.
const maxPlan = 512 << 20

// packed is a plan as it travels.
type packed struct {
	// Says lists what a plan of the packing version can say. The encoding skips
	// what the reader does not know, so the reader must look by itself.
	Says      []string
	Policy    *policy.Policy
	Zones     []named[Subnet]
	Workloads []named[Address]
	Endpoints []named[Address]
}

// named is an entry of a map. The encoding of a map has no order, and a plan
// that is packed twice must have one digest.
type named[T any] struct {
	Name  string
	Value T
}

func sorted[T any](m map[string]T) []named[T] {
	out := make([]named[T], 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, named[T]{name, m[name]})
	}
	return out
}

func byName[T any](list []named[T]) map[string]T {
	out := make(map[string]T, len(list))
	for _, n := range list {
		out[n.Name] = n.Value
	}
	return out
}

// vocabulary is everything that a plan of this version can say: each field of
// each type in it.
var vocabulary = fieldsOf(reflect.TypeFor[packed](), map[reflect.Type]bool{})

func fieldsOf(t reflect.Type, seen map[reflect.Type]bool) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return fieldsOf(t.Elem(), seen)
	case reflect.Struct:
	default:
		return nil
	}
	if seen[t] {
		return nil
	}
	seen[t] = true
	var out []string
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			out = append(out, t.String()+"."+f.Name)
			out = append(out, fieldsOf(f.Type, seen)...)
		}
	}
	return out
}

// Pack encodes a plan and returns its digest.
func (p *Plan) Pack() (data []byte, digest string, err error) {
	var buf bytes.Buffer
	z, err := flate.NewWriter(&buf, flate.BestSpeed)
	if err != nil {
		return nil, "", err
	}
	w := packed{Says: vocabulary, Policy: p.Policy, Zones: sorted(p.Addresses.Zones), Workloads: sorted(p.Addresses.Workloads), Endpoints: sorted(p.Addresses.Endpoints)}
	if err := gob.NewEncoder(z).Encode(&w); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	return buf.Bytes(), Digest(buf.Bytes()), nil
}

// Digest names data.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Unpack decodes the plan that a signed order names.
func Unpack(data []byte, digest string) (*Plan, error) {
	return unpack(data, digest, maxPlan)
}

func unpack(data []byte, digest string, limit int64) (*Plan, error) {
	if Digest(data) != digest {
		return nil, fmt.Errorf("the plan is not the one that the order names: its digest is not %.64q", digest)
	}
	var w packed
	limited := &io.LimitedReader{R: flate.NewReader(bytes.NewReader(data)), N: limit}
	if err := gob.NewDecoder(limited).Decode(&w); err != nil {
		if limited.N == 0 {
			return nil, fmt.Errorf("a plan is longer than %d bytes", limit)
		}
		return nil, fmt.Errorf("a plan cannot be read: %w", err)
	}
	for _, field := range w.Says {
		if !slices.Contains(vocabulary, field) {
			return nil, fmt.Errorf("a plan can say %.80q, which this version does not know: update this program", field)
		}
	}
	if len(w.Says) == 0 || w.Policy == nil {
		return nil, errors.New("a plan holds no policy")
	}
	return &Plan{w.Policy, Addresses{byName(w.Zones), byName(w.Workloads), byName(w.Endpoints)}}, nil
}
