package tunnel

import (
	"io"
	"testing"
	"time"
)

// TestTorn shows the end that is none, and one that is.
func TestTorn(t *testing.T) {
	ln := listen(t)
	c := dial(t, addrPort(ln))
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	resetConn(other)
	for end := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(end); {
		_, err = c.Write([]byte("x")) // takes the news
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Skip("SKIPPED: this kernel reports a reset twice; run: go test on Linux 5 or later")
	}
	if !torn(c) {
		t.Error("a reset passes for an end")
	}
	c = dial(t, addrPort(ln))
	if other, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	other.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF || torn(c) {
		t.Error("an end passes for a reset:", err)
	}
}
