package keypair

import (
	"bytes"
	"crypto"
	"crypto/x509"

	"postcert/verify/problem"
)

// Input is one file's bytes and the name that messages call it by.
type Input struct {
	Name string // a path, or the like
	Data []byte
}

func (in Input) isZero() bool { return in.Name == "" && in.Data == nil }

// content is what one Input holds.
type content struct {
	name  string
	certs []block
	keys  []block
}

// Parse reads a pair from up to three inputs. cert must hold the leaf and may
// hold everything; key and chain may be zero, and are then looked for in cert.
// The list is of warnings; the error is a problem.List, or nil.
func Parse(cert, key, chain Input) (Pair, problem.List, error) {
	// The same file under two flags says nothing twice.
	if bytes.Equal(key.Data, cert.Data) && len(key.Data) > 0 {
		key = Input{}
	}
	if bytes.Equal(chain.Data, cert.Data) && len(chain.Data) > 0 {
		chain = Input{}
	}
	var found [3]content
	for i, in := range []Input{cert, key, chain} {
		c, err := read(in)
		if err != nil {
			return Pair{}, nil, listed(err)
		}
		found[i] = c
	}
	certs, keyBlock, err := combine(found[0], found[1], found[2])
	if err != nil {
		return Pair{}, nil, listed(err)
	}
	p, warnings, err := assemble(certs, keyBlock)
	if err != nil {
		return Pair{}, nil, listed(err)
	}
	if err := ours(p); err != nil {
		return Pair{}, nil, listed(err)
	}
	return p, warnings, nil
}

// listed makes every error a problem.List, so that callers meet one type.
func listed(err error) error {
	if l := problem.From(err); l != nil {
		return l
	}
	return problem.List{problem.New("input_unreadable", problem.At{}, "%v", err)}
}

func read(in Input) (content, error) {
	c := content{name: in.Name}
	if in.isZero() {
		return c, nil
	}
	blocks, err := scan(in.Name, in.Data)
	if err != nil {
		return c, err
	}
	if blocks, err = checkLabels(in.Name, blocks); err != nil {
		return c, err
	}
	for _, b := range blocks {
		if b.isKey() {
			c.keys = append(c.keys, b)
		} else {
			c.certs = append(c.certs, b)
		}
	}
	return c, nil
}

// combine decides which certificates and which key are meant.
func combine(cert, key, chain content) ([]block, block, error) {
	at := problem.At{File: cert.name}
	switch {
	case len(cert.certs) == 0 && len(cert.keys) > 0 && len(key.certs) > 0 && len(key.keys) == 0:
		return nil, block{}, problem.New("args_swapped", at, "%s holds a private key and %s a certificate: the two are swapped", cert.name, key.name)
	case len(cert.certs) == 0:
		return nil, block{}, problem.New("cert_missing", at, "%s holds no certificate", cert.name)
	case len(chain.keys) > 0:
		return nil, block{}, problem.New("pem_wrong_type", chain.keys[0].at, "%s, line %d: a private key among the intermediates", chain.name, chain.keys[0].at.Line)
	}
	keys := append(append([]block(nil), cert.keys...), key.keys...)
	switch {
	case len(keys) == 0 && key.name != "":
		return nil, block{}, problem.New("key_missing", problem.At{File: key.name}, "%s holds no private key", key.name)
	case len(keys) == 0:
		return nil, block{}, problem.New("key_missing", at, "%s holds no private key, and no key file is given", cert.name)
	case len(keys) > 1:
		return nil, block{}, problem.New("key_multiple", keys[1].at, "%s, line %d: a second private key; which one is meant is not for a reader to guess", keys[1].at.File, keys[1].at.Line)
	}
	for _, b := range key.certs {
		if !holds(cert.certs, b) {
			return nil, block{}, problem.New("pem_wrong_type", b.at, "%s, line %d: the key file holds a certificate that %s does not", key.name, b.at.Line, cert.name)
		}
	}
	certs := cert.certs
	switch {
	case len(certs) == 1:
		certs = append(certs[:1:1], chain.certs...)
	case len(chain.certs) > 0 && !sameBlocks(certs[1:], chain.certs):
		return nil, block{}, problem.New("chain_conflict", chain.certs[0].at, "%s holds intermediates, and %s holds others", cert.name, chain.name)
	}
	if len(certs) > MaxCertificates {
		return nil, block{}, problem.New("input_too_large", certs[MaxCertificates].at, "%d certificates; at most %d are read", len(certs), MaxCertificates)
	}
	return certs, keys[0], nil
}

func holds(blocks []block, b block) bool {
	for _, o := range blocks {
		if bytes.Equal(o.der, b.der) {
			return true
		}
	}
	return false
}

func sameBlocks(a, b []block) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i].der, b[i].der) {
			return false
		}
	}
	return true
}

// assemble decodes the blocks and judges them together.
func assemble(blocks []block, keyBlock block) (Pair, problem.List, error) {
	var certs []located
	for i, b := range blocks {
		for _, earlier := range blocks[:i] {
			if bytes.Equal(earlier.der, b.der) {
				return Pair{}, nil, problem.New("chain_duplicate", b.at, "%s, line %d: the certificate in block %d is also in block %d", b.at.File, b.at.Line, b.at.Block, earlier.at.Block)
			}
		}
		c, err := parseCertificate(b)
		if err != nil {
			return Pair{}, nil, err
		}
		certs = append(certs, c)
	}
	certs, root := dropRoot(certs)
	var weak, warnings problem.List
	for _, c := range certs {
		weak = append(weak, weaknesses(c)...)
	}
	if len(weak) > 0 {
		return Pair{}, nil, weak
	}
	key, err := parseKey(keyBlock)
	if err != nil {
		return Pair{}, nil, err
	}
	if err := match(key, keyBlock, certs); err != nil {
		return Pair{}, nil, err
	}
	in := &contents{}
	if root != nil {
		in.root = root.Certificate
		warnings = append(warnings, problem.Warn("root_included", root.at, "%s, line %d: the chain ends in the self-signed root %q, which clients do not need; it is left out", root.at.File, root.at.Line, Name(root.Certificate)))
	}
	for _, c := range certs {
		in.chain = append(in.chain, c.Certificate)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, nil, problem.New("key_format", keyBlock.at, "%s, line %d: the private key cannot be written as PKCS#8", keyBlock.at.File, keyBlock.at.Line)
	}
	in.key = func() []byte { return der }
	return Pair{in}, warnings, nil
}

// match tells whether the key is the leaf's, and if not, whose it is.
func match(key crypto.Signer, b block, certs []located) error {
	leaf := certs[0]
	if samePublic(key, leaf.PublicKey) {
		if !signs(key, leaf.PublicKey) {
			return problem.New("key_inconsistent", b.at, "%s, line %d: what the private key signs, its own public key does not verify", b.at.File, b.at.Line)
		}
		return nil
	}
	for i, c := range certs[1:] {
		if samePublic(key, c.PublicKey) {
			return problem.New("chain_order", c.at, "the private key belongs to certificate %d of the chain (%q); the leaf must come first", i+2, Name(c.Certificate))
		}
	}
	return problem.New("key_mismatch", b.at, "the private key in %s is not the key of the certificate in %s: SHA-256 of the public keys is %s and %s",
		b.at.File, leaf.at.File, publicHash(key), hexSum(leaf.RawSubjectPublicKeyInfo))
}
