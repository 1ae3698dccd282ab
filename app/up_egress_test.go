package app

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bulkhead/mesh/flow"
	"bulkhead/mesh/node"
	"bulkhead/mesh/report"
)

// outsideServers stand in for what is outside: a package mirror in the clear, and
// a hub over TLS with the certificate in a file.
type outsideServers struct {
	mirror, hub *httptest.Server
	ca          string
	put         atomic.Int32 // how often somebody wrote
}

func startOutside(t *testing.T, dir, addr string) *outsideServers {
	t.Helper()
	o := &outsideServers{ca: filepath.Join(dir, "hub.pem")}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", addr+":0")
		must(t, err)
		return l
	}
	archive := packageArchive(t)
	o.mirror = &httptest.Server{Listener: listen(), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			o.put.Add(1)
		case r.URL.Path == "/simple/features/":
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<!DOCTYPE html><html><body><a href="/packages/features-1.0.tar.gz">features-1.0.tar.gz</a></body></html>`)
		case r.URL.Path == "/packages/features-1.0.tar.gz":
			w.Write(archive)
		default:
			http.NotFound(w, r)
		}
	})}}
	o.mirror.Start()
	o.hub = &httptest.Server{Listener: listen(), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 100_000))
	}), ErrorLog: log.New(io.Discard, "", 0)}} // the attacks of a probe are no news
	o.hub.TLS = &tls.Config{Certificates: []tls.Certificate{certificateFor(t, "models.acme.internal")}}
	o.hub.StartTLS()
	must(t, os.WriteFile(o.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.hub.TLS.Certificates[0].Certificate[0]}), 0o644))
	t.Cleanup(func() { o.mirror.Close(); o.hub.Close() })
	return o
}

// packageArchive is the source distribution of a package with nothing in it, as pip
// takes it.
func packageArchive(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{
		"features-1.0/setup.py": "from setuptools import setup\nsetup(name='features', version='1.0')\n",
		"features-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: features\nVersion: 1.0\n",
	} {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}))
		_, err := w.Write([]byte(text))
		must(t, err)
	}
	must(t, w.Close())
	must(t, z.Close())
	return out.Bytes()
}

// certificateFor is a certificate that its owner signed.
func certificateFor(t *testing.T, host string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func portOf(s *httptest.Server) int { return s.Listener.Addr().(*net.TCPAddr).Port }

// wayOutPolicy lets the trainer out to both, the notebook nowhere.
func (o *outsideServers) policy(addr string) string {
	return fmt.Sprintf(`version: 1
platform: testing
zones: {training: {role: training}, edge: {role: custom}}
workloads:
  trainer: {zone: training, at: {host: {run: [sleep, infinity]}}}
  notebook: {zone: training, at: {host: {run: [sleep, infinity]}}}
  egress: {zone: edge, serves: {proxy: http/3128}, at: {host: {gateway: true}}}
gateway: egress/proxy
egress:
  - {from: trainer, to: mirror, may: read, because: a test, owner: tests}
  - {from: trainer, to: hub, because: a test, owner: tests}
destinations:
  mirror: {hosts: packages.acme.internal, addresses: %[1]s, ports: %[2]d}
  hub: {hosts: models.acme.internal, addresses: %[1]s, ports: %[3]d}
dns: {to: kubernetes, because: a test, owner: tests}
`, addr, portOf(o.mirror), portOf(o.hub))
}

// as runs a command as a workload and returns what it printed.
func (u *upTest) as(workload string, env []string, command ...string) (string, error) {
	u.t.Helper()
	cmd := exec.Command("/proc/self/exe", append(append([]string{asExec, u.runDir("testing"), workload, "env"}, env...), command...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestTheWayOut: programs reach what is permitted, with a proxy and without knowing
// of one, and nothing else; everything is recorded; and a probe finds nothing.
func TestTheWayOut(t *testing.T) {
	for _, user := range []bool{false, true} {
		name := "root"
		if user {
			name = "user"
		}
		t.Run(name, func(t *testing.T) {
			u := newUp(t, user)
			addr := ownLoopback(map[bool]int{false: 12, true: 13}[user])
			o := startOutside(t, u.Dir, addr)
			must(t, os.WriteFile(filepath.Join(u.Dir, PolicyFile), []byte(o.policy(addr)), 0o644))
			u.start()
			u.ready()
			u.reachesTheOutside(o)
			u.isRefusedOutside(o)
			u.recordedTheOutside()
			var bad []report.ProbeResult
			kinds := map[string]int{}
			for e, err := range u.admin().Probe(t.Context(), node.ProbeQuestion{}) {
				must(t, err)
				if r := e.Result; r != nil {
					kinds[r.Kind]++
					if r.Outcome != report.AsExpected {
						bad = append(bad, *r)
					}
				}
			}
			for _, r := range bad {
				t.Errorf("probe: %s: %s: %s: %s", r.Outcome, r.Kind, r.Name, r.Says)
			}
			for _, kind := range []string{"egress", "egress-name", "egress-address", "egress-port", "egress-grammar", "egress-inside"} {
				if kinds[kind] == 0 {
					t.Errorf("the probe has no case of %s", kind)
				}
			}
			u.stop()
			u.gone()
		})
	}
}

// reachesTheOutside fetches from both as programs do.
func (u *upTest) reachesTheOutside(o *outsideServers) {
	t := u.t
	t.Helper()
	proxy := "http://" + node.GatewayName + ":3128"
	mirror := fmt.Sprintf("http://packages.acme.internal:%d", portOf(o.mirror))
	hub := fmt.Sprintf("https://models.acme.internal:%d/acme/base/resolve/main/model.safetensors", portOf(o.hub))
	has := func(program string) bool {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("SKIPPED: there is no %s; run: apt-get install %s", program, program)
			return false
		}
		return true
	}
	if has("curl") {
		for name, env := range map[string][]string{"unaware": nil, "HTTPS_PROXY": {"HTTPS_PROXY=" + proxy}, "https_proxy": {"https_proxy=" + proxy},
			"ALL_PROXY": {"ALL_PROXY=" + proxy}, "by the workload's name": {"HTTPS_PROXY=http://egress:3128"}} {
			out, err := u.as("trainer", env, "curl", "-sS", "--cacert", o.ca, "-o", "/dev/null", "-w", "%{http_code} %{size_download}", hub)
			if err != nil || out != "200 100000" {
				t.Errorf("curl, %s: %q, %v", name, out, err)
			}
		}
		for name, env := range map[string][]string{"unaware": nil, "http_proxy": {"http_proxy=" + proxy}} {
			out, err := u.as("trainer", env, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", mirror+"/simple/features/")
			if err != nil || out != "200" {
				t.Errorf("curl of the mirror, %s: %q, %v", name, out, err)
			}
		}
	}
	if has("python3") {
		// The convention of requests, httpx and so of huggingface_hub: the
		// environment names the proxy and the authorities.
		program := "import sys, urllib.request as u\nprint(len(u.urlopen(sys.argv[1]).read()))"
		out, err := u.as("trainer", []string{"HTTPS_PROXY=" + proxy, "SSL_CERT_FILE=" + o.ca}, "python3", "-c", program, hub)
		if err != nil || strings.TrimSpace(out) != "100000" {
			t.Errorf("python: %q, %v", out, err)
		}
	}
	if has("pip3") {
		for name, env := range map[string][]string{"unaware": nil, "HTTP_PROXY": {"HTTP_PROXY=" + proxy, "http_proxy=" + proxy}} {
			dir := filepath.Join("/tmp", "pip-"+strings.ToLower(name))
			out, err := u.as("trainer", append(env, "PIP_DISABLE_PIP_VERSION_CHECK=1", "HOME=/tmp", "PIP_NO_INPUT=1", "PIP_NO_CACHE_DIR=1"), "pip3", "download", "--no-deps", "--no-binary", ":none:",
				"--no-build-isolation", "-d", dir, "--index-url", mirror+"/simple/", "--trusted-host", "packages.acme.internal", "features")
			// The package was fetched; whether it can be built is this machine's affair.
			if !strings.Contains(out, "Downloading http://packages.acme.internal") && !strings.Contains(out, "Saved ") {
				t.Errorf("pip, %s: %s, %v", name, out, err)
			}
		}
	}
}

// isRefusedOutside tries what is not permitted.
func (u *upTest) isRefusedOutside(o *outsideServers) {
	t := u.t
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("SKIPPED: there is no curl; run: apt-get install curl")
	}
	proxy := "HTTPS_PROXY=http://" + node.GatewayName + ":3128"
	hub := fmt.Sprintf("https://models.acme.internal:%d/", portOf(o.hub))
	for name, try := range map[string][]string{
		"another name":            {"trainer", proxy, "https://exfiltration.example.com/"},
		"another name, unaware":   {"trainer", "A=", "https://exfiltration.example.com/"},
		"an address":              {"trainer", proxy, fmt.Sprintf("https://%s/", o.hub.Listener.Addr())},
		"an address, unaware":     {"trainer", "A=", "https://93.184.216.34/"},
		"another port":            {"trainer", proxy, "https://models.acme.internal:22/"},
		"another workload":        {"notebook", proxy, hub},
		"another, unaware":        {"notebook", "A=", hub},
		"another, by the name":    {"notebook", "HTTPS_PROXY=http://egress:3128", hub},
		"the metadata service":    {"trainer", "http_proxy=http://" + node.GatewayName + ":3128", "http://169.254.169.254/latest/meta-data/"},
		"metadata, unaware":       {"trainer", "A=", "http://169.254.169.254/latest/meta-data/"},
		"a DNS-over-HTTPS server": {"trainer", proxy, "https://cloudflare-dns.com/dns-query"},
	} {
		out, err := u.as(try[0], []string{try[1]}, "curl", "-sSf", "-m", "10", "--cacert", o.ca, try[2])
		if err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
	out, err := u.as("trainer", nil, "curl", "-sS", "-m", "10", "-X", "PUT", "-d", "weights", fmt.Sprintf("http://packages.acme.internal:%d/upload", portOf(o.mirror)))
	if err != nil || !strings.Contains(out, `"error":"denied"`) || o.put.Load() > 0 {
		t.Errorf("a PUT: %s, %v, the mirror got %d", out, err, o.put.Load())
	}
}

// recordedTheOutside looks for both in the records.
func (u *upTest) recordedTheOutside() {
	t := u.t
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[string]bool{}
	for r, err := range u.admin().Flows(ctx, false) {
		must(t, err)
		if r.Side == flow.Gateway {
			seen[fmt.Sprintf("%s %s %s %s", r.From.Workload, r.Event, r.Verdict, r.To.Name)] = true
		}
		if strings.Contains(r.Why+r.Rule+r.To.Name, "meta-data") || strings.Contains(r.Why+r.To.Name, "safetensors") {
			t.Errorf("a record holds a path: %+v", r)
		}
	}
	for _, want := range []string{"trainer open allow models.acme.internal", "trainer close allow models.acme.internal", "trainer request allow packages.acme.internal",
		"trainer deny deny exfiltration.example.com", "trainer deny deny packages.acme.internal", "trainer lookup deny exfiltration.example.com", "notebook deny deny models.acme.internal"} {
		if !seen[want] {
			var all []string
			for s := range seen {
				all = append(all, s)
			}
			slices.Sort(all)
			t.Errorf("there is no record %q among\n%s", want, strings.Join(all, "\n"))
		}
	}
}
