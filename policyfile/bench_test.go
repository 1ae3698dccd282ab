package policyfile

import (
	"fmt"
	"strings"
	"testing"
)

// large is a policy of n workloads with a flow each.
func large(n int) []byte {
	var b strings.Builder
	b.WriteString("version: 1\nworkloads:\n")
	for i := range n {
		fmt.Fprintf(&b, "  w%d: {zone: z%d, serves: {api: http/8080}, at: {kubernetes: {labels: {app: w%d}}}} # %d\n", i, i%50, i, i)
	}
	b.WriteString("flows:\n")
	for i := range n {
		fmt.Fprintf(&b, "  # flow %d\n  - {from: w%d, to: w%d/api, may: read, because: \"it, must\", owner: x}\n", i, i, i*7%n)
	}
	return []byte(b.String())
}

func BenchmarkParse(b *testing.B) {
	text := large(10_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if p, ds := Parse([]File{{"f.yaml", text}}); p == nil {
			b.Fatal(ds)
		}
	}
}

func BenchmarkFormat(b *testing.B) {
	text := large(10_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if out, ds := Format("f.yaml", text); out == nil {
			b.Fatal(ds)
		}
	}
}
