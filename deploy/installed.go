package deploy

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify"
	"postcert/verify/keypair"
)

// maxInstalled bounds a PEM file that an instance's parameters name.
const maxInstalled = 1 << 20

// installedChains reads what a file named by smtpd_tls_cert_file or
// smtpd_tls_chain_files would make Postfix present: one chain for each key, or
// one chain if the file holds no key. It is as lenient as Postfix's own loader,
// because it describes what is there and judges nothing.
func installedChains(path string) (chains [][]*x509.Certificate, hasKey bool, err error) {
	data, err := readInstalled(path)
	if err != nil {
		return nil, false, err
	}
	defer clear(data)
	fresh := true
	for rest := data; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			clear(block.Bytes)
			fresh, hasKey = true, true
		case block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, hasKey, fmt.Errorf("certificate %d in %s: %w", len(chains)+1, path, err)
			}
			if fresh {
				chains, fresh = append(chains, nil), false
			}
			chains[len(chains)-1] = append(chains[len(chains)-1], c)
		}
	}
	if len(chains) == 0 && !hasKey {
		return nil, false, fmt.Errorf("no certificate in %s", path)
	}
	return chains, hasKey, nil
}

// readInstalled reads a file that Postfix reads. Symbolic links are followed,
// as Postfix does.
func readInstalled(path string) ([]byte, error) { return atomicfile.Read(realPath(path), maxInstalled) }

// keyTypeOf is the algorithm of a certificate's key in the words of probe.
func keyTypeOf(c *x509.Certificate) string {
	switch c.PublicKeyAlgorithm {
	case x509.RSA:
		return "rsa"
	case x509.ECDSA:
		return "ecdsa"
	case x509.Ed25519:
		return "ed25519"
	}
	return strings.ToLower(c.PublicKeyAlgorithm.String())
}

func readTable(path string) (string, error) {
	data, err := atomicfile.Read(realPath(path), maxTable)
	return string(data), err
}

// certificateFiles are the files a service's certificates are read from, in
// the order Postfix loads them: smtpd_tls_chain_files, or else the legacy
// slots. postconf(5) smtpd_tls_chain_files: when it is non-empty, the legacy
// parameters are ignored.
func certificateFiles(s cf.Snapshot, service string) []string {
	if v := s.Effective(service, "smtpd_tls_chain_files"); v != "" {
		var out []string
		for _, f := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
			out = append(out, absolute(s, f))
		}
		return out
	}
	var out []string
	for _, p := range []string{"smtpd_tls_cert_file", "smtpd_tls_dcert_file", "smtpd_tls_eccert_file"} {
		if v := s.Effective(service, p); v != "" && v != "none" {
			out = append(out, absolute(s, v))
		}
	}
	return out
}

// absolute resolves a file name as a daemon does: its working directory is the
// queue directory.
func absolute(s cf.Snapshot, name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(s.Effective("", "queue_directory"), name)
}

// onDisk maps key type to the chain that a service would present if its
// process started now. A later file of the same type wins, as in Postfix's
// legacy slots.
//
// planned are files that are going to hold a pair: they count as if they did.
func onDisk(s cf.Snapshot, service string, planned map[string]keypair.Pair) map[string][][]byte {
	out := map[string][][]byte{}
	for _, path := range certificateFiles(s, service) {
		if pair, ok := planned[path]; ok {
			out[pair.KeyType()] = rawChain(pair.Chain())
			continue
		}
		chains, _, err := installedChains(path)
		if err != nil {
			continue
		}
		for _, chain := range chains {
			out[keyTypeOf(chain[0])] = rawChain(chain)
		}
	}
	return out
}

func rawChain(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, len(chain))
	for i, c := range chain {
		out[i] = c.Raw
	}
	return out
}

func sameChain(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return len(a) > 0
}

// look describes installed files for the choice of the scheme.
func look(anchors verify.Anchors, now time.Time) func(paths ...string) cf.Present {
	return func(paths ...string) cf.Present {
		p := cf.Present{Trusted: true}
		keyed := false
		for _, path := range paths {
			chains, hasKey, err := installedChains(path)
			if err != nil {
				return cf.Present{Err: err}
			}
			keyed = keyed || hasKey
			for _, chain := range chains {
				leaf := chain[0]
				p.KeyTypes = append(p.KeyTypes, keyTypeOf(leaf))
				p.Names = append(p.Names, leaf.DNSNames...)
				p.Expired = p.Expired || now.After(leaf.NotAfter)
				p.Trusted = p.Trusted && verify.Trusted(chain, anchors, now) == nil
			}
		}
		if !keyed {
			p.KeyTypes = nil
		}
		return p
	}
}
