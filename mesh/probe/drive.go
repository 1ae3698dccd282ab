package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Drive has an agent do tasks, and returns when it has reported on each. Ready is
// called before a task dials, report once for each task, both one at a time. What
// an agent says that does not follow the protocol is an error: nothing of it is
// believed.
//
// The caller closes both ends when ctx ends, so that nothing hangs.
func Drive(ctx context.Context, in io.Writer, out io.Reader, tasks []*Task, ready func(task string, local netip.AddrPort), report func(Observation)) error {
	d := &drive{in: in, todo: tasks, open: map[string]bool{}, ready: ready, report: report}
	lines := make(chan spoken)
	done := make(chan struct{})
	defer close(done)
	go read(out, lines, done)
	if err := d.fill(); err != nil {
		return err
	}
	for len(d.open) > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(silence):
			return fmt.Errorf("the agent says nothing for %s, with %d tasks open", silence, len(d.open))
		case l := <-lines:
			if l.err != nil {
				return l.err
			}
			if err := d.heard(&l.Line); err != nil {
				return err
			}
		}
	}
	return nil
}

// silence is how long an agent may say nothing while it has something to do.
const silence = patience + maxHold + 10*time.Second

// drive is one run of Drive. Its goroutine owns it.
type drive struct {
	in   io.Writer
	todo []*Task
	// open are the tasks that the agent has; the value is whether it announced
	// its address.
	open   map[string]bool
	ready  func(string, netip.AddrPort)
	report func(Observation)
}

type spoken struct {
	Line
	err error
}

var errEnded = errors.New("the agent ended with tasks open")

// read hands on what an agent says until done.
func read(out io.Reader, lines chan<- spoken, done <-chan struct{}) {
	scan := bufio.NewScanner(out)
	scan.Buffer(nil, maxLine)
	for more := true; more; {
		var s spoken
		if more = scan.Scan(); more {
			s.Line, s.err = ParseLine(scan.Bytes())
		} else if s.err = scan.Err(); s.err == nil {
			s.err = errEnded
		}
		select {
		case lines <- s:
		case <-done:
			return
		}
	}
}

// fill gives the agent as many tasks as it may have.
func (d *drive) fill() error {
	for len(d.todo) > 0 && len(d.open) < maxAtOnce {
		t := d.todo[0]
		d.todo = d.todo[1:]
		d.open[t.ID] = false
		if err := d.say(Line{Task: t}); err != nil {
			return err
		}
	}
	return nil
}

func (d *drive) say(l Line) error {
	text, err := json.Marshal(l)
	if err == nil {
		_, err = d.in.Write(append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("the agent hears nothing: %w", err)
	}
	return nil
}

func (d *drive) heard(l *Line) error {
	switch {
	case l.Ready != nil:
		announced, has := d.open[l.Ready.Task]
		if !has || announced {
			return fmt.Errorf("the agent announces task %.40q, which it does not have or has announced", l.Ready.Task)
		}
		d.open[l.Ready.Task] = true
		d.ready(l.Ready.Task, l.Ready.Local)
		return d.say(Line{Go: l.Ready.Task})
	case l.Report != nil:
		if _, has := d.open[l.Report.Task]; !has {
			return fmt.Errorf("the agent reports on task %.40q, which it does not have", l.Report.Task)
		}
		delete(d.open, l.Report.Task)
		d.report(*l.Report)
		return d.fill()
	}
	return errors.New("the agent gives tasks")
}
