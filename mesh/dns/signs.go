package dns

import (
	"math"
	"strings"
)

// sign is what makes a query look like part of a tunnel. By itself it refuses
// nothing: names of content networks have such forms too.
type sign uint8

const (
	noSign sign = iota
	longLabel
	manyLabels
	randomLabel
	manyBelow
	manyInVain
	manyNames
	signs // how many there are
)

func (s sign) String() string {
	switch s {
	case longLabel:
		return "long label"
	case manyLabels:
		return "many labels"
	case randomLabel:
		return "random label"
	case manyBelow:
		return "many names below one parent"
	case manyInVain:
		return "many names refused or missing"
	case manyNames:
		return "many new names"
	}
	return ""
}

const (
	signLabel  = 40 // bytes
	signLabels = 10
)

// shape says what the form of a name shows.
func shape(host string) sign {
	labels, random := 0, false
	for rest, more := host, true; more; labels++ {
		var label string
		label, rest, more = strings.Cut(rest, ".")
		if len(label) > signLabel {
			return longLabel
		}
		random = random || isRandom(label)
	}
	switch {
	case labels > signLabels:
		return manyLabels
	case random:
		return randomLabel
	}
	return noSign
}

// isRandom reports whether a label looks like encoded data: as varied as letters
// drawn at random, or varied with digits and letters taking turns. Words, and
// words with numbers, are neither.
func isRandom(label string) bool {
	if len(label) < 20 {
		return false
	}
	var count [256]int
	turns := 0
	for i := range len(label) {
		count[label[i]]++
		if i > 0 && isDigit(label[i]) != isDigit(label[i-1]) && label[i] != '-' && label[i-1] != '-' {
			turns++
		}
	}
	entropy, size := 0.0, float64(len(label))
	for _, n := range count {
		if n > 0 {
			entropy -= float64(n) / size * math.Log2(float64(n)/size)
		}
	}
	return entropy >= 4 && turns >= 2 || entropy >= 4.2 || entropy >= 3 && turns*5 >= len(label)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// usualSearch are domains that stub resolvers append to every name in clusters,
// clouds and offices, and those of reverse lookups, which come with every log line.
var usualSearch = []string{"cluster.local", "compute.internal", "ec2.internal", "google.internal", "localdomain", "lan", "home.arpa", "in-addr.arpa", "ip6.arpa"}

// searched reports whether a name is below a search domain.
func (s *Server) searched(host string) bool {
	for _, domain := range s.search {
		if rest, ok := strings.CutSuffix(host, domain); ok && (rest == "" || strings.HasSuffix(rest, ".")) {
			return true
		}
	}
	return false
}

// parentOf returns the last two labels of a name that has more.
func parentOf(host string) (string, bool) {
	last := strings.LastIndexByte(host, '.')
	if last < 0 {
		return "", false
	}
	i := strings.LastIndexByte(host[:last], '.')
	return host[i+1:], i >= 0
}
