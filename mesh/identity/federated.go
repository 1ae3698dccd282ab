package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ParseFederated reads TRUSTDOMAIN=URL (profile https_web) or
// TRUSTDOMAIN=URL,SPIFFE-ID,BUNDLE-FILE (https_spiffe). The file holds the first
// bundle; abs says where it lies.
func ParseFederated(text string, abs func(path string) string) (Federated, error) {
	name, rest, ok := strings.Cut(text, "=")
	parts := strings.Split(rest, ",")
	if !ok || len(parts) != 1 && len(parts) != 3 {
		return Federated{}, fmt.Errorf("%q is not of the form TRUSTDOMAIN=URL or TRUSTDOMAIN=URL,SPIFFE-ID,BUNDLE-FILE", text)
	}
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return Federated{}, fmt.Errorf("trust domain %q: %w", name, err)
	}
	d := Federated{TrustDomain: td, URL: parts[0]}
	if len(parts) == 3 {
		if d.Endpoint, err = spiffeid.FromString(parts[1]); err != nil {
			return Federated{}, fmt.Errorf("the identity of the bundle endpoint of %s, %q: %w", td, parts[1], err)
		}
		content, err := readLimited(abs(parts[2]))
		if err != nil {
			return Federated{}, fmt.Errorf("the first bundle of %s: %w", td, err)
		}
		if d.Initial, err = spiffebundle.Parse(td, content); err != nil {
			return Federated{}, fmt.Errorf("%s is no bundle of %s: %w", parts[2], td, err)
		}
	}
	return d, d.Check()
}
