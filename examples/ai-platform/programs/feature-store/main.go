// Command feature-store answers with features. It would let anybody write, too:
// that trainers only read is the policy's doing.
package main

import (
	"encoding/json"
	"hash/fnv"
	"net/http"

	"bulkhead/examples/ai-platform/programs/platform"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /features/{id}", func(w http.ResponseWriter, r *http.Request) {
		h := fnv.New32a()
		h.Write([]byte(r.PathValue("id")))
		n := h.Sum32()
		json.NewEncoder(w).Encode(map[string]any{"id": r.PathValue("id"), "vector": []uint32{n & 255, n >> 8 & 255, n >> 16 & 255}})
	})
	mux.HandleFunc("PUT /features/{id}", func(w http.ResponseWriter, r *http.Request) {
		platform.Log("features/%s was overwritten", r.PathValue("id"))
	})
	platform.Serve(platform.Context(), mux)
}
