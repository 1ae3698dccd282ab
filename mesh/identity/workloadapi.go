package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Limits of what a workload may ask of the Workload API.
const (
	maxRequest = 64 << 10
	maxHeaders = 8 << 10
	maxStreams = 32 // per connection
)

// ServerOptions say whom the Workload API serves with what.
type ServerOptions struct {
	Provider Provider
	Attestor Attestor
	Log      *slog.Logger // slog.Default if nil
}

// Server is the SPIFFE Workload API. Who calls is what the attestor says of the
// connection; nothing in a request adds to it.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	provider  Provider
	attest    func(*net.UnixConn) ([]string, error)
	now       func() time.Time
	log       *slog.Logger
	strangers strangers
}

// NewServer returns a server; each Serve has connections of its own.
func NewServer(o ServerOptions) *Server {
	s := &Server{provider: o.Provider, log: o.Log, now: clock(o.Provider)}
	s.attest = func(c *net.UnixConn) ([]string, error) {
		name, err := o.Attestor.Attest(c)
		return []string{name}, err
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s
}

// Serve answers on a unix listener until ctx ends, then cuts its connections. It
// may be called for any number of listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(
		grpc.Creds(attesting{s.attest}),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	workload.RegisterSpiffeWorkloadAPIServer(server, s)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		server.Stop()
		close(stopped)
	})
	err := server.Serve(count(ln))
	if !stop() {
		<-stopped
		return nil
	}
	server.Stop()
	return err
}

// callerKey is the context key of the caller's workloads.
type callerKey struct{}

func (s *Server) unary(ctx context.Context, r any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	return next(ctx, r)
}

func (s *Server) stream(srv any, st grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := s.admit(st.Context())
	if err != nil {
		return err
	}
	return next(srv, admitted{st, ctx})
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (a admitted) Context() context.Context { return a.ctx }

// admit refuses a request without the header that the standard demands (so that
// no confused HTTP client can make one), and a caller that is no workload.
func (s *Server) admit(ctx context.Context) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return nil, status.Error(codes.InvalidArgument, "the header workload.spiffe.io: true is missing")
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "the caller is not known")
	}
	who, ok := p.AuthInfo.(attestation)
	if ok && who.err == nil {
		return context.WithValue(ctx, callerKey{}, who.workloads), nil
	}
	if before, tell := s.strangers.refused(s.now()); tell {
		s.log.Warn("the Workload API refused a caller that is no workload", "err", who.err, "untold", before)
	}
	return nil, status.Error(codes.PermissionDenied, "the caller is no workload of this node")
}

func caller(ctx context.Context) []string {
	names, _ := ctx.Value(callerKey{}).([]string)
	return names
}

// FetchX509SVID implements the Workload API.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, st grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	var last string
	return s.follow(st.Context(), func() error {
		svids, err := s.svids(st.Context())
		if err != nil {
			return err
		}
		bundles := s.provider.Bundles()
		if version := versionOf(svids, bundles); version == last {
			return nil
		} else {
			last = version
		}
		response, err := x509Response(svids, bundles)
		if err != nil {
			return err
		}
		return st.Send(response)
	})
}

// svids returns the certificates of a caller, [errNotYet] while one is missing.
func (s *Server) svids(ctx context.Context) ([]*x509svid.SVID, error) {
	var out []*x509svid.SVID
	for _, name := range caller(ctx) {
		svid, err := s.provider.SVID(name)
		switch {
		case errors.Is(err, ErrNoIdentity):
			return nil, status.Error(codes.PermissionDenied, err.Error())
		case err != nil:
			return nil, errNotYet
		}
		out = append(out, svid)
	}
	if len(out) == 0 {
		return nil, status.Error(codes.PermissionDenied, ErrNoIdentity.Error())
	}
	return out, nil
}

// errNotYet makes a stream wait for the next change.
var errNotYet = errors.New("not yet")

// follow calls each for the state now and after every change, until the caller
// goes or each fails.
func (s *Server) follow(ctx context.Context, each func() error) error {
	for {
		changed := s.provider.Changed()
		if err := each(); err != nil && !errors.Is(err, errNotYet) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// versionOf tells two answers apart.
func versionOf(svids []*x509svid.SVID, bundles []*spiffebundle.Bundle) string {
	out := ""
	for _, svid := range svids {
		out += string(svid.Certificates[0].Raw)
	}
	for _, b := range bundles {
		out += b.TrustDomain().Name()
		for _, c := range b.X509Authorities() {
			out += string(c.Raw)
		}
	}
	return out
}

func x509Response(svids []*x509svid.SVID, bundles []*spiffebundle.Bundle) (*workload.X509SVIDResponse, error) {
	byDomain := map[spiffeid.TrustDomain]*spiffebundle.Bundle{}
	for _, b := range bundles {
		byDomain[b.TrustDomain()] = b
	}
	out := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	for _, svid := range svids {
		own := byDomain[svid.ID.TrustDomain()]
		if own == nil {
			return nil, errNotYet
		}
		certs, key, err := svid.MarshalRaw()
		if err != nil {
			return nil, status.Errorf(codes.Internal, "the certificate of %s: %v", svid.ID, err)
		}
		out.Svids = append(out.Svids, &workload.X509SVID{SpiffeId: svid.ID.String(), X509Svid: certs,
			X509SvidKey: key, Bundle: concatenate(own.X509Authorities()), Hint: svid.Hint})
	}
	for td, b := range byDomain {
		if td != svids[0].ID.TrustDomain() {
			out.FederatedBundles[td.IDString()] = concatenate(b.X509Authorities())
		}
	}
	return out, nil
}

func concatenate(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, c.Raw...)
	}
	return out
}

// FetchX509Bundles implements the Workload API.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, st grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	var last string
	return s.follow(st.Context(), func() error {
		bundles := s.provider.Bundles()
		version := versionOf(nil, bundles)
		if version == last {
			return nil
		}
		last = version
		out := map[string][]byte{}
		for _, b := range bundles {
			out[b.TrustDomain().IDString()] = concatenate(b.X509Authorities())
		}
		return st.Send(&workload.X509BundlesResponse{Bundles: out})
	})
}

// FetchJWTBundles implements the Workload API.
func (s *Server) FetchJWTBundles(_ *workload.JWTBundlesRequest, st grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	last := jwtbundle.NewSet()
	return s.follow(st.Context(), func() error {
		bundles := s.jwtBundles()
		if len(bundles.Bundles()) == 0 || sameJWT(bundles, last) {
			return nil
		}
		last = bundles
		out := map[string][]byte{}
		for _, b := range bundles.Bundles() {
			text, err := b.Marshal()
			if err != nil {
				return status.Errorf(codes.Internal, "the bundle of %s: %v", b.TrustDomain(), err)
			}
			out[b.TrustDomain().IDString()] = text
		}
		return st.Send(&workload.JWTBundlesResponse{Bundles: out})
	})
}

func (s *Server) jwtBundles() *jwtbundle.Set {
	set := jwtbundle.NewSet()
	for _, b := range s.provider.Bundles() {
		set.Add(b.JWTBundle())
	}
	return set
}

func sameJWT(a, b *jwtbundle.Set) bool {
	if a.Len() != b.Len() {
		return false
	}
	for _, x := range a.Bundles() {
		y, ok := b.Get(x.TrustDomain())
		if !ok || !x.Equal(y) {
			return false
		}
	}
	return true
}

// FetchJWTSVID implements the Workload API.
func (s *Server) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if err := checkAudience(r.Audience); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	svids, err := s.svids(ctx)
	if errors.Is(err, errNotYet) {
		return nil, status.Error(codes.Unavailable, "the workload has no certificate yet")
	}
	if err != nil {
		return nil, err
	}
	out := &workload.JWTSVIDResponse{}
	for i, name := range caller(ctx) {
		id := svids[i].ID.String()
		if r.SpiffeId != "" && r.SpiffeId != id {
			continue
		}
		token, err := s.provider.JWT(ctx, name, r.Audience)
		if errors.Is(err, ErrNoIdentity) {
			return nil, status.Error(codes.PermissionDenied, err.Error())
		}
		if err != nil {
			s.log.Warn("no JWT-SVID was issued", "workload", name, "err", err)
			return nil, status.Error(codes.Unavailable, "the issuer is away; try again")
		}
		out.Svids = append(out.Svids, &workload.JWTSVID{SpiffeId: id, Svid: token, Hint: svids[i].Hint})
	}
	if len(out.Svids) == 0 {
		return nil, status.Error(codes.PermissionDenied, fmt.Sprintf("%q is not the caller's identity", r.SpiffeId))
	}
	return out, nil
}

// ValidateJWTSVID implements the Workload API.
func (s *Server) ValidateJWTSVID(_ context.Context, r *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	svid, err := ValidateJWT(r.Svid, r.Audience, s.jwtBundles(), s.now())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "the claims of the token cannot be returned")
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}
