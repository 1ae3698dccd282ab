package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// together runs an agent and a node on both ends of pipes.
func together(t *testing.T, tasks []*Task, ready func(string, netip.AddrPort)) map[string]Observation {
	t.Helper()
	agentIn, in := io.Pipe()
	out, agentOut := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := Agent(agentIn, agentOut)
		agentIn.CloseWithError(err)
		agentOut.CloseWithError(err)
		done <- err
	}()
	got := map[string]Observation{}
	if err := Drive(t.Context(), in, out, tasks, ready, func(o Observation) { got[o.Task] = o }); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out.Close()
	return got
}

func TestAnAgentReportsWhatItSees(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"error":"denied","why":"x"}`)
		}
	}))
	defer web.Close()
	to := netip.MustParseAddrPort(web.Listener.Addr().String())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(closed.Addr().String())
	closed.Close()
	resetting, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer resetting.Close()
	go func() {
		for {
			c, err := resetting.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()

	tasks := []*Task{
		{ID: "held", Do: DialTCP, To: to, Bind: local, Hold: 50 * time.Millisecond},
		{ID: "nobody", Do: DialTCP, To: nobody, Bind: local, Hold: time.Second},
		{ID: "reset", Do: DialTCP, To: netip.MustParseAddrPort(resetting.Addr().String()), Bind: local, Hold: time.Second},
		{ID: "get", Do: AskHTTP, To: to, Bind: local, Method: "GET", Host: "x", Path: "/"},
		{ID: "post", Do: AskHTTP, To: to, Bind: local, Method: "POST", Host: "x", Path: "/"},
		{ID: "udp", Do: SendUDP, To: nobody, Bind: local, Hold: time.Second},
		{ID: "strange", Do: "strange"},
	}
	for i := range 3 * maxAtOnce { // more than an agent does at once
		tasks = append(tasks, &Task{ID: "many" + strings.Repeat("i", i), Do: DialTCP, To: nobody, Bind: local})
	}
	announced := map[string]netip.AddrPort{}
	got := together(t, tasks, func(id string, at netip.AddrPort) { announced[id] = at })
	if len(got) != len(tasks) {
		t.Fatalf("%d reports on %d tasks", len(got), len(tasks))
	}
	for id, ok := range map[string]bool{
		"held":    got["held"].Held && got["held"].Connected,
		"nobody":  got["nobody"].Error == "ECONNREFUSED" && !got["nobody"].Connected,
		"reset":   got["reset"].Error == "ECONNRESET" && !got["reset"].Held,
		"get":     got["get"].Status == 200 && !got["get"].Refused,
		"post":    got["post"].Status == 403 && got["post"].Refused,
		"udp":     got["udp"].Error == "ECONNREFUSED" && !got["udp"].Held,
		"strange": got["strange"].Untried != "",
	} {
		if !ok {
			t.Errorf("%s: %+v", id, got[id])
		}
	}
	if at := announced["held"]; at.Addr() != local || at.Port() == 0 {
		t.Errorf("the address that was announced is %s", at)
	}
	if _, ok := announced["strange"]; ok {
		t.Error("a task that does not dial announces an address")
	}
}

// TestNothingOfABrokenAgentIsBelieved: an agent that does not keep to the protocol
// ends the run, whatever else it said.
func TestNothingOfABrokenAgentIsBelieved(t *testing.T) {
	report := `{"report":{"task":"a","error":"EPERM"}}` + "\n"
	for name, says := range map[string]string{
		"nothing":               "",
		"no JSON":               "hello\n",
		"another task":          `{"report":{"task":"b"}}` + "\n",
		"a task":                `{"task":{"id":"a","do":"tcp"}}` + "\n",
		"two things":            `{"go":"a","report":{"task":"a"}}` + "\n",
		"a report twice":        report + report,
		"an unknown field":      `{"report":{"task":"a","verdict":"allow"}}` + "\n",
		"a line without end":    strings.Repeat("x", maxLine+1),
		"two addresses":         strings.Repeat(`{"ready":{"task":"a","local":"127.0.0.1:1"}}`+"\n", 2),
		"an address of another": `{"ready":{"task":"b","local":"127.0.0.1:1"}}` + "\n",
		"an end in the middle":  report[:20],
		"long text":             `{"report":{"task":"a","says":"` + strings.Repeat("x", maxText+1) + `"}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			tasks := []*Task{{ID: "a", Do: DialTCP}, {ID: "never", Do: DialTCP}}
			err := Drive(t.Context(), io.Discard, strings.NewReader(says), tasks, func(string, netip.AddrPort) {}, func(Observation) {})
			if err == nil {
				t.Error("it is believed")
			}
		})
	}
}

func TestDriveEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, w := io.Pipe()
	defer w.Close()
	cancel()
	err := Drive(ctx, io.Discard, out, []*Task{{ID: "a", Do: DialTCP}}, nil, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	out.Close()
}

// FuzzAgentLine: a line never panics, keeps to the limits, and means the same when
// it is written again.
func FuzzAgentLine(f *testing.F) {
	for _, l := range []string{
		`{"task":{"id":"p-1","do":"tcp","to":"100.64.0.1:80","bind":"100.64.0.2","hold":1000}}`,
		`{"go":"p-1"}`, `{"ready":{"task":"p-1","local":"[fd00::1]:20001"}}`,
		`{"report":{"task":"p-1","stage":"receive","error":"ECONNRESET","connected":true,"took":5}}`,
		`{}`, `{"report":null}`, `{"task":{"id":"x","do":"tcp","hold":-1}}`, `{"go":"a"}{"go":"b"}`,
	} {
		f.Add([]byte(l))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLine(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseLine(text)
		if err != nil {
			if len(text) > maxLine {
				return // JSON escapes made it longer
			}
			t.Fatalf("%s: %v", text, err)
		}
		second, err := json.Marshal(again)
		if err != nil || !bytes.Equal(text, second) {
			t.Fatalf("%s became %s: %v", text, second, err)
		}
	})
}
