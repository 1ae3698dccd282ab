package control

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"bulkhead/mesh/generation"
)

// Roster is which nodes a platform has and by which keys they are known. It is
// safe for concurrent use.
type Roster struct {
	path string

	mu    sync.RWMutex // guards the following
	nodes []entry      // in the order in which they joined
}

// entry is one node.
type entry struct {
	Name   string            `json:"name"`
	Tunnel netip.AddrPort    `json:"tunnel,omitzero"`
	Key    ed25519.PublicKey `json:"key"`    // of what it says
	BusKey string            `json:"busKey"` // its nkey
}

// OpenRoster reads the roster in a folder; there is none at first.
func OpenRoster(dir string) (*Roster, error) {
	r := &Roster{path: filepath.Join(dir, "nodes.json")}
	text, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r.nodes); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w; restore it, or remove it and give every node a new credential", r.path, err)
	}
	return r, nil
}

// put adds a node, or replaces the keys and address of one.
func (r *Roster) put(e entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := slices.Clone(r.nodes)
	if i := slices.IndexFunc(next, func(o entry) bool { return o.Name == e.Name }); i >= 0 {
		next[i] = e
	} else {
		next = append(next, e)
	}
	return r.save(next)
}

// remove forgets a node, and returns what was known of it.
func (r *Roster) remove(name string) (entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.nodes, func(e entry) bool { return e.Name == name })
	if i < 0 {
		return entry{}, fmt.Errorf("there is no node %q", name)
	}
	gone := r.nodes[i]
	return gone, r.save(slices.Delete(slices.Clone(r.nodes), i, i+1))
}

func (r *Roster) save(next []entry) error {
	text, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := writeDurably(r.path, append(text, '\n')); err != nil {
		return err
	}
	r.nodes = next
	return nil
}

// key returns the key by which a node is known, nil for a stranger.
func (r *Roster) key(name string) ed25519.PublicKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i := range r.nodes {
		if r.nodes[i].Name == name {
			return r.nodes[i].Key
		}
	}
	return nil
}

// byBusKey returns the node with an nkey.
func (r *Roster) byBusKey(key string) (string, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i := range r.nodes {
		if r.nodes[i].BusKey == key {
			return r.nodes[i].Name, true
		}
	}
	return "", false
}

// Nodes returns the nodes in the order in which they joined.
func (r *Roster) Nodes() []generation.Node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]generation.Node, len(r.nodes))
	for i := range r.nodes {
		out[i] = generation.Node{Name: r.nodes[i].Name, Tunnel: r.nodes[i].Tunnel}
	}
	return out
}
