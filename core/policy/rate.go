package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// rateUnit is a unit of a rate and what it means in bytes.
type rateUnit struct {
	name  string
	bytes uint64
}

var rateUnits = []rateUnit{
	{"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
	{"kbit", 1e3 / 8}, {"Mbit", 1e6 / 8}, {"Gbit", 1e9 / 8},
}

// maxRate is more than any wire of today carries, and far from overflowing.
const maxRate = 1 << 40

// RateUnits lists the units that a rate can have.
func RateUnits() []string {
	names := make([]string, len(rateUnits))
	for i, u := range rateUnits {
		names[i] = u.name
	}
	return names
}

// ParseRate reads a rate such as 100MiB/s, in bytes per second: a whole number,
// a unit of [RateUnits], and /s.
func ParseRate(text string) (uint64, error) {
	amount, ok := strings.CutSuffix(text, "/s")
	n, err := parseBytes(amount, maxRate)
	switch {
	case !ok || err == errNoAmount:
		return 0, fmt.Errorf("%q is not a whole number from 1 on, a unit (%s) and /s", text, strings.Join(RateUnits(), ", "))
	case err == errTooMuch:
		return 0, fmt.Errorf("%q is more than 1024GiB/s", text)
	}
	return n, nil
}

var (
	errNoAmount = errors.New("not a number of bytes")
	errTooMuch  = errors.New("too many bytes")
)

// parseBytes reads a number of bytes such as 100MiB, which is at most most.
func parseBytes(amount string, most uint64) (uint64, error) {
	digits := len(amount) - len(strings.TrimLeft(amount, "0123456789"))
	i := slices.IndexFunc(rateUnits, func(u rateUnit) bool { return u.name == amount[digits:] })
	if i < 0 || digits == 0 || amount[0] == '0' {
		return 0, errNoAmount
	}
	n, err := strconv.ParseUint(amount[:digits], 10, 64)
	if err != nil || n > most/rateUnits[i].bytes {
		return 0, errTooMuch
	}
	return n * rateUnits[i].bytes, nil
}
