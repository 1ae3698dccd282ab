//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// pair is something that carries connections from addr to the backend.
type pair struct {
	name  string
	addr  string
	start func(context.Context) (stop func(), pids []int, err error)
}

// pairs returns all that is installed.
func pairs(dir, backend string) []pair {
	out := []pair{{"direct", backend, func(context.Context) (func(), []int, error) { return func() {}, nil, nil }}}
	add := func(name, needs string, commands func(front, between string) ([][]string, error)) {
		if _, err := exec.LookPath(needs); err != nil {
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", name, err)
			return
		}
		front, err1 := freeAddr()
		between, err2 := freeAddr()
		out = append(out, pair{name, front, func(ctx context.Context) (func(), []int, error) {
			if err := errors.Join(err1, err2); err != nil {
				return nil, nil, err
			}
			c, err := commands(front, between)
			if err != nil {
				return nil, nil, err
			}
			return startAll(ctx, c)
		}})
	}
	self := os.Args[0]
	if exe, err := os.Executable(); err == nil {
		self = exe
	}
	add("bulkhead, one node", self, func(front, _ string) ([][]string, error) {
		return [][]string{{self, "both", dir, front, backend}}, nil
	})
	add("bulkhead, two nodes", self, func(front, between string) ([][]string, error) {
		return [][]string{{self, "far", dir, between, backend}, {self, "near", dir, front, between}}, nil
	})
	add("nginx", "nginx", func(front, between string) ([][]string, error) { return nginx(dir, front, between, backend) })
	add("haproxy", "haproxy", func(front, between string) ([][]string, error) { return haproxy(dir, front, between, backend) })
	return out
}

const nginxHalf = `
daemon off; worker_processes 1; pid %[1]s/%[2]s.pid; error_log stderr crit;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events { worker_connections 8192; }
stream {
  server {
    listen %[3]s%[5]s backlog=4096;
    proxy_pass %[4]s;
    proxy_timeout 1h;
    ssl_session_tickets off; ssl_session_cache off; ssl_protocols TLSv1.3; ssl_ecdh_curve X25519;
    %[6]s
  }
}`

func nginx(dir, front, between, backend string) ([][]string, error) {
	near := fmt.Sprintf(nginxHalf, dir, "near", front, between, "", fmt.Sprintf(`
    proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off;
    proxy_ssl_certificate %[1]s/near.pem; proxy_ssl_certificate_key %[1]s/near.pem;
    proxy_ssl_trusted_certificate %[1]s/roots.pem; proxy_ssl_verify off; proxy_ssl_verify_depth 3;`, dir))
	far := fmt.Sprintf(nginxHalf, dir, "far", between, backend, " ssl", fmt.Sprintf(`
    ssl_certificate %[1]s/far.pem; ssl_certificate_key %[1]s/far.pem;
    ssl_client_certificate %[1]s/roots.pem; ssl_verify_client on; ssl_verify_depth 3;`, dir))
	var out [][]string
	for name, text := range map[string]string{"nginx-near": near, "nginx-far": far} {
		file := filepath.Join(dir, name+".conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		out = append(out, []string{"nginx", "-p", dir, "-c", file})
	}
	return out, nil
}

const haproxyHalf = `
global
  nbthread 1
  maxconn 8192
  tune.ssl.cachesize 0
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen half
  bind %s %s
  server next %s %s
`

func haproxy(dir, front, between, backend string) ([][]string, error) {
	near := fmt.Sprintf(haproxyHalf, front, "", between,
		fmt.Sprintf("ssl crt %[1]s/near.pem ca-file %[1]s/roots.pem verify required no-ssl-reuse", dir))
	far := fmt.Sprintf(haproxyHalf, between,
		fmt.Sprintf("ssl crt %[1]s/far.pem ca-file %[1]s/roots.pem verify required curves X25519", dir), backend, "")
	var out [][]string
	for name, text := range map[string]string{"haproxy-near": near, "haproxy-far": far} {
		file := filepath.Join(dir, name+".conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		out = append(out, []string{"haproxy", "-q", "-db", "-f", file})
	}
	return out, nil
}

// startAll starts processes that end with this one.
func startAll(ctx context.Context, commands [][]string) (func(), []int, error) {
	var pids []int
	var stops []func()
	stop := func() {
		for _, s := range stops {
			s()
		}
	}
	for _, c := range commands {
		cmd := exec.CommandContext(ctx, c[0], c[1:]...)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		if err := cmd.Start(); err != nil {
			stop()
			return nil, nil, err
		}
		stops = append(stops, func() {
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		})
		pids = append(pids, cmd.Process.Pid)
	}
	return stop, pids, nil
}

// server is a process that listens.
type server struct {
	addr string
	stop func()
}

func startBackend(ctx context.Context, dir string) (server, error) {
	addr, err := freeAddr()
	if err != nil {
		return server{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return server{}, err
	}
	stop, _, err := startAll(ctx, [][]string{{exe, "backend", addr}})
	if err != nil {
		return server{}, err
	}
	return server{addr, stop}, waitFor(addr)
}

// freeAddr returns an address of loopback that nobody listens on. Its port is
// below those that the kernel gives to clients, which could take it before it is
// used.
func freeAddr() (string, error) {
	const first, last = 10_000, 32_000
	for range 100 {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(last-first))))
		if err == nil {
			defer ln.Close()
			return ln.Addr().String(), nil
		}
	}
	return "", errors.New("a hundred ports of loopback are all taken")
}

// waitFor waits until a request through addr is answered.
func waitFor(addr string) error {
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var c *client
		if c, err = dial(addr); err != nil {
			continue
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = c.do()
		c.Close()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer: %w", addr, err)
}
