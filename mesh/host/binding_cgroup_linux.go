package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// cgroupMount returns where the hierarchy of control groups of version 2 is
// mounted: alone, or beside those of version 1.
func cgroupMount() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if i := slices.Index(fields, "-"); i > 4 && i+1 < len(fields) && fields[i+1] == "cgroup2" && fields[3] == "/" {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted; mount one at /sys/fs/cgroup, or let bulkhead run the workload")
}

// cgroupName returns a control group as /proc/PID/cgroup names it, from that
// name with or without its slash, or from the path of its folder.
func cgroupName(at string) (string, error) {
	if mount, err := cgroupMount(); err == nil && within(at, mount) {
		at = strings.TrimPrefix(at, mount)
	}
	name := path.Clean("/" + strings.TrimPrefix(at, "/"))
	if name == "/" || strings.Contains(at+"/", "../") {
		return "", fmt.Errorf("%q is no control group of a workload", at)
	}
	return name, nil
}

// CgroupOf returns the control group of a systemd unit that runs, as
// /proc/PID/cgroup names it. It looks only into slices, and not into those of
// users: what is below a service or a user was named by that service or user.
func CgroupOf(unit string) (string, error) {
	mount, err := cgroupMount()
	if err != nil {
		return "", fmt.Errorf("unit %s: %w", unit, err)
	}
	return cgroupOf(mount, unit)
}

func cgroupOf(mount, unit string) (string, error) {
	if unit != path.Base(unit) || unit == "." || unit == ".." {
		return "", fmt.Errorf("unit %q is no name of a unit", unit)
	}
	if !strings.Contains(unit, ".") {
		unit += ".service"
	}
	var found []string
	err := filepath.WalkDir(mount, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || p == mount {
			return nil // a group that has just ended
		}
		if d.Name() == unit {
			found = append(found, strings.TrimPrefix(p, mount))
			return fs.SkipDir
		}
		if !strings.HasSuffix(d.Name(), ".slice") || d.Name() == "user.slice" {
			return fs.SkipDir
		}
		return nil
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("unit %s: %w", unit, err)
	case len(found) == 0:
		return "", fmt.Errorf("unit %s does not run on this machine: it has no control group; start it first", unit)
	case len(found) > 1:
		return "", fmt.Errorf("unit %s has more than one control group: %s; write the one that is meant as `cgroup`", unit, strings.Join(found, ", "))
	}
	events, err := os.ReadFile(filepath.Join(mount, found[0], "cgroup.events"))
	if err != nil {
		return "", fmt.Errorf("unit %s: %w", unit, err)
	}
	if !strings.Contains("\n"+string(events), "\npopulated 1") {
		return "", fmt.Errorf("unit %s does not run on this machine: its control group is empty; start it first", unit)
	}
	return found[0], nil
}
