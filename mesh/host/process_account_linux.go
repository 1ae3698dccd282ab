package host

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
)

const nobody = 65534

// account is the user as whom a workload runs.
type account struct {
	uid, gid   int
	name, home string
	change     bool // this process is another user and may become this one
}

// account returns the user that a command asks for. A workload is never root:
// even without a capability, root owns the machine's files and devices.
func (s *site) account(want string) (account, error) {
	if s.mode == User || insideUser || os.Geteuid() != 0 {
		return invokingUser(want)
	}
	var a account
	var err error
	if want == "" {
		a = behindSudo()
	} else if a, err = lookUp(want); err != nil {
		return account{}, err
	}
	if a.uid == 0 {
		return account{}, fmt.Errorf("user %q is root, who owns the machine's files and devices; choose another `user`", want)
	}
	a.change = true
	return a, nil
}

// behindSudo returns who typed sudo, or nobody.
func behindSudo() account {
	uid, err1 := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, err2 := strconv.Atoi(os.Getenv("SUDO_GID"))
	if err1 != nil || err2 != nil || uid <= 0 || gid <= 0 {
		uid, gid = nobody, nobody
	}
	a := account{uid: uid, gid: gid, home: "/"}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		a.name, a.home = u.Username, cmp.Or(u.HomeDir, "/")
	}
	return a
}

func lookUp(want string) (account, error) {
	u, err := user.Lookup(want)
	if err != nil {
		id, err := strconv.ParseUint(want, 10, 31)
		if err != nil {
			return account{}, fmt.Errorf("user %q does not exist on this machine", want)
		}
		if u, err = user.LookupId(want); err != nil {
			return account{uid: int(id), gid: int(id), home: "/"}, nil
		}
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return account{}, fmt.Errorf("user %q: %w", want, err)
	}
	return account{uid: uid, gid: gid, name: u.Username, home: cmp.Or(u.HomeDir, "/")}, nil
}

// invokingUser returns who started this process, which is the only user that an
// ordinary user can be.
func invokingUser(want string) (account, error) {
	uid, err1 := outsideID("/proc/self/uid_map")
	gid, err2 := outsideID("/proc/self/gid_map")
	if err := errors.Join(err1, err2); err != nil {
		return account{}, err
	}
	if uid < 0 { // not in a user namespace of ours
		uid, gid = os.Getuid(), os.Getgid()
	}
	a := account{uid: uid, gid: gid, name: os.Getenv("USER"), home: cmp.Or(os.Getenv("HOME"), "/")}
	if want == "" {
		return a, nil
	}
	other, err := lookUp(want)
	if err != nil {
		return account{}, err
	}
	if other.uid != uid {
		return account{}, fmt.Errorf("to run as user %q needs root; start bulkhead with sudo, or remove `user`", want)
	}
	return a, nil
}

// outsideID returns who the only user (or group) of this user namespace is
// outside of it, -1 if there is not exactly one.
func outsideID(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var inside, outside, count int
	if n, err := fmt.Fscan(bytes.NewReader(text), &inside, &outside, &count); err != nil || n != 3 {
		return 0, fmt.Errorf("%s: %q is no mapping", file, text)
	}
	if count != 1 || bytes.Count(text, []byte("\n")) != 1 {
		return -1, nil
	}
	return outside, nil
}
