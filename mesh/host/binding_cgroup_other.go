//go:build !linux

package host

// CgroupOf returns an error: Linux only.
func CgroupOf(string) (string, error) { return "", errLinux }
