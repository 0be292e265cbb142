package legoclient

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	legolog "github.com/go-acme/lego/v4/log"

	"postcert/acme/acmetest"
)

func TestDirectory(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	d, err := w.client.Directory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	profiles := slices.Sorted(maps.Keys(d.Profiles))
	if d.URL != w.URL || d.Terms == "" || !d.ARI || !d.KeyChange || d.EABRequired || d.Skew != 0 ||
		!slices.Equal(profiles, []string{"classic", "shortlived", "tlsserver"}) || !slices.Equal(d.CAA, []string{"ca.test"}) {
		t.Errorf("got %+v", d)
	}
}

func TestSkew(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	for _, off := range []time.Duration{-3 * time.Hour, -time.Minute, 0, 10 * time.Minute, 400 * 24 * time.Hour} {
		c := *w.client
		c.cfg.Now = func() time.Time { return time.Now().Add(off) }
		c.wire = newWire(c.cfg)
		d, err := c.Directory(t.Context())
		if err != nil || (d.Skew-off).Abs() > time.Second {
			t.Errorf("a clock off by %s: got %s, %v", off, d.Skew, err)
		}
	}
	defer w.Fault(acmetest.Fault{Kind: acmetest.Directory, Header: http.Header{"Date": {"nonsense"}}})()
	w.client.wire.forget()
	if d, err := w.client.Directory(t.Context()); err != nil || d.Skew != 0 {
		t.Errorf("got %s, %v", d.Skew, err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, url := range []string{"", "http://127.0.0.1/dir", "ftp://a/", "https://", "acme.example.test/dir", "https:%zz", "http://user:hunter2@127.0.0.1/"} {
		_, err := New(Config{Directory: url})
		if e := failure(t, err); e.Kind != Local || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// TestTrust: a CA that is not known is told with the way out, and one whose roots
// are given is no more trusted than that.
func TestTrust(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	other := acmetest.Start(t, acmetest.Options{})
	before := len(w.Requests())
	for _, cfg := range []Config{{Directory: w.URL}, {Directory: w.URL, Roots: other.Roots}} {
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Directory(t.Context())
		if e := failure(t, err); e.Kind != Network || !strings.Contains(e.Detail, "acme.trust") || e.URL != w.URL {
			t.Errorf("got %+v", e)
		}
	}
	if len(w.Requests()) != before {
		t.Error("a request was made")
	}
}

// TestEnvironment: no proxy comes from the environment.
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	t.Setenv("LEGO_CA_CERTIFICATES", "/nowhere")
	w := start(t, acmetest.Options{})
	// To a loopback address the environment's proxy is not used, so this is looked at.
	if w.client.wire.base.Proxy != nil {
		t.Error("there is a proxy")
	}
}

func TestDirectoryRedirect(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	to := func(url string) acmetest.Fault {
		return acmetest.Fault{Kind: acmetest.Directory, Status: 301, Header: http.Header{"Location": {url}}}
	}
	once := to(w.URL + "?again")
	once.Count = 1
	remove := w.Fault(once)
	w.client.wire.forget()
	if _, err := w.client.Directory(t.Context()); err != nil {
		t.Errorf("one redirect: %v", err)
	}
	remove()
	for _, url := range []string{w.URL, strings.Replace(w.URL, "https", "http", 1)} {
		remove := w.Fault(to(url))
		w.client.wire.forget()
		before := len(w.Requests())
		_, err := w.client.Directory(t.Context())
		if e := failure(t, err); e.Kind != Network || !strings.Contains(e.Detail, "redirect") {
			t.Errorf("to %s: %+v", url, e)
		}
		if n := len(w.Requests()) - before; n > 5 {
			t.Errorf("%d requests", n)
		}
		remove()
	}
}

// TestDirectoryBad: what is no directory is an error that says so.
func TestDirectoryBad(t *testing.T) {
	t.Parallel()
	w := start(t, acmetest.Options{})
	for _, body := range []string{"", "{}", "null", "[]", "<html>", `{"newAccount":1}`, `{"newNonce":"https://127.0.0.1:1/n"}`} {
		remove := w.Fault(acmetest.Fault{Kind: acmetest.Directory, Status: 200, Body: body})
		w.client.wire.forget()
		if _, err := w.client.Directory(t.Context()); err == nil || strings.Contains(err.Error(), "html") {
			t.Errorf("%q: %v", body, err)
		}
		remove()
		if _, err := w.client.Directory(t.Context()); err != nil {
			t.Errorf("%q is remembered: %v", body, err)
		}
	}
	// Resources without TLS are refused when they are used.
	remove := w.Fault(acmetest.Fault{Kind: acmetest.Directory, Edit: func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("https://"), []byte("http://"))
	}})
	defer remove()
	w.client.wire.forget()
	before := len(w.Requests())
	if _, err := w.client.Lookup(t.Context(), w.acct.Key); err == nil {
		t.Error("an account over plain HTTP")
	}
	if n := len(w.Requests()) - before; n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := New(Config{Directory: "https://" + l.Addr().String() + "/dir"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Directory(t.Context())
	if e := failure(t, err); e.Kind != Network || !strings.Contains(e.Detail, "refused") {
		t.Errorf("got %+v", e)
	}
	// A server that accepts and says nothing, not even in TLS.
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err = New(Config{Directory: "https://" + l.Addr().String() + "/dir", Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = c.Directory(t.Context())
	if e := failure(t, err); e.Kind != Network || time.Since(began) > time.Second {
		t.Errorf("got %+v after %s", e, time.Since(began))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err = c.Directory(ctx); failure(t, err).Kind != Canceled {
		t.Errorf("got %v", err)
	}
}

func TestLegoLog(t *testing.T) {
	var out bytes.Buffer
	if _, err := New(Config{Directory: "https://127.0.0.1/", Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}); err != nil {
		t.Fatal(err)
	}
	defer legoLogger.to.Store(nil)
	legolog.Infof("retry due to: %v", "x\x1b[31m")
	legolog.Warnf("see https://user:hunter2@ca.test/unpause?a=1&jwt=abc.def.ghi now")
	got := out.String()
	for _, bad := range []string{"[INFO]", "[WARN]", "hunter2", "abc.def", "\x1b"} {
		if strings.Contains(got, bad) {
			t.Errorf("the log has %q:\n%s", bad, got)
		}
	}
	if !strings.Contains(got, "level=WARN") || !strings.Contains(got, "level=DEBUG") || !strings.Contains(got, "now") {
		t.Errorf("got:\n%s", got)
	}
}
