package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

// bare is what an order cannot leave out (RFC 8555, section 7.1): the messages, in
// their order, and one answer to the CA. It keeps no state, retries nothing,
// judges nothing, and runs inside this process, which is warm and stays connected.
type bare struct {
	http      *http.Client
	directory struct{ NewNonce, NewAccount, NewOrder string }
	listen    string
	key       *ecdsa.PrivateKey
	account   string // URL
	nonce     string
}

// floor is the contestant that orders with bare.
func (i *issuing) floor() issuer {
	var b *bare
	dir := i.dir
	files := func(name string) pair {
		return pair{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")}
	}
	return issuer{"floor", "the floor", "", func(ctx context.Context, name string) cost {
		i.t.Helper()
		before := len(i.ca.Requests())
		begin := time.Now()
		var err error
		if b == nil {
			b, err = newBare(ctx, i)
		}
		var chain []byte
		var key *ecdsa.PrivateKey
		if err == nil {
			chain, key, err = b.order(ctx, name)
		}
		if err != nil {
			i.t.Fatalf("the floor: %v", err)
		}
		c := cost{Took: time.Since(begin), Requests: i.since(before)}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			i.t.Fatal(err)
		}
		i.write(files(name).chain, chain)
		i.write(files(name).key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		return c
	}, files}
}

// newBare registers an account.
func newBare(ctx context.Context, i *issuing) (*bare, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	b := &bare{http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: i.ca.Roots}}}, listen: i.listen, key: key}
	i.t.Cleanup(b.http.CloseIdleConnections)
	if _, err := b.do(ctx, http.MethodGet, i.ca.URL, nil, &b.directory); err != nil {
		return nil, err
	}
	if _, err := b.do(ctx, http.MethodHead, b.directory.NewNonce, nil, nil); err != nil {
		return nil, err
	}
	h, err := b.post(ctx, b.directory.NewAccount, map[string]any{"termsOfServiceAgreed": true}, nil)
	if err == nil {
		b.account = h.Get("Location")
	}
	return b, err
}

// orderJSON and authorizationJSON are the resources of RFC 8555, sections 7.1.3
// and 7.1.4, as far as they are needed.
type orderJSON struct {
	Status, Finalize, Certificate string
	Authorizations                []string
}

type authorizationJSON struct {
	Status     string
	Challenges []struct{ Type, URL, Token string }
}

// order goes from a name to a certificate, by http-01.
func (b *bare) order(ctx context.Context, name string) (chain []byte, key *ecdsa.PrivateKey, err error) {
	var o orderJSON
	h, err := b.post(ctx, b.directory.NewOrder, map[string]any{"identifiers": []map[string]string{{"type": "dns", "value": name}}}, &o)
	if err != nil {
		return nil, nil, err
	}
	url := h.Get("Location")
	for _, at := range o.Authorizations {
		if err := b.authorize(ctx, at); err != nil {
			return nil, nil, err
		}
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return nil, nil, err
	}
	if _, err := b.post(ctx, o.Finalize, map[string]string{"csr": encode(csr)}, &o); err != nil {
		return nil, nil, err
	}
	if err := b.await(ctx, url, &o, func() string { return o.Status }); err != nil {
		return nil, nil, err
	}
	_, err = b.post(ctx, o.Certificate, nil, &chain)
	return chain, key, err
}

// authorize answers the CA until it is content.
func (b *bare) authorize(ctx context.Context, url string) error {
	var a authorizationJSON
	if _, err := b.post(ctx, url, nil, &a); err != nil {
		return err
	}
	for _, c := range a.Challenges {
		if c.Type != "http-01" {
			continue
		}
		l, err := net.Listen("tcp", b.listen)
		if err != nil {
			return err
		}
		thumbprint := sha256.Sum256([]byte(b.jwk())) // RFC 7638
		answer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, c.Token+"."+encode(thumbprint[:]))
		})}
		go func() { _ = answer.Serve(l) }()
		defer answer.Close()
		if _, err := b.post(ctx, c.URL, struct{}{}, nil); err != nil {
			return err
		}
		return b.await(ctx, url, &a, func() string { return a.Status })
	}
	return fmt.Errorf("no http-01 at %s", url)
}

// await asks for a resource until it is valid.
func (b *bare) await(ctx context.Context, url string, into any, status func() string) error {
	for ctx.Err() == nil {
		if _, err := b.post(ctx, url, nil, into); err != nil {
			return err
		}
		switch status() {
		case "valid":
			return nil
		case "invalid":
			return fmt.Errorf("%s is invalid", url)
		}
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}

// jwk is the account's public key, its members in the order of RFC 7638.
func (b *bare) jwk() string {
	point, err := b.key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		return ""
	}
	return fmt.Sprintf(`{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, encode(point[1:33]), encode(point[33:]))
}

// post sends a signed message (RFC 8555, section 6.2); payload nil is
// POST-as-GET.
func (b *bare) post(ctx context.Context, url string, payload, into any) (http.Header, error) {
	who := `"jwk":` + b.jwk()
	if b.account != "" {
		who = fmt.Sprintf(`"kid":%q`, b.account)
	}
	protected := encode(fmt.Appendf(nil, `{"alg":"ES256","nonce":%q,"url":%q,%s}`, b.nonce, url, who))
	body := ""
	if payload != nil {
		raw, err := json.Marshal(payload)
		if err != nil {
			return nil, err
		}
		body = encode(raw)
	}
	digest := sha256.Sum256([]byte(protected + "." + body))
	r, s, err := ecdsa.Sign(rand.Reader, b.key, digest[:])
	if err != nil {
		return nil, err
	}
	signature := make([]byte, 64) // RFC 7518, section 3.4
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	message, err := json.Marshal(map[string]string{"protected": protected, "payload": body, "signature": encode(signature)})
	if err != nil {
		return nil, err
	}
	return b.do(ctx, http.MethodPost, url, message, into)
}

// do makes one request. The answer goes into a *[]byte as it is, into anything
// else as JSON.
func (b *bare) do(ctx context.Context, method, url string, body []byte, into any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/jose+json")
	answer, err := b.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %.300s", method, url, answer.Status, said)
	}
	b.nonce = answer.Header.Get("Replay-Nonce")
	if raw, ok := into.(*[]byte); ok {
		*raw = said
	} else if into != nil {
		err = json.Unmarshal(said, into)
	}
	return answer.Header, err
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
