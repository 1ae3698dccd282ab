package kubernetes_test

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"testing"

	"bulkhead/core/network"
	"bulkhead/core/reach"
	"bulkhead/internal/benchestate"
	"bulkhead/internal/yamldoc"
	"bulkhead/target"
	"bulkhead/target/kubernetes"
)

func importText(tb testing.TB, text []byte) *network.Network {
	tb.Helper()
	im, err := kubernetes.New().NewImporter(target.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	limits := yamldoc.ManifestLimits
	limits.Bytes = len(text) + 1
	for doc, d := range yamldoc.Documents("estate.yaml", text, limits) {
		if d != nil {
			tb.Fatal(d)
		}
		im.Add(target.Document{Value: doc})
	}
	n := &network.Network{}
	if ds := im.Finish(n); ds.HasErrors() {
		tb.Fatal(ds)
	}
	return n
}

func estate(tb testing.TB, s benchestate.Size) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := benchestate.Write(&b, s); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// edges counts what the analysis allows, by class and by endpoint.
func edges(a *reach.Analysis) (classEdges, pairs int) {
	classes := a.Classes()
	for src := range classes {
		for dst := range a.From(reach.ClassID(src)) {
			classEdges++
			pairs += len(classes[src].Endpoints) * len(classes[dst].Endpoints)
		}
	}
	return classEdges, pairs
}

// peakMiB is the most memory that the process has held.
func peakMiB() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return 0
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return float64(kb) / 1024
}

var sizes = map[string]benchestate.Size{
	"500": benchestate.Small, "2000": benchestate.Medium, "10000": benchestate.Large,
	"100000": benchestate.Huge, "1000cidrs": benchestate.CIDRs,
}

// BenchmarkEstate measures everything from the text of the manifests to every
// edge. Run one size at a time for the peak memory: -bench 'Estate/2000$'.
func BenchmarkEstate(b *testing.B) {
	for _, name := range []string{"500", "2000", "10000", "100000", "1000cidrs"} {
		b.Run(name, func(b *testing.B) {
			text := estate(b, sizes[name])
			b.ResetTimer()
			var classes, classEdges, pairs int
			for b.Loop() {
				a := reach.New(importText(b, text))
				classes = a.EndpointClasses()
				classEdges, pairs = edges(a)
			}
			b.ReportMetric(float64(classes), "classes")
			b.ReportMetric(float64(classEdges), "class-edges")
			b.ReportMetric(float64(pairs), "pairs")
			b.ReportMetric(peakMiB(), "peak-MiB")
		})
	}
}

// BenchmarkAnalyze leaves the reading of the text out.
func BenchmarkAnalyze(b *testing.B) {
	for _, name := range []string{"500", "2000", "10000", "100000", "1000cidrs"} {
		b.Run(name, func(b *testing.B) {
			n := importText(b, estate(b, sizes[name]))
			b.ResetTimer()
			for b.Loop() {
				a := reach.New(n)
				edges(a)
			}
		})
	}
}

// BenchmarkRecheck changes one policy of a large estate and finds every edge
// that differs.
func BenchmarkRecheck(b *testing.B) {
	base := estate(b, benchestate.Large)
	networks := make([]*network.Network, 2)
	for i := range networks {
		text := base
		if i == 1 {
			text = bytes.Replace(base, []byte("port: 9000, endPort: 9100"), []byte("port: 9000, endPort: 9050"), 1)
		}
		networks[i] = importText(b, text)
	}
	z := reach.NewAnalyzer()
	before := z.Analyze(networks[0])
	b.ResetTimer()
	changed := 0
	for i := 1; b.Loop(); i++ {
		after := z.Analyze(networks[i%2])
		changed = 0
		for range after.Changed(before) {
			changed++
		}
		before = after
	}
	if changed == 0 {
		b.Fatal("the changed policy changed nothing")
	}
	b.ReportMetric(float64(changed), "changed-edges")
}
