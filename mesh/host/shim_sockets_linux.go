package host

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// architectures are those whose socket calls the filter knows.
var architectures = map[string]uint32{
	"amd64":   unix.AUDIT_ARCH_X86_64,
	"arm64":   unix.AUDIT_ARCH_AARCH64,
	"riscv64": unix.AUDIT_ARCH_RISCV64,
}

// families are the kinds of socket that a workload can have. All of them end in
// its network namespace. Others do not: AF_VSOCK reaches the hypervisor from
// every namespace.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// shared are the system calls for keyrings. A user has one for all its processes,
// whatever namespaces they are in, through which two workloads could talk.
var shared = []uint32{unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL}

// restrictSockets refuses every other family, the two ways around that: io_uring,
// which opens sockets without a system call, and the system calls of another
// architecture; and what leads out of the namespaces without a socket.
func restrictSockets() error {
	arch, ok := architectures[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("the kinds of sockets cannot be restricted on %s", runtime.GOARCH)
	}
	program := socketFilter(arch)
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("restrict the kinds of sockets: %w", errno)
	}
	return nil
}

// socketFilter is a program for seccomp_data: the number of the call at 0, the
// architecture at 4, the first argument at 16 (its low half, as all of these
// architectures are little-endian).
func socketFilter(arch uint32) []unix.SockFilter {
	const x32 = 0x40000000 // a second set of numbers on amd64
	refuse := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(test uint16, value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: value, Jf: skip}
	}
	when := func(test uint16, value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: value, Jt: skip}
	}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	program := []unix.SockFilter{
		load(4), when(unix.BPF_JEQ, arch, 1), refuse(unix.ENOSYS),
		load(0), unless(unix.BPF_JGE, x32, 1), refuse(unix.ENOSYS),
	}
	for _, call := range append([]uint32{unix.SYS_IO_URING_SETUP}, shared...) {
		program = append(program, unless(unix.BPF_JEQ, call, 1), refuse(unix.ENOSYS))
	}
	program = append(program, when(unix.BPF_JEQ, unix.SYS_SOCKET, 1), allow, load(16))
	for _, f := range families {
		program = append(program, unless(unix.BPF_JEQ, f, 1), allow)
	}
	return append(program, refuse(unix.EAFNOSUPPORT))
}
