package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bulkhead/core/source"
	"bulkhead/internal/atomicfile"
	"bulkhead/target"
)

// Compile turns a policy into the configuration of a target.
func (e *Env) Compile(policyPath, targetName string) (*Declared, target.Output, error) {
	t, err := compilerNamed(targetName)
	if err != nil {
		return nil, target.Output{}, err
	}
	d, err := e.readPolicy(policyPath)
	switch {
	case err != nil:
		return nil, target.Output{}, err
	case d == nil:
		return nil, target.Output{}, noPolicy()
	}
	return d, t.Compile(d.Intent), nil
}

// Residue says as warnings what a target cannot express.
func Residue(rs []target.Residue) source.Diagnostics {
	var ds source.Diagnostics
	for _, r := range rs {
		says := r.Says
		if r.Permission != "" && !strings.HasPrefix(says, r.Permission) {
			says = r.Permission + ": " + says
		}
		d := ds.Warnf(r.Limit, r.Pos, "%s", says)
		if r.Fix != "" {
			d.WithFix("%s", r.Fix)
		}
	}
	return ds
}

// WriteOutput writes compiled files below a folder and returns their paths. It
// refuses to write through a link.
func (e *Env) WriteOutput(dir string, out target.Output) ([]string, error) {
	root := e.abs(dir)
	var written []string
	for _, f := range out.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			return written, errors.New("the target made a file outside its folder: " + f.Path)
		}
		path := filepath.Join(root, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return written, err
		}
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			return written, wrongInput("give another folder with --out", "%s is in the way and is no regular file", path)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return written, err
		}
		if err := atomicfile.Write(path, f.Data, 0o644); err != nil {
			return written, err
		}
		written = append(written, filepath.ToSlash(filepath.Join(dir, f.Path)))
	}
	return written, nil
}

// Stale returns files of a folder that an earlier run made and this one does
// not: they are still in force wherever they were applied.
func (e *Env) Stale(dir string, out target.Output) []string {
	made := map[string]bool{}
	folders := map[string]bool{}
	for _, f := range out.Files {
		made[f.Path] = true
		folders[filepath.ToSlash(filepath.Dir(f.Path))] = true
	}
	var stale []string
	for folder := range folders {
		entries, err := os.ReadDir(filepath.Join(e.abs(dir), filepath.FromSlash(folder)))
		if err != nil {
			continue
		}
		for _, entry := range entries {
			path := strings.TrimPrefix(folder+"/"+entry.Name(), "./")
			if !entry.IsDir() && isManifest(entry.Name()) && !made[path] {
				stale = append(stale, filepath.ToSlash(filepath.Join(dir, path)))
			}
		}
	}
	slices.Sort(stale)
	return stale
}
