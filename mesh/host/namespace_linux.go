package host

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// errClosed is the error of a workload that was removed meanwhile.
var errClosed = errors.New("the workload's namespace is closed")

// thread is an OS thread that lives inside a network namespace of its own as
// long as the namespace is used. Sockets are created and processes are started
// on it: PR_SET_PDEATHSIG is tied to the thread that forked, so closing the
// thread kills what it started.
//
// The namespace has no name and no file: when the thread and the processes in
// it are gone, the kernel removes it.
type thread struct {
	work chan func()
	stop chan struct{}
	gone chan struct{}
	once sync.Once

	ns       *os.File // the namespace, for moving links into it
	dev, ino uint64
}

// newThread starts a thread in a new, empty network namespace.
func newThread() (*thread, error) {
	t := &thread{work: make(chan func()), stop: make(chan struct{}), gone: make(chan struct{})}
	started := make(chan error, 1)
	go t.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("a network namespace cannot be made: %w", err)
	}
	return t, nil
}

// run never unlocks its thread, so that the runtime ends it with the goroutine
// instead of using it elsewhere.
func (t *thread) run(started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The main thread never ends, and its namespaces are those that
		// /proc/PID shows of the whole process. While it is held here, the next
		// goroutine gets another one.
		defer runtime.UnlockOSThread()
		elsewhere := make(chan error, 1)
		go t.run(elsewhere)
		started <- <-elsewhere
		return
	}
	defer close(t.gone)
	if err := t.enter(); err != nil {
		started <- err
		return
	}
	defer t.ns.Close()
	started <- nil
	for {
		select {
		case f := <-t.work:
			f()
		case <-t.stop:
			return
		}
	}
}

func (t *thread) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		ns.Close()
		return err
	}
	t.ns, t.dev, t.ino = ns, st.Dev, st.Ino
	return nil
}

// do runs f on the thread and returns what f returns. f must not call do.
func (t *thread) do(f func() error) error {
	done := make(chan error, 1)
	select {
	case t.work <- func() { done <- f() }:
		return <-done
	case <-t.stop:
		return errClosed
	}
}

// inode is the number of the namespace, device that of the file system that
// numbers it: together they tell namespaces apart, as stat of
// /proc/PID/ns/net does.
func (t *thread) inode() uint64  { return t.ino }
func (t *thread) device() uint64 { return t.dev }

// close ends the thread, and with it the processes that it started. It waits
// for what the thread is doing.
func (t *thread) close() {
	t.once.Do(func() { close(t.stop) })
	<-t.gone
}
