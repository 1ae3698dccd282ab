package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bulkhead/core/network"
	"bulkhead/core/source"
	"bulkhead/internal/yamldoc"
)

// Stdin is the path that means standard input.
const Stdin = "-"

// A file is an input that was found. One that the user did not name but that
// lies in a folder may turn out to be something else than configuration.
type file struct {
	name  string // as shown: the way the user wrote it, with slashes
	path  string // to open; empty for standard input
	named bool
}

// loader reads documents out of files and folders.
type loader struct {
	env    *Env
	limits yamldoc.Limits
	files  []file
	seen   map[string]bool // real paths, so that a link cannot loop
	ds     source.Diagnostics
	// ignored is what was found and not read.
	ignored []network.Ignored
	stdin   []byte
}

// load finds every file that paths mean and calls each for every document.
func (e *Env) load(paths []string, each func(yamldoc.Value)) (*loader, error) {
	l := &loader{env: e, limits: yamldoc.ManifestLimits, seen: map[string]bool{}}
	for _, p := range paths {
		if err := l.find(p); err != nil {
			return l, err
		}
	}
	if len(l.files) == 0 {
		return l, l.nothing(paths)
	}
	for i, f := range l.files {
		e.progress("reading", int64(i), int64(len(l.files)))
		if err := l.read(f, each); err != nil {
			return l, err
		}
	}
	e.progress("reading", int64(len(l.files)), int64(len(l.files)))
	return l, nil
}

func (l *loader) nothing(paths []string) error {
	if len(l.ignored) > 0 {
		ig := l.ignored[0]
		return wrongInput(ig.Why, "%s holds nothing that can be read", strings.Join(paths, ", "))
	}
	return wrongInput("give a folder with .yaml, .yml or .json files, a file, or - for standard input",
		"%s holds no .yaml, .yml or .json file", strings.Join(paths, ", "))
}

// find takes a path of the user.
func (l *loader) find(path string) error {
	if path == Stdin {
		if !l.seen[Stdin] {
			l.seen[Stdin] = true
			l.files = append(l.files, file{name: Stdin, named: true})
		}
		return nil
	}
	at := l.env.abs(path)
	info, err := os.Stat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return wrongInput(nearPath(at), "%s: there is no such file or folder", path)
	}
	if err != nil {
		return err
	}
	name := filepath.ToSlash(filepath.Clean(path))
	if info.IsDir() {
		return l.walk(name, at)
	}
	// A device or a pipe that the user names is a way to hand over text.
	l.add(file{name: name, path: at, named: true})
	return nil
}

// nearPath suggests a neighbour of a path that does not exist.
func nearPath(at string) string {
	entries, err := os.ReadDir(filepath.Dir(at))
	if err != nil {
		return ""
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	if near := source.Nearest(filepath.Base(at), names); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return ""
}

func (l *loader) add(f file) {
	if real, err := filepath.EvalSymlinks(f.path); err == nil {
		if l.seen[real] {
			return
		}
		l.seen[real] = true
	}
	l.files = append(l.files, f)
}

// walk finds the files of a folder, in the order of their names. Folders whose
// name begins with a dot belong to tools and are not entered.
func (l *loader) walk(name, at string) error {
	real, err := filepath.EvalSymlinks(at)
	if err != nil {
		return err
	}
	if l.seen[real] {
		return nil
	}
	l.seen[real] = true
	entries, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	chart := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "Chart.yaml" })
	if chart {
		l.chart(name, at)
	}
	for _, e := range entries {
		child, path := join(name, e.Name()), filepath.Join(at, e.Name())
		info, err := os.Stat(path) // follows links
		switch {
		case err != nil:
			if isManifest(e.Name()) {
				l.ignore(child, "file", "it cannot be opened: "+plain(err), true)
			}
		case info.IsDir():
			if strings.HasPrefix(e.Name(), ".") || chart && (e.Name() == "templates" || e.Name() == "charts") {
				continue
			}
			if err := l.walk(child, path); err != nil {
				return err
			}
		case !isManifest(e.Name()):
		case !info.Mode().IsRegular():
			l.ignore(child, "file", "it is not a regular file", true)
		case chart && (e.Name() == "Chart.yaml" || strings.HasPrefix(e.Name(), "values")):
		default:
			l.kustomization(e.Name(), child, name)
			l.add(file{name: child, path: path})
		}
	}
	return nil
}

// chart notes a Helm chart: its templates are not configuration until they are
// rendered, and rendering needs values that only the user knows.
func (l *loader) chart(name, at string) {
	if _, err := os.Stat(filepath.Join(at, "templates")); err != nil {
		return
	}
	l.ignore(name, "Helm chart", "a chart is configuration only once it is rendered: helm template NAME "+name+" | bulkhead audit -", true)
}

func (l *loader) kustomization(base, name, dir string) {
	switch base {
	case "kustomization.yaml", "kustomization.yml", "Kustomization":
		l.ds.Warnf("kustomize", source.Pos{File: name}, "%s is input of kustomize: what is applied may differ from the files beside it", name).
			WithFix("read what it makes: kustomize build %s | bulkhead audit -", dir)
	}
}

func (l *loader) ignore(name, kind, why string, matters bool) {
	l.ignored = append(l.ignored, network.Ignored{Pos: source.Pos{File: name}, Kind: kind, Why: why, Matters: matters})
}

func isManifest(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return strings.TrimSuffix(dir, "/") + "/" + name
}

// plain drops the path from an error of package os: the message has it already.
func plain(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// read offers the documents of a file.
func (l *loader) read(f file, each func(yamldoc.Value)) error {
	text, err := l.text(f)
	if err != nil {
		return fmt.Errorf("reading %s: %s", f.name, plain(err))
	}
	documents := 0
	for v, d := range yamldoc.Documents(f.name, text, l.limits) {
		if d != nil {
			l.broken(f, text, d)
			return nil
		}
		each(v)
		if documents++; documents%256 == 0 {
			l.env.progress(fmt.Sprintf("reading %s: %d documents", f.name, documents), 0, 0)
		}
	}
	return nil
}

func (l *loader) text(f file) ([]byte, error) {
	limit := int64(l.limits.Bytes) + 1 // one more, so that Documents sees that it is too long
	if f.path == "" {
		if l.env.Stdin == nil {
			return nil, nil
		}
		text, err := io.ReadAll(io.LimitReader(l.env.Stdin, limit))
		l.stdin = text
		return text, err
	}
	r, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, limit))
}

// broken reports a text that cannot be read. A file that only lies in a folder
// and shows no sign of being configuration is left out, and listed.
func (l *loader) broken(f file, text []byte, d *source.Diagnostic) {
	switch {
	case !f.named && d.Rule != "too-large" && !bytes.Contains(text, []byte("apiVersion")):
		l.ignored = append(l.ignored, network.Ignored{Pos: d.Pos, Kind: "file", Why: "it cannot be read (" + d.Message + ") and holds no apiVersion"})
		return
	case (d.Rule == "yaml" || d.Rule == "key") && isTemplate(text):
		d.Rule = "template"
		d.Message = "a template is not configuration: " + d.Message
		d.Fix = "render it first: helm template NAME CHART | bulkhead audit -"
	}
	l.ds = append(l.ds, *d)
}

// isTemplate reports whether a text has the actions of a Go template.
func isTemplate(text []byte) bool {
	_, after, found := bytes.Cut(text, []byte("{{"))
	return found && bytes.Contains(after, []byte("}}"))
}

// lines returns the lines of the inputs for diagnostics. Files are opened
// again: diagnostics are rare, and the texts of all files not worth keeping.
func (e *Env) lines(stdin []byte) func(name string, n int) (string, bool) {
	var name string
	var text []byte
	return func(file string, n int) (string, bool) {
		switch {
		case file == Stdin:
			text = stdin
		case file != name || text == nil:
			r, err := os.Open(e.abs(file))
			if err != nil {
				return "", false
			}
			defer r.Close()
			if text, err = io.ReadAll(io.LimitReader(r, int64(yamldoc.ManifestLimits.Bytes))); err != nil {
				return "", false
			}
		}
		name = file
		rest := text
		for range n - 1 {
			at := bytes.IndexByte(rest, '\n')
			if at < 0 {
				return "", false
			}
			rest = rest[at+1:]
		}
		one, _, _ := bytes.Cut(rest, []byte("\n"))
		return string(one), true
	}
}
