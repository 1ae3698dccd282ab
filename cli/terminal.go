package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"bulkhead/app"
	"bulkhead/render/text"
)

// maxWidth is how wide text gets: longer lines are hard to read.
const maxWidth = 120

// look says how text should look on a stream: plain and unbroken in a file.
func (c *Command) look(w io.Writer) text.Options {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return text.Options{}
	}
	o := text.Options{Width: 80, Colour: c.Getenv("NO_COLOR") == "" && c.Getenv("TERM") != "dumb"}
	if n, err := strconv.Atoi(c.Getenv("COLUMNS")); err == nil && n > 0 {
		o.Width = n
	} else if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
		o.Width = n
	}
	o.Width = min(o.Width, maxWidth)
	return o
}

// bar is the progress of long work, on one line of a terminal that is erased
// at the end. The zero bar shows nothing.
type bar struct {
	w       io.Writer
	started time.Time
	drawn   time.Time
}

func newBar(w io.Writer) *bar {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return &bar{}
	}
	return &bar{w: w, started: time.Now()}
}

// The bar appears when the work takes longer than patience and is drawn again
// every so often.
const (
	patience = 400 * time.Millisecond
	every    = 100 * time.Millisecond
	cells    = 30
)

func (b *bar) show(p app.Progress) {
	if b.w == nil || time.Since(b.started) < patience || time.Since(b.drawn) < every {
		return
	}
	b.drawn = time.Now()
	if p.Total <= 0 {
		fmt.Fprintf(b.w, "\r\x1b[K%s …", p.Doing)
		return
	}
	full := int(p.Done * cells / p.Total)
	fmt.Fprintf(b.w, "\r\x1b[K%s [%s%s] %d/%d", p.Doing, strings.Repeat("=", full), strings.Repeat(" ", cells-full), p.Done, p.Total)
}

func (b *bar) clear() {
	if b.w != nil && !b.drawn.IsZero() {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
