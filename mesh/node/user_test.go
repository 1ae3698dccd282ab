package node

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"bulkhead/mesh/host"
)

// nobody is an ordinary user.
const nobody = 65534

// TestAsAnOrdinaryUser runs tests of this package again, in the user namespace
// of somebody who is not root.
func TestAsAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 || host.InUserNamespace() {
		t.Skip("SKIPPED: whoever is not root has run the tests as an ordinary user already; run: sudo go test -run TestAsAnOrdinaryUser ./mesh/node")
	}
	tests := "TestAChangeOfThePolicy|TestTheWorkloadsOfAPolicy|TestQuarantine|TestAWorkloadThatAttacks|TestNothingIsLeft"
	if heavy {
		tests = "."
	}
	again := func(run string) (string, error) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^("+run+")$", "-test.v")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "TMPDIR=/tmp", "HOME=/tmp")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := again(tests)
	if strings.Contains(out, "gives this user no namespaces") {
		t.Skip("SKIPPED: the kernel gives ordinary users no namespaces; run: sysctl kernel.unprivileged_userns_clone=1 && sudo go test -run TestAsAnOrdinaryUser ./mesh/node")
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "--- PASS: TestQuarantine") {
		t.Errorf("the tests did not run:\n%s", out)
	}
}
