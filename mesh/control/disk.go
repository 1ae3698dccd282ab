package control

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/internal/atomicfile"
	"bulkhead/mesh/generation"
)

// writeDurably replaces a private file; when it returns, the new content
// survives a power cut.
func writeDurably(path string, data []byte) error {
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// force is a generation: the order as control sealed it, and the plan it names.
type force struct {
	sealed []byte
	order  *generation.Order
	plan   *generation.Plan
	packed []byte // the plan as it travels
}

// shelf keeps the last good generation of a control or a node in a folder.
type shelf struct {
	dir   string
	write func(path string, data []byte) error
}

const (
	orderFile  = "order.json"
	planPrefix = "plan-"
)

func (s shelf) planPath(digest string) string { return filepath.Join(s.dir, planPrefix+digest) }

// save keeps f in place of what there was. The order is replaced last, so that
// whatever order is there, its plan is too.
func (s shelf) save(f *force) error {
	plan := s.planPath(f.order.Plan)
	if _, err := os.Stat(plan); err != nil {
		if err := s.write(plan, f.packed); err != nil {
			return fmt.Errorf("the plan of generation %d cannot be kept: %w", f.order.Number, err)
		}
	}
	if err := s.write(filepath.Join(s.dir, orderFile), f.sealed); err != nil {
		return fmt.Errorf("generation %d cannot be kept: %w", f.order.Number, err)
	}
	s.sweep(filepath.Base(plan))
	return nil
}

// sweep removes the plans that no order names any more, and what a crash left
// half written. What cannot be removed only takes room.
func (s shelf) sweep(keep string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, planPrefix) && name != keep || strings.HasPrefix(name, "."+planPrefix) || strings.HasPrefix(name, "."+orderFile) {
			os.Remove(filepath.Join(s.dir, name))
		}
	}
}

// load returns what was kept, nil if nothing was. It believes only what control
// signed. Where the plan is lost the order comes back with the error, so that
// nothing older is taken for it.
func (s shelf) load(control ed25519.PublicKey) (*force, error) {
	sealed, err := os.ReadFile(filepath.Join(s.dir, orderFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	order, err := generation.Open(sealed, control)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(s.dir, orderFile), err)
	}
	packed, plan, err := s.plan(order.Plan)
	return &force{sealed: sealed, order: order, plan: plan, packed: packed}, err
}

// plan returns a plan that was kept. A signed order names it, but the digest is
// also a file name here: anything else than hex digits is no digest.
func (s shelf) plan(digest string) ([]byte, *generation.Plan, error) {
	if !isDigest(digest) {
		return nil, nil, fmt.Errorf("%.80q is no digest of a plan", digest)
	}
	packed, err := os.ReadFile(s.planPath(digest))
	if err != nil {
		return nil, nil, err
	}
	plan, err := generation.Unpack(packed, digest)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", s.planPath(digest), err), os.Remove(s.planPath(digest)))
	}
	return packed, plan, nil
}

func isDigest(text string) bool {
	return len(text) == 64 && strings.Trim(text, "0123456789abcdef") == ""
}
