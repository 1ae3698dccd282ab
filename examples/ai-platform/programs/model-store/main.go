// Command model-store keeps models in memory, by the requests that S3 uses. The
// base model is made up and 64 MiB large.
package main

import (
	"io"
	"net/http"
	"strconv"
	"sync"

	"bulkhead/examples/ai-platform/programs/platform"
)

const (
	baseModel = 64 << 20
	maxModel  = 1 << 20 // of those that are put
	maxModels = 64
)

type store struct {
	mu     sync.Mutex
	models map[string][]byte
}

func main() {
	s := &store{models: map[string][]byte{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /models/base", base)
	mux.HandleFunc("GET /models/{name}", s.get)
	mux.HandleFunc("PUT /models/{name}", s.put)
	platform.Serve(platform.Context(), mux)
}

func base(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(baseModel))
	block := make([]byte, 1<<20)
	for range baseModel / len(block) {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func (s *store) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	model, ok := s.models[r.PathValue("name")]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Write(model)
}

func (s *store) put(w http.ResponseWriter, r *http.Request) {
	model, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxModel))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.models) >= maxModels {
		clear(s.models)
	}
	s.models[r.PathValue("name")] = model
	platform.Log("keeps %s, %d bytes", r.PathValue("name"), len(model))
}
