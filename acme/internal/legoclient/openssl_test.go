package legoclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// openssl is another implementation's opinion.
func openssl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestOpenSSLChain: openssl finds the downloaded chain whole and fit for a server,
// in the order that it came.
func TestOpenSSLChain(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{ChainLength: 3})
	chain := w.issue(w.http(), OrderRequest{Identifiers: []string{"mail.example.test"}})
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var blocks [2][]byte
	for i, c := range chain.Certificates {
		at := min(i, 1)
		blocks[at] = append(blocks[at], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	leaf, rest, roots := write("leaf.pem", blocks[0]), write("chain.pem", blocks[1]), write("roots.pem", w.IssuersPEM())
	got := openssl(t, "", "verify", "-purpose", "sslserver", "-verify_hostname", "mail.example.test", "-no-CApath", "-CAfile", roots, "-untrusted", rest, leaf)
	if !strings.Contains(got, ": OK") {
		t.Errorf("got %s", got)
	}
}

// TestOpenSSLChallenge: openssl sees what RFC 8737 asks for: the protocol, the one
// name, and the digest in a critical extension.
func TestOpenSSLChallenge(t *testing.T) {
	addr := "127.0.0.1:" + strconv.Itoa(freePort(t))
	down, err := alpnServer{addr}.present(t.Context(), someTasks)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = down(t.Context()) }()
	session := openssl(t, "", "s_client", "-connect", addr, "-servername", "a.example.test", "-alpn", acmeTLS)
	if !strings.Contains(session, "ALPN protocol: acme-tls/1") {
		t.Errorf("got %s", session)
	}
	text := openssl(t, session, "x509", "-noout", "-text")
	digest := sha256.Sum256([]byte(someTasks[0].keyAuth))
	if !strings.Contains(text, "DNS:a.example.test\n") || !strings.Contains(text, "1.3.6.1.5.5.7.1.31: critical") {
		t.Errorf("got %s", text)
	}
	der := openssl(t, session, "x509", "-outform", "DER")
	if !strings.Contains(hex.EncodeToString([]byte(der)), "0420"+hex.EncodeToString(digest[:])) {
		t.Error("the digest is not in the certificate as an OCTET STRING")
	}
}
