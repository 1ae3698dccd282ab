package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Answer is all that a name led to at one time. Answers are shared: their slices
// must not be changed.
type Answer struct {
	Name string
	// Addrs are as the server gave them, those of the A records first. Nothing is
	// unmapped or left out: whether one may be dialled is the caller's to decide.
	Addrs []netip.Addr
	// Aliases are the targets of the CNAMEs that lead from Name to Addrs, in order,
	// canonical. Where A and AAAA took different ways they are those of both.
	Aliases []string
	// TTL is how long it may still be used; nothing if only once.
	TTL time.Duration
}

// Resolver finds the addresses of a host name, which must be canonical: in lower
// case, without a trailing dot.
type Resolver interface {
	Lookup(ctx context.Context, host string) (Answer, error)
}

// ErrNoSuchName says that the name does not exist, ErrNoAddress that it exists
// and has no address. All other errors of a Resolver mean that it does not know.
var (
	ErrNoSuchName = errors.New("no such name")
	ErrNoAddress  = errors.New("the name has no address")
)

// Static is a table of answers by canonical name.
type Static map[string]Answer

// Lookup returns the answer of the table.
func (s Static) Lookup(_ context.Context, host string) (Answer, error) {
	a, ok := s[host]
	switch {
	case !ok:
		return Answer{}, fmt.Errorf("dns: %s: %w", host, ErrNoSuchName)
	case len(a.Addrs) == 0:
		return Answer{}, fmt.Errorf("dns: %s: %w", host, ErrNoAddress)
	}
	a.Name = host
	return a, nil
}
