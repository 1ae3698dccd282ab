package example

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var block = regexp.MustCompile("(?s)<!-- (\\S+) -->\n```go\n(.*?)```\n")

// TestTutorialQuotesTheCode checks that every block of code of the tutorial is
// a piece of the file that the comment above it names.
func TestTutorialQuotesTheCode(t *testing.T) {
	root := filepath.Join("..", "..")
	doc, err := os.ReadFile(filepath.Join(root, "docs", "adding-a-target.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := block.FindAllStringSubmatch(string(doc), -1)
	if n := strings.Count(string(doc), "```go"); n == 0 || n != len(blocks) {
		t.Errorf("%d of %d blocks name their file", len(blocks), n)
	}
	for _, b := range blocks {
		code, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(b[1])))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(code), b[2]) {
			t.Errorf("%s no longer holds:\n%s", b[1], b[2])
		}
	}
}
