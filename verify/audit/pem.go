package audit

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
)

// PEM is what a file of keys and certificates holds. No part of a key is in it.
type PEM struct {
	Keys      int    // private keys
	Encrypted bool   // one of them asks for a passphrase
	Certs     []Cert // in the order of the file; those that cannot be parsed are left out
}

// Cert is what rules ask about a certificate.
type Cert struct {
	KeyType    string // rsa, ecdsa, ...
	CA         bool
	ClientAuth bool // may be shown by a TLS client: its extended key usage says so, or says nothing
	Names      []string
}

// ReadPEM summarises a file. What is no PEM gives the zero value.
func ReadPEM(data []byte) PEM {
	var out PEM
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			return out
		}
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			out.Keys++
			// RFC 7468 section 11, and the older form of RFC 1421 section 4.6.1.1.
			out.Encrypted = out.Encrypted || block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED")
			clear(block.Bytes)
		case block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE" || block.Type == "TRUSTED CERTIFICATE":
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				out.Certs = append(out.Certs, certOf(c))
			} else if block.Type == "TRUSTED CERTIFICATE" {
				out.Certs = append(out.Certs, Cert{CA: true}) // OpenSSL's own form, with data behind it
			}
		}
	}
}

func certOf(c *x509.Certificate) Cert {
	client := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0
	for _, use := range c.ExtKeyUsage {
		client = client || use == x509.ExtKeyUsageClientAuth || use == x509.ExtKeyUsageAny
	}
	return Cert{
		KeyType: strings.ToLower(c.PublicKeyAlgorithm.String()), Names: c.DNSNames, ClientAuth: client,
		// A certificate of version 1 says nothing about it; old roots are such.
		CA: c.IsCA || c.Version < 3,
	}
}

// Entry is one entry of the source of a lookup table (postmap(1)).
type Entry struct {
	Key, Value string
	Line       int // of the file, from 1
}

// ReadTable reads the source of a lookup table: "key value" lines, which go on
// in lines that begin with white space.
func ReadTable(data []byte) []Entry {
	var out []Entry
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if len(out) > 0 {
				out[len(out)-1].Value += " " + text
			}
		default:
			key, value, _ := strings.Cut(strings.ReplaceAll(text, "\t", " "), " ")
			out = append(out, Entry{key, strings.TrimSpace(value), number})
		}
	}
	return out
}
