package app

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/core/source"
)

// unknownWorkload says that a name means nothing and what is near it.
func unknownWorkload(text string, names []string) error {
	err := &InputError{Says: fmt.Sprintf("no workload is called %q", text)}
	if near := source.Nearest(text, nameForms(names)); near != "" {
		err.Hint = fmt.Sprintf("did you mean %s?", near)
		return err
	}
	for _, n := range names {
		if strings.Contains(n, text) {
			err.Choices = append(err.Choices, n)
		}
	}
	if len(err.Choices) == 0 {
		err.Choices = slices.Clone(names)
	}
	err.Hint = "the workloads are named namespace/Kind/name"
	return err
}

// nameForms returns the names and their endings, which mean them too.
func nameForms(names []string) []string {
	out := slices.Clone(names)
	for _, n := range names {
		for i, c := range n {
			if c == '/' {
				out = append(out, n[i+1:])
			}
		}
	}
	return out
}
