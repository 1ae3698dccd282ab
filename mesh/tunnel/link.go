package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// link is one TLS connection between two proxies. It carries one stream at a
// time; whoever has the stream has the link.
type link struct {
	wire *wire
	tls  net.Conn // a *tls.Conn, except under attack in tests
	peer spiffeid.ID
	own  *x509.Certificate // that this side presented; nil on the server, which never chooses
	// expires is when the first of the two certificates does, as far as this
	// side knows them.
	expires time.Time

	header [headerLen]byte // of the frame being read
	have   int             // bytes of header
}

// newLink takes a connection after its handshake: peer is who the configuration
// proved to be there. It refuses what the configuration should have refused.
func newLink(w *wire, t *tls.Conn, peer spiffeid.ID, own *x509.Certificate) (*link, error) {
	cs := t.ConnectionState()
	if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != ALPN {
		return nil, fmt.Errorf("negotiated %s with protocol %q: a tunnel is TLS 1.3 with %q",
			tls.VersionName(cs.Version), cs.NegotiatedProtocol, ALPN)
	}
	if len(cs.PeerCertificates) == 0 {
		return nil, errors.New("the peer presented no certificate")
	}
	leaf := cs.PeerCertificates[0]
	if id, err := x509svid.IDFromCert(leaf); err != nil || id != peer {
		return nil, fmt.Errorf("the peer's certificate is not that of %s", peer)
	}
	l := &link{wire: w, tls: t, peer: peer, own: own, expires: leaf.NotAfter}
	if own != nil && own.NotAfter.Before(l.expires) {
		l.expires = own.NotAfter
	}
	return l, nil
}

// apart runs a handshake on a goroutine of its own: the stack that verifying a
// chain needs would otherwise stay as long as the connection.
func apart(handshake func() error) error {
	done := make(chan error, 1)
	go func() { done <- handshake() }()
	return <-done
}

// leafOf returns the certificate that c stands for, nil if it cannot be read:
// then no comparison holds, and nothing is used twice.
func leafOf(c *tls.Certificate) *x509.Certificate {
	if c.Leaf != nil || len(c.Certificate) == 0 {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

var (
	errEnd   = fmt.Errorf("tunnel connection ended inside a stream: %w", io.ErrUnexpectedEOF)
	errDirty = errors.New("tunnel connection is in the middle of a frame")
)

// next reads the header of the next frame. After errAgain it may be called
// again.
func (l *link) next() (frameKind, int, error) {
	for l.have < headerLen {
		n, err := l.tls.Read(l.header[l.have:])
		l.have += n
		if err != nil && l.have < headerLen {
			return 0, 0, ended(err)
		}
	}
	l.have = 0
	return parseHeader(l.header)
}

// ended turns an end of the connection into the error that it is.
func ended(err error) error {
	if err == io.EOF {
		return errEnd
	}
	return err
}

// control reads a frame that is no data.
func (l *link) control() (frameKind, []byte, error) {
	k, n, err := l.next()
	if err != nil {
		return 0, nil, err
	}
	if n > maxControl {
		return 0, nil, fmt.Errorf("frame of kind %d where a control frame was expected", k)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(l.tls, b); err != nil {
		return 0, nil, ended(err)
	}
	return k, b, nil
}

// usable reports whether a new stream may use it.
func (l *link) usable(now time.Time) bool { return now.Before(l.expires) }

// reusable makes it ready for another stream.
func (l *link) reusable() error {
	if l.have != 0 {
		return errDirty
	}
	return l.wire.SetDeadline(time.Time{})
}

// close ends the connection in order.
func (l *link) close() {
	l.wire.SetDeadline(time.Now().Add(time.Second)) // the alert of TLS must not block on a peer that does not read
	l.tls.Close()
}

// keepAlive finds out about a peer that is gone without a word, within a minute
// when nothing is under way and by the system's retransmission limit otherwise.
// TCP_USER_TIMEOUT would be quicker, but it also ends a connection whose reader
// is alive and only does not read.
func keepAlive(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3})
	}
}
