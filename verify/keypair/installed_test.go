package keypair_test

import (
	"bytes"
	"testing"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// TestInstalled: the file that Postfix reads is read by Postfix's rules.
func TestInstalled(t *testing.T) {
	h := certtest.NewHierarchy(t, "ecdsa", 3)
	weak := h.Issuer.Leaf(t, certtest.Leaf{Key: "rsa1024"})
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	key, cert, chain := h.Pair.KeyPEM(), h.Pair.CertPEM(), h.Pair.ChainPEM()
	for _, c := range []struct {
		name, id string
		data     []byte
	}{
		{"ours", "", h.Pair.PostfixPEM()},
		{"weak, but installed", "", weak.PostfixPEM()},
		{"other objects between", "", cat(certtest.Block("DH PARAMETERS", []byte("x")), key, certtest.Block("X509 CRL", []byte("x")), cert, chain)},
		{"old label", "", cat(key, bytes.ReplaceAll(cert, []byte("CERTIFICATE"), []byte("X509 CERTIFICATE")), chain)},
		{"leaf only", "", cat(key, cert)},
		{"root included", "", cat(h.Pair.PostfixPEM(), certtest.EncodeCerts(h.Root.Cert))},
		{"key last", "key_not_first", cat(cert, chain, key)},
		{"key in the middle", "key_not_first", cat(cert, key, chain)},
		{"no key", "key_not_first", cat(cert, chain)},
		{"no certificate", "cert_missing", key},
		{"trusted label alone", "cert_missing", cat(key, bytes.ReplaceAll(cert, []byte("CERTIFICATE"), []byte("TRUSTED CERTIFICATE")))},
		{"nothing", "pem_empty", nil},
		{"two keys", "key_multiple", cat(key, cert, certtest.EncodeKey(certtest.NewKey(t, "rsa")))},
		{"intermediate first", "chain_order", cat(key, chain, cert)},
		{"another key", "key_mismatch", cat(certtest.EncodeKey(certtest.NewKey(t, "ecdsa")), cert)},
		{"excess data", "der_trailing", cat(key, certtest.Block("CERTIFICATE", append(der(cert), 0)), chain)},
		{"cut", "pem_truncated", h.Pair.PostfixPEM()[:900]},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := keypair.ParseInstalled(keypair.Input{Name: "x.pem", Data: c.data})
			if c.id == "" && (err != nil || p.IsZero()) {
				t.Errorf("refused: %v", err)
			}
			if l := problem.From(err); c.id != "" && (len(l) != 1 || l[0].ID != c.id) {
				t.Errorf("got %v, want %s", err, c.id)
			}
		})
	}
}

// TestPair: the values of a pair, and of none.
func TestPair(t *testing.T) {
	h := certtest.NewHierarchy(t, "rsa", 3)
	p, err := keypair.ParseInstalled(keypair.Input{Name: "x", Data: h.Pair.PostfixPEM()})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Postfix(), h.Pair.PostfixPEM()) || !bytes.Equal(p.Fullchain(), h.Pair.FullchainPEM()) || !bytes.Equal(p.PrivateKey(), h.Pair.KeyPEM()) {
		t.Errorf("our encoding of our encoding differs")
	}
	if p.KeyType() != "rsa" || p.Fingerprint() != keypair.Fingerprint(h.Pair.Cert) || len(p.Intermediates()) != 2 {
		t.Errorf("got %s %s with %d intermediates", p.KeyType(), p.Fingerprint(), len(p.Intermediates()))
	}
	short := p.WithIntermediates(p.Intermediates()[:1])
	if len(short.Chain()) != 2 || len(p.Chain()) != 3 || short.Equal(p) || !short.WithIntermediates(p.Intermediates()).Equal(p) {
		t.Errorf("WithIntermediates changes what it should not")
	}
	p.Chain()[0] = nil
	if p.Leaf() == nil {
		t.Errorf("the pair can be changed through Chain")
	}
	var none keypair.Pair
	if !none.IsZero() || none.Leaf() != nil || none.Postfix() != nil || none.KeyType()+none.Fingerprint()+none.SPKI() != "" || none.String() != "no pair" || !none.Equal(keypair.Pair{}) || none.Equal(p) {
		t.Errorf("the zero pair is not empty")
	}
}
