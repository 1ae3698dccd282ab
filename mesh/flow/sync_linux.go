package flow

import (
	"errors"
	"os"
	"syscall"
)

// syncData brings the content of a file to the disk, without its times.
func syncData(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	err = conn.Control(func(fd uintptr) {
		for done = syscall.EINTR; done == syscall.EINTR; {
			done = syscall.Fdatasync(int(fd))
		}
	})
	return errors.Join(err, done)
}
