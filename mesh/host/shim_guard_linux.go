package host

import (
	"fmt"
	"path/filepath"
	"slices"
)

// guard makes folders read-only for the workload, and pins those above them and
// above the folders of bulkhead itself: a workload that runs as the user who
// owns them could else move one away and leave a decoy, which the node would
// read, now or when it starts again. What is mounted on cannot be renamed or
// removed, also if the mount shows nothing else than before.
func (c *shimConfig) guard(folders []string) error {
	var pinned []string
	for _, given := range folders {
		folder, err := filepath.EvalSymlinks(given)
		if err != nil {
			return fmt.Errorf("a guarded folder cannot be found: %w", plainError(err))
		}
		c.closeFolder(folder)
		pinned = append(pinned, folder)
	}
	guarded := slices.Clone(pinned)
	for _, v := range c.Covers {
		if v.own() {
			pinned = append(pinned, v.Path)
		}
	}
	for _, path := range pinned {
		for up := filepath.Dir(path); up != "/"; up = filepath.Dir(up) {
			c.pin(up, guarded)
		}
	}
	return nil
}

// closeFolder makes a folder read-only wherever the workload sees it, except the
// workload's own one below it.
func (c *shimConfig) closeFolder(folder string) {
	if i := c.shown(folder); i >= 0 {
		c.Shows[i].Writable = false
	} else if c.sees(folder) {
		c.Shows = append(c.Shows, show{From: folder, To: folder})
	}
	own, err := filepath.EvalSymlinks(c.Dir)
	if err == nil && own != folder && within(own, folder) && c.shown(own) < 0 && c.sees(own) {
		c.Shows = append(c.Shows, show{From: own, To: own, Writable: true})
	}
}

// pin makes a folder a mount point without changing what can be done in it.
func (c *shimConfig) pin(folder string, guarded []string) {
	if c.shown(folder) >= 0 || !c.sees(folder) {
		return
	}
	own, err := filepath.EvalSymlinks(c.Dir)
	closed := slices.ContainsFunc(guarded, func(g string) bool {
		return within(folder, g) && !(err == nil && within(own, g) && own != g && within(folder, own))
	})
	c.Shows = append(c.Shows, show{From: folder, To: folder, Writable: !closed})
}

// shown returns which show has its own mount at path, -1 for none.
func (c *shimConfig) shown(path string) int {
	return slices.IndexFunc(c.Shows, func(s show) bool { return s.To == path })
}

// sees reports whether the workload sees what is at path: nothing hides it, or
// something inside of what hides it is shown and holds it.
func (c *shimConfig) sees(path string) bool {
	hides, shows := 0, 0 // lengths of the innermost
	for _, v := range c.Covers {
		if within(path, v.Path) {
			hides = max(hides, len(v.Path))
		}
	}
	for _, s := range c.Shows {
		if s.From == s.To && within(path, s.To) {
			shows = max(shows, len(s.To))
		}
	}
	return hides == 0 || shows > hides
}
