// Command outside stands in for what is outside of the example platform, on the
// machine itself: a package mirror (http://packages.acme.internal:8071), a model hub
// (https://models.acme.internal:8472), and a place to which nothing should ever go
// (https://exfiltration.example.com:8472). It stops with Ctrl-C.
package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

//go:embed hub.pem
var certificate []byte

//go:embed hub.key
var key []byte

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		log.Fatal(err)
	}
	mirror := &http.Server{Addr: "127.0.0.1:8071", Handler: http.HandlerFunc(packages), ReadHeaderTimeout: 10 * time.Second}
	hub := &http.Server{Addr: "127.0.0.1:8472", Handler: http.HandlerFunc(models), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	go func() {
		<-ctx.Done()
		mirror.Close()
		hub.Close()
	}()
	go func() {
		if err := hub.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	fmt.Println("a package mirror at http://packages.acme.internal:8071 and a model hub at https://models.acme.internal:8472; Ctrl-C stops them")
	if err := mirror.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// packages is a package index as pip reads it (PEP 503), with one package.
func packages(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/simple/":
		fmt.Fprint(w, `<!DOCTYPE html><html><body><a href="/simple/features/">features</a></body></html>`)
	case r.URL.Path == "/simple/features/":
		fmt.Fprint(w, `<!DOCTYPE html><html><body><a href="/packages/features-1.0.tar.gz">features-1.0.tar.gz</a></body></html>`)
	case strings.HasPrefix(r.URL.Path, "/packages/"):
		w.Header().Set("Content-Type", "application/gzip")
		w.Write(make([]byte, 16<<10))
	default:
		http.NotFound(w, r)
	}
}

// models is a hub with one model, at paths as those of Hugging Face.
func models(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/acme/base/resolve/main/model.safetensors" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(make([]byte, 1<<20))
}
