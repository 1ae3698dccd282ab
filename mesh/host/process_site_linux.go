package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sites is what a Host keeps to start processes.
type sites struct {
	mu     sync.Mutex
	covers []cover // of bulkhead's own folders, as they were first seen
	hosts  string  // what the hosts file says
	resolv string  // what resolv.conf says
	// sockets are the Workload APIs that listen, by address.
	sockets map[string]string
}

// site is where the processes of one workload run.
type site struct {
	workload string
	mode     Mode
	thread   *thread // nil in cooperative mode
	live     string  // the folder of this run's files
	api      string  // the folder of the workload's API socket, on the host
	socket   string  // the API socket as the workload sees it
	covers   []cover
	guarded  []string // folders that it may not change
}

// apiSocket is where a workload finds its Workload API, and hostsFile and
// resolvFile what it knows of names.
const (
	apiSocket  = "/run/bulkhead/workload.sock"
	socketName = "workload.sock"
	hostsFile  = "/etc/hosts"
	resolvFile = "/etc/resolv.conf"
)

// scenery are folders of the machine that a workload sees empty: those where
// services and users listen on sockets (D-Bus and systemd start processes
// outside, nscd and resolved ask DNS, tmux takes commands), those where
// everybody may write, in which two workloads could talk, and devices that send
// packets past the filter.
var scenery = []cover{
	{Path: "/run", Links: true}, {Path: "/var/run", Links: true},
	{Path: "/tmp", Scratch: true, Exec: true}, // compilers of models load what they write there
	{Path: "/var/tmp", Scratch: true, Exec: true},
	{Path: "/dev/shm", Scratch: true},
	{Path: "/dev/mqueue"},
	{Path: "/dev/infiniband"},
}

func (h *Host) site(workload string) (*site, error) {
	m, ok := h.member(workload)
	if !ok {
		return nil, fmt.Errorf("it is not of this machine")
	}
	if m.CgroupPath != "" {
		return nil, errors.New("it is bound to processes that run already, and is not started")
	}
	s := &site{workload: workload, mode: h.options.Mode, live: h.liveDir()}
	api, err := h.apiDir(m)
	if err != nil {
		return nil, err
	}
	s.api, s.socket = api, filepath.Join(api, socketName)
	if s.mode == Cooperative {
		return s, nil
	}
	if s.thread, err = h.thread(workload); err != nil {
		return nil, err
	}
	if s.socket, err = h.apiInside(); err != nil {
		return nil, err
	}
	if err := h.syncHosts(); err != nil {
		return nil, err
	}
	s.guarded = h.options.Guarded
	s.covers, err = h.ownCovers()
	return s, err
}

// ownCovers returns the folders of bulkhead itself, with their identity. It is
// fixed before the first workload runs: one with the same user id could rename
// a folder above and leave a decoy.
func (h *Host) ownCovers() ([]cover, error) {
	h.sites.mu.Lock()
	defer h.sites.mu.Unlock()
	if h.sites.covers != nil {
		return h.sites.covers, nil
	}
	var all []cover
	for _, dir := range []string{h.options.StateDir, h.options.RunDir} {
		path, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return nil, err
		}
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		// The folder above is that of all platforms of this user.
		paths := []string{path}
		if up := filepath.Dir(path); filepath.Base(up) == "bulkhead" && filepath.Base(path) == h.options.Platform {
			paths = append(paths, up)
		}
		for _, p := range paths {
			var st unix.Stat_t
			if err := unix.Stat(p, &st); err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			all = append(all, cover{Path: p, Dev: st.Dev, Ino: st.Ino, given: dir})
		}
	}
	h.sites.covers = all
	return all, nil
}

// syncHosts writes the names of the platform where workloads see them as
// /etc/hosts. The file is rewritten and not replaced: it is mounted.
func (h *Host) syncHosts() error {
	text, err := hostsText(h.names())
	if err != nil {
		return err
	}
	resolv := resolvText(h.resolvers())
	h.sites.mu.Lock()
	defer h.sites.mu.Unlock()
	if text == h.sites.hosts && resolv == h.sites.resolv {
		return nil
	}
	if err := rewrite(filepath.Join(h.liveDir(), "resolv.conf"), resolv); err != nil {
		return err
	}
	if err := rewrite(filepath.Join(h.liveDir(), "hosts"), text); err != nil {
		return err
	}
	h.sites.hosts, h.sites.resolv = text, resolv
	return nil
}

// rewrite gives a file that is mounted elsewhere another text.
func rewrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	return errors.Join(err, f.Close())
}

// resolvText is resolv.conf(5). A name that is refused once is not asked for
// elsewhere.
func resolvText(resolvers []netip.Addr) string {
	var b strings.Builder
	for _, a := range resolvers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(resolvers) > 0 {
		b.WriteString("options timeout:3 attempts:2\n")
	}
	return b.String()
}

func hostsText(names map[string][]netip.Addr) (string, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
			return "", fmt.Errorf("the name %q cannot stand in %s", name, hostsFile)
		}
		for _, a := range names[name] {
			fmt.Fprintf(&b, "%s %s\n", a, name)
		}
	}
	return b.String(), nil
}

// shimConfig says what the shim has to do for c.
func (s *site) shimConfig(c Command, who account) (shimConfig, error) {
	config := shimConfig{
		Workload: s.workload, Path: c.Path, Args: c.Args, Child: c.Child,
		Env: s.environment(c, who), Dir: cmp.Or(c.Dir, "/"), Optional: c.DirIfAllowed,
		UID: who.uid, GID: who.gid, SetUser: who.change,
		Covers: slices.Clone(s.covers),
		Shows: []show{
			{From: filepath.Join(s.live, "hosts"), To: hostsFile},
			{From: s.api, To: filepath.Dir(s.socket)},
		},
	}
	real, err := filepath.EvalSymlinks(hostsFile)
	if err != nil {
		return shimConfig{}, fmt.Errorf("%w; create the file, so that the workload's own can lie over it", err)
	}
	config.Shows[0].To = real
	if real, err := filepath.EvalSymlinks(resolvFile); err == nil {
		config.Shows = append(config.Shows, show{From: filepath.Join(s.live, "resolv.conf"), To: real})
	}
	for _, v := range scenery {
		real, err := filepath.EvalSymlinks(v.Path)
		if errors.Is(err, fs.ErrNotExist) || slices.ContainsFunc(config.Covers, func(o cover) bool { return o.Path == real }) {
			continue
		}
		if err != nil {
			return shimConfig{}, err
		}
		v.Path = real
		config.Covers = append(config.Covers, v)
	}
	if err := config.keep(c); err != nil {
		return shimConfig{}, err
	}
	return config, config.guard(s.guarded)
}

// environment returns all variables of the workload.
func (s *site) environment(c Command, who account) []string {
	env := []string{"PATH=" + cmp.Or(os.Getenv("PATH"), "/usr/local/bin:/usr/bin:/bin"), "HOME=" + who.home}
	for _, name := range []string{"TZ", "LANG", "LC_ALL"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	if who.name != "" {
		env = append(env, "USER="+who.name, "LOGNAME="+who.name)
	}
	env = append(env, c.Env...)
	env = append(env, "SPIFFE_ENDPOINT_SOCKET=unix://"+s.socket)
	last := map[string]int{} // programs differ in which of two they take
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	var out []string
	for i, e := range env {
		if name, _, _ := strings.Cut(e, "="); last[name] == i {
			out = append(out, e)
		}
	}
	return out
}
