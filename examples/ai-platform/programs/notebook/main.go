// Command notebook stands for an interactive notebook: a page, and nothing else.
package main

import (
	"io"
	"net/http"

	"bulkhead/examples/ai-platform/programs/platform"
)

func main() {
	platform.Serve(platform.Context(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<title>notebook</title><p>There is nothing to run here.</p>\n")
	}))
}
