package node

import (
	"errors"

	"golang.org/x/sys/unix"
)

// alive reports whether a process is there and not only its remains.
func alive(pid int) bool {
	return pid != 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
