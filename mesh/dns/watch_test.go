package dns

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestNewNames: a client that asks for new names without end is stopped at the
// limit; names that it asked for before work, and other clients do.
func TestNewNames(t *testing.T) {
	clock := newClock()
	s, r := newServer(func(o *ServerOptions) { o.Now, o.Resolver = clock.now, everywhere{} })
	asked := func(client, name string) bool {
		return len(s.test(t, client, ask(name, dnsmessage.TypeA, 0), true).Answers) > 0
	}
	passed := 0
	for i := range 2000 {
		if asked("trainer", fmt.Sprintf("n%d.example.com", i)) {
			passed++
		}
	}
	if passed != 600 {
		t.Errorf("%d new names passed at once, want 600", passed)
	}
	if last := r.last(); last.Verdict != Refused || last.Sign != manyNames.String() {
		t.Errorf("the record over the limit: %+v", last)
	}
	for i := range 600 {
		if !asked("trainer", fmt.Sprintf("n%d.example.com", i)) {
			t.Fatalf("a name that passed before is refused: n%d", i)
		}
	}
	if asked("trainer", "pypi.org") || !asked("server", "pypi.org") {
		t.Error("the limit is not the client's alone")
	}
	clock.advance(time.Minute)
	passed = 0
	for i := range 2000 {
		if asked("trainer", fmt.Sprintf("m%d.example.com", i)) {
			passed++
		}
	}
	if passed != 300 {
		t.Errorf("%d new names passed in the next minute, want 300", passed)
	}
	clock.advance(-time.Hour)
	if asked("trainer", "back.example.com") {
		t.Error("a clock that goes back gives new names")
	}
	if got := s.Stats(); got.Limited != 1400+1+1700+1 || got.Signs[manyNames.String()] != got.Limited || got.Signs[manyBelow.String()] == 0 {
		t.Errorf("stats %+v", got)
	}
}

// TestInVain: refused names and names that do not exist use up what a client has;
// then new names are refused, and known ones are not.
func TestInVain(t *testing.T) {
	for name, vain := range map[string]string{"refused": "n%d.evil.com", "missing": "n%d.none.example.com"} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			s, r := newServer(func(o *ServerOptions) { o.Now, o.Limits = clock.now, Limits{NewNamesBurst: 10000} })
			code := func(name string) dnsmessage.RCode {
				return s.test(t, "trainer", ask(name, dnsmessage.TypeA, 0), true).RCode
			}
			if code("pypi.org") != 0 {
				t.Fatal("pypi.org is refused")
			}
			for i := range 600 {
				code(fmt.Sprintf(vain, i))
			}
			if code("mixed.example.com") != dnsmessage.RCodeRefused || r.last().Sign != manyInVain.String() {
				t.Errorf("a new name: %+v", r.last())
			}
			if code("pypi.org") != 0 {
				t.Error("a known name is refused")
			}
			clock.advance(time.Second)
			if code("mixed.example.com") != 0 {
				t.Error("a new name is refused a second later")
			}
		})
	}
}

// TestSearch: names that stub resolvers make by themselves are refused, and are no
// sign of anything, however many.
func TestSearch(t *testing.T) {
	s, r := newServer(func(o *ServerOptions) { o.Search = []string{".Corp.Example.NET."} })
	for i := range 1000 {
		for _, name := range []string{"pypi.org.svc.cluster.local", "cluster.local", "a.b.c.d.e.f.g.h.i.j.k.l.ip6.arpa", "pypi.org.corp.example.net"} {
			if m := s.test(t, "trainer", ask(name, dnsmessage.TypeA, 0), true); m.RCode != dnsmessage.RCodeRefused || r.last().Sign != "" {
				t.Fatalf("query %d for %s: %v, %+v", i, name, m.RCode, r.last())
			}
		}
	}
	if m := s.test(t, "trainer", ask("v4only.example.com", dnsmessage.TypeA, 0), true); m.RCode != 0 {
		t.Error("search domains count as refused names")
	}
	if got := s.Stats(); got.Search != 4000 || got.Refused != 4000 {
		t.Errorf("stats %+v", got)
	}
	if s.test(t, "trainer", ask("xcluster.local", dnsmessage.TypeA, 0), true); s.Stats().Search != 4000 {
		t.Error("xcluster.local is not below cluster.local")
	}
}

// TestShape: names in use show nothing, encoded data does.
func TestShape(t *testing.T) {
	for _, name := range []string{"pypi.org", "files.pythonhosted.org", "cdn-lfs-us-1.hf.co", "bedrock-runtime.us-east-1.amazonaws.com", "generativelanguage.googleapis.com",
		"production.cloudflare.docker.com", "pkg-containers.githubusercontent.com", "myregistry.privatelink.azurecr.io", "ec2-203-0-113-25.compute-1.amazonaws.com",
		"prod-registry-k8s-io-eu-west-1.s3.dualstack.eu-west-1.amazonaws.com", "europe-west4-aiplatform.googleapis.com", "openaipublic.blob.core.windows.net",
		"objects.githubusercontent.com", "cognitiveservices-prod-westeurope.openai.azure.com", "transfer.xethub.hf.co", "internationalisation-service.example.com"} {
		if got := shape(name); got != noSign {
			t.Errorf("%s: %v", name, got)
		}
	}
	missed := 0
	const n = 400
	for i := range n {
		b := make([]byte, 20)
		rand.Read(b)
		label := strings.ToLower(strings.TrimRight(base32.StdEncoding.EncodeToString(b), "="))
		if i%2 == 0 {
			label = hex.EncodeToString(b[:16])
		}
		if shape(label+".example.com") != randomLabel {
			missed++
		}
	}
	if missed > n/10 {
		t.Errorf("%d of %d labels of data were missed", missed, n)
	}
	for name, want := range map[string]sign{strings.Repeat("ab", 21) + ".example.com": longLabel, strings.Repeat("a.", 10) + "com": manyLabels, strings.Repeat("a.", 9) + "com": noSign} {
		if got := shape(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// TestBelow: many new names below one parent are a sign, the same few again and
// again are none.
func TestBelow(t *testing.T) {
	clock := newClock()
	s, r := newServer(func(o *ServerOptions) { o.Now, o.Resolver = clock.now, everywhere{} })
	get := func(name string) string {
		s.test(t, "trainer", ask(name, dnsmessage.TypeA, 0), true)
		return r.last().Sign
	}
	for i := range 1000 {
		if got := get(fmt.Sprintf("n%d.example.com", i%100)); got != "" {
			t.Fatalf("name %d: %s", i, got)
		}
	}
	if got := get("n100.example.com"); got != manyBelow.String() {
		t.Errorf("the name after 100: %q", got)
	}
	if got := get("n0.example.com"); got != "" {
		t.Errorf("a known name: %q", got)
	}
	clock.advance(time.Minute)
	if got := get("n101.example.com"); got != "" {
		t.Errorf("a minute later: %q", got)
	}
	for i := range 101 {
		get(fmt.Sprintf("n%d.evil.com", i))
	}
	if got := get("x.evil.com"); got != manyBelow.String() {
		t.Errorf("refused names: %q", got)
	}
	// Names below many others do not wash that away.
	for i := range 300 {
		get(fmt.Sprintf("x.n%d.com", i))
	}
	if got := get("y.evil.com"); got != manyBelow.String() {
		t.Errorf("after many other parents: %q", got)
	}
}

// TestKnown: a name in use stays known while others come and go.
func TestKnown(t *testing.T) {
	w := newWatch(Limits{Names: 50, NewNames: 1, NewNamesBurst: 2000}.withDefaults())
	now := newClock().now()
	for i := range 1999 {
		now = now.Add(time.Microsecond)
		_, known := w.permitted("trainer", "pypi.org", now)
		if _, ok := w.permitted("trainer", fmt.Sprintf("n%d.example.com", i), now); !known || !ok {
			t.Fatalf("name %d passes: %v; pypi.org is known: %v: it took more than one token", i, ok, known)
		}
	}
	if _, ok := w.permitted("trainer", "pypi.org", now); !ok {
		t.Error("forgotten")
	}
	if _, ok := w.permitted("trainer", "n0.example.com", now); ok {
		t.Error("a name that was pushed out passes without being new")
	}
}

// TestMemory: what is remembered has bounds, whatever clients do.
func TestMemory(t *testing.T) {
	l := Limits{Names: 50, Clients: 20, NewNames: 1e6, NewNamesBurst: 1e6, Refused: 1e6}.withDefaults()
	w := newWatch(l)
	now := newClock().now()
	for range 50_000 {
		client, name := fmt.Sprint("c", mathrand.IntN(100)), fmt.Sprintf("n%d.p%d.com", mathrand.IntN(1000), mathrand.IntN(300))
		switch now = now.Add(time.Millisecond); mathrand.IntN(4) {
		case 0:
			w.permitted(client, name, now)
		case 1:
			w.refused(client, name, now)
		case 2:
			w.missing(client, now)
		case 3:
			if w.open(client, now) {
				w.close(client)
			}
		}
		if len(w.clients) > l.Clients {
			t.Fatalf("%d clients", len(w.clients))
		}
	}
	for _, c := range w.clients {
		if len(c.names) > l.Names || len(c.parents) > maxParents || c.open != 0 {
			t.Errorf("%d names, %d parents, %d open", len(c.names), len(c.parents), c.open)
		}
		for _, p := range c.parents {
			if len(p.names) > l.Below+1 {
				t.Errorf("%d names below one parent", len(p.names))
			}
		}
	}
}

// TestBucket: a bucket gives, in any stretch of time, no more than its size and
// what flows in; and it does give that much to who takes without end.
func TestBucket(t *testing.T) {
	now := newClock().now()
	b := bucket{rate: 300, size: 600}
	b.fill(now)
	var taken []time.Time
	for range 20_000 {
		now = now.Add(time.Duration(mathrand.Int64N(int64(100 * time.Millisecond))))
		if b.take(now) {
			taken = append(taken, now)
		}
	}
	for range 2000 {
		i := mathrand.IntN(len(taken))
		j := i + mathrand.IntN(len(taken)-i)
		if most := 600 + 300*taken[j].Sub(taken[i]).Minutes() + 1; float64(j-i+1) > most {
			t.Fatalf("%d in %v, at most %.1f", j-i+1, taken[j].Sub(taken[i]), most)
		}
	}
	if least := 600 + 300*now.Sub(taken[0]).Minutes() - 2; float64(len(taken)) < least {
		t.Errorf("%d taken, at least %.1f", len(taken), least)
	}
}
