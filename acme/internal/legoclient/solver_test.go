package legoclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

var someTasks = []task{
	{identifier: "a.example.test", domain: "a.example.test", token: "token-of-a-0123456789", keyAuth: "token-of-a-0123456789.thumb"},
	{identifier: "b.example.test", domain: "b.example.test", token: "token-of-b-0123456789", keyAuth: "token-of-b-0123456789.thumb"},
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestNewSolver(t *testing.T) {
	bad := []Challenge{
		{}, {Type: "dns-persist-01"}, {Type: DNS01}, {Type: HTTP01, Webroot: "/a", Listen: ":80"}, {Type: HTTP01, Listen: "80"},
		{Type: HTTP01, Listen: "localhost:80"}, {Type: HTTP01, Listen: ":http-none"}, {Type: TLSALPN01, Listen: "::1:443"}, {Type: TLSALPN01, Listen: ":70000"},
	}
	for _, ch := range bad {
		if _, err := NewSolver(ch); failure(t, err).Kind != Local {
			t.Errorf("%+v: %v", ch, err)
		}
	}
	for _, ch := range []Challenge{{Type: HTTP01}, {Type: HTTP01, Listen: "[::1]:80"}, {Type: TLSALPN01, Listen: "192.0.2.1:443"}, {Type: HTTP01, Webroot: "/srv"}} {
		if _, err := NewSolver(ch); err != nil {
			t.Errorf("%+v: %v", ch, err)
		}
	}
}

// TestHTTPServer: the answers, on both families, and nothing else; nothing before
// and nothing after.
func TestHTTPServer(t *testing.T) {
	port := freePort(t)
	down, err := httpServer{":" + strconv.Itoa(port)}.present(t.Context(), someTasks)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		base := "http://" + net.JoinHostPort(host, strconv.Itoa(port))
		for _, task := range someTasks {
			resp, err := http.Get(base + wellKnown + task.token)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(body) != task.keyAuth {
				t.Errorf("%s: got %d %q", host, resp.StatusCode, body)
			}
		}
		for _, path := range []string{"/", wellKnown, wellKnown + "x", wellKnown + someTasks[0].token + "/", "/debug/pprof/", "/.well-known/"} {
			resp, err := http.Get(base + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 404 {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
		}
		resp, err := http.Post(base+wellKnown+someTasks[0].token, "", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("POST: %d", resp.StatusCode)
		}
	}
	// Somebody who holds a connection open does not hold us.
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\n")
	began := time.Now()
	if err := down(t.Context()); err != nil || time.Since(began) > time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	mustBeFree(t, port)
}

// TestListenOnly: what listens on one address does not on another.
func TestListenOnly(t *testing.T) {
	port := strconv.Itoa(freePort(t))
	for _, w := range []way{httpServer{"127.0.0.2:" + port}, alpnServer{"127.0.0.2:" + port}} {
		down, err := w.present(t.Context(), someTasks)
		if err != nil {
			t.Fatal(err)
		}
		for addr, want := range map[string]bool{"127.0.0.2": true, "127.0.0.1": false, "::1": false} {
			conn, err := net.Dial("tcp", net.JoinHostPort(addr, port))
			if (err == nil) != want {
				t.Errorf("%s on %s: %v", w.kind(), addr, err)
			}
			if err == nil {
				conn.Close()
			}
		}
		if err := down(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestALPNServer: a handshake with acme-tls/1 for a name that waits; nothing for
// anybody else, least of all the process's HTTP handlers.
func TestALPNServer(t *testing.T) {
	var reached sync.Once
	leak := make(chan struct{})
	path := "/must-not-be-reached-" + strconv.FormatInt(time.Now().UnixNano(), 10) // once in a process
	http.HandleFunc(path, func(http.ResponseWriter, *http.Request) { reached.Do(func() { close(leak) }) })
	port := freePort(t)
	addr := "127.0.0.1:" + strconv.Itoa(port)
	down, err := alpnServer{addr}.present(t.Context(), someTasks)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		sni    string
		protos []string
		ok     bool
	}{
		{"challenge", "a.example.test", []string{acmeTLS}, true},
		{"the other", "B.example.test", []string{acmeTLS}, true},
		{"unknown name", "c.example.test", []string{acmeTLS}, false},
		{"a browser", "a.example.test", []string{"h2", "http/1.1"}, false},
		{"a mixture", "a.example.test", []string{acmeTLS, "http/1.1"}, false},
		{"no protocol", "a.example.test", nil, false},
		{"no name", "", []string{acmeTLS}, false},
	}
	for _, tt := range tests {
		conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: tt.sni, NextProtos: tt.protos, InsecureSkipVerify: true})
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil {
			leaf := conn.ConnectionState().PeerCertificates[0]
			if len(leaf.DNSNames) != 1 || !strings.EqualFold(leaf.DNSNames[0], tt.sni) {
				t.Errorf("%s: a certificate of %q", tt.name, leaf.DNSNames)
			}
			fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
			if body, _ := io.ReadAll(conn); len(body) > 0 {
				t.Errorf("%s: %q", tt.name, body)
			}
			conn.Close()
		}
	}
	select {
	case <-leak:
		t.Error("the process's own handlers were reached")
	default:
	}
	conn, err := net.Dial("tcp", addr) // and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	if err := down(t.Context()); err != nil || time.Since(began) > time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	mustBeFree(t, port)
}

func TestWebroot(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	w := webroot{dir}
	down, err := w.present(t.Context(), someTasks)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, wellKnown, someTasks[0].token)
	if got, err := os.ReadFile(path); err != nil || string(got) != someTasks[0].keyAuth {
		t.Errorf("got %q, %v", got, err)
	}
	for p, want := range map[string]os.FileMode{path: 0o644, filepath.Dir(path): 0o755, filepath.Join(dir, ".well-known"): 0o755} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	// A file of somebody else keeps the directory.
	theirs := filepath.Join(dir, ".well-known", "security.txt")
	if err := os.WriteFile(theirs, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := down(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".well-known", "*")); len(left) != 1 || left[0] != theirs {
		t.Errorf("left over: %q", left)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".well-known")); err != nil {
		t.Fatal(err)
	}
	// A symbolic link out of the webroot is not followed, whoever put it there.
	links := []struct{ at, to string }{
		{".well-known", outside}, {".well-known/acme-challenge", outside},
		{".well-known/acme-challenge/" + someTasks[0].token, filepath.Join(outside, "file")},
	}
	for _, link := range links {
		at := filepath.Join(dir, link.at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(link.to, at); err != nil {
			t.Fatal(err)
		}
		down, err := w.present(t.Context(), someTasks)
		if failure(t, err).Kind != Local {
			t.Errorf("%s: %v", link.at, err)
		}
		_ = down(t.Context())
		if left, _ := os.ReadDir(outside); len(left) > 0 {
			t.Errorf("%s: written outside: %v", link.at, left)
		}
		if _, err := os.Lstat(at); err != nil {
			t.Errorf("%s: the link was removed: %v", link.at, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, ".well-known")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheck(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dnsOf := func(p DNSProvider) Challenge { return Challenge{Type: DNS01, DNS: p, DisableCNAME: true} }
	tests := []struct {
		name  string
		ch    Challenge
		names []string
		want  []string // a part of each error
	}{
		{"free", Challenge{Type: HTTP01, Listen: "127.0.0.1:0"}, []string{"a.test"}, nil},
		{"taken", Challenge{Type: HTTP01, Listen: taken}, []string{"a.test"}, []string{"address already in use, held by legoclient.test (process " + strconv.Itoa(os.Getpid()) + ")"}},
		{"taken, TLS", Challenge{Type: TLSALPN01, Listen: taken}, []string{"a.test"}, []string{"address already in use, held by"}},
		{"no address of ours", Challenge{Type: HTTP01, Listen: "192.0.2.1:80"}, []string{"a.test"}, []string{"cannot assign requested address"}},
		{"wildcard", Challenge{Type: HTTP01, Listen: "127.0.0.1:0"}, []string{"*.a.test", "a.test", "*.b.test"}, []string{"*.a.test", "*.b.test"}},
		{"wildcard, and taken", Challenge{Type: HTTP01, Listen: taken}, []string{"*.a.test", "a.test"}, []string{"*.a.test", "in use"}},
		{"webroot", Challenge{Type: HTTP01, Webroot: dir}, []string{"a.test"}, nil},
		{"no webroot", Challenge{Type: HTTP01, Webroot: dir + "/none"}, []string{"a.test"}, []string{"no such file or directory"}},
		{"a file for a webroot", Challenge{Type: HTTP01, Webroot: file}, []string{"a.test"}, []string{"not a directory"}},
		{"provider", dnsOf(&zone{}), []string{"a.test", "*.a.test"}, nil},
		{"provider that refuses", dnsOf(&picky{}), []string{"a.test", "b.test"}, []string{"wrong token for _acme-challenge.b.test."}},
		{"address by DNS", dnsOf(&zone{}), []string{"192.0.2.1"}, []string{"IP address"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := leaves(solver(t, tt.ch).Check(t.Context(), tt.names))
			if len(got) != len(tt.want) {
				t.Fatalf("got %v, want %d", got, len(tt.want))
			}
			for i, e := range got {
				if e.Kind != Local || !strings.Contains(e.Error(), tt.want[i]) {
					t.Errorf("got %v, want %q", e, tt.want[i])
				}
			}
		})
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}

// picky is a provider that knows how to check.
type picky struct{ zone }

func (*picky) Check(_ context.Context, fqdn string) error {
	if strings.Contains(fqdn, ".b.") {
		return fmt.Errorf("wrong token for %s", fqdn)
	}
	return nil
}

func TestHolderForeign(t *testing.T) {
	if got := holder("127.0.0.1:1"); got != "" {
		t.Errorf("got %q", got)
	}
	if got := holder("nonsense"); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestTXTValue(t *testing.T) {
	// The digest of the empty string, as any SHA-256 tells it.
	if got := (record{}).value(); got != "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU" {
		t.Errorf("got %q", got)
	}
	if raw, err := base64.RawURLEncoding.DecodeString((record{keyAuth: "a.b"}).value()); err != nil || len(raw) != 32 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

// TestKeysStaySecret: no error and no log has a byte of the account's key.
func TestKeysStaySecret(t *testing.T) {
	w := start(t, acmetest.Options{})
	key := newKey(t)
	raw, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, r := range w.Requests() {
		fmt.Fprintln(&out, r.Payload)
	}
	_, err = w.client.Lookup(t.Context(), key)
	fmt.Fprintf(&out, "%v %+v", err, err)
	for _, form := range []string{string(raw), base64.RawURLEncoding.EncodeToString(raw), fmt.Sprintf("%x", raw)} {
		if strings.Contains(out.String(), form) {
			t.Error("a private key is in an error or a message")
		}
	}
}
