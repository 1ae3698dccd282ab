package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bulkhead/core/policy"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
	"bulkhead/mesh/host"
	"bulkhead/policyfile"
)

// The places where a policy is looked for.
const (
	PolicyFile   = "bulkhead.yaml"
	PolicyFolder = "bulkhead"
)

// Declared is a policy as it was read.
type Declared struct {
	Path   string
	Intent *policy.Intent
	// Warnings do not stop the work.
	Warnings source.Diagnostics
	Lines    Lines
}

// policyFiles returns the files of a policy: the path given, or else where a
// policy is by default. found is false when no path is given and there is none.
func (e *Env) policyFiles(path string) (files []policyfile.File, at string, found bool, err error) {
	if path == "" {
		if path, found = e.defaultPolicy(); !found {
			return nil, "", false, nil
		}
	}
	files, err = e.policyTexts(path)
	return files, path, true, err
}

// defaultPolicy returns the policy of the working directory. A folder counts
// only if it holds something that can be a policy.
func (e *Env) defaultPolicy() (string, bool) {
	if info, err := os.Stat(e.abs(PolicyFile)); err == nil && !info.IsDir() {
		return PolicyFile, true
	}
	names, err := policyNames(e.abs(PolicyFolder))
	return PolicyFolder, err == nil && len(names) > 0
}

func policyNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		ext := strings.ToLower(filepath.Ext(entry.Name()))
		if !entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func (e *Env) policyTexts(path string) ([]policyfile.File, error) {
	l := &loader{env: e, limits: yamldoc.PolicyLimits}
	if path == Stdin {
		text, err := l.text(file{name: Stdin})
		return []policyfile.File{{Name: Stdin, Text: text}}, err
	}
	info, err := os.Stat(e.abs(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, wrongInput(nearPath(e.abs(path)), "%s: there is no such policy", path)
	}
	if err != nil {
		return nil, err
	}
	names := []string{""}
	if info.IsDir() {
		if names, err = policyNames(e.abs(path)); err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, wrongInput("a policy is a .yaml file or a folder of them", "%s holds no policy", path)
		}
	}
	var files []policyfile.File
	for _, name := range names {
		shown := filepath.ToSlash(filepath.Join(path, name))
		text, err := l.text(file{name: shown, path: filepath.Join(e.abs(path), name)})
		if err != nil {
			return nil, err
		}
		files = append(files, policyfile.File{Name: shown, Text: text})
	}
	return files, nil
}

// noPolicy says that a verb needs a policy and there is none.
func noPolicy() error {
	return wrongInput("let bulkhead init draft one, or name it with --policy", "there is no ./%s and no ./%s/", PolicyFile, PolicyFolder)
}

// readPolicy reads and resolves a policy. Without a path it is the policy of
// the working directory; nil without an error says that there is none.
func (e *Env) readPolicy(path string) (*Declared, error) {
	files, at, found, err := e.policyFiles(path)
	if err != nil || !found {
		return nil, err
	}
	in, ds := e.resolve(files)
	if ds.HasErrors() {
		return nil, &BadInput{ds, textLines(files)}
	}
	return &Declared{Path: at, Intent: in, Warnings: ds, Lines: textLines(files)}, nil
}

// resolve parses and resolves policy files and checks what only the
// targets know: the fields of bindings.
func (e *Env) resolve(files []policyfile.File) (*policy.Intent, source.Diagnostics) {
	p, ds := policyfile.Parse(files)
	if ds.HasErrors() {
		ds = append(ds, e.furtherErrors(files, ds)...)
		ds.Sort()
		return nil, ds
	}
	in, more := policy.Resolve(p, e.Now)
	ds = append(ds, more...)
	for i := range p.Workloads {
		for _, b := range p.Workloads[i].Bindings {
			if b.Target.Value == host.BindingName {
				_, wrong := host.ParseBinding(b)
				ds = append(ds, wrong...)
				continue
			}
			t := targetOf(b.Target.Value)
			if t == nil {
				unknownTarget(b.Target, &ds)
				continue
			}
			_, wrong := t.Bind(b)
			ds = append(ds, wrong...)
		}
	}
	ds.Sort()
	return in, ds
}

// independent are the rules of Resolve whose errors do not come from parts
// that could not be read.
var independent = []string{"unknown-workload", "unknown-zone", "unknown-destination", "cyclic-zone", "access-opaque", "access", "expired", "region", "reserved-name"}

// furtherErrors finds what else is wrong with policy files that have errors of
// shape, so that all of it is shown at once. An error that may follow from one
// of those, because both are about the same line or name, is left out.
func (e *Env) furtherErrors(files []policyfile.File, known source.Diagnostics) source.Diagnostics {
	_, found := policy.Resolve(policyfile.Salvage(files), e.Now)
	var out source.Diagnostics
	for _, d := range found {
		follows := slices.ContainsFunc(known, func(k source.Diagnostic) bool {
			_, name, _ := strings.Cut(d.Message, `"`)
			name, _, quoted := strings.Cut(name, `"`)
			sameLine := k.Pos.File == d.Pos.File && k.Pos.Line == d.Pos.Line && d.Rule != "cyclic-zone"
			return sameLine || quoted && slices.Contains(strings.FieldsFunc(k.Message, func(r rune) bool {
				return r == ' ' || r == ',' || r == ':' || r == '"'
			}), name)
		})
		if d.Severity == source.Error && d.Pos.IsValid() && slices.Contains(independent, d.Rule) && !follows {
			out = append(out, d)
		}
	}
	return out
}

// unknownTarget reports a binding that nothing can use. It may be meant for a
// target that comes later, so that it is wrong only if it looks misspelt.
func unknownTarget(name policy.Text, ds *source.Diagnostics) {
	var known []string
	for _, t := range targets() {
		known = append(known, t.Name())
	}
	known = append(known, host.BindingName)
	if near := source.Nearest(name.Value, known); near != "" {
		ds.Errorf("unknown-target", name.Pos, "there is no target %q", name.Value).WithFix("did you mean %s?", near)
		return
	}
	ds.Warnf("unknown-target", name.Pos, "there is no target %q, so this binding is not used", name.Value).
		WithFix("the targets are %s", strings.Join(known, ", "))
}

// textLines returns lines of texts that are in memory.
func textLines(files []policyfile.File) func(string, int) (string, bool) {
	return func(name string, n int) (string, bool) {
		for _, f := range files {
			if f.Name == name {
				lines := strings.SplitN(string(f.Text), "\n", n+1)
				if len(lines) >= n && n > 0 {
					return lines[n-1], true
				}
			}
		}
		return "", false
	}
}

// quoted joins paths for a message.
func quoted(paths []string) string { return strings.Join(paths, ", ") }
