// Package platform is what the example's programs share: they serve, and they
// tell the log collector what they do. They know nothing of bulkhead.
package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Context ends when the program is told to.
func Context() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	return ctx
}

// Serve serves on the address of the environment variable LISTEN until ctx ends.
func Serve(ctx context.Context, handler http.Handler) {
	server := &http.Server{Addr: Env("LISTEN"), Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	Log("serves on %s", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// Env returns a variable that must be set.
func Env(name string) string {
	v := os.Getenv(name)
	if v == "" {
		log.Fatalf("%s is not set", name)
	}
	return v
}

// Client has no timeout, because a stream of tokens has none.
var Client = &http.Client{}

// collector waits two seconds at most: logging must not stop the work.
var collector = &http.Client{Timeout: 2 * time.Second}

// Log prints a line and sends it to the log collector, if there is one.
func Log(format string, args ...any) {
	says := fmt.Sprintf(format, args...)
	fmt.Println(says)
	to := os.Getenv("LOGS")
	if to == "" {
		return
	}
	body, err := json.Marshal(map[string]string{"program": filepath.Base(os.Args[0]), "says": says})
	if err != nil {
		log.Fatal(err)
	}
	resp, err := collector.Post(to+"/v1/logs", "application/json", bytes.NewReader(body))
	if err != nil {
		fmt.Println("the log collector does not answer:", err)
		return
	}
	resp.Body.Close()
}
