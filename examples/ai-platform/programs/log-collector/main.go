// Command log-collector prints what others tell it.
package main

import (
	"fmt"
	"io"
	"net/http"

	"bulkhead/examples/ai-platform/programs/platform"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/logs", func(w http.ResponseWriter, r *http.Request) {
		line, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		fmt.Printf("%s\n", line)
	})
	platform.Serve(platform.Context(), mux)
}
