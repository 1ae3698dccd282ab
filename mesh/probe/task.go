package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Act is what an agent does.
type Act string

// The acts.
const (
	// DialTCP connects, listens for a while, and sends nothing.
	DialTCP Act = "tcp"
	// SendUDP sends a datagram and listens for a while.
	SendUDP Act = "udp"
	// AskHTTP sends a request and reads the status of the answer.
	AskHTTP Act = "http"
	// AskProxy sends a request to a forward proxy, and something inside the tunnel
	// that it may give.
	AskProxy Act = "proxy"
	// OpenTunnel speaks the protocol of tunnels with a credential.
	OpenTunnel Act = "tunnel"
	// SpeakPlain sends an HTTP request to where TLS is spoken.
	SpeakPlain Act = "plain"
	// OpenSocket makes a socket of some kind and uses it.
	OpenSocket Act = "socket"
	// FetchSVID asks the Workload API who it is.
	FetchSVID Act = "svid"
	// DialUnix connects to a unix socket; ListFolder and OpenWrite use files.
	DialUnix   Act = "unix"
	ListFolder Act = "list"
	OpenWrite  Act = "write"
	// MarkSocket sets the mark of a packet, SetLink and SetRules change the
	// network, EnterNamespace enters one by its file, NewUser tries all of these
	// in a user namespace of its own, Reach reaches for another process.
	MarkSocket     Act = "mark"
	SetLink        Act = "link"
	SetRules       Act = "rules"
	EnterNamespace Act = "setns"
	NewUser        Act = "newuser"
	Reach          Act = "reach"
)

// Task is what an agent is told to do.
type Task struct {
	ID string         `json:"id"`
	Do Act            `json:"do"`
	To netip.AddrPort `json:"to,omitzero"`
	// Bind is the local address, From the local port if it is free; Free binds to
	// the address although it is another's.
	Bind netip.Addr `json:"bind,omitzero"`
	From uint16     `json:"from,omitempty"`
	Free bool       `json:"free,omitempty"`
	// Hold is how long something that opens is watched.
	Hold time.Duration `json:"hold,omitempty"`

	Method string `json:"method,omitempty"`
	Host   string `json:"host,omitempty"`
	Path   string `json:"path,omitempty"` // of a request, or of a file

	// Raw is what is said to a proxy, Inside what is said in its tunnel; with
	// ServerName it is TLS for that server, or for none with "-".
	Raw    []byte `json:"raw,omitempty"`
	Inside []byte `json:"inside,omitempty"`

	// Of a tunnel: the credential, whom it claims to be (of the node's own
	// streams, the name of the workload that opens them), whom it asks for by
	// identity and by server name, and the stream that it asks for.
	Credential Credential `json:"credential,omitempty"`
	Claim      string     `json:"claim,omitempty"`
	Peer       string     `json:"peer,omitempty"`
	ServerName string     `json:"serverName,omitempty"`
	Workload   string     `json:"workload,omitempty"`
	Port       uint16     `json:"port,omitempty"`

	Domain   int `json:"domain,omitempty"`
	Type     int `json:"type,omitempty"`
	Protocol int `json:"protocol,omitempty"`
	PID      int `json:"pid,omitempty"`
}

// The stages at which a task can end.
const (
	AtSocket    = "socket"
	AtConnect   = "connect"
	AtHandshake = "handshake"
	AtStream    = "stream"
	AtReceive   = "receive"
	AtAnswer    = "answer"
	AtUse       = "use"
)

// Observation is what an agent saw.
type Observation struct {
	Task string `json:"task"`
	// Stage is how far it came.
	Stage string `json:"stage,omitempty"`
	// Error is a symbol such as EPERM, or timeout, eof, or other; empty if there
	// was none. Says is its text.
	Error string `json:"error,omitempty"`
	Says  string `json:"says,omitempty"`
	// Connected says that the kernel said so, Held that it was still open at the
	// end, Bytes how many arrived.
	Connected bool `json:"connected,omitempty"`
	Held      bool `json:"held,omitempty"`
	Bytes     int  `json:"bytes,omitempty"`
	// Status and Refused are of an answered request; Refused says that the answer
	// is a proxy's refusal.
	Status  int  `json:"status,omitempty"`
	Refused bool `json:"refused,omitempty"`
	// Done says that what must fail was done.
	Done bool `json:"done,omitempty"`
	// Identity is what the Workload API gave.
	Identity string `json:"identity,omitempty"`
	// Untried says why it could not be tried.
	Untried string        `json:"untried,omitempty"`
	Took    time.Duration `json:"took,omitempty"`
}

// Line is one line between a node and an agent. Exactly one field is set.
type Line struct {
	// To the agent.
	Task *Task  `json:"task,omitempty"`
	Go   string `json:"go,omitempty"` // the id of a task that announced its address
	// From the agent.
	Ready  *Ready       `json:"ready,omitempty"`
	Report *Observation `json:"report,omitempty"`
}

// Ready announces the local address of a task that is about to dial.
type Ready struct {
	Task  string         `json:"task"`
	Local netip.AddrPort `json:"local"`
}

// The limits of a line.
const (
	maxLine = 32 << 10
	maxText = 2 << 10
	maxHold = 10 * time.Second
)

var errLine = errors.New("a line has not exactly one of task, go, ready and report")

// ParseLine reads a line. What it returns keeps to all limits.
func ParseLine(b []byte) (Line, error) {
	if len(b) > maxLine {
		return Line{}, fmt.Errorf("a line of %d bytes is too long", len(b))
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var l Line
	if err := dec.Decode(&l); err != nil {
		return Line{}, fmt.Errorf("a line cannot be read: %w", err)
	}
	if dec.More() {
		return Line{}, errLine
	}
	return l, l.check()
}

func (l *Line) check() error {
	n := 0
	for _, set := range []bool{l.Task != nil, l.Go != "", l.Ready != nil, l.Report != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return errLine
	}
	switch {
	case l.Task != nil:
		return l.Task.check()
	case l.Ready != nil && (l.Ready.Task == "" || !l.Ready.Local.IsValid()):
		return errors.New("an address is announced without a task, or a task without an address")
	case l.Report != nil:
		return l.Report.check()
	}
	return nil
}

func (t *Task) check() error {
	if t.ID == "" || t.Do == "" {
		return errors.New("a task has no id or nothing to do")
	}
	for _, text := range []string{t.ID, t.Method, t.Host, t.Path, t.Claim, t.Peer, t.ServerName, t.Workload} {
		if len(text) > maxText || strings.ContainsAny(text, "\x00\r\n") {
			return fmt.Errorf("task %.40q has a text that is too long or has control characters", t.ID)
		}
	}
	if len(t.Raw) > maxText || len(t.Inside) > maxText {
		return fmt.Errorf("task %.40q has too much to say", t.ID)
	}
	if t.Hold < 0 || t.Hold > maxHold {
		return fmt.Errorf("task %.40q holds for %s", t.ID, t.Hold)
	}
	return nil
}

func (o *Observation) check() error {
	if o.Task == "" {
		return errors.New("a report is of no task")
	}
	for _, text := range []string{o.Task, o.Stage, o.Error, o.Says, o.Identity, o.Untried} {
		if len(text) > maxText {
			return fmt.Errorf("the report of task %.40q has a text of %d bytes", o.Task, len(text))
		}
	}
	return nil
}
