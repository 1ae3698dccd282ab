package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/report"
)

// SocketName is the name of the admin socket in the run-time folder of a
// platform.
const SocketName = "admin.sock"

// Admin talks to a running node over its admin socket.
type Admin struct {
	dir  string
	http http.Client
}

// Dial returns the admin of the platform whose run-time folder is dir.
func Dial(dir string) *Admin {
	return &Admin{dir, http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, SocketName))
		},
	}}}
}

// Refused is the answer of a node that will not do what it was asked.
type Refused struct{ Says, Hint string }

func (r *Refused) Error() string { return r.Says }

// call posts a question and decodes the answer; a nil question is a GET.
func (a *Admin) call(ctx context.Context, path string, question, answer any) error {
	resp, err := a.send(ctx, path, question)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(answer)
}

func (a *Admin) send(ctx context.Context, path string, question any) (*http.Response, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if question != nil {
		text, err := json.Marshal(question)
		if err != nil {
			return nil, err
		}
		method, body = http.MethodPost, bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://bulkhead"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return nil, err
	}
	var r Refused
	if json.Unmarshal(text, &r) != nil || r.Says == "" {
		r.Says = fmt.Sprintf("the node answers %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return nil, &r
}

// lines yields the lines of a streamed answer.
func lines[T any](ctx context.Context, a *Admin, path string, question any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		resp, err := a.send(ctx, path, question)
		if err != nil {
			yield(zero, err)
			return
		}
		defer resp.Body.Close()
		scan := bufio.NewScanner(resp.Body)
		scan.Buffer(nil, 1<<20)
		for scan.Scan() {
			var v T
			if err := json.Unmarshal(scan.Bytes(), &v); err != nil {
				yield(zero, fmt.Errorf("an answer of the node cannot be read: %w", err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := scan.Err(); err != nil && ctx.Err() == nil {
			yield(zero, err)
		}
	}
}

// Status returns how the node is doing.
func (a *Admin) Status(ctx context.Context) (*report.Status, error) {
	var s report.Status
	return &s, a.call(ctx, "/v1/status", nil, &s)
}

// Flows yields what was recorded. With follow it goes on until ctx ends.
func (a *Admin) Flows(ctx context.Context, follow bool) iter.Seq2[flow.Record, error] {
	path := "/v1/flows"
	if follow {
		path += "?follow=1"
	}
	return lines[flow.Record](ctx, a, path, nil)
}

// Preview says what a quarantine would take away.
func (a *Admin) Preview(ctx context.Context, q QuarantineQuestion) (*report.Scope, error) {
	q.Preview = true
	var s report.Scope
	return &s, a.call(ctx, "/v1/quarantine", q, &s)
}

// Quarantine cuts a workload or a zone off, and says what that did.
func (a *Admin) Quarantine(ctx context.Context, q QuarantineQuestion) (*report.Effect, error) {
	var e report.Effect
	return &e, a.call(ctx, "/v1/quarantine", q, &e)
}

// Release ends a quarantine.
func (a *Admin) Release(ctx context.Context, q ReleaseQuestion) (*report.Effect, error) {
	var e report.Effect
	return &e, a.call(ctx, "/v1/release", q, &e)
}

// Credential returns what another machine needs to join.
func (a *Admin) Credential(ctx context.Context, q CredentialQuestion) (json.RawMessage, error) {
	var c json.RawMessage
	return c, a.call(ctx, "/v1/credential", q, &c)
}
