// Command llm is an inference server with the interface of OpenAI's: it loads its
// weights from the model store and streams tokens as server-sent events.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"bulkhead/examples/ai-platform/programs/platform"
)

const (
	maxTokens = 100_000
	interval  = 50 * time.Millisecond // between two tokens
)

type request struct {
	Stream    bool `json:"stream"`
	MaxTokens int  `json:"max_tokens"`
}

type delta struct {
	Choices []choice `json:"choices"`
}

type choice struct {
	Delta message `json:"delta"`
}

type message struct {
	Content string `json:"content"`
}

func main() {
	ctx := platform.Context()
	go load(ctx)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"object":"list","data":[{"id":"base","object":"model"}]}`+"\n")
	})
	mux.HandleFunc("POST /v1/chat/completions", complete)
	platform.Serve(ctx, mux)
}

// load reads the weights, and tries again until it has them.
func load(ctx context.Context) {
	for ctx.Err() == nil {
		start := time.Now()
		resp, err := platform.Client.Get("http://" + platform.Env("MODEL_STORE") + "/models/base")
		if err == nil {
			n, copyErr := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if copyErr == nil && resp.StatusCode == http.StatusOK {
				platform.Log("loaded %d MiB of weights in %s", n>>20, time.Since(start).Round(time.Millisecond))
				return
			}
			err = fmt.Errorf("status %d after %d bytes: %v", resp.StatusCode, n, copyErr)
		}
		platform.Log("no weights yet: %v", err)
		time.Sleep(time.Second)
	}
}

var words = strings.Fields("a bulkhead keeps one flooded compartment from sinking the ship and a door in it is opened on purpose")

func complete(w http.ResponseWriter, r *http.Request) {
	var req request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n := min(max(req.MaxTokens, 16), maxTokens)
	if !req.Stream {
		fmt.Fprintf(w, `{"choices":[{"message":{"role":"assistant","content":%q}}]}`+"\n", strings.Join(words[:min(n, len(words))], " "))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	for i := range n {
		event, err := json.Marshal(delta{[]choice{{message{words[i%len(words)] + " "}}}})
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", event); err != nil {
			return
		}
		if err := flush.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(interval):
		}
	}
	io.WriteString(w, "data: [DONE]\n\n")
}
