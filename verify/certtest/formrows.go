package certtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// full makes a row that edits fullchain.pem.
func full(edit func(pem []byte, h Hierarchy) []byte) func(testing.TB, Hierarchy) Case {
	return func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: edit(h.Pair.FullchainPEM(), h), Key: h.Pair.KeyPEM()}
	}
}

// secret makes a row that replaces privkey.pem.
func secret(edit func(t testing.TB, h Hierarchy) []byte) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.FullchainPEM(), Key: edit(t, h)}
	}
}

// leafOf makes a row whose leaf is another certificate under the same chain.
func leafOf(build func(t testing.TB, h Hierarchy) *Pair) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		p := build(t, h)
		return Case{Cert: p.FullchainPEM(), Key: p.KeyPEM()}
	}
}

// derLeaf makes a row whose leaf is signed again after an edit of its fields.
func derLeaf(edit func(*TBS)) func(testing.TB, Hierarchy) Case {
	return func(t testing.TB, h Hierarchy) Case {
		der := h.Issuer.ResignDER(t, h.Pair.Cert, EditTBS(t, edit))
		return Case{Cert: append(Block("CERTIFICATE", der), h.Pair.ChainPEM()...), Key: h.Pair.KeyPEM()}
	}
}

func relabel(b []byte, from, to string) []byte {
	b = bytes.Replace(b, []byte("BEGIN "+from), []byte("BEGIN "+to), 1)
	return bytes.Replace(b, []byte("END "+from), []byte("END "+to), 1)
}

func der(b []byte) []byte {
	block, _ := pem.Decode(b)
	return block.Bytes
}

// FormRows are the inputs that some reader misreads, and the forms that are
// accepted: what verify/keypair decides. Its ids are the stable ones.
var FormRows = []Row{
	{Name: "good", Make: full(func(b []byte, _ Hierarchy) []byte { return b })},
	{Name: "empty file", Want: "pem_empty", Make: full(func([]byte, Hierarchy) []byte { return []byte{} })},
	{Name: "newline only", Want: "pem_empty", Make: full(func([]byte, Hierarchy) []byte { return []byte("\n") })},
	{Name: "text only", Want: "pem_empty", Make: full(func([]byte, Hierarchy) []byte { return []byte("no certificate yet\n") })},
	{Name: "truncated base64", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte {
		lines := strings.SplitAfter(string(b), "\n")
		lines[4] = lines[4][:20] + "\n"
		return []byte(strings.Join(lines, ""))
	})},
	{Name: "damaged base64", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte {
		b[100] = '!'
		return b
	})},
	{Name: "blank line in a block", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte {
		return bytes.Replace(b, []byte("CERTIFICATE-----\n"), []byte("CERTIFICATE-----\n\n"), 1)
	})},
	{Name: "last END line cut", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte {
		return b[:bytes.LastIndex(b, []byte("-----END"))]
	})},
	{Name: "last END line half", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte { return b[:len(b)-8] })},
	{Name: "END line between cut", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte {
		return bytes.Replace(b, []byte("-----END CERTIFICATE-----\n"), nil, 1)
	})},
	{Name: "no newline between blocks", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte {
		return bytes.Replace(b, []byte("-----\n-----BEGIN"), []byte("----------BEGIN"), 1)
	})},
	{Name: "first BEGIN line cut", Want: "pem_truncated", Make: full(func(b []byte, _ Hierarchy) []byte { return b[40:] })},
	{Name: "DER certificate", Want: "pem_is_der", Make: full(func(b []byte, _ Hierarchy) []byte { return der(b) })},
	{Name: "DER key", Want: "pem_is_der", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return der(h.Pair.KeyPEM()) })},
	{Name: "CRLF", Make: full(func(b []byte, _ Hierarchy) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) })},
	{Name: "bare CR", Want: "pem_encoding", Make: full(func(b []byte, _ Hierarchy) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r")) })},
	{Name: "BOM", Want: "pem_bom", Make: full(func(b []byte, _ Hierarchy) []byte { return append([]byte("\xef\xbb\xbf"), b...) })},
	{Name: "BOM before text", Want: "pem_bom", Make: full(func(b []byte, _ Hierarchy) []byte { return append([]byte("\xef\xbb\xbfsubject=x\n"), b...) })},
	{Name: "BOM before the second block", Want: "pem_bom", Make: full(func(b []byte, _ Hierarchy) []byte {
		return bytes.Replace(b, []byte("-----\n-----"), []byte("-----\n\xef\xbb\xbf-----"), 1)
	})},
	{Name: "BOM before the key", Want: "pem_bom", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return append([]byte("\xef\xbb\xbf"), h.Pair.KeyPEM()...) })},
	{Name: "UTF-16", Want: "pem_encoding", Make: full(func(b []byte, _ Hierarchy) []byte {
		wide := []byte("\xff\xfe")
		for _, c := range b {
			wide = append(wide, c, 0)
		}
		return wide
	})},
	{Name: "NUL bytes", Want: "pem_encoding", Make: full(func(b []byte, _ Hierarchy) []byte { return append(b, 0, 0) })},
	{Name: "text before BEGIN", Make: full(func(b []byte, _ Hierarchy) []byte {
		return append([]byte("subject=CN = x\nBag Attributes: é\n"), b...)
	})},
	{Name: "label X509 CERTIFICATE", Want: "pem_label", Make: full(func(b []byte, _ Hierarchy) []byte { return relabel(b, "CERTIFICATE", "X509 CERTIFICATE") })},
	{Name: "label TRUSTED CERTIFICATE", Want: "pem_label", Make: full(func(b []byte, _ Hierarchy) []byte { return relabel(b, "CERTIFICATE", "TRUSTED CERTIFICATE") })},
	{Name: "unknown label", Want: "pem_label", Make: full(func(b []byte, _ Hierarchy) []byte { return append(b, Block("SOMETHING", []byte("x"))...) })},
	{Name: "header lines", Want: "pem_header", Make: full(func(b []byte, _ Hierarchy) []byte {
		return bytes.Replace(b, []byte("CERTIFICATE-----\n"), []byte("CERTIFICATE-----\nX-Note: y\n\n"), 1)
	})},
	{Name: "trailing byte after the leaf", Want: "der_trailing", Make: full(func(b []byte, h Hierarchy) []byte {
		return append(Block("CERTIFICATE", append(der(b), 0)), h.Pair.ChainPEM()...)
	})},
	{Name: "trailing byte after the key", Want: "der_trailing", Make: secret(func(_ testing.TB, h Hierarchy) []byte {
		return Block("PRIVATE KEY", append(der(h.Pair.KeyPEM()), 0))
	})},
	{Name: "arguments swapped", Want: "args_swapped", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.KeyPEM(), Key: h.Pair.FullchainPEM()}
	}},
	{Name: "only a key", Want: "cert_missing", Make: func(_ testing.TB, h Hierarchy) Case { return Case{Cert: h.Pair.KeyPEM()} }},
	{Name: "no key anywhere", Want: "key_missing", Make: func(_ testing.TB, h Hierarchy) Case { return Case{Cert: h.Pair.FullchainPEM()} }},
	{Name: "certificate for a key", Want: "key_missing", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return h.Pair.CertPEM() })},
	{Name: "key and chain in one file", Make: func(_ testing.TB, h Hierarchy) Case { return Case{Cert: h.Pair.PostfixPEM()} }},
	{Name: "key last in one file", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: append(h.Pair.FullchainPEM(), h.Pair.KeyPEM()...)}
	}},
	{Name: "one file under both flags", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.PostfixPEM(), Key: h.Pair.PostfixPEM()}
	}},
	{Name: "leaf, key and certificate in the key file", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.FullchainPEM(), Key: h.Pair.PostfixPEM()}
	}},
	{Name: "another certificate in the key file", Want: "pem_wrong_type", Make: secret(func(t testing.TB, h Hierarchy) []byte {
		return append(h.Pair.KeyPEM(), EncodeCerts(h.Root.Cert)...)
	})},
	{Name: "chain given", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.CertPEM(), Key: h.Pair.KeyPEM(), Chain: h.Pair.ChainPEM()}
	}},
	{Name: "chain given twice", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.FullchainPEM(), Key: h.Pair.KeyPEM(), Chain: h.Pair.ChainPEM()}
	}},
	{Name: "another chain given", Want: "chain_conflict", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.FullchainPEM(), Key: h.Pair.KeyPEM(), Chain: EncodeCerts(h.Root.Cert)}
	}},
	{Name: "key in the chain", Want: "pem_wrong_type", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: h.Pair.CertPEM(), Key: h.Pair.KeyPEM(), Chain: h.Pair.PostfixPEM()}
	}},
	{Name: "intermediate before leaf", Want: "chain_order", Make: func(_ testing.TB, h Hierarchy) Case {
		return Case{Cert: append(h.Pair.ChainPEM(), h.Pair.CertPEM()...), Key: h.Pair.KeyPEM()}
	}},
	{Name: "leaf twice", Want: "chain_duplicate", Make: full(func(b []byte, h Hierarchy) []byte { return append(h.Pair.CertPEM(), b...) })},
	{Name: "intermediate twice", Want: "chain_duplicate", Make: full(func(b []byte, h Hierarchy) []byte { return append(b, h.Pair.ChainPEM()...) })},
	{Name: "root appended", Warn: "root_included", Make: full(func(b []byte, h Hierarchy) []byte { return append(b, EncodeCerts(h.Root.Cert)...) })},
	{Name: "key of another certificate", Want: "key_mismatch", Make: secret(func(t testing.TB, h Hierarchy) []byte { return h.Issuer.Leaf(t, Leaf{}).KeyPEM() })},
	{Name: "key of another algorithm", Want: "key_mismatch", Make: secret(func(t testing.TB, h Hierarchy) []byte { return EncodeKey(NewKey(t, "p384")) })},
	{Name: "P-224", Want: "key_weak", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair { return h.Issuer.Leaf(t, Leaf{Key: "p224"}) })},
	{Name: "RSA-512", Want: "key_weak", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair { return h.Issuer.Leaf(t, Leaf{Key: "rsa512"}) })},
	{Name: "RSA-1024", Want: "key_weak", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair {
		return h.Issuer.Leaf(t, Leaf{Key: "rsa1024"})
	})},
	{Name: "RSA-8192", Want: "key_too_large", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair {
		return h.Issuer.Leaf(t, Leaf{Key: "rsa8192"})
	})},
	{Name: "intermediate of RSA-1024", Want: "key_weak", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair {
		return h.Root.Intermediate(t, Authority{Key: "rsa1024"}).Leaf(t, Leaf{Key: "ecdsa"})
	})},
	{Name: "Ed25519", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair {
		return h.Issuer.Leaf(t, Leaf{Key: "ed25519"})
	})},
	{Name: "PKCS#1 or SEC1", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return traditional(h.Pair.Key) })},
	{Name: "EC PARAMETERS and SEC1", Make: leafOfParams},
	{Name: "EC PARAMETERS alone", Want: "pem_wrong_type", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return append(h.Pair.KeyPEM(), ecParams...) })},
	{Name: "legacy encrypted key", Want: "key_encrypted", Make: secret(func(_ testing.TB, h Hierarchy) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("0123456789abcdef")})
	})},
	{Name: "ENCRYPTED PRIVATE KEY", Want: "key_encrypted", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return Block("ENCRYPTED PRIVATE KEY", []byte("x")) })},
	{Name: "OPENSSH PRIVATE KEY", Want: "key_format", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return Block("OPENSSH PRIVATE KEY", []byte("x")) })},
	{Name: "garbage in a key block", Want: "key_format", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return Block("PRIVATE KEY", []byte("x")) })},
	{Name: "two keys, wrong first", Want: "key_multiple", Make: secret(func(t testing.TB, h Hierarchy) []byte {
		return append(EncodeKey(NewKey(t, "ecdsa")), h.Pair.KeyPEM()...)
	})},
	{Name: "two keys, right first", Want: "key_multiple", Make: secret(func(t testing.TB, h Hierarchy) []byte {
		return append(h.Pair.KeyPEM(), EncodeKey(NewKey(t, "ecdsa"))...)
	})},
	{Name: "key with an altered number", Want: "key_inconsistent", Make: secret(func(_ testing.TB, h Hierarchy) []byte { return alteredKey(h) })},
	{Name: "3,000 intermediates", Want: "input_too_large", Make: full(func(b []byte, h Hierarchy) []byte { return append(b, bytes.Repeat(h.Pair.ChainPEM(), 3000)...) })},
	{Name: "21 certificates", Want: "input_too_large", Make: full(func(b []byte, h Hierarchy) []byte { return append(b, bytes.Repeat(h.Pair.ChainPEM(), 19)...) })},
	{Name: "101 names", Want: "input_too_large", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair {
		names := make([]string, 101)
		for i := range names {
			names[i] = "h" + big.NewInt(int64(i)).String() + ".example.org"
		}
		return h.Issuer.Leaf(t, Leaf{Names: names})
	})},
	{Name: "PKCS#7 block", Want: "pem_wrong_type", Make: full(func([]byte, Hierarchy) []byte { return Block("PKCS7", []byte("x")) })},
	{Name: "request", Want: "pem_wrong_type", Make: full(func([]byte, Hierarchy) []byte { return Block("CERTIFICATE REQUEST", []byte("x")) })},
	{Name: "CRL", Want: "pem_wrong_type", Make: full(func([]byte, Hierarchy) []byte { return Block("X509 CRL", []byte("x")) })},
	{Name: "public key", Want: "pem_wrong_type", Make: secret(func(testing.TB, Hierarchy) []byte { return Block("PUBLIC KEY", []byte("x")) })},
	{Name: "DH parameters", Want: "pem_wrong_type", Make: full(func(b []byte, _ Hierarchy) []byte { return append(b, Block("DH PARAMETERS", []byte("x"))...) })},
	{Name: "PKCS#12 file", Want: "pem_wrong_type", Make: full(func([]byte, Hierarchy) []byte {
		// SEQUENCE { INTEGER 3, SEQUENCE { OID data, padding } }: how a PFX (RFC 7292) begins.
		return append([]byte{0x30, 0x81, 0x90, 2, 1, 3, 0x30, 0x81, 0x8a, 4, 0x81, 0x87}, make([]byte, 0x87)...)
	})},
	{Name: "Java keystore", Want: "pem_wrong_type", Make: full(func([]byte, Hierarchy) []byte { return []byte("\xfe\xed\xfe\xed\x00\x00\x00\x02") })},
	{Name: "SHA-1 leaf", Want: "sig_weak", Make: func(t testing.TB, h Hierarchy) Case {
		return Case{Cert: append(Block("CERTIFICATE", h.Issuer.SHA1(t, h.Pair.Cert)), h.Pair.ChainPEM()...), Key: h.Pair.KeyPEM()}
	}},
	{Name: "SHA-1 intermediate", Want: "sig_weak", Make: func(t testing.TB, h Hierarchy) Case {
		c := append(h.Pair.CertPEM(), Block("CERTIFICATE", h.Issuer.Parent.SHA1(t, h.Issuer.Cert))...)
		return Case{Cert: append(c, EncodeCerts(h.Pair.Chain[1:]...)...), Key: h.Pair.KeyPEM()}
	}},
	{Name: "negative serial", Want: "der_invalid", Make: derLeaf(func(f *TBS) { f.Serial = asn1.RawValue{Tag: 2, Bytes: []byte{0xff, 1}} })},
	{Name: "serial of 21 octets", Want: "der_invalid", Make: derLeaf(func(f *TBS) { f.Serial = asn1.RawValue{Tag: 2, Bytes: bytes.Repeat([]byte{1}, 21)} })},
	{Name: "extension twice", Want: "der_invalid", Make: derLeaf(func(f *TBS) { f.Extensions = append(f.Extensions, f.Extensions[0]) })},
	{Name: "damaged BMPString", Want: "der_invalid", Make: derLeaf(func(f *TBS) {
		// Name { SET { SEQUENCE { OID commonName, BMPString of 3 octets } } }
		f.Subject = asn1.RawValue{FullBytes: []byte{0x30, 14, 0x31, 12, 0x30, 10, 6, 3, 0x55, 4, 3, 0x1e, 3, 'a', 'b', 'c'}}
	})},
	{Name: "date without seconds", Want: "der_invalid", Make: derLeaf(func(f *TBS) { f.Validity = validity("2601010000Z", "3001010000Z") })},
	{Name: "date with an offset", Want: "der_invalid", Make: derLeaf(func(f *TBS) { f.Validity = validity("260101000000+0100", "300101000000+0100") })},
	{Name: "year 9999", Want: "der_invalid", Make: leafOf(func(t testing.TB, h Hierarchy) *Pair {
		return h.Issuer.Leaf(t, Leaf{NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)})
	})},
	{Name: "indefinite length", Want: "der_invalid", Make: full(func(b []byte, h Hierarchy) []byte {
		d := der(b)
		return append(Block("CERTIFICATE", append(append([]byte{0x30, 0x80}, d[4:]...), 0, 0)), h.Pair.ChainPEM()...)
	})},
}

var ecParams = Block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})

func validity(from, to string) asn1.RawValue {
	b, err := asn1.Marshal(struct{ From, To asn1.RawValue }{asn1.RawValue{Tag: 23, Bytes: []byte(from)}, asn1.RawValue{Tag: 23, Bytes: []byte(to)}})
	if err != nil {
		panic(err)
	}
	return asn1.RawValue{FullBytes: b}
}

// traditional is the key in the format of its algorithm.
func traditional(key any) []byte {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return Block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k))
	case *ecdsa.PrivateKey:
		b, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			panic(err)
		}
		return Block("EC PRIVATE KEY", b)
	}
	panic("no such key")
}

// leafOfParams is what "openssl ecparam -genkey" writes.
func leafOfParams(t testing.TB, h Hierarchy) Case {
	p := h.Issuer.Leaf(t, Leaf{Key: "ecdsa"})
	return Case{Cert: p.FullchainPEM(), Key: append(append([]byte(nil), ecParams...), traditional(p.Key)...)}
}

// alteredKey is a key whose numbers do not belong together: RSA with another d,
// or ECDSA with somebody else's public point inside PKCS#8.
func alteredKey(h Hierarchy) []byte {
	if k, ok := h.Pair.Key.(*rsa.PrivateKey); ok {
		c := *k
		c.D = new(big.Int).Add(k.D, big.NewInt(2))
		return Block("RSA PRIVATE KEY", RawPKCS1(&c))
	}
	k := h.Pair.Key.(*ecdsa.PrivateKey)
	own, err := k.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	b := der(EncodeKey(k))
	at := bytes.Index(b, own)
	b[at+len(own)-1] ^= 1
	return Block("PRIVATE KEY", b)
}
