package host

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// A re-execution of this program is marked by its name, because nothing else is
// there before the first line of main. The mark gives no power: whoever can
// write it can run the program anyway.
const (
	markShim   = "bulkhead:workload"
	markUser   = "bulkhead:user"
	markTry    = "bulkhead:try"
	markPrefix = "bulkhead:child/"
)

var (
	childrenMu sync.Mutex
	children   = map[string]func(){}
)

// RegisterChild makes run startable in a workload by [Command].Child. It is
// called from an init function, and panics if the name is taken.
func RegisterChild(name string, run func()) {
	childrenMu.Lock()
	defer childrenMu.Unlock()
	if _, ok := children[name]; ok || name == "" {
		panic(fmt.Sprintf("host: the child %q is registered twice or has no name", name))
	}
	children[name] = run
}

func registered(name string) (run func(), ok bool) {
	childrenMu.Lock()
	defer childrenMu.Unlock()
	run, ok = children[name]
	return run, ok
}

// Child is the first statement of main and of TestMain. If this process is a
// re-execution that prepares or is a workload, it does that and never returns.
// Otherwise it returns at once; in the re-execution that [EnterUserNamespace]
// makes it first gives the program its name back.
func Child(args []string) {
	if len(args) == 0 || !strings.HasPrefix(args[0], "bulkhead:") {
		return
	}
	switch name, isChild := strings.CutPrefix(args[0], markPrefix); {
	case isChild:
		run, ok := registered(name)
		if !ok {
			fmt.Fprintf(os.Stderr, "this program has no child %q\n", name)
			os.Exit(127)
		}
		run()
		os.Exit(0)
	case slices.Contains([]string{markShim, markTry}, args[0]):
		runMarked(args[0])
		os.Exit(127)
	case args[0] == markUser:
		restoreName(args)
	}
}
