package policyfile

import (
	_ "embed"
	"slices"
	"sync"

	"bulkhead/core/policy"
)

//go:embed catalogue/catalogue.yaml
var catalogueText []byte

// catalogueName is the file that positions of built-in destinations show.
const catalogueName = "catalogue.yaml"

var catalogue = sync.OnceValue(func() []policy.Destination {
	p, ds := parseDeclared([]File{{Name: catalogueName, Text: catalogueText}})
	if ds.HasErrors() {
		panic("policyfile: the built-in catalogue is broken:\n" + ds.Error()) // a test reads it
	}
	for i := range p.Destinations {
		p.Destinations[i].Builtin = true
	}
	return p.Destinations
})

// Catalogue returns the built-in destinations: places outside that AI
// platforms commonly need, with their host names. The slice is the caller's;
// the texts within are shared and must not be changed.
func Catalogue() []policy.Destination { return slices.Clone(catalogue()) }
