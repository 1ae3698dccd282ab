package host

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// asUser makes the tests run inside a user namespace, as EnterUserNamespace
// makes it.
const asUser = "BULKHEAD_TEST_USER_NAMESPACE"

// realScenery is what is hidden outside of tests, which have their folders in
// /var/tmp: nobody may write anywhere else that is not hidden.
var realScenery = scenery

func TestMain(m *testing.M) {
	Child(os.Args)
	scenery = slices.DeleteFunc(slices.Clone(scenery), func(c cover) bool { return c.Path == "/var/tmp" })
	if os.Getenv(asUser) != "" {
		if err := EnterUserNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
