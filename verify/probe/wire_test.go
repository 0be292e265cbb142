package probe

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"

	"postcert/verify/probe/smtptest"
)

// What crypto/tls refuses to read, made from good certificates. Signatures of
// certificates play no role here, so bytes can be changed in place.

func negativeSerial(t testing.TB) []byte {
	t.Helper()
	der := sign(certificate("negative.example", false), caCert(), ecKey().Public())
	// serialNumber is the first INTEGER after the version.
	at := bytes.Index(der, []byte{0xa0, 0x03, 0x02, 0x01, 0x02, 0x02})
	if at < 0 {
		t.Fatal("no serial number found")
	}
	der[at+7] |= 0x80
	return der
}

func longRSA(t testing.TB) []byte {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), 8199)
	pub := &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
	return sign(certificate("long.example", false), caCert(), pub)
}

func unknownKeyType(t testing.TB) []byte {
	t.Helper()
	der := sign(certificate("unknown.example", false), caCert(), ecKey().Public())
	// id-ecPublicKey, 1.2.840.10045.2.1, becomes ...2.9, which nobody knows.
	oid := []byte{0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01}
	at := bytes.Index(der, oid)
	if at < 0 {
		t.Fatal("no key type found")
	}
	der[at+len(oid)-1] = 9
	return der
}

func TestUnreadableIsKept(t *testing.T) {
	for _, tt := range []struct {
		name   string
		der    []byte
		detail string
		parses bool
	}{
		{"negative serial number", negativeSerial(t), "negative serial number", false},
		{"RSA key of 8200 bits", longRSA(t), "8192", true},
		{"unknown key type", unknownKeyType(t), "unsupported type of public key", true},
		{"not a certificate", []byte("hello"), "failed to parse", false},
	} {
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+", "+tls.VersionName(version), func(t *testing.T) {
				served := tls.Certificate{Certificate: [][]byte{tt.der, caCert().Raw}, PrivateKey: ecKey()}
				limits := &tls.Config{MinVersion: version, MaxVersion: version}
				srv := smtptest.Start(t, smtptest.Script{TLS: limits}, served)
				r := Handshake(t.Context(), at(srv))
				if r.Reason != Unreadable || !strings.Contains(r.Detail, tt.detail) {
					t.Fatalf("got %s (%s), want unreadable (%s)", r.Reason, r.Detail, tt.detail)
				}
				if len(r.Raw) != 2 || !bytes.Equal(r.Raw[0], tt.der) || !bytes.Equal(r.Raw[1], caCert().Raw) {
					t.Errorf("got %x, want what was presented", r.Fingerprints())
				}
				if (len(r.Chain) == 2) != tt.parses || r.Protocol != version || r.Cipher == 0 {
					t.Errorf("got a chain of %d, %s", len(r.Chain), tls.VersionName(r.Protocol))
				}
				if v, _ := Compare(r, served.Certificate); v != Proven {
					t.Errorf("got %s against itself, want proven", v)
				}
				if v, why := Compare(r, pair("b.example", ecKey()).Certificate); v != Contradicted || why != OtherLeaf {
					t.Errorf("got %s, %s against another, want contradicted", v, why)
				}
			})
		}
	}
}

func TestCompare(t *testing.T) {
	a, b, c := sign(certificate("a", false), caCert(), ecKey().Public()), caCert().Raw, negativeSerial(t)
	chain := func(der ...[]byte) Result { return Result{Reason: OK, Raw: der} }
	for _, tt := range []struct {
		name   string
		result Result
		want   [][]byte
		as     Verdict
		why    Reason
	}{
		{"equal", chain(a, b), [][]byte{a, b}, Proven, OK},
		{"other leaf", chain(b, a), [][]byte{a, b}, Contradicted, OtherLeaf},
		{"intermediate missing", chain(a), [][]byte{a, b}, Contradicted, OtherChain},
		{"one more", chain(a, b), [][]byte{a}, Contradicted, OtherChain},
		{"other order", chain(a, b, c), [][]byte{a, c, b}, Contradicted, OtherChain},
		{"nothing presented", chain(), [][]byte{a}, Contradicted, OtherLeaf},
		{"nothing wanted", chain(a), nil, NotVerified, OK},
		{"nothing at all", chain(), nil, NotVerified, OK},
		{"unreadable, not kept", Result{Reason: Unreadable}, [][]byte{a, b}, Contradicted, Unreadable},
		{"unreadable, not kept, wanted is unreadable", Result{Reason: Unreadable}, [][]byte{c, b}, NotVerified, Unreadable},
		{"unreadable, not kept, wanted is long", Result{Reason: Unreadable}, [][]byte{longRSA(t)}, NotVerified, Unreadable},
		{"closed early", Result{Reason: Closed, Phase: Greeting}, [][]byte{a}, NotVerified, Closed},
		{"closed in TLS", Result{Reason: Closed, Phase: Handshaking}, [][]byte{a}, Contradicted, Closed},
		{"not asked", Result{Reason: NotAsked}, [][]byte{a}, NotVerified, NotAsked},
		{"the zero result", Result{}, [][]byte{a}, NotVerified, ""},
	} {
		if v, why := Compare(tt.result, tt.want); v != tt.as || why != tt.why {
			t.Errorf("%s: got %s, %s; want %s, %s", tt.name, v, why, tt.as, tt.why)
		}
	}
}

// FuzzWire: whatever the bytes of a connection, reading them ends, without a
// panic, and gives no more than was there.
func FuzzWire(f *testing.F) {
	hello := "\x02\x00\x00\x28\x03\x03" + strings.Repeat("r", 32) + "\x00\xc0\x2b\x00\x00\x00"
	f.Add([]byte("\x16\x03\x03\x00\x2c"+hello+"\x16\x03\x03\x00\x0b\x0b\x00\x00\x07\x00\x00\x04\x00\x00\x01x"), []byte(nil))
	f.Add([]byte("\x16\x03\x03\x00\x02\x02\x00\x17\x03\x03\x00\x01x"), bytes.Repeat([]byte{1}, 48))
	f.Add([]byte{21, 3, 3, 0, 2, 2, 40}, []byte(nil))
	f.Fuzz(func(t *testing.T, seen, secret []byte) {
		var r Result
		fromWire(&r, seen, secret)
		total := 0
		for _, der := range r.Raw {
			total += len(der)
		}
		if total > len(seen) {
			t.Errorf("%d bytes of certificates in %d", total, len(seen))
		}
		if len(r.Chain) != 0 && len(r.Chain) != len(r.Raw) {
			t.Errorf("a chain of %d from %d", len(r.Chain), len(r.Raw))
		}
		for i, c := range r.Chain {
			if _, err := x509.ParseCertificate(c.Raw); err != nil || !bytes.Equal(c.Raw, r.Raw[i]) {
				t.Errorf("certificate %d: %v", i, err)
			}
		}
	})
}
