// Package identity gives workloads their identity: an embedded certificate
// authority, the SPIFFE Workload API over a unix socket, JWT-SVIDs, federation
// bundles, and the rules by which a peer's certificate is believed.
//
// It promises that an identity is proven by the leaf of a verified chain with
// exactly one URI SAN, on resumed sessions as on new ones, and that the
// Workload API believes what the kernel says of a caller and nothing that the
// caller says.
package identity

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ID returns the SPIFFE ID of a workload: its name in its zone.
func ID(trustDomain, zone, workload string) (spiffeid.ID, error) {
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return spiffeid.ID{}, err
	}
	return spiffeid.FromSegments(td, "zone", zone, "workload", workload)
}

// Workload returns the zone and the name of the workload that an ID of the
// trust domain means.
func Workload(id spiffeid.ID, trustDomain string) (zone, workload string, err error) {
	if id.TrustDomain().Name() != trustDomain {
		return "", "", fmt.Errorf("%s is of another trust domain than %s", id, trustDomain)
	}
	parts := strings.Split(id.Path(), "/")
	if len(parts) != 5 || parts[1] != "zone" || parts[3] != "workload" {
		return "", "", fmt.Errorf("%s is no workload of a platform: its path is not /zone/ZONE/workload/WORKLOAD", id)
	}
	return parts[2], parts[4], nil
}

// WorkloadOf returns the zone and the name of the workload that a verified
// certificate of the trust domain stands for.
func WorkloadOf(leaf *x509.Certificate, trustDomain string) (zone, workload string, err error) {
	id, err := leafID(leaf)
	if err != nil {
		return "", "", err
	}
	return Workload(id, trustDomain)
}
