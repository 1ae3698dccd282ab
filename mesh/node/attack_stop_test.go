package node

import (
	"context"
	"testing"
	"time"

	"bulkhead/mesh/host"
	"bulkhead/mesh/report"
)

// A workload that does not end when it is told to must not keep the status
// waiting: it holds the lock that a quarantine needs.
func TestStatusDoesNotWaitForAWorkload(t *testing.T) {
	stubborn := &charge{binding: host.Binding{Run: []string{"x"}}, cancel: func() {}, done: make(chan struct{})}
	s := &supervisor{running: map[string]*charge{"a": stubborn}}
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.set(context.Background(), nil)
	}()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		asked := make(chan report.WorkloadStatus, 1)
		go func() {
			w := report.WorkloadStatus{Name: "a"}
			s.report(&w)
			asked <- w
		}()
		select {
		case w := <-asked:
			if w.State == report.Waiting { // it is being stopped
				close(stubborn.done)
				<-over
				return
			}
		case <-time.After(2 * time.Second):
			t.Fatal("the status waits for a workload to end")
		}
		if time.Now().After(end) {
			t.Fatal("it is never stopped")
		}
	}
}
