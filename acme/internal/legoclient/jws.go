package legoclient

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"io"
	"net/http"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
)

// What lego has no message for is signed here: a flattened JWS as RFC 8555
// section 6.2 wants it.

// sign returns the serialized JWS of payload. kid "" is for a key that is not an
// account's yet.
func sign(key crypto.Signer, payload []byte, options *jose.SignerOptions, kid string) (string, error) {
	algorithm := jose.RS256
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		algorithm = jose.ES256
		if k.Curve == elliptic.P384() {
			algorithm = jose.ES384
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, options)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.FullSerialize(), nil
}

// freshNonce is a jose.NonceSource that asks the CA each time.
type freshNonce struct{ s *session }

func (f freshNonce) Nonce() (string, error) {
	resp, err := f.s.request(http.MethodHead, f.s.core.GetDirectory().NewNonceURL, nil)
	if err != nil {
		return "", err
	}
	nonce := resp.Header.Get("Replay-Nonce")
	if nonce == "" {
		return "", &Error{Kind: Protocol, Detail: "the CA gave no nonce"}
	}
	return nonce, nil
}

// post sends payload signed by the account's key, and wants no answer but that
// it succeeded.
func (s *session) post(where string, payload []byte) error {
	options := &jose.SignerOptions{NonceSource: freshNonce{s}, ExtraHeaders: map[jose.HeaderKey]any{"url": where}}
	body, err := sign(s.acct.Key, payload, options, s.acct.URI)
	if err != nil {
		return err
	}
	_, err = s.request(http.MethodPost, where, strings.NewReader(body))
	return err
}

// request goes through the same client as lego's. The body of the answer was read
// by the transport.
func (s *session) request(method, where string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(s.ctx, method, where, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/jose+json")
	}
	req.Header.Set("User-Agent", s.c.cfg.UserAgent)
	return s.core.HTTPClient.Do(req)
}
