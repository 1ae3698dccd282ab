//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	direct    = "direct"
	ours      = "bulkhead"
	oursMTLS  = "bulkhead+mTLS"
	oursHTTP2 = "bulkhead+mTLS+h2"
	squid     = "squid"
	squidMTLS = "squid+mTLS"
	tinyproxy = "tinyproxy"
)

// hostsText is the proxies' file of hosts.
const hostsText = "127.0.0.1 " + originName + "\n"

// names are all that can be measured, in the order of the table.
var names = []string{direct, ours, oursMTLS, oursHTTP2, squid, squidMTLS, tinyproxy}

// peer is a proxy.
type peer struct {
	name    string
	mtls    bool // the client shows a certificate
	http2   bool // and has many tunnels on one connection; mode connect only
	literal bool // the client asks for the origin's address
	// start starts it at an address; nil for no proxy at all.
	start func(ctx context.Context, at string) (*process, error)
}

// installed returns what is to be measured and is there.
func (b *bench) installed(ctx context.Context) []peer {
	out := []peer{{name: direct}}
	add := func(p peer, err error) {
		if !b.wants(p.name) {
			return
		}
		if err != nil {
			say("%s is left out: %v", p.name, err)
			return
		}
		out = append(out, p)
	}
	if b.wants(ours) || b.wants(oursMTLS) || b.wants(oursHTTP2) {
		program, err := b.build(ctx)
		for _, p := range []peer{{name: ours}, {name: oursMTLS, mtls: true}, {name: oursHTTP2, mtls: true, http2: true}} {
			p.start = func(ctx context.Context, at string) (*process, error) { return b.startOurs(ctx, program, p, at) }
			add(p, err)
		}
	}
	if b.wants(squid) || b.wants(squidMTLS) {
		program, err := find("squid", "squid-openssl")
		var noTLS error
		if err == nil {
			noTLS = speaksTLS(ctx, program)
		}
		for _, p := range []peer{{name: squid}, {name: squidMTLS, mtls: true}} {
			p.start = func(ctx context.Context, at string) (*process, error) { return b.startSquid(ctx, program, p, at) }
			if p.mtls {
				err = errors.Join(err, noTLS)
			}
			add(p, err)
		}
	}
	if b.wants(tinyproxy) {
		program, err := find("tinyproxy", "tinyproxy")
		add(peer{name: tinyproxy, literal: true, start: func(ctx context.Context, at string) (*process, error) {
			return b.startTinyproxy(ctx, program, at)
		}}, err)
	}
	return out
}

// find finds a program of the system, also for users who have no path to it.
func find(program, from string) (string, error) {
	for _, p := range []string{program, "/usr/sbin/" + program, "/usr/bin/" + program} {
		if found, err := exec.LookPath(p); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("it is not installed: apt-get install %s", from)
}

func speaksTLS(ctx context.Context, squid string) error {
	out, err := exec.CommandContext(ctx, squid, "-v").Output()
	if err == nil && !strings.Contains(string(out), "--with-openssl") {
		err = errors.New("this squid has no TLS: apt-get install squid-openssl")
	}
	return err
}

// build builds the program, and asks whether it has a gateway.
func (b *bench) build(ctx context.Context) (string, error) {
	program := b.program
	if program == "" {
		program = filepath.Join(b.dir, "bulkhead")
		out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "bulkhead/cmd/bulkhead").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("it does not build: %w\n%s", err, out)
		}
	}
	program, err := filepath.Abs(program)
	if err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, program, "help", "gateway").CombinedOutput(); err != nil {
		return "", fmt.Errorf("it has no verb gateway: %w\n%s", err, out)
	}
	return program, nil
}

// folder makes an empty folder for a process.
func (b *bench) folder() (string, error) { return os.MkdirTemp(b.dir, "proxy-") }

const policyText = `version: 1
platform: bench
zones:
  w: {role: custom}
workloads:
  %[1]s: {zone: w}
destinations:
  origins:
    hosts: [%[2]s]
    addresses: [127.0.0.0/8]
    ports: [%[3]d, %[4]d, %[5]d, %[6]d]
egress:
  - from: %[1]s
    to: origins
    ports: [%[3]d, %[4]d, %[5]d]
    accept: [any-protocol]
    because: the origin's services that are no TLS are measured
    owner: bench
  - from: %[1]s
    to: origins
    ports: [%[6]d]
    because: the origin's TLS is measured
    owner: bench
`

func policyOf(o origin) string {
	return fmt.Sprintf(policyText, workload, originName, o.echo, o.http, o.bulk, o.tls)
}

func (b *bench) startOurs(ctx context.Context, program string, p peer, at string) (*process, error) {
	dir, err := b.folder()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	policy, hosts := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "hosts")
	if err := errors.Join(os.WriteFile(policy, []byte(policyOf(b.origin)), 0o600), os.WriteFile(hosts, []byte(hostsText), 0o600)); err != nil {
		return nil, err
	}
	command := []string{program, "gateway", policy, "--listen", at, "--admin", admin.String(), "--hosts", hosts,
		"--state", filepath.Join(dir, "state"), "--log", filepath.Join(dir, "egress.log"), "--drain", "1s"}
	if p.mtls {
		command = append(command, "--tls-cert", b.keys.cert, "--tls-key", b.keys.key, "--client-ca", b.keys.ca)
	} else {
		command = append(command, "--client", "127.0.0.0/8="+workload)
	}
	return startProxy(ctx, p.name, dir, "egress.log", nil, command...)
}

// squidText has one process, no cache, and one rule that allows.
const squidText = `%[1]s
workers 1
pid_filename none
visible_hostname bench
shutdown_lifetime 0 seconds
pinger_enable off
coredump_dir none
max_filedescriptors %[2]d
hosts_file %[3]s/hosts
dns_nameservers 127.0.0.1
cache deny all
cache_mem 8 MB
cache_log %[3]s/cache.log
access_log daemon:%[3]s/access.log squid
acl names dstdomain %[4]s
acl addresses dst 127.0.0.0/8
%[5]s
http_access deny all
`

func (b *bench) startSquid(ctx context.Context, program string, p peer, at string) (*process, error) {
	dir, err := b.folder()
	if err != nil {
		return nil, err
	}
	port, allow := "http_port "+at, "http_access allow names addresses"
	if p.mtls {
		if err := copyAll(dir, b.keys.cert, b.keys.key, b.keys.ca); err != nil {
			return nil, err
		}
		port = fmt.Sprintf("https_port %[1]s tls-cert=%[2]s/server.pem tls-key=%[2]s/server.key clientca=%[2]s/ca.pem options=NO_TICKET", at, dir)
		allow = "acl client user_cert CN " + workload + "\nhttp_access allow client names addresses"
	}
	files := map[string]string{"hosts": hostsText, "squid.conf": fmt.Sprintf(squidText, port, b.limit, dir, originName, allow)}
	as, err := hand(dir, files)
	if err != nil {
		return nil, err
	}
	return startProxy(ctx, p.name, dir, "access.log", as, program, "-N", "-f", filepath.Join(dir, "squid.conf"))
}

const tinyproxyText = `Port %[1]s
Listen %[2]s
Timeout 600
MaxClients %[3]d
Allow 127.0.0.0/8
LogFile "%[4]s/tinyproxy.log"
LogLevel Connect
FilterDefaultDeny Yes
FilterExtended On
Filter "%[4]s/filter"
`

func (b *bench) startTinyproxy(ctx context.Context, program, at string) (*process, error) {
	dir, err := b.folder()
	if err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(at, ":")
	as, err := hand(dir, map[string]string{
		"tinyproxy.conf": fmt.Sprintf(tinyproxyText, port, host, b.limit/2, dir),
		"filter":         `^127\.0\.0\.1$` + "\n",
	})
	if err != nil {
		return nil, err
	}
	return startProxy(ctx, tinyproxy, dir, "tinyproxy.log", as, program, "-d", "-c", filepath.Join(dir, "tinyproxy.conf"))
}

func startProxy(ctx context.Context, name, dir, log string, as *syscall.Credential, command ...string) (*process, error) {
	p, err := startProcess(ctx, name, dir, as, command...)
	if err == nil {
		p.log = filepath.Join(dir, log)
	}
	return p, err
}

// hand writes files into a folder and returns the user that a proxy runs as, to
// whom all of the folder is given: Squid does not run as root.
func hand(dir string, files map[string]string) (*syscall.Credential, error) {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("proxy")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid))); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.Chown(filepath.Join(dir, e.Name()), int(uid), int(gid)))
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func copyAll(dir string, files ...string) error {
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
