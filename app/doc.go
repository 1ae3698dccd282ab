// Package app holds the use-cases, one file per verb. It is the only place
// where the parts of the program are wired together: it reads files, offers
// their documents to the targets, asks the core and returns values that
// package render prints. It prints nothing itself.
//
// Errors have three kinds: [source.Diagnostics] and [InputError] say that the
// input is wrong and how to put it right; anything else says that the work
// could not be completed.
package app

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"bulkhead/render"
)

// Env is the world around a use-case. It belongs to one run.
type Env struct {
	// Stdin is what the path `-` means.
	Stdin io.Reader
	// Dir is the directory that relative paths start from; empty for that of
	// the process.
	Dir string
	// Now is the time by which permissions expire.
	Now     time.Time
	Version string
	// Getenv reads the environment; nil for an empty one.
	Getenv func(string) string
	// Progress is called, if set, while long work goes on.
	Progress func(Progress)
}

// Progress says how far the work is. Total is 0 when it is not known.
type Progress struct {
	Doing       string
	Done, Total int64
}

func (e *Env) progress(doing string, done, total int64) {
	if e.Progress != nil {
		e.Progress(Progress{doing, done, total})
	}
}

func (e *Env) getenv(name string) string {
	if e.Getenv == nil {
		return ""
	}
	return e.Getenv(name)
}

// abs returns the path to open for a path that the user gave.
func (e *Env) abs(path string) string {
	if filepath.IsAbs(path) || e.Dir == "" {
		return path
	}
	return filepath.Join(e.Dir, path)
}

func (e *Env) report(verb string, inputs []string) *render.Report {
	return &render.Report{Tool: e.tool(), Verb: verb, At: e.Now, Inputs: inputs}
}

func (e *Env) tool() render.Tool {
	return render.Tool{Name: "bulkhead", Version: e.Version}
}

// InputError says that what was asked for cannot be done as it was asked.
type InputError struct {
	Says string
	// Hint says what to do instead.
	Hint string
	// Choices lists what could have been meant.
	Choices []string
}

func (e *InputError) Error() string { return e.Says }

func wrongInput(hint, format string, args ...any) *InputError {
	return &InputError{Says: fmt.Sprintf(format, args...), Hint: hint}
}
