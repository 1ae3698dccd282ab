package dns

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

const (
	maxFile    = 16 << 20
	maxLine    = 64 << 10
	maxServers = 8
)

// SystemServers returns the servers that a file like /etc/resolv.conf names, the
// first eight. Search domains and options do not count: the names that are asked
// for here are complete.
func SystemServers(path string) ([]netip.AddrPort, error) {
	var servers []netip.AddrPort
	err := eachLine(path, '#', ';', func(fields []string) {
		if len(fields) < 2 || fields[0] != "nameserver" || len(servers) == maxServers {
			return
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	})
	if err == nil && len(servers) == 0 {
		err = fmt.Errorf("%s: names no DNS server: add a line `nameserver ADDRESS`", path)
	}
	return servers, err
}

// ReadHosts reads a file like /etc/hosts. As every reader of such files does it
// passes over lines that it cannot read, addresses with a zone, and what is no
// host name.
func ReadHosts(path string) (map[string][]netip.Addr, error) {
	hosts := map[string][]netip.Addr{}
	err := eachLine(path, '#', '#', func(fields []string) {
		a, err := netip.ParseAddr(fields[0])
		if err != nil || a.Zone() != "" {
			return
		}
		for _, name := range fields[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			if checkHost(name) == nil && len(hosts[name]) < maxAddrs && !slices.Contains(hosts[name], a) {
				hosts[name] = append(hosts[name], a)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return hosts, nil
}

// eachLine calls f with the fields of each line that has any, without comments.
func eachLine(path string, comment, other byte, f func([]string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	in := &io.LimitedReader{R: file, N: maxFile}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Text()
		if i := strings.IndexAny(line, string([]byte{comment, other})); i >= 0 {
			line = line[:i]
		}
		if fields := strings.Fields(line); len(fields) > 0 {
			f(fields)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w: a line may have %d bytes", path, err, maxLine)
	}
	if in.N <= 0 {
		return fmt.Errorf("%s: the file has more than %d bytes", path, maxFile)
	}
	return nil
}
