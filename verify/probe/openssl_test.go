package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postcert/verify/probe/smtptest"
)

// sserver is an openssl s_server on a UNIX socket. It ends a connection when
// the client says QUIT, and counts how often one did.
type sserver struct {
	socket string
	quits  atomic.Int32
}

func startSServer(t *testing.T, args ...string) *sserver {
	t.Helper()
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		t.Fatal(err)
	}
	s := &sserver{socket: filepath.Join(dir, "s")}
	cmd := exec.Command(opensslPath(t), append([]string{"s_server", "-unix", s.socket}, args...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = &onQuit{server: s, stdin: stdin}, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("openssl s_server %s:\n%s", strings.Join(args, " "), stderr)
		}
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if listens(t, s.socket) {
			return s
		}
		if time.Now().After(end) {
			t.Fatal("openssl s_server does not listen")
		}
	}
}

// listens tells whether a UNIX socket takes connections, which it does a moment
// after its file is there. A connection to see would count as one of the test's.
func listens(t *testing.T, path string) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	const acceptsConnections = "00010000" // the fourth field, __SO_ACCEPTCON
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 8 && f[7] == path && f[3] == acceptsConnections {
			return true
		}
	}
	return false
}

// onQuit reads what clients say.
type onQuit struct {
	server *sserver
	stdin  io.Writer
}

func (q *onQuit) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("QUIT\r\n")) {
		q.server.quits.Add(1)
		_, _ = io.WriteString(q.stdin, "q\n") // end this connection
	}
	return len(p), nil
}

// oracle asks openssl s_client, independently of the code under test, and
// returns the certificates it shows.
func oracle(t *testing.T, args ...string) [][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, opensslPath(t), append([]string{"s_client", "-showcerts", "-ign_eof"}, args...)...)
	cmd.Stdin = strings.NewReader("QUIT\r\n")
	out, _ := cmd.Output()
	var chain [][]byte
	for _, m := range regexp.MustCompile(`(?s)-----BEGIN CERT.*?-----END CERTIFICATE-----`).FindAll(out, -1) {
		b, _ := pem.Decode(m)
		chain = append(chain, b.Bytes)
	}
	return chain
}

// servers starts an openssl s_server with an ECDSA and an RSA pair, behind SMTP.
func dualServer(t *testing.T, ec, rsa tls.Certificate, network string, limits ...string) (*smtptest.Server, *sserver) {
	t.Helper()
	dir := t.TempDir()
	ecFile, rsaFile := files(t, dir, "ec.pem", ec), files(t, dir, "rsa.pem", rsa)
	back := startSServer(t, append([]string{
		"-cert", ecFile, "-key", ecFile, "-cert_chain", files(t, dir, "chain1.pem", tls.Certificate{PrivateKey: ecKey(), Certificate: ec.Certificate[1:]}),
		"-dcert", rsaFile, "-dkey", rsaFile, "-dcert_chain", files(t, dir, "chain2.pem", tls.Certificate{PrivateKey: ecKey(), Certificate: rsa.Certificate[1:]}),
	}, limits...)...)
	address := "127.0.0.1:0"
	if network == "unix" {
		address = ""
	}
	front := smtptest.StartOn(t, network, address, smtptest.Script{
		Faults: map[smtptest.Point]smtptest.Fault{smtptest.Handshake: smtptest.Relay("unix", back.socket)},
	})
	return front, back
}

func TestKeyTypeAgainstOpenSSL(t *testing.T) {
	need(t, "openssl")
	ec, rsa := pair("mail.example.com", ecKey()), pair("mail.example.com", rsaKey())
	for _, tt := range []struct {
		name    string
		network string
		limits  []string
		by      Phase
		version uint16
	}{
		{"both versions", "tcp", nil, Established, tls.VersionTLS12},
		{"TLS 1.2 only", "tcp", []string{"-tls1_2"}, Established, tls.VersionTLS12},
		{"TLS 1.3 only", "tcp", []string{"-tls1_3"}, AskedOpenSSL, tls.VersionTLS13},
		{"TLS 1.3 only, unix socket", "unix", []string{"-tls1_3"}, AskedOpenSSL, tls.VersionTLS13},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			front, back := dualServer(t, ec, rsa, tt.network, tt.limits...)
			for _, ask := range []struct {
				keyType, sigalgs string
				want             tls.Certificate
			}{{RSA, "RSA-PSS+SHA256:RSA+SHA256", rsa}, {ECDSA, "ECDSA+SHA256", ec}} {
				e := at(front)
				e.KeyType, e.OpenSSL, e.Timeout = ask.keyType, opensslPath(t), 10*time.Second
				before := back.quits.Load()
				r := Handshake(t.Context(), e)
				if r.Reason != OK || r.Phase != tt.by || r.Protocol != tt.version || r.Cipher == 0 {
					t.Fatalf("%s: got %s in %s, %s (%s)", ask.keyType, r.Reason, r.Phase, tls.VersionName(r.Protocol), r.Detail)
				}
				if v, why := Compare(r, ask.want.Certificate); v != Proven {
					t.Errorf("%s: got %s, %s, want proven", ask.keyType, v, why)
				}
				if len(r.Chain) != 2 {
					t.Errorf("%s: got a chain of %d, want 2", ask.keyType, len(r.Chain))
				}
				if back.quits.Load() == before {
					t.Errorf("%s: no QUIT inside TLS", ask.keyType)
				}
				to := []string{"-connect", front.Addr}
				if tt.network == "unix" {
					to[0] = "-unix"
				}
				if v, _ := Compare(r, oracle(t, append(to, "-starttls", "smtp", "-sigalgs", ask.sigalgs)...)); v != Proven {
					t.Errorf("%s: openssl s_client sees something else", ask.keyType)
				}
			}
		})
	}
}

func TestKeyTypeThatCannotBeAskedFor(t *testing.T) {
	need(t, "openssl")
	ec, rsa := pair("mail.example.com", ecKey()), pair("mail.example.com", rsaKey())
	front, _ := dualServer(t, ec, rsa, "tcp", "-tls1_3")
	fake := func(body string) string {
		path := filepath.Join(t.TempDir(), "openssl")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name    string
		openssl string
		reason  Reason
		detail  string
	}{
		{"no program", "", NotAsked, "no openssl program"},
		{"not there", "/nonexistent/openssl", NotAsked, "no such file"},
		{"too old", fake("echo 's_client: unknown option -tls1_3' >&2; exit 1\n"), NotAsked, "unknown option"},
		{"hangs", fake("exec sleep 60\n"), NotAsked, "did not complete a handshake"},
		{"talks without end", fake("exec yes -- -----BEGIN\n"), NotAsked, "did not complete a handshake"},
		{"says nothing", fake("exit 0\n"), NotAsked, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := at(front)
			e.KeyType, e.OpenSSL, e.Timeout = RSA, tt.openssl, 1500*time.Millisecond
			start := time.Now()
			s, r := Open(t.Context(), e)
			if r.Reason != tt.reason || !strings.Contains(r.Detail, tt.detail) || s != nil {
				t.Errorf("got %s (%s), want %s (%s)", r.Reason, r.Detail, tt.reason, tt.detail)
			}
			if took := time.Since(start); took > 4*time.Second {
				t.Errorf("took %s", took)
			}
			if v, _ := Compare(r, rsa.Certificate); v != NotVerified {
				t.Errorf("got %s, want not_verified", v)
			}
		})
	}
}

// openssl s_client prints what the server says inside TLS, which a hostile
// server does without end. The certificates came before.
func TestKeyTypeOfServerThatTalksWithoutEnd(t *testing.T) {
	ec := pair("mail.example.com", ecKey())
	srv := smtptest.Start(t, smtptest.Script{
		Implicit: true, TLS: &tls.Config{MinVersion: tls.VersionTLS13},
		Faults: map[smtptest.Point]smtptest.Fault{smtptest.Greeting: smtptest.Endless("220-mail.example.com\r\n")},
	}, ec)
	e := at(srv)
	e.Mode, e.KeyType, e.OpenSSL, e.Timeout = Implicit, ECDSA, opensslPath(t), time.Second
	start := time.Now()
	r := Handshake(t.Context(), e)
	if v, why := Compare(r, ec.Certificate); v != Proven {
		t.Errorf("got %s, %s (%s), want proven", v, why, r.Detail)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("took %s with a limit of 1 s", took)
	}
}

func TestKeyTypeBehindProxyHeader(t *testing.T) {
	srv := smtptest.Start(t, smtptest.Script{WantProxy: true, TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, pair("a.example", ecKey()))
	e := at(srv)
	e.ProxyProtocol, e.KeyType, e.OpenSSL = true, ECDSA, "/nonexistent/openssl"
	if r := Handshake(t.Context(), e); r.Reason != NotAsked || !strings.Contains(r.Detail, "PROXY") {
		t.Errorf("got %s (%s), want not_asked", r.Reason, r.Detail)
	}
}

// A server may have a key type in TLS 1.3 and no suite for it in TLS 1.2; and
// it may not have it at all.
func TestKeyTypeOnlyInOneVersion(t *testing.T) {
	need(t, "openssl")
	ec, rsa := pair("mail.example.com", ecKey()), pair("mail.example.com", rsaKey())
	front, _ := dualServer(t, ec, rsa, "tcp", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")
	e := at(front)
	e.KeyType, e.OpenSSL = ECDSA, opensslPath(t)
	r := Handshake(t.Context(), e)
	if v, why := Compare(r, ec.Certificate); v != Proven || r.Phase != AskedOpenSSL {
		t.Errorf("got %s, %s in %s (%s), want proven by TLS 1.3", v, why, r.Phase, r.Detail)
	}
	for _, limits := range [][]string{nil, {"-tls1_2"}, {"-tls1_3"}} {
		only, _ := dualServer(t, rsa, rsa, "tcp", limits...)
		e.Address = only.Addr
		if r := Handshake(t.Context(), e); r.Reason != HandshakeFailed || !strings.HasPrefix(r.Detail, "alert ") {
			t.Errorf("%v: got %s in %s (%s), want handshake_failed", limits, r.Reason, r.Phase, r.Detail)
		}
	}
}

// The standard library exports no ChaCha20, so here the bytes of the connection
// cannot be opened, and openssl is asked instead.
func TestUnreadableBehindChaCha20(t *testing.T) {
	need(t, "openssl")
	bad := tls.Certificate{Certificate: [][]byte{negativeSerial(t), caCert().Raw}, PrivateKey: ecKey()}
	good := pair("mail.example.com", ecKey())
	dir := t.TempDir()
	f := files(t, dir, "bad.pem", bad)
	back := startSServer(t, "-cert", f, "-key", f, "-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256",
		"-cert_chain", files(t, dir, "chain.pem", tls.Certificate{PrivateKey: ecKey(), Certificate: bad.Certificate[1:]}))
	front := smtptest.Start(t, smtptest.Script{
		Faults: map[smtptest.Point]smtptest.Fault{smtptest.Handshake: smtptest.Relay("unix", back.socket)},
	})
	e := at(front)
	for _, path := range []string{"", "/nonexistent/openssl", opensslPath(t)} {
		e.OpenSSL = path
		r := Handshake(t.Context(), e)
		if r.Reason != Unreadable || !strings.Contains(r.Detail, "negative serial") {
			t.Fatalf("%q: got %s (%s), want unreadable", path, r.Reason, r.Detail)
		}
		if v, _ := Compare(r, good.Certificate); v != Contradicted {
			t.Errorf("%q: got %s, want contradicted", path, v)
		}
		want := NotVerified
		if path == opensslPath(t) {
			want = Proven
		}
		if v, _ := Compare(r, bad.Certificate); v != want {
			t.Errorf("%q: got %s against itself, want %s", path, v, want)
		}
	}
}

// A key that OpenSSL serves at its lowest security level and crypto/tls refuses
// to check a signature of.
func TestShortRSAKeyIsUnreadable(t *testing.T) {
	dir := t.TempDir()
	key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	out, err := exec.Command(opensslPath(t), "req", "-x509", "-newkey", "rsa:768", "-nodes", "-subj", "/CN=short",
		"-keyout", key, "-out", cert).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl req: %v: %s", err, out)
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		back := startSServer(t, "-cert", cert, "-key", key, version, "-cipher", "ALL:@SECLEVEL=0")
		e := Endpoint{Network: "unix", Address: back.socket, Mode: Implicit, Timeout: time.Second}
		r := Handshake(t.Context(), e)
		if r.Reason != Unreadable || !strings.Contains(r.Detail, "insecure") || len(r.Raw) != 1 || r.Protocol == 0 {
			t.Errorf("%s: got %s (%s), %d certificates", version, r.Reason, r.Detail, len(r.Raw))
		}
	}
}
