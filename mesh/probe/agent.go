package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

// maxAtOnce is how many tasks an agent does at the same time.
const maxAtOnce = 32

// Agent does tasks where it runs, as a workload. It reads them from in and
// reports to out until in ends, and returns when all are done.
func Agent(in io.Reader, out io.Writer) error {
	a := &agent{out: out, waiting: map[string]chan struct{}{}}
	return a.serve(in, a.do)
}

// agent is one run of Agent.
type agent struct {
	identity identityOnce

	writing sync.Mutex // guards the following
	out     io.Writer
	failed  error // of writing

	// mu guards waiting. Nobody writes under it: who reads takes it, and must never
	// wait for the node, which may be writing.
	mu      sync.Mutex
	waiting map[string]chan struct{}
}

// serve runs each task that arrives in a goroutine of its own.
func (a *agent) serve(in io.Reader, do func(*Task) Observation) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	places := make(chan struct{}, maxAtOnce)
	scan := bufio.NewScanner(in)
	scan.Buffer(nil, maxLine)
	for scan.Scan() {
		l, err := ParseLine(scan.Bytes())
		switch {
		case err != nil:
			return err
		case l.Go != "":
			a.proceed(l.Go)
		case l.Task != nil:
			select {
			case places <- struct{}{}:
			default:
				return fmt.Errorf("there are more than %d tasks at once", maxAtOnce)
			}
			tasks.Go(func() {
				start := time.Now()
				o := do(l.Task)
				o.Task, o.Took = l.Task.ID, time.Since(start)
				<-places // before the report, after which the next task may come
				a.say(Line{Report: &o})
			})
		default:
			return errLine
		}
	}
	return scan.Err()
}

func (a *agent) say(l Line) {
	text, err := json.Marshal(l)
	a.writing.Lock()
	defer a.writing.Unlock()
	if err == nil && a.failed == nil {
		_, err = a.out.Write(append(text, '\n'))
	}
	if a.failed == nil {
		a.failed = err
	}
}

// announce says from where a task is about to dial, and waits until the node
// knows it.
func (a *agent) announce(ctx context.Context, task string, local netip.AddrPort) error {
	c := make(chan struct{})
	a.mu.Lock()
	a.waiting[task] = c
	a.mu.Unlock()
	a.say(Line{Ready: &Ready{Task: task, Local: local}})
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *agent) proceed(task string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.waiting[task]; c != nil {
		close(c)
		delete(a.waiting, task)
	}
}
