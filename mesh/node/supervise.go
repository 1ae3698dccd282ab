package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"bulkhead/mesh/host"
	"bulkhead/mesh/report"
)

// The pauses before a workload that ended is started again.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
	// steady is how long a process must have run for the pauses to begin anew.
	steady = time.Minute
	// grace is how long a workload may take to end when it is told to.
	grace = 5 * time.Second
)

// supervisor keeps the processes of workloads running. Each workload has one
// goroutine, which owns its process.
type supervisor struct {
	host *host.Host
	log  *slog.Logger
	// resolve gives the text that a placeholder in a command stands for.
	resolve func(workload, ref string) (string, error)
	output  io.Writer
	// dir is the folder of the policy, where relative paths start.
	dir string
	// folders stay visible to every workload.
	folders []string

	mu      sync.Mutex // guards the following
	running map[string]*charge
}

// charge is one workload in the care of a supervisor.
type charge struct {
	binding host.Binding
	cancel  context.CancelFunc
	done    chan struct{}

	mu       sync.Mutex // guards the following
	state    string
	pid      int
	restarts int
	says     string
}

// set brings what runs in line with what should: a workload whose command
// changed is started anew, one that is gone is stopped. One goroutine at a time
// calls it. It does not hold the lock while a workload takes its time to end: who
// asks how it is doing may have something urgent to do.
func (s *supervisor) set(ctx context.Context, want map[string]host.Binding) {
	for _, c := range s.leaving(want) {
		<-c.done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if s.running[name] == nil {
			s.running[name] = s.begin(ctx, name, want[name])
		}
	}
}

// leaving tells what should not run any more to end, and returns it.
func (s *supervisor) leaving(want map[string]host.Binding) []*charge {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*charge
	for name, c := range s.running {
		if b, ok := want[name]; !ok || !reflect.DeepEqual(b, c.binding) {
			c.cancel()
			out = append(out, c)
			delete(s.running, name)
		}
	}
	return out
}

// stop ends all workloads and returns when they have ended.
func (s *supervisor) stop() { s.set(context.Background(), nil) }

func (s *supervisor) begin(ctx context.Context, name string, b host.Binding) *charge {
	c := &charge{binding: b, done: make(chan struct{}), state: report.Idle}
	switch {
	case b.Gateway:
		c.state = report.WayOut
	case b.Unit != "" || b.Cgroup != "":
		c.state = report.Bound
	case len(b.Run) > 0:
		c.state = report.Waiting
	}
	ctx, c.cancel = context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		if c.state == report.Waiting {
			s.keep(ctx, name, c)
		}
	}()
	return c
}

// keep starts the process of a workload again and again until ctx ends.
func (s *supervisor) keep(ctx context.Context, name string, c *charge) {
	pause := firstPause
	for ctx.Err() == nil {
		start := time.Now()
		err := s.once(ctx, name, c)
		if ctx.Err() != nil {
			break
		}
		if time.Since(start) > steady {
			pause = firstPause
		}
		s.log.Warn("workload ended", "workload", name, "how", err, "again_in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
		c.mu.Lock()
		c.restarts++
		c.mu.Unlock()
	}
}

// once runs the process of a workload to its end and returns how it ended.
func (s *supervisor) once(ctx context.Context, name string, c *charge) error {
	command, err := s.command(name, c.binding)
	if err != nil {
		c.ended(report.Failed, err)
		return err
	}
	defer command.Stdout.Close()
	p, err := s.host.Start(ctx, name, command.Command)
	if err != nil {
		c.ended(report.Failed, err)
		return err
	}
	c.mu.Lock()
	c.state, c.pid, c.says = report.Running, p.Pid(), ""
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { p.Stop(grace) })
	defer stop()
	err = fmt.Errorf("%s", p.Wait())
	c.ended(report.Waiting, err)
	return err
}

func (c *charge) ended(state string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.pid, c.says = state, 0, err.Error()
}

// report fills in how a workload is doing.
func (s *supervisor) report(w *report.WorkloadStatus) {
	s.mu.Lock()
	c := s.running[w.Name]
	s.mu.Unlock()
	if c == nil {
		w.State = report.Waiting // for its place
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.State, w.PID, w.Restarts, w.Says = c.state, c.pid, c.restarts, c.says
}

// started is a command with the place where its output goes.
type started struct {
	host.Command
	Stdout *prefixed
}

// command fills in what a binding says of a process.
func (s *supervisor) command(name string, b host.Binding) (*started, error) {
	expand := func(text string) (string, error) {
		return host.Expand(text, func(ref string) (string, error) { return s.resolve(name, ref) })
	}
	out := &started{Stdout: &prefixed{name: name, to: s.output}}
	out.Command = host.Command{Dir: s.dir, User: b.User, Folders: s.folders, Stdout: out.Stdout, Stderr: out.Stdout}
	out.DirIfAllowed = b.Dir == ""
	if b.Dir != "" {
		out.Dir = filepath.Join(s.dir, b.Dir)
	}
	for i, word := range b.Run {
		text, err := expand(word)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			out.Path = text
			continue
		}
		out.Args = append(out.Args, text)
	}
	for _, variable := range b.Env {
		text, err := expand(variable)
		if err != nil {
			return nil, err
		}
		out.Env = append(out.Env, text)
	}
	out.Env = append(out.Env, "BULKHEAD_WORKLOAD="+name)
	return out, nil
}

// prefixed writes whole lines with the name of a workload in front.
type prefixed struct {
	name string
	to   io.Writer

	mu   sync.Mutex // guards the following
	rest []byte
}

// maxLine is where a line that does not end is broken.
const maxLine = 8 << 10

func (p *prefixed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		p.rest = append(p.rest, b[:i]...)
		b = b[i+1:]
		if err := p.flush(); err != nil {
			return 0, err
		}
	}
	p.rest = append(p.rest, b...)
	if len(p.rest) > maxLine {
		return size, p.flush()
	}
	return size, nil
}

// flush writes what there is as a line. The lock is held.
func (p *prefixed) flush() error {
	_, err := fmt.Fprintf(p.to, "%s | %s\n", p.name, p.rest)
	p.rest = p.rest[:0]
	return err
}

// Close writes what is left.
func (p *prefixed) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) == 0 {
		return nil
	}
	return p.flush()
}
