package source

import "strings"

// Nearest returns the candidate that text was probably meant to be, or the
// empty string when none is close. Letter case does not count. Among equally
// close ones the first wins.
func Nearest(text string, candidates []string) string {
	limit := max(2, len(text)/3)
	if len(text) < 4 {
		limit = min(1, len(text)-1)
	}
	best, low := "", strings.ToLower(text)
	for _, c := range candidates {
		if d := distance(low, strings.ToLower(c), limit); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// distance is the edit distance of a and b where a swap of neighbours counts
// one; anything above limit may come back as limit+1.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit || len(a) > 100 {
		return limit + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
