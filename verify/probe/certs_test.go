package probe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// need says that a test cannot run without these programs; in CI that fails.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", p)
		}
		t.Skipf("%s is not installed", p)
	}
}

func opensslPath(t testing.TB) string {
	t.Helper()
	need(t, "openssl")
	p, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal(err)
	}
	if p, err = filepath.Abs(p); err != nil {
		t.Fatal(err)
	}
	return p
}

// The keys of all tests: making RSA keys takes long.
var (
	caKey  = sync.OnceValue(newECDSA)
	ecKey  = sync.OnceValue(newECDSA)
	rsaKey = sync.OnceValue(func() crypto.Signer {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return k
	})
	caCert = sync.OnceValue(func() *x509.Certificate {
		der := sign(certificate("test root", true), nil, caKey().Public())
		c, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return c
	})
)

func newECDSA() crypto.Signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func certificate(name string, ca bool) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 62))
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		// Two bytes of 0x55 in front: a place that a test can find.
		SerialNumber: serial.Add(serial, new(big.Int).Lsh(big.NewInt(0x5555), 62)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: ca, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		c.KeyUsage = x509.KeyUsageCertSign
	} else {
		c.DNSNames = []string{name}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return c
}

func sign(c, parent *x509.Certificate, pub crypto.PublicKey) []byte {
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, caKey())
	if err != nil {
		panic(err)
	}
	return der
}

// pair is a leaf for name with the root behind it, which stands for an
// intermediate here.
func pair(name string, key crypto.Signer) tls.Certificate {
	leaf := sign(certificate(name, false), caCert(), key.Public())
	return tls.Certificate{Certificate: [][]byte{leaf, caCert().Raw}, PrivateKey: key}
}

// files writes a pair as OpenSSL and Postfix read it: key, leaf, chain.
func files(t testing.TB, dir, name string, c tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for _, d := range c.Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
