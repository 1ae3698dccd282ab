package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
)

// Limits of tokens.
const (
	maxToken        = 16 << 10
	maxAudiences    = 32
	maxAudienceSize = 512
)

// signJWT makes a JWT-SVID with ES256.
func signJWT(k jwtKey, id spiffeid.ID, audience []string, now time.Time) (string, error) {
	if err := checkAudience(audience); err != nil {
		return "", err
	}
	head, err := json.Marshal(map[string]string{"alg": "ES256", "kid": k.id, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"sub": id.String(), "aud": audience, "iat": now.Unix(), "exp": now.Add(jwtLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString(head) + "." + b64.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k.key, sum[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + b64.EncodeToString(signature[:]), nil
}

func checkAudience(audience []string) error {
	if len(audience) == 0 {
		return errors.New("a token needs an audience; name who shall accept it")
	}
	if len(audience) > maxAudiences {
		return fmt.Errorf("a token for %d audiences is not issued; at most %d", len(audience), maxAudiences)
	}
	for _, a := range audience {
		if a == "" || len(a) > maxAudienceSize {
			return fmt.Errorf("an audience has 1 to %d bytes", maxAudienceSize)
		}
	}
	return nil
}

// ValidateJWT returns what a JWT-SVID proves to an audience at now: signed by a
// key of the subject's own trust domain, meant for the audience, not expired.
func ValidateJWT(token, audience string, bundles jwtbundle.Source, now time.Time) (*jwtsvid.SVID, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("a token of %d bytes is longer than %d", len(token), maxToken)
	}
	if audience == "" {
		return nil, errors.New("a token is valid for an audience; name it")
	}
	svid, err := jwtsvid.ParseAndValidate(token, bundles, []string{audience})
	if err != nil {
		return nil, err
	}
	// The library allows a minute beyond the end.
	if !now.Before(svid.Expiry) {
		return nil, fmt.Errorf("the token of %s expired at %s", svid.ID, svid.Expiry.Format(time.RFC3339))
	}
	if svid.ID.Path() == "" {
		return nil, fmt.Errorf("%s has no path: it names a trust domain, not a workload", svid.ID)
	}
	return svid, nil
}
