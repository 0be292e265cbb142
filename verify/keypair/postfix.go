package keypair

import (
	"crypto/x509"

	"postcert/verify/problem"
)

// ParseInstalled reads a file as Postfix reads one of smtpd_tls_chain_files:
// by the rules of load_pem_object, load_cert and load_pkey in Postfix's
// src/tls/tls_certkey.c (the same from 3.4 to 3.11), for one key per file.
// Whether keys and signatures are strong is not asked: what is installed is
// installed. The error is a problem.List, or nil.
//
// The rules: the key is the first object and the first certificate is its own;
// CERTIFICATE, X509 CERTIFICATE, PRIVATE KEY, RSA PRIVATE KEY and EC PRIVATE KEY
// are read, other labels are passed over; no DER has excess data; a block that
// is damaged spoils the file.
func ParseInstalled(in Input) (Pair, error) {
	blocks, err := scan(in.Name, in.Data)
	if err != nil {
		return Pair{}, listed(err)
	}
	var key *block
	var certs []located
	for _, b := range blocks {
		if b.label == "X509 CERTIFICATE" {
			b.label = labelCertificate
		}
		if b.label != labelCertificate && !b.isKey() && b.label != "DSA PRIVATE KEY" {
			continue
		}
		checked, err := checkLabels(in.Name, []block{b})
		if err != nil {
			return Pair{}, listed(err)
		}
		b = checked[0]
		switch {
		case b.isKey() && key != nil:
			return Pair{}, listed(problem.New("key_multiple", b.at, "%s, line %d: a second private key", in.Name, b.at.Line))
		case b.isKey():
			key = &b
		case key == nil:
			return Pair{}, listed(problem.New("key_not_first", b.at, "%s, line %d: a certificate before the private key, which Postfix refuses in smtpd_tls_chain_files", in.Name, b.at.Line))
		case len(certs) == MaxCertificates:
			return Pair{}, listed(problem.New("input_too_large", b.at, "%s holds more than %d certificates", in.Name, MaxCertificates))
		default:
			c, err := x509.ParseCertificate(b.der)
			if err != nil {
				return Pair{}, listed(problem.New("der_invalid", b.at, "%s, line %d: the certificate in block %d is malformed: %v", in.Name, b.at.Line, b.at.Block, err))
			}
			certs = append(certs, located{c, b.at})
		}
	}
	return installed(in.Name, key, certs)
}

func installed(name string, key *block, certs []located) (Pair, error) {
	at := problem.At{File: name}
	switch {
	case key == nil:
		return Pair{}, listed(problem.New("key_missing", at, "%s holds no private key", name))
	case len(certs) == 0:
		return Pair{}, listed(problem.New("cert_missing", at, "%s holds no certificate for its key", name))
	}
	signer, err := parseKey(*key)
	if err != nil {
		return Pair{}, listed(err)
	}
	if err := match(signer, *key, certs); err != nil {
		return Pair{}, listed(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return Pair{}, listed(problem.New("key_format", key.at, "%s, line %d: the private key cannot be written as PKCS#8", name, key.at.Line))
	}
	in := &contents{key: func() []byte { return der }}
	for _, c := range certs {
		in.chain = append(in.chain, c.Certificate)
	}
	return Pair{in}, nil
}

// ours reads back what p would install, by Postfix's rules, and asks that it is
// p again. It can only fail if this package has a fault, and then before
// anything is installed.
func ours(p Pair) error {
	again, err := ParseInstalled(Input{Name: "our encoding", Data: p.Postfix()})
	if err != nil {
		return err
	}
	if !again.Equal(p) {
		return problem.New("encoding_differs", problem.At{}, "the pair, written and read again by Postfix's rules, is another pair")
	}
	return nil
}
