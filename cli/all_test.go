package cli

import "testing"

// TestWhateverFoldsTakesAll: folded warnings tell the user to add --all, so
// every verb that reads a policy or an estate accepts it.
func TestWhateverFoldsTakesAll(t *testing.T) {
	for _, v := range verbs() {
		fs := v.flagSet(&options{})
		if (fs.Lookup("policy") != nil || fs.Lookup("cni") != nil) && fs.Lookup("all") == nil {
			t.Errorf("%s can fold warnings and has no --all", v.name)
		}
	}
}
