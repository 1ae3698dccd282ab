package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The identity of a bundle endpoint. Its zone is no name that a policy can give,
// so that it is never the identity of a workload.
const (
	systemZone   = "-"
	endpointName = "bundle-endpoint"
)

// EndpointID is the SPIFFE ID that the bundle endpoint of a trust domain proves.
func EndpointID(trustDomain string) (spiffeid.ID, error) {
	return ID(trustDomain, systemZone, endpointName)
}

// Limits of a bundle endpoint, which anybody can reach.
const (
	maxReaders      = 256
	endpointPause   = 10 * time.Second
	maxEndpointHead = 8 << 10
)

// ServeBundle serves the bundle of an authority to the trust domains federated
// with it (profile https_spiffe) until ctx ends. A bundle is public: anybody may
// read it.
func ServeBundle(ctx context.Context, ln net.Listener, a *Authority, log *slog.Logger) error {
	keeper, err := NewKeeper(KeeperOptions{TrustDomain: a.td.Name(), Issuer: a, Now: a.now, Log: log})
	if err != nil {
		return err
	}
	keeper.Keep(map[string]string{endpointName: systemZone})
	handler, err := BundleEndpoint(a.td, a)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, TLSConfig: EndpointTLS(keeper, endpointName), MaxHeaderBytes: maxEndpointHead,
		ReadTimeout: endpointPause, WriteTimeout: endpointPause, IdleTimeout: endpointPause, ConnState: atMost(maxReaders),
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return keeper.Run(ctx) })
	group.Go(func() error {
		stop := context.AfterFunc(ctx, func() { server.Close() })
		defer stop()
		if err := server.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return group.Wait()
}

// atMost closes connections beyond a number, so that readers who do not read
// take no more than that from the program.
func atMost(limit int64) func(net.Conn, http.ConnState) {
	var open atomic.Int64
	return func(c net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			if open.Add(1) > limit {
				c.Close() // its state becomes closed
			}
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}
}

// BundleEndpoint serves the bundle of a trust domain to those federated with it.
// Serve it with [EndpointTLS] (profile https_spiffe) or with a certificate of the
// Web PKI (https_web).
func BundleEndpoint(td spiffeid.TrustDomain, src spiffebundle.Source) (http.Handler, error) {
	return federation.NewHandler(td, src)
}

// EndpointTLS is the configuration of a bundle endpoint that proves the identity
// of a workload. Anybody may read it: a bundle is public.
func EndpointTLS(src Source, workload string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       clock(src),
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate(src, workload)
		},
	}
}
