package keypair_test

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

	"postcert/verify/certtest"
	"postcert/verify/keypair"
)

// row is one kind of input: what is made of a good pair, and the id it must
// earn. An empty id is an input to accept.
type row struct {
	name string
	id   string
	warn string // id of a warning that an accepted row earns
	make func(t testing.TB, h hierarchy) parts
}

// parts are the three inputs of Parse. A nil one is not given.
type parts struct{ cert, key, chain []byte }

func (p parts) inputs() (cert, key, chain keypair.Input) {
	in := func(name string, data []byte) keypair.Input {
		if data == nil {
			return keypair.Input{}
		}
		return keypair.Input{Name: name, Data: data}
	}
	return in("fullchain.pem", p.cert), in("privkey.pem", p.key), in("chain.pem", p.chain)
}

// hierarchy is a root, one intermediate, and a good leaf under it.
type hierarchy struct {
	root, inter *certtest.CA
	pair        *certtest.Pair
}

func newHierarchy(t testing.TB, kind string) hierarchy {
	t.Helper()
	root := certtest.NewCA(t, certtest.Authority{Key: kind})
	inter := root.Intermediate(t, certtest.Authority{})
	return hierarchy{root, inter, inter.Leaf(t, certtest.Leaf{})}
}

// full makes a row that edits fullchain.pem.
func full(edit func(pem []byte, h hierarchy) []byte) func(testing.TB, hierarchy) parts {
	return func(_ testing.TB, h hierarchy) parts {
		return parts{cert: edit(h.pair.FullchainPEM(), h), key: h.pair.KeyPEM()}
	}
}

// secret makes a row that replaces privkey.pem.
func secret(edit func(t testing.TB, h hierarchy) []byte) func(testing.TB, hierarchy) parts {
	return func(t testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.FullchainPEM(), key: edit(t, h)}
	}
}

// leafOf makes a row whose leaf is another certificate under the same chain.
func leafOf(make func(t testing.TB, h hierarchy) *certtest.Pair) func(testing.TB, hierarchy) parts {
	return func(t testing.TB, h hierarchy) parts {
		p := make(t, h)
		return parts{cert: p.FullchainPEM(), key: p.KeyPEM()}
	}
}

// derLeaf makes a row whose leaf is signed again after an edit of its fields.
func derLeaf(edit func(*certtest.TBS)) func(testing.TB, hierarchy) parts {
	return func(t testing.TB, h hierarchy) parts {
		der := h.inter.ResignDER(t, h.pair.Cert, certtest.EditTBS(t, edit))
		return parts{cert: append(certtest.Block("CERTIFICATE", der), h.pair.ChainPEM()...), key: h.pair.KeyPEM()}
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

// rows are the rows of form: each input that some reader misreads.
var rows = []row{
	{name: "good", make: full(func(b []byte, _ hierarchy) []byte { return b })},
	{name: "empty file", id: "pem_empty", make: full(func([]byte, hierarchy) []byte { return []byte{} })},
	{name: "newline only", id: "pem_empty", make: full(func([]byte, hierarchy) []byte { return []byte("\n") })},
	{name: "text only", id: "pem_empty", make: full(func([]byte, hierarchy) []byte { return []byte("no certificate yet\n") })},
	{name: "truncated base64", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte {
		lines := strings.SplitAfter(string(b), "\n")
		lines[4] = lines[4][:20] + "\n"
		return []byte(strings.Join(lines, ""))
	})},
	{name: "damaged base64", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte {
		b[100] = '!'
		return b
	})},
	{name: "blank line in a block", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte {
		return bytes.Replace(b, []byte("CERTIFICATE-----\n"), []byte("CERTIFICATE-----\n\n"), 1)
	})},
	{name: "last END line cut", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte {
		return b[:bytes.LastIndex(b, []byte("-----END"))]
	})},
	{name: "last END line half", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte { return b[:len(b)-8] })},
	{name: "END line between cut", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte {
		return bytes.Replace(b, []byte("-----END CERTIFICATE-----\n"), nil, 1)
	})},
	{name: "no newline between blocks", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte {
		return bytes.Replace(b, []byte("-----\n-----BEGIN"), []byte("----------BEGIN"), 1)
	})},
	{name: "first BEGIN line cut", id: "pem_truncated", make: full(func(b []byte, _ hierarchy) []byte { return b[40:] })},
	{name: "DER certificate", id: "pem_is_der", make: full(func(b []byte, _ hierarchy) []byte { return der(b) })},
	{name: "DER key", id: "pem_is_der", make: secret(func(_ testing.TB, h hierarchy) []byte { return der(h.pair.KeyPEM()) })},
	{name: "CRLF", make: full(func(b []byte, _ hierarchy) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) })},
	{name: "bare CR", id: "pem_encoding", make: full(func(b []byte, _ hierarchy) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r")) })},
	{name: "BOM", id: "pem_bom", make: full(func(b []byte, _ hierarchy) []byte { return append([]byte("\xef\xbb\xbf"), b...) })},
	{name: "BOM before the second block", id: "pem_bom", make: full(func(b []byte, _ hierarchy) []byte {
		return bytes.Replace(b, []byte("-----\n-----"), []byte("-----\n\xef\xbb\xbf-----"), 1)
	})},
	{name: "BOM before the key", id: "pem_bom", make: secret(func(_ testing.TB, h hierarchy) []byte { return append([]byte("\xef\xbb\xbf"), h.pair.KeyPEM()...) })},
	{name: "UTF-16", id: "pem_encoding", make: full(func(b []byte, _ hierarchy) []byte {
		wide := []byte("\xff\xfe")
		for _, c := range b {
			wide = append(wide, c, 0)
		}
		return wide
	})},
	{name: "NUL bytes", id: "pem_encoding", make: full(func(b []byte, _ hierarchy) []byte { return append(b, 0, 0) })},
	{name: "text before BEGIN", make: full(func(b []byte, _ hierarchy) []byte {
		return append([]byte("subject=CN = x\nBag Attributes: é\n"), b...)
	})},
	{name: "label X509 CERTIFICATE", id: "pem_label", make: full(func(b []byte, _ hierarchy) []byte { return relabel(b, "CERTIFICATE", "X509 CERTIFICATE") })},
	{name: "label TRUSTED CERTIFICATE", id: "pem_label", make: full(func(b []byte, _ hierarchy) []byte { return relabel(b, "CERTIFICATE", "TRUSTED CERTIFICATE") })},
	{name: "unknown label", id: "pem_label", make: full(func(b []byte, _ hierarchy) []byte { return append(b, certtest.Block("SOMETHING", []byte("x"))...) })},
	{name: "header lines", id: "pem_header", make: full(func(b []byte, _ hierarchy) []byte {
		return bytes.Replace(b, []byte("CERTIFICATE-----\n"), []byte("CERTIFICATE-----\nX-Note: y\n\n"), 1)
	})},
	{name: "trailing byte after the leaf", id: "der_trailing", make: full(func(b []byte, h hierarchy) []byte {
		return append(certtest.Block("CERTIFICATE", append(der(b), 0)), h.pair.ChainPEM()...)
	})},
	{name: "trailing byte after the key", id: "der_trailing", make: secret(func(_ testing.TB, h hierarchy) []byte {
		return certtest.Block("PRIVATE KEY", append(der(h.pair.KeyPEM()), 0))
	})},
	{name: "arguments swapped", id: "args_swapped", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.KeyPEM(), key: h.pair.FullchainPEM()}
	}},
	{name: "only a key", id: "cert_missing", make: func(_ testing.TB, h hierarchy) parts { return parts{cert: h.pair.KeyPEM()} }},
	{name: "no key anywhere", id: "key_missing", make: func(_ testing.TB, h hierarchy) parts { return parts{cert: h.pair.FullchainPEM()} }},
	{name: "certificate for a key", id: "key_missing", make: secret(func(_ testing.TB, h hierarchy) []byte { return h.pair.CertPEM() })},
	{name: "key and chain in one file", make: func(_ testing.TB, h hierarchy) parts { return parts{cert: h.pair.PostfixPEM()} }},
	{name: "key last in one file", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: append(h.pair.FullchainPEM(), h.pair.KeyPEM()...)}
	}},
	{name: "one file under both flags", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.PostfixPEM(), key: h.pair.PostfixPEM()}
	}},
	{name: "leaf, key and certificate in the key file", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.FullchainPEM(), key: h.pair.PostfixPEM()}
	}},
	{name: "another certificate in the key file", id: "pem_wrong_type", make: secret(func(t testing.TB, h hierarchy) []byte {
		return append(h.pair.KeyPEM(), certtest.EncodeCerts(h.root.Cert)...)
	})},
	{name: "chain given", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.CertPEM(), key: h.pair.KeyPEM(), chain: h.pair.ChainPEM()}
	}},
	{name: "chain given twice", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.FullchainPEM(), key: h.pair.KeyPEM(), chain: h.pair.ChainPEM()}
	}},
	{name: "another chain given", id: "chain_conflict", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.FullchainPEM(), key: h.pair.KeyPEM(), chain: certtest.EncodeCerts(h.root.Cert)}
	}},
	{name: "key in the chain", id: "pem_wrong_type", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: h.pair.CertPEM(), key: h.pair.KeyPEM(), chain: h.pair.PostfixPEM()}
	}},
	{name: "intermediate before leaf", id: "chain_order", make: func(_ testing.TB, h hierarchy) parts {
		return parts{cert: append(h.pair.ChainPEM(), h.pair.CertPEM()...), key: h.pair.KeyPEM()}
	}},
	{name: "leaf twice", id: "chain_duplicate", make: full(func(b []byte, h hierarchy) []byte { return append(h.pair.CertPEM(), b...) })},
	{name: "intermediate twice", id: "chain_duplicate", make: full(func(b []byte, h hierarchy) []byte { return append(b, h.pair.ChainPEM()...) })},
	{name: "root appended", warn: "root_included", make: full(func(b []byte, h hierarchy) []byte { return append(b, certtest.EncodeCerts(h.root.Cert)...) })},
	{name: "key of another certificate", id: "key_mismatch", make: secret(func(t testing.TB, h hierarchy) []byte { return h.inter.Leaf(t, certtest.Leaf{}).KeyPEM() })},
	{name: "key of another algorithm", id: "key_mismatch", make: secret(func(t testing.TB, h hierarchy) []byte { return certtest.EncodeKey(certtest.NewKey(t, "p384")) })},
	{name: "P-224", id: "key_weak", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair { return h.inter.Leaf(t, certtest.Leaf{Key: "p224"}) })},
	{name: "RSA-512", id: "key_weak", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair { return h.inter.Leaf(t, certtest.Leaf{Key: "rsa512"}) })},
	{name: "RSA-1024", id: "key_weak", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair {
		return h.inter.Leaf(t, certtest.Leaf{Key: "rsa1024"})
	})},
	{name: "RSA-8192", id: "key_too_large", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair {
		return h.inter.Leaf(t, certtest.Leaf{Key: "rsa8192"})
	})},
	{name: "intermediate of RSA-1024", id: "key_weak", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair {
		return h.root.Intermediate(t, certtest.Authority{Key: "rsa1024"}).Leaf(t, certtest.Leaf{Key: "ecdsa"})
	})},
	{name: "Ed25519", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair {
		return h.inter.Leaf(t, certtest.Leaf{Key: "ed25519"})
	})},
	{name: "PKCS#1 or SEC1", make: secret(func(_ testing.TB, h hierarchy) []byte { return traditional(h.pair.Key) })},
	{name: "EC PARAMETERS and SEC1", make: leafOfParams},
	{name: "EC PARAMETERS alone", id: "pem_wrong_type", make: secret(func(_ testing.TB, h hierarchy) []byte { return append(h.pair.KeyPEM(), ecParams...) })},
	{name: "legacy encrypted key", id: "key_encrypted", make: secret(func(_ testing.TB, h hierarchy) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("0123456789abcdef")})
	})},
	{name: "ENCRYPTED PRIVATE KEY", id: "key_encrypted", make: secret(func(_ testing.TB, h hierarchy) []byte { return certtest.Block("ENCRYPTED PRIVATE KEY", []byte("x")) })},
	{name: "OPENSSH PRIVATE KEY", id: "key_format", make: secret(func(_ testing.TB, h hierarchy) []byte { return certtest.Block("OPENSSH PRIVATE KEY", []byte("x")) })},
	{name: "garbage in a key block", id: "key_format", make: secret(func(_ testing.TB, h hierarchy) []byte { return certtest.Block("PRIVATE KEY", []byte("x")) })},
	{name: "two keys, wrong first", id: "key_multiple", make: secret(func(t testing.TB, h hierarchy) []byte {
		return append(certtest.EncodeKey(certtest.NewKey(t, "ecdsa")), h.pair.KeyPEM()...)
	})},
	{name: "two keys, right first", id: "key_multiple", make: secret(func(t testing.TB, h hierarchy) []byte {
		return append(h.pair.KeyPEM(), certtest.EncodeKey(certtest.NewKey(t, "ecdsa"))...)
	})},
	{name: "key with an altered number", id: "key_inconsistent", make: secret(func(_ testing.TB, h hierarchy) []byte { return alteredKey(h) })},
	{name: "3,000 intermediates", id: "input_too_large", make: full(func(b []byte, h hierarchy) []byte { return append(b, bytes.Repeat(h.pair.ChainPEM(), 3000)...) })},
	{name: "21 certificates", id: "input_too_large", make: full(func(b []byte, h hierarchy) []byte { return append(b, bytes.Repeat(h.pair.ChainPEM(), 19)...) })},
	{name: "101 names", id: "input_too_large", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair {
		names := make([]string, 101)
		for i := range names {
			names[i] = "h" + big.NewInt(int64(i)).String() + ".example.org"
		}
		return h.inter.Leaf(t, certtest.Leaf{Names: names})
	})},
	{name: "PKCS#7 block", id: "pem_wrong_type", make: full(func([]byte, hierarchy) []byte { return certtest.Block("PKCS7", []byte("x")) })},
	{name: "request", id: "pem_wrong_type", make: full(func([]byte, hierarchy) []byte { return certtest.Block("CERTIFICATE REQUEST", []byte("x")) })},
	{name: "CRL", id: "pem_wrong_type", make: full(func([]byte, hierarchy) []byte { return certtest.Block("X509 CRL", []byte("x")) })},
	{name: "public key", id: "pem_wrong_type", make: secret(func(testing.TB, hierarchy) []byte { return certtest.Block("PUBLIC KEY", []byte("x")) })},
	{name: "DH parameters", id: "pem_wrong_type", make: full(func(b []byte, _ hierarchy) []byte { return append(b, certtest.Block("DH PARAMETERS", []byte("x"))...) })},
	{name: "PKCS#12 file", id: "pem_wrong_type", make: full(func([]byte, hierarchy) []byte {
		// SEQUENCE { INTEGER 3, SEQUENCE { OID data, padding } }: how a PFX (RFC 7292) begins.
		return append([]byte{0x30, 0x81, 0x90, 2, 1, 3, 0x30, 0x81, 0x8a, 4, 0x81, 0x87}, make([]byte, 0x87)...)
	})},
	{name: "Java keystore", id: "pem_wrong_type", make: full(func([]byte, hierarchy) []byte { return []byte("\xfe\xed\xfe\xed\x00\x00\x00\x02") })},
	{name: "SHA-1 leaf", id: "sig_weak", make: func(t testing.TB, h hierarchy) parts {
		return parts{cert: append(certtest.Block("CERTIFICATE", h.inter.SHA1(t, h.pair.Cert)), h.pair.ChainPEM()...), key: h.pair.KeyPEM()}
	}},
	{name: "SHA-1 intermediate", id: "sig_weak", make: func(t testing.TB, h hierarchy) parts {
		return parts{cert: append(h.pair.CertPEM(), certtest.Block("CERTIFICATE", h.root.SHA1(t, h.inter.Cert))...), key: h.pair.KeyPEM()}
	}},
	{name: "negative serial", id: "der_invalid", make: derLeaf(func(f *certtest.TBS) { f.Serial = asn1.RawValue{Tag: 2, Bytes: []byte{0xff, 1}} })},
	{name: "serial of 21 octets", id: "der_invalid", make: derLeaf(func(f *certtest.TBS) { f.Serial = asn1.RawValue{Tag: 2, Bytes: bytes.Repeat([]byte{1}, 21)} })},
	{name: "extension twice", id: "der_invalid", make: derLeaf(func(f *certtest.TBS) { f.Extensions = append(f.Extensions, f.Extensions[0]) })},
	{name: "damaged BMPString", id: "der_invalid", make: derLeaf(func(f *certtest.TBS) {
		// Name { SET { SEQUENCE { OID commonName, BMPString of 3 octets } } }
		f.Subject = asn1.RawValue{FullBytes: []byte{0x30, 14, 0x31, 12, 0x30, 10, 6, 3, 0x55, 4, 3, 0x1e, 3, 'a', 'b', 'c'}}
	})},
	{name: "date without seconds", id: "der_invalid", make: derLeaf(func(f *certtest.TBS) { f.Validity = validity("2601010000Z", "3001010000Z") })},
	{name: "date with an offset", id: "der_invalid", make: derLeaf(func(f *certtest.TBS) { f.Validity = validity("260101000000+0100", "300101000000+0100") })},
	{name: "year 9999", id: "der_invalid", make: leafOf(func(t testing.TB, h hierarchy) *certtest.Pair {
		return h.inter.Leaf(t, certtest.Leaf{NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)})
	})},
	{name: "indefinite length", id: "der_invalid", make: full(func(b []byte, h hierarchy) []byte {
		d := der(b)
		return append(certtest.Block("CERTIFICATE", append(append([]byte{0x30, 0x80}, d[4:]...), 0, 0)), h.pair.ChainPEM()...)
	})},
}

var ecParams = certtest.Block("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})

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
		return certtest.Block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k))
	case *ecdsa.PrivateKey:
		b, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			panic(err)
		}
		return certtest.Block("EC PRIVATE KEY", b)
	}
	panic("no such key")
}

// leafOfParams is what "openssl ecparam -genkey" writes.
func leafOfParams(t testing.TB, h hierarchy) parts {
	p := h.inter.Leaf(t, certtest.Leaf{Key: "ecdsa"})
	return parts{cert: p.FullchainPEM(), key: append(append([]byte(nil), ecParams...), traditional(p.Key)...)}
}

// alteredKey is a key whose numbers do not belong together: RSA with another d,
// or ECDSA with somebody else's public point inside PKCS#8.
func alteredKey(h hierarchy) []byte {
	if k, ok := h.pair.Key.(*rsa.PrivateKey); ok {
		c := *k
		c.D = new(big.Int).Add(k.D, big.NewInt(2))
		return certtest.Block("RSA PRIVATE KEY", certtest.RawPKCS1(&c))
	}
	k := h.pair.Key.(*ecdsa.PrivateKey)
	own, err := k.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	b := der(certtest.EncodeKey(k))
	at := bytes.Index(b, own)
	b[at+len(own)-1] ^= 1
	return certtest.Block("PRIVATE KEY", b)
}
