package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postcert/acme/acmetest"
)

// Terms that nobody agreed to are one refusal that names them, by one request: for
// the directory, where their URL is. Nothing is stored and no account is asked for.
func TestTermsNotAgreed(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	at := []string{"--directory", h.ca.URL, "--acme-trust", h.ca.RootsFile}
	order := append([]string{"obtain", "--domain", hostName, "--challenge", "http-01", "--listen", h.httpListen(), "--profile", "classic"}, at...)
	for _, args := range [][]string{
		append([]string{"account", "register"}, at...),
		append([]string{"account", "register", "--agree-tos=false"}, at...),
		append([]string{"account", "register", "--dry-run"}, at...),
		append(order, "--no-deploy"),
		append(order, "--dry-run"),
	} {
		before := h.ca.Requests()
		a := h.postcert(append(args, "--json")...).want(3)
		problems := a.json()["problems"].([]any)
		errors := 0
		for _, p := range problems {
			if p := p.(map[string]any); p["severity"] == "error" {
				errors++
				if p["id"] != "terms_not_agreed" || !strings.Contains(p["message"].(string), "data:text/plain") || !strings.Contains(p["remedy"].(string), "--agree-tos") {
					t.Errorf("%v: %v", args, p)
				}
			}
		}
		if errors != 1 {
			t.Errorf("%v: %d errors in %s", args, errors, a.stdout)
		}
		made := h.ca.Requests()[len(before):]
		if len(made) != 1 || made[0].Kind != acmetest.Directory {
			t.Errorf("%v: requests %+v", args, made)
		}
	}
	if keys, _ := filepath.Glob(filepath.Join(h.state, "acme", "accounts", "*", "*", "account.*")); len(keys) > 0 {
		t.Errorf("stored: %v", keys)
	}
	if n := h.ca.Count(acmetest.NewAccount); n != 0 {
		t.Errorf("%d requests for an account", n)
	}

	// What else stands against an order is told with them.
	h.postcert(append(order, "--no-deploy", "--eab-kid", "x", "--eab-hmac-file", "/nonexistent/key")...).want(3).says("terms_not_agreed").says("eab_file")
	// Without the directory nobody knows whether there are terms.
	down := h.ca.Fault(acmetest.Fault{Kind: acmetest.Directory, Status: http.StatusBadGateway, Body: "<html>"})
	a := h.postcert(append([]string{"account", "register"}, at...)...).want(6).says("ca_unreachable")
	if strings.Contains(a.stdout+a.stderr, "terms_not_agreed") {
		t.Errorf("two refusals: %s%s", a.stdout, a.stderr)
	}
	down()
}

// A dry run of what changes an account asks the CA and changes nothing, here or
// there; that of a revocation does not ask.
func TestAccountDryRun(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	at := []string{"--directory", h.ca.URL, "--acme-trust", h.ca.RootsFile}
	unchanged := func(kinds []string, status int, args ...string) answer {
		t.Helper()
		before, files := len(h.ca.Requests()), h.files()
		a := h.postcert(append(args, "--dry-run")...).want(status)
		for _, r := range h.ca.Requests()[before:] {
			ok := false
			for _, k := range kinds {
				ok = ok || r.Kind == k
			}
			if !ok || r.Kind == acmetest.AccountKind && r.Payload != "" {
				t.Errorf("%v: a request %s with %q", args, r.Kind, r.Payload)
			}
		}
		if now := h.files(); now != files {
			t.Errorf("%v: files were changed:\n%s\n%s", args, files, now)
		}
		return a
	}
	question := []string{acmetest.Directory, acmetest.NewNonce, acmetest.AccountKind}
	register := append([]string{"account", "register", "--agree-tos", "--email", "admin@example.test"}, at...)
	unchanged(question[:1], 0, register...).says("would be registered").says("admin@example.test").says("data:text/plain")
	unchanged(nil, 3, append([]string{"account", "rollover"}, at...)...).says("account_missing")
	h.postcert(register...).want(0)
	unchanged(question[:1], 0, register...).says("exists already")
	unchanged(question, 0, append([]string{"account", "rollover"}, at...)...).says("would get a new key")
	h.postcert(h.order("--no-deploy")...).want(0)
	unchanged(nil, 0, "revoke", hostName).says("would be revoked")
	if h.ca.Revoked(h.leafAt(h.liveFile("cert.pem"))) {
		t.Error("revoked")
	}
}

// files are the names, sizes and times of all that postcert keeps about accounts and
// certificates.
func (h *acmeHost) files() string {
	h.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(filepath.Join(h.state, "acme"), func(path string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && (d.IsDir() || strings.Contains(path, "/locks/")) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			b.WriteString(path + info.Mode().String() + info.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return b.String()
}
