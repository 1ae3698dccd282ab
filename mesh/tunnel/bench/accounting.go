//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// family returns the processes and all that they started.
func family(pids []int) []int {
	all := pids
	for _, pid := range pids {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			for _, child := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(child); err == nil {
					all = append(all, family([]int{n})...)
				}
			}
		}
	}
	return all
}

// cpu returns what the kernel accounted to the processes: the first number of
// each thread's schedstat, in nanoseconds.
func cpu(pids []int) time.Duration {
	var sum int64
	for _, pid := range family(pids) {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, f := range files {
			var n int64
			b, _ := os.ReadFile(f)
			fmt.Sscan(string(b), &n)
			sum += n
		}
	}
	return time.Duration(sum)
}

// memory returns the resident bytes that are the processes' own.
func memory(pids []int) int64 {
	var sum int64
	for _, pid := range family(pids) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
				var n int64
				fmt.Sscan(rest, &n)
				sum += n << 10
			}
		}
	}
	return sum
}
