package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"postcert/acme/acmetest"
)

// killedAt runs postcert until the CA has done what it was asked for by the n-th
// request of a kind, and kills it before it hears the answer. False: there was no
// such request.
func killedAt(h *acmeHost, kind string, n int, args ...string) bool {
	h.t.Helper()
	cmd := h.command(args...)
	var mu sync.Mutex
	mu.Lock()
	remove := h.ca.Fault(acmetest.Fault{Kind: kind, Skip: n - 1, Count: 1, Edit: func(body []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
		return body
	}})
	defer remove()
	err := cmd.Start()
	mu.Unlock()
	if err != nil {
		h.t.Fatal(err)
	}
	return cmd.Wait() != nil && cmd.ProcessState.ExitCode() == -1
}

// accountKeys are the public keys of the accounts, by openssl, which must read each.
func (h *acmeHost) accountKeys() string {
	h.t.Helper()
	keys, err := filepath.Glob(filepath.Join(h.state, "acme", "accounts", "*", "*", "account.key"))
	if err != nil {
		h.t.Fatal(err)
	}
	all := ""
	for _, k := range keys {
		out, err := exec.Command("openssl", "pkey", "-in", k, "-pubout").Output()
		if err != nil {
			h.t.Errorf("openssl cannot read %s: %v", k, err)
		}
		all += string(out)
	}
	return all
}

// Killed at each kind of request of an order: the next run goes on with the same order
// wherever its address could be known, and with the same account and key.
func TestObtainKilledAtRequests(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	// The proof to the CA outlives the run, as a web server does.
	webroot := filepath.Join(h.dir, "www")
	l, err := net.Listen("tcp", h.httpListen())
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.FileServer(http.Dir(webroot))}
	go web.Serve(l)
	t.Cleanup(func() { web.Close() })
	if err := os.Mkdir(webroot, 0o755); err != nil {
		t.Fatal(err)
	}
	order := []string{"obtain", "--domain", hostName, "--webroot", webroot, "--directory", h.ca.URL,
		"--acme-trust", h.ca.RootsFile, "--agree-tos", "--profile", "classic", "--no-deploy"}
	for i, at := range []struct {
		kind string
		n    int
	}{
		{acmetest.Directory, 1}, {acmetest.NewNonce, 1}, {acmetest.NewAccount, 1}, {acmetest.NewOrder, 1},
		{acmetest.Authz, 1}, {acmetest.Challenge, 1}, {acmetest.Authz, 2}, {acmetest.Finalize, 1}, {acmetest.Order, 1},
		{acmetest.Certificate, 1}, {acmetest.RenewalInfo, 1},
	} {
		h.state = filepath.Join(h.pf.Dir, fmt.Sprint("state", i))
		before := h.orders()
		if !killedAt(h, at.kind, at.n, order...) {
			t.Errorf("there was no request %d for %s", at.n, at.kind)
			continue
		}
		account := h.accountKeys()
		h.postcert(order...).want(0)
		most := 1
		if at.kind == acmetest.NewOrder {
			most = 2 // nobody but the CA knows the first
		}
		if all := h.orders() - before; all > most || all < 1 {
			t.Errorf("killed at %s %d: %d orders, want at most %d", at.kind, at.n, all, most)
		}
		if account != "" && h.accountKeys() != account {
			t.Errorf("killed at %s %d: another account key", at.kind, at.n)
		}
		if out, err := exec.Command("openssl", "verify", "-CAfile", h.issuers(), "-untrusted", h.liveFile("chain.pem"), h.liveFile("cert.pem")).CombinedOutput(); err != nil {
			t.Errorf("killed at %s %d: openssl: %s", at.kind, at.n, out)
		}
	}
}

func (h *acmeHost) liveFile(name string) string {
	return filepath.Join(h.state, "acme", "certs", hostName, "live", name)
}

// Killed at each step of the deploy after an order: renew settles it, with the same
// certificate and no second order; each listener serves one or the other.
func TestObtainKilledInDeploy(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	for i, step := range []string{"stage begin", "journal end", "commit end", "reload end", "prove end"} {
		h.state = filepath.Join(h.pf.Dir, fmt.Sprint("state", i))
		before, served := h.orders(), h.served()
		h.env = []string{killAt + "=" + step}
		if a := h.postcert(h.order()...); a.status != -1 {
			t.Fatalf("%s: not killed, status %d\n%s%s", step, a.status, a.stdout, a.stderr)
		}
		h.env = nil
		if now := h.served(); now != served && now != h.live() {
			t.Errorf("killed at %s: neither the old nor the new certificate is served", step)
		}
		h.postcert("renew", "--trust", h.issuers()).want(0)
		h.serves(h.live())
		if n := h.orders() - before; n != 1 {
			t.Errorf("killed at %s: %d orders, want 1", step, n)
		}
	}
}

// The daemon's own binary is no CA: nothing of Pebble is linked into it.
func TestReleaseHasNoCA(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/postcert")
	cmd.Dir = repository(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"letsencrypt/", "acmetest", "certtest", "postfixtest"} {
		if strings.Contains(string(out), word) {
			t.Errorf("cmd/postcert depends on %s", word)
		}
	}
	bin := filepath.Join(t.TempDir(), "postcert")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./cmd/postcert")
	build.Dir, build.Env = cmd.Dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err = exec.Command("go", "version", "-m", bin).Output(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "go-acme/lego") || strings.Contains(string(out), "letsencrypt") {
		t.Errorf("linked in:\n%s", out)
	}
	st, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MiB", float64(st.Size())/(1<<20))
	if st.Size() > 20<<20 {
		t.Errorf("%d bytes, more than 20 MiB", st.Size())
	}
}

func repository(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
