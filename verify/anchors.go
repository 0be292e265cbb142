package verify

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"postcert/verify/problem"
)

// systemBundles is where distributions keep their trust anchors in one file; the
// first that exists counts. It is crypto/x509's list for Linux. SystemCertPool
// is not used because it obeys SSL_CERT_FILE and can neither count nor list.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Gentoo, Alpine
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7 and newer
	"/etc/ssl/cert.pem",                                 // Alpine
}

// SystemBundle is the file in which this host has its trust anchors.
func SystemBundle() (path string, ok bool) {
	for _, path := range systemBundles {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			return path, true
		}
	}
	return "", false
}

// maxBundle bounds a file of trust anchors, in bytes; Debian's has 220,000.
const maxBundle = 16 << 20

// Anchors is a set of trust anchors: self-issued certificates. The zero Anchors
// is empty.
type Anchors struct {
	pool      *x509.CertPool
	bySubject map[string][]*x509.Certificate
	count     int
}

// NewAnchors returns a set of these certificates. Those that are not self-issued
// are left out: openssl verify trusts a chain at a self-signed certificate only
// (without -partial_chain), and an intermediate here would hide that the
// presented chain lacks it. So is a second copy.
func NewAnchors(certs ...*x509.Certificate) Anchors {
	a := Anchors{pool: x509.NewCertPool(), bySubject: map[string][]*x509.Certificate{}}
	for _, c := range certs {
		if selfIssued(c) && !a.has(c) {
			a.pool.AddCert(c)
			a.bySubject[string(c.RawSubject)] = append(a.bySubject[string(c.RawSubject)], c)
			a.count++
		}
	}
	return a
}

// LoadAnchors reads the trust anchors of this host and of extra PEM files. A host
// without any is no error: Count tells, and Pair says no_trust_anchors. In the
// system's bundle what cannot be read is passed over, as everybody does; an
// extra file was named by the administrator and must hold self-signed
// certificates and nothing else. The error is a problem.List.
func LoadAnchors(extraFiles []string) (Anchors, error) {
	return loadAnchors(systemBundles, extraFiles)
}

func loadAnchors(bundles, extraFiles []string) (Anchors, error) {
	var certs []*x509.Certificate
	for _, path := range bundles {
		data, err := readBundle(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Anchors{}, invalidTrust(path, err)
		}
		certs, _ = parseBundle(data)
		break
	}
	for _, path := range extraFiles {
		data, err := readBundle(path)
		if err != nil {
			return Anchors{}, invalidTrust(path, err)
		}
		extra, err := parseBundle(data)
		if err != nil {
			return Anchors{}, invalidTrust(path, err)
		}
		if len(extra) == 0 {
			return Anchors{}, invalidTrust(path, errors.New("no certificate in it"))
		}
		for _, c := range extra {
			if !selfIssued(c) {
				return Anchors{}, invalidTrust(path, fmt.Errorf("%q is not a root: another authority signed it", c.Subject))
			}
		}
		certs = append(certs, extra...)
	}
	return NewAnchors(certs...), nil
}

func invalidTrust(path string, err error) error {
	return problem.List{problem.New("trust_invalid", problem.At{File: path}, "reading trust anchors from %s: %v", path, err)}
}

func readBundle(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBundle {
		return nil, errors.New("not a regular file, or too large")
	}
	return os.ReadFile(path)
}

// parseBundle returns the certificates that can be parsed, and the first error.
func parseBundle(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	var first error
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		switch {
		case b.Type != "CERTIFICATE":
			err = fmt.Errorf("a PEM block labelled %q", b.Type)
		case err == nil:
			certs = append(certs, c)
		}
		if first == nil {
			first = err
		}
	}
	if first == nil && bytes.Contains(data, []byte("-----BEGIN")) {
		first = errors.New("a damaged PEM block")
	}
	return certs, first
}

// Count is how many trust anchors there are.
func (a Anchors) Count() int { return a.count }

func (a Anchors) has(c *x509.Certificate) bool {
	for _, o := range a.bySubject[string(c.RawSubject)] {
		if o.Equal(c) {
			return true
		}
	}
	return false
}

// issuersOf returns the anchors that OpenSSL would take for the issuer of c.
func (a Anchors) issuersOf(c *x509.Certificate) []*x509.Certificate {
	var found []*x509.Certificate
	for _, o := range a.bySubject[string(c.RawIssuer)] {
		if namesIssuer(c, o) {
			found = append(found, o)
		}
	}
	return found
}
