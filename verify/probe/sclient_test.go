package probe

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
)

// sclientOutput is what openssl s_client -showcerts prints, in the form of
// OpenSSL 3.0, with these certificates.
func sclientOutput(ders ...[]byte) string {
	var b strings.Builder
	b.WriteString("CONNECTED(00000003)\n---\nCertificate chain\n")
	for _, der := range ders {
		b.WriteString(" 0 s:CN = mail.example.com\n   i:CN = test root\n   a:PKEY: id-ecPublicKey, 256 (bit); sigalg: ecdsa-with-SHA256\n")
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	b.WriteString("---\nServer certificate\nsubject=CN = mail.example.com\n\nissuer=CN = test root\n\n---\n" +
		"No client certificate CA names sent\nPeer signing digest: SHA256\nPeer signature type: ECDSA\n---\n" +
		"SSL handshake has read 1100 bytes and written 400 bytes\nVerification error: self-signed certificate\n---\n" +
		"New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384\nServer public key is 256 bit\n---\n221 2.0.0 Bye\nclosed\n")
	return b.String()
}

const sclientNoPeer = `CONNECTED(00000003)
---
no peer certificate available
---
No client certificate CA names sent
---
SSL handshake has read 7 bytes and written 250 bytes
Verification: OK
---
New, (NONE), Cipher is (NONE)
Secure Renegotiation IS NOT supported
---
`

const sclientAlert40 = "40B7A5:error:0A000410:SSL routines:ssl3_read_bytes:sslv3 alert handshake failure:../ssl/record/rec_layer_s3.c:1586:SSL alert number 40\n"

func TestParseSClient(t *testing.T) {
	a, b := []byte("one certificate"), []byte("another")
	whole := sclientOutput(a, b)
	for _, tt := range []struct {
		name, stdout, stderr string
		want                 sclient
	}{
		{"chain of two", whole, "", sclient{complete: true, raw: [][]byte{a, b}, protocol: tls.VersionTLS13, cipher: tls.TLS_AES_256_GCM_SHA384}},
		{"line ends of another system", strings.ReplaceAll(whole, "\n", "\r\n"), "", sclient{complete: true, raw: [][]byte{a, b}, protocol: tls.VersionTLS13, cipher: tls.TLS_AES_256_GCM_SHA384}},
		{"TLS 1.2 suite", strings.ReplaceAll(whole, "TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384", "TLSv1.2, Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"), "",
			sclient{complete: true, raw: [][]byte{a, b}, protocol: tls.VersionTLS12}},
		{"alert", sclientNoPeer, sclientAlert40, sclient{alert: 40}},
		{"certificates, then an alert", strings.ReplaceAll(whole, "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384", "New, (NONE), Cipher is (NONE)"), sclientAlert40,
			sclient{raw: [][]byte{a, b}, alert: 40}},
		{"cut before the end of the chain", whole[:strings.Index(whole, "---\nServer certificate")], "", sclient{}},
		{"cut before the end of the handshake", whole[:strings.Index(whole, "New, ")], "", sclient{raw: [][]byte{a, b}}},
		{"certificate in what the server says", sclientOutput(a) + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b})), "",
			sclient{complete: true, raw: [][]byte{a}, protocol: tls.VersionTLS13, cipher: tls.TLS_AES_256_GCM_SHA384}},
		{"no certificate", sclientOutput(), "", sclient{protocol: tls.VersionTLS13, cipher: tls.TLS_AES_256_GCM_SHA384}},
		{"nothing", "", "", sclient{}},
		{"alert that is no number of an alert", "", "SSL alert number 999", sclient{alert: 255}},
	} {
		got := parseSClient([]byte(tt.stdout), []byte(tt.stderr))
		if got.complete != tt.want.complete || got.protocol != tt.want.protocol || got.cipher != tt.want.cipher ||
			got.alert != tt.want.alert || !slices.EqualFunc(got.raw, tt.want.raw, bytes.Equal) {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestSClientArguments(t *testing.T) {
	const usual = "s_client -showcerts -ign_eof -no_ticket -cipher ALL:@SECLEVEL=0 "
	for _, tt := range []struct {
		name string
		e    Endpoint
		want string
	}{
		{"tcp", Endpoint{Address: "[::1]:25", KeyType: RSA}, "-connect [::1]:25 -starttls smtp -name [127.0.0.1] -noservername -tls1_3 -sigalgs " + sigalgs[RSA]},
		{"tcp4, implicit, SNI", Endpoint{Network: "tcp4", Address: "a:465", Mode: Implicit, ServerName: "b.example", KeyType: ECDSA}, "-connect a:465 -4 -servername b.example -tls1_3 -sigalgs " + sigalgs[ECDSA]},
		{"tcp6", Endpoint{Network: "tcp6", Address: "a:465", Mode: Implicit}, "-connect a:465 -6 -noservername"},
		{"unix", Endpoint{Network: "unix", Address: "/s"}, "-unix /s -starttls smtp -name [127.0.0.1] -noservername"},
		{"imap", Endpoint{Address: "a:143", Protocol: IMAP}, "-connect a:143 -starttls imap -noservername"},
		{"an address is no server name", Endpoint{Address: "a:143", Protocol: IMAP, ServerName: "192.0.2.1"}, "-connect a:143 -starttls imap -noservername"},
	} {
		if got := strings.Join(sclientArgs(tt.e.withDefaults()), " "); got != usual+tt.want {
			t.Errorf("%s: got %s", tt.name, got)
		}
	}
}

// FuzzSClient: whatever openssl prints, reading it ends, and a handshake counts
// as complete only with certificates that stand in the output.
func FuzzSClient(f *testing.F) {
	f.Add([]byte(sclientOutput([]byte("a"), []byte("b"))), []byte(""))
	f.Add([]byte(sclientNoPeer), []byte(sclientAlert40))
	f.Add([]byte("Certificate chain\n---\n"), []byte("SSL alert number "))
	f.Add([]byte("Certificate chain\n-----BEGIN CERTIFICATE-----\n---\nNew, TLSv1.2, Cipher is X\n"), []byte(nil))
	f.Fuzz(func(t *testing.T, stdout, stderr []byte) {
		s := parseSClient(stdout, stderr)
		if s.complete && (len(s.raw) == 0 || !bytes.Contains(stdout, []byte("BEGIN CERTIFICATE"))) {
			t.Errorf("complete without a certificate: %q", stdout)
		}
		total := 0
		for _, der := range s.raw {
			total += len(der)
		}
		if total > len(stdout) {
			t.Errorf("%d bytes of certificates in %d", total, len(stdout))
		}
		r := s.result(Result{})
		if len(r.Chain) != 0 && len(r.Chain) != len(r.Raw) {
			t.Errorf("a chain of %d from %d", len(r.Chain), len(r.Raw))
		}
	})
}
