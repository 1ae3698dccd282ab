package control

import (
	"fmt"
	"strings"
)

// names are where things are on the bus. A bus may carry several platforms.
type names struct {
	bucket      string // KV bucket of orders and plans
	flows       string // stream of flow records
	orderKey    string
	requests    string // prefix; a node asks below its own name
	reports     string // prefix; a node reports below its own name
	flowSubject string // prefix; a node publishes below its own name
	inboxes     string // prefix
}

// platformNames returns the names of a platform. The names of two platforms
// never overlap.
func platformNames(platform string) (names, error) {
	t := "_" // a platform without a name
	if platform != "" {
		var err error
		if t, err = token(platform); err != nil {
			return names{}, fmt.Errorf("platform %w", err)
		}
	}
	return names{
		bucket:      "bulkhead-" + t,
		flows:       "bulkhead-flows-" + t,
		orderKey:    "order",
		requests:    "bulkhead." + t + ".request.",
		reports:     "bulkhead." + t + ".report.",
		flowSubject: "bulkhead." + t + ".flows.",
		inboxes:     "_INBOX.bulkhead." + t + ".",
	}, nil
}

func (n names) orderSubject() string { return "$KV." + n.bucket + "." + n.orderKey }

// planKey names a part of a plan.
func planKey(digest string, part int) string { return fmt.Sprintf("plan.%s.%d", digest, part) }

// inbox is where the answers to a node arrive; control's own if node is empty.
func (n names) inbox(node string) string {
	if node == "" {
		return n.inboxes + "control"
	}
	return n.inboxes + "node." + node
}

const maxName = 63

// token makes a name part of a subject or a bucket: one to one, since a name has
// lower-case letters, digits, '.', '_' and '-'.
func token(name string) (string, error) {
	if name == "" || len(name) > maxName {
		return "", fmt.Errorf("name %.80q must have 1 to %d characters", name, maxName)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r) {
			return "", fmt.Errorf("name %q has the character %q: use lower-case letters, digits, '.', '_' and '-'", name, r)
		}
	}
	return strings.NewReplacer("_", "__", ".", "_d").Replace(name), nil
}
