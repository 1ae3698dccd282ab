package host

import (
	"fmt"
	"os"
	"testing"
)

// asUser makes the tests run inside a user namespace, as EnterUserNamespace
// makes it.
const asUser = "BULKHEAD_TEST_USER_NAMESPACE"

func TestMain(m *testing.M) {
	Child(os.Args)
	if os.Getenv(asUser) != "" {
		if err := EnterUserNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
