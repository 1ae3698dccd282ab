package registry

import "sync"

// Lifeline holds what must be cut to end a connection at once: sockets, streams
// and what is still being dialled. Its methods may be called from any goroutine;
// the zero value is ready.
type Lifeline struct {
	mu   sync.Mutex // guards the following
	cut  bool
	why  string
	held []func()
}

// Hold adds something to cut; if the line was severed before, it is cut at once.
// Cut must not block.
func (l *Lifeline) Hold(cut func()) {
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		cut()
		return
	}
	l.held = append(l.held, cut)
	l.mu.Unlock()
}

// Sever cuts everything that is held. The first reason counts.
func (l *Lifeline) Sever(why string) {
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return
	}
	l.cut, l.why = true, why
	held := l.held
	l.held = nil
	l.mu.Unlock()
	for _, cut := range held {
		cut()
	}
}

// Severed reports whether it was severed, and why.
func (l *Lifeline) Severed() (why string, yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why, l.cut
}
