package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"bulkhead/core/netset"
)

// Limits are a [Budget] that was read. What is 0 is unlimited.
type Limits struct {
	Bytes      Amount
	Requests   Amount
	Concurrent int
}

// IsZero reports whether there is no limit.
func (l Limits) IsZero() bool { return l == Limits{} }

// Amount is how much there may be of something in any time of length Per.
type Amount struct {
	Most uint64
	Per  time.Duration
}

// periods are the times that an amount can be for.
var periods = map[string]time.Duration{"minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour}

// maxBytes is more than a platform moves in a week, and far from overflowing.
const maxBytes = 1 << 50

// MaxConcurrent is the most that a budget can allow to be open at once.
const MaxConcurrent = 1<<20 - 1

const periodWords = "minute, hour, day or week"

// ParseByteBudget reads an amount of bytes such as 50GiB/day.
func ParseByteBudget(text string) (Amount, error) {
	amount, per, ok := cutPeriod(text)
	n, err := parseBytes(amount, maxBytes)
	switch {
	case !ok || err == errNoAmount:
		return Amount{}, fmt.Errorf("%q is not a whole number from 1 on, a unit (%s) and /%s", text, strings.Join(RateUnits(), ", "), periodWords)
	case err == errTooMuch:
		return Amount{}, fmt.Errorf("%q is more than 1048576GiB", text)
	}
	return Amount{n, per}, nil
}

// ParseCountBudget reads a number of requests such as 1000/hour.
func ParseCountBudget(text string) (Amount, error) {
	amount, per, ok := cutPeriod(text)
	n, err := strconv.ParseUint(amount, 10, 40)
	if !ok || err != nil || n == 0 || amount[0] == '0' {
		return Amount{}, fmt.Errorf("%q is not a whole number from 1 on and /%s", text, periodWords)
	}
	return Amount{n, per}, nil
}

// ParseConcurrent reads how many may be open at once.
func ParseConcurrent(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 20)
	if err != nil || n == 0 || text[0] == '0' {
		return 0, fmt.Errorf("%q is not a whole number from 1 to %d", text, MaxConcurrent)
	}
	return int(n), nil
}

// ByteCount writes a number of bytes as a budget does, in the largest unit that
// divides it.
func ByteCount(n uint64) string {
	best := rateUnit{"B", 1}
	for _, u := range rateUnits {
		if n%u.bytes == 0 && u.bytes > best.bytes && !strings.HasSuffix(u.name, "bit") {
			best = u
		}
	}
	return strconv.FormatUint(n/best.bytes, 10) + best.name
}

// Period writes the time of a budget as a word.
func Period(d time.Duration) string {
	for word, per := range periods {
		if per == d {
			return word
		}
	}
	return d.String()
}

func cutPeriod(text string) (amount string, per time.Duration, ok bool) {
	amount, word, _ := strings.Cut(text, "/")
	per = periods[word]
	return amount, per, per > 0
}

// limits reads a budget. A limit that cannot be read is not no limit: false says
// that the permission permits nothing.
func (r *resolver) limits(b *Budget) (l Limits, ok bool) {
	ok = true
	bad := func(t Text, err error, fix string) {
		if err != nil {
			r.ds.Errorf("budget", t.Pos, "the budget: %v", err).WithFix("write %s", fix)
			ok = false
		}
	}
	var err error
	if b.Bytes.Value != "" {
		l.Bytes, err = ParseByteBudget(b.Bytes.Value)
		bad(b.Bytes, err, "bytes: 50GiB/day")
	}
	if b.Requests.Value != "" {
		l.Requests, err = ParseCountBudget(b.Requests.Value)
		bad(b.Requests, err, "requests: 1000/hour")
	}
	if b.Concurrent.Value != "" {
		l.Concurrent, err = ParseConcurrent(b.Concurrent.Value)
		bad(b.Concurrent, err, "concurrent: 32")
	}
	return l, ok
}

// fixed returns the addresses of a destination if only single ones are declared:
// then they are where its hosts are.
func fixed(list []Text) (out []netip.Addr) {
	for _, t := range list {
		a, err := netip.ParseAddr(t.Value)
		if err != nil {
			return nil
		}
		out = append(out, a)
	}
	return out
}

// special reads the special-purpose addresses that are declared.
func (r *resolver) special(list []Text) (out netset.Addrs) {
	for _, t := range list {
		a, err := netset.ParseCIDR(t.Value)
		if err != nil {
			r.ds.Errorf("cidr", t.Pos, "%v", err).WithFix("write a CIDR such as 10.1.0.0/16")
			continue
		}
		opened := netset.DeclaredSpecial(a)
		if opened.IsEmpty() {
			r.ds.Errorf("addresses", t.Pos, "%s holds public addresses, which need no declaration, or a metadata service, which needs its very address", t.Value).
				WithFix("write the private range in which the hosts are, such as 10.1.0.0/16")
		}
		out = out.Union(opened)
	}
	return out
}
