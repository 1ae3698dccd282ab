package source

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"pypi", "job", "store", "huggingface", "zone"}
	for text, want := range map[string]string{
		"pipy": "pypi", "jobb": "job", "stroe": "store", "hugingface": "huggingface", "x": "", "completely-else": "", "": "", "JOB": "job",
	} {
		if got := Nearest(text, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestDiagnosticsSort(t *testing.T) {
	var ds Diagnostics
	ds.Errorf("b", Pos{"f", 2, 1}, "later")
	ds.Warnf("a", Pos{"f", 1, 9}, "first %d", 1).WithNote(Pos{"g", 1, 1}, "see").WithFix("do")
	ds.Errorf("b", Pos{"f", 2, 1}, "later")
	ds.Sort()
	if len(ds) != 2 || ds[0].Rule != "a" || !ds.HasErrors() || ds.Err() == nil {
		t.Fatalf("%v", ds)
	}
	if got := ds[0].String(); got != "f:1:9: warning: first 1 [a]" {
		t.Error(got)
	}
	var none Diagnostics
	none.Warnf("a", Pos{}, "only")
	if none.Err() != nil {
		t.Error("a warning is an error")
	}
}
