package node

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

// A workload that writes many lines at once must cost no more than their length.
func TestOutputCostsItsLength(t *testing.T) {
	p := &prefixed{name: "a", to: io.Discard}
	lines := bytes.Repeat([]byte("\n"), 4<<20)
	start := time.Now()
	if n, err := p.Write(lines); n != len(lines) || err != nil {
		t.Fatal(n, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("4 Mi lines took %v", took)
	}
}

func TestOutputLines(t *testing.T) {
	var out strings.Builder
	p := &prefixed{name: "a", to: &out}
	long := strings.Repeat("x", maxLine+1)
	for _, text := range []string{"one", " line\ntwo\n", "\n", "rest", "", long, "end"} {
		if n, err := p.Write([]byte(text)); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if want := "a | one line\na | two\na | \na | rest" + long + "\na | end\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
}
