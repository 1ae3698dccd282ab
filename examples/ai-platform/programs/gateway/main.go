// Command gateway is the public front of the inference server. It forwards what
// comes, as it comes, token by token.
package main

import (
	"net/http/httputil"
	"net/url"

	"bulkhead/examples/ai-platform/programs/platform"
)

func main() {
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: platform.Env("LLM")})
		},
	}
	platform.Serve(platform.Context(), proxy)
}
