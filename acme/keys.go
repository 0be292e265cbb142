package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"postcert/deploy/atomicfile"
)

const maxKey = 1 << 16 // bytes of a key file

// newKey makes a private key.
func newKey(t KeyType) (crypto.Signer, error) {
	switch t {
	case EC256, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EC384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("acme: %q is no key type", t)
}

// keyType is the type of a key; "" for one that we would not have made.
func keyType(key crypto.PublicKey) KeyType {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return EC256
		case elliptic.P384():
			return EC384
		}
	case *rsa.PublicKey:
		switch k.N.BitLen() {
		case 2048:
			return RSA2048
		case 3072:
			return RSA3072
		case 4096:
			return RSA4096
		}
	}
	return ""
}

// encodeKey is a key as PKCS#8 PEM.
func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("acme: the private key can't be encoded")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// errKey says nothing of what was read: it may be half of a key.
var errKey = errors.New("it holds no private key in PKCS#8 PEM of a type that we make")

// decodeKey reads what encodeKey wrote.
func decodeKey(data []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, errKey
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errKey
	}
	signer, ok := key.(crypto.Signer)
	if !ok || keyType(signer.Public()) == "" {
		return nil, errKey
	}
	return signer, nil
}

// readKey reads a key of the store; fs.ErrNotExist if there is none.
func (s *Store) readKey(path string) (crypto.Signer, error) {
	data, err := atomicfile.ReadFile(s.fs, path, maxKey)
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(data)
	if err != nil {
		return nil, &FileError{Path: path, Err: err}
	}
	return key, nil
}

func (s *Store) writeKey(path string, key crypto.Signer) error {
	data, err := encodeKey(key)
	if err != nil {
		return err
	}
	return s.writeFile(path, data)
}

// spki is the SHA-256 of a public key's SubjectPublicKeyInfo, in lower-case hex.
func spki(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// thumbprint is the JWK thumbprint of a key (RFC 7638): the members that it
// demands, in lexicographic order and without white space.
func thumbprint(key crypto.PublicKey) string {
	b64 := base64.RawURLEncoding.EncodeToString
	var jwk any
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		raw, err := k.Bytes() // 0x04, x, y (SEC 1 section 2.3.3)
		if err != nil {
			return ""
		}
		half := (len(raw) - 1) / 2
		jwk = struct {
			Crv string `json:"crv"`
			Kty string `json:"kty"`
			X   string `json:"x"`
			Y   string `json:"y"`
		}{k.Params().Name, "EC", b64(raw[1 : 1+half]), b64(raw[1+half:])}
	case *rsa.PublicKey:
		jwk = struct {
			E   string `json:"e"`
			Kty string `json:"kty"`
			N   string `json:"n"`
		}{b64(big.NewInt(int64(k.E)).Bytes()), "RSA", b64(k.N.Bytes())}
	}
	text, err := json.Marshal(jwk)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return b64(sum[:])
}

// request is a certificate request (CSR) in DER for these names. It has no common
// name: CAs take the names from the subjectAltName (RFC 8555 section 7.4).
func request(key crypto.Signer, names []string) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
}
