package app

import (
	"bytes"
	"path/filepath"

	"bulkhead/core/source"
	"bulkhead/internal/atomicfile"
	"bulkhead/policyfile"
)

// Formatted is a policy file and its formatted text.
type Formatted struct {
	Name string
	Text []byte
	// Changed says that the file was not formatted.
	Changed bool
}

// Fmt formats policy files, by default those of the directory. Nothing is
// written unless all of them are free of errors, and only if write is set;
// standard input is never written to.
func (e *Env) Fmt(paths []string, write bool) ([]Formatted, error) {
	files, err := e.formattable(paths)
	if err != nil {
		return nil, err
	}
	var out []Formatted
	var ds source.Diagnostics
	for _, f := range files {
		text, wrong := policyfile.Format(f.Name, f.Text)
		ds = append(ds, wrong...)
		out = append(out, Formatted{f.Name, text, !bytes.Equal(text, f.Text)})
	}
	if ds.HasErrors() {
		return nil, &BadInput{ds, textLines(files)}
	}
	for _, f := range out {
		if write && f.Changed && f.Name != Stdin {
			if err := atomicfile.Write(e.abs(filepath.FromSlash(f.Name)), f.Text, 0o644); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (e *Env) formattable(paths []string) ([]policyfile.File, error) {
	if len(paths) == 0 {
		files, _, found, err := e.policyFiles("")
		if err == nil && !found {
			err = noPolicy()
		}
		return files, err
	}
	var out []policyfile.File
	for _, p := range paths {
		files, err := e.policyTexts(p)
		if err != nil {
			return nil, err
		}
		out = append(out, files...)
	}
	return out, nil
}
