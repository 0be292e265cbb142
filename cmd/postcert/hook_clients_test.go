package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
	"postcert/deploy/postfix/postfixtest"
)

// clientHost is a mail host on which another ACME client is installed.
type clientHost struct {
	*acmeHost
	conf string // postcert.yaml: where the tests keep things, and the CA to trust
}

func newClientHost(t *testing.T, programs ...string) *clientHost {
	t.Helper()
	postfixtest.Need(t, programs...)
	// Pebble picks a profile at random if the client names none.
	h := &clientHost{acmeHost: newACMEHost(t, acmetest.Options{Profiles: map[string]acmetest.Profile{"classic": {Description: "x", Validity: 90 * 24 * time.Hour, CommonName: true}}})}
	h.conf = filepath.Join(h.dir, "postcert.yaml")
	h.write(h.conf, []byte(fmt.Sprintf("state_dir: %s\nruntime_dir: %s\ntrust: [%s]\n", h.state, h.run, h.issuers())))
	return h
}

// link is the program under another name.
func (h *clientHost) link(path string) string {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(h.exe, path); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// client runs an ACME client. What it passes on to its hook is what a hook needs to
// be postcert of this test, and nothing that a client would not have.
func (h *clientHost) client(env []string, name string, args ...string) answer {
	h.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + h.dir, asPostcert + "=1", quickExit, testDeadline + "=4s",
		"POSTCERT_CONFIG=" + h.conf, "POSTCERT_INSTANCE=" + h.pf.ConfigDir}, env...)
	return h.finish(cmd)
}

// webroot answers the CA's questions from a directory.
func (h *clientHost) webroot() string {
	h.t.Helper()
	dir := filepath.Join(h.dir, "www")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("tcp", h.httpListen())
	if err != nil {
		h.t.Fatal(err)
	}
	s := &http.Server{Handler: http.StripPrefix("/.well-known/acme-challenge/", http.FileServer(http.Dir(dir)))}
	go func() { _ = s.Serve(l) }()
	h.t.Cleanup(func() { s.Close() })
	return dir
}

// leafIn is the fingerprint of the first certificate in a file, by openssl.
func (h *clientHost) leafIn(path string) string {
	h.t.Helper()
	out, err := exec.Command("openssl", "x509", "-in", path, "-outform", "der").Output()
	if err != nil {
		h.t.Fatal(err)
	}
	return postfixtest.Fingerprint(out)
}

// hookCalls counts what the hook did, by the history.
func (h *clientHost) hookCalls() int {
	h.t.Helper()
	return strings.Count(h.postcert("history", "--json").want(0).stdout, `"reason":"hook"`)
}

// certbotClient runs Debian's certbot.
func (h *clientHost) certbotClient(args ...string) answer {
	h.t.Helper()
	dir := filepath.Join(h.dir, "certbot")
	return h.client([]string{"REQUESTS_CA_BUNDLE=" + h.ca.RootsFile}, "certbot", append(args, "-n", "--server", h.ca.URL, "--config-dir", dir,
		"--work-dir", dir+"/work", "--logs-dir", dir+"/log", "--no-random-sleep-on-renew")...)
}

// Debian's certbot, S40 and S41: a certificate issued with --deploy-hook, renewed
// with the program in renewal-hooks/deploy among others' lineages, and a renewal
// whose deploy fails while certbot says that all is well.
func TestHookCertbot(t *testing.T) {
	h := newClientHost(t, "certbot")
	live := filepath.Join(h.dir, "certbot", "live", hostName)
	issue := func(name string, more ...string) {
		t.Helper()
		h.certbotClient(append([]string{"certonly", "--standalone", "--http-01-port", fmt.Sprint(h.ca.HTTPPort), "--http-01-address", "127.0.0.1",
			"--agree-tos", "--register-unsafely-without-email", "-d", name}, more...)...).want(0)
	}
	issue(hostName, "--deploy-hook", h.exe+" hook")
	first := h.leafOf(live)
	h.serves(first)
	issue("www.example.test")

	// The hook of the first order is in its renewal configuration; this is the other
	// way, for all.
	renewal := filepath.Join(h.dir, "certbot", "renewal", hostName+".conf")
	data, err := os.ReadFile(renewal)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "renew_hook") {
			kept = append(kept, line)
		}
	}
	h.write(renewal, []byte(strings.Join(kept, "")))
	h.link(filepath.Join(h.dir, "certbot", "renewal-hooks", "deploy", "50-mail"))
	calls := h.hookCalls()
	got := h.certbotClient("renew", "--force-renewal").want(0)
	second := h.leafOf(live)
	if second == first || h.hookCalls() != calls+1 {
		t.Errorf("%d deploys, want one\n%s%s", h.hookCalls()-calls, got.stdout, got.stderr)
	}
	h.serves(second)
	if strings.Contains(got.stdout+got.stderr, "50-mail ran with") {
		t.Errorf("the hook was not quiet:\n%s%s", got.stdout, got.stderr)
	}
	h.untouched(func() { h.certbotClient("renew", "--force-renewal", "--cert-name", "www.example.test").want(0) })
	h.postcert("status").want(0)

	// certbot's own trial calls the hook with the lineage as it is.
	reloads := h.reloads()
	h.certbotClient("renew", "--dry-run", "--run-deploy-hooks", "--cert-name", hostName)
	if n := h.reloads(); n != reloads {
		t.Errorf("a dry run of certbot reloaded Postfix")
	}

	h.pf.AppendMain(badProtocols[1])
	h.untouched(func() {
		got = h.certbotClient("renew", "--force-renewal", "--cert-name", hostName).want(0)
		h.postcert("status").want(8)
	})
	if !strings.Contains(got.stdout+got.stderr, "rehearsal_refused") {
		t.Errorf("certbot does not pass on what the hook said:\n%s%s", got.stdout, got.stderr)
	}
	third := h.leafOf(live)
	orders := len(h.ca.Requests())
	h.postcert("renew", "--config", h.conf).want(3)
	h.pf.ReplaceMain(badProtocols[1], "")
	h.postcert("renew", "--config", h.conf).want(0)
	h.serves(third)
	h.postcert("status").want(0)
	if n := len(h.ca.Requests()); n != orders || third == second {
		t.Errorf("%d requests to the CA", n-orders)
	}
}

// Debian's lego: --run-hook and --renew-hook.
func TestHookLego(t *testing.T) {
	h := newClientHost(t, "lego")
	lego := func(args ...string) answer {
		t.Helper()
		return h.client([]string{"LEGO_CA_CERTIFICATES=" + h.ca.RootsFile}, "lego", append([]string{"--server", h.ca.URL, "--accept-tos", "--email", "a@example.test",
			"--domains", hostName, "--http", "--http.port", h.httpListen(), "--path", filepath.Join(h.dir, "lego")}, args...)...)
	}
	cert := filepath.Join(h.dir, "lego", "certificates", hostName+".crt")
	lego("run", "--run-hook", h.exe+" hook").want(0)
	first := h.leafIn(cert)
	h.serves(first)
	// Without the chain in the file, it is taken from the one beside it.
	lego("renew", "--days", "1000", "--no-bundle", "--renew-hook", h.exe+" hook", "--no-random-sleep").want(0)
	if h.leafIn(cert) == first {
		t.Error("not renewed")
	}
	h.serves(h.leafIn(cert))
	h.postcert("status").want(0)
}

// Debian's dehydrated, which takes a program without arguments as HOOK.
func TestHookDehydrated(t *testing.T) {
	h := newClientHost(t, "dehydrated", "curl")
	h.onlyHTTP() // its parser of JSON is a shell script
	conf := filepath.Join(h.dir, "dehydrated.conf")
	h.write(conf, []byte(fmt.Sprintf("CA=%s\nBASEDIR=%s\nWELLKNOWN=%s\nHOOK=%s\nCURL_OPTS=\"--cacert %s\"\nCONTACT_EMAIL=a@example.test\nKEY_ALGO=prime256v1\nACCOUNT_KEYSIZE=2048\n",
		h.ca.URL, filepath.Join(h.dir, "dehydrated"), h.webroot(), h.link(filepath.Join(h.dir, "bin", "postcert-hook")), h.ca.RootsFile)))
	if err := os.MkdirAll(filepath.Join(h.dir, "dehydrated"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.client(nil, "dehydrated", "--register", "--accept-terms", "-f", conf).want(0)
	h.client(nil, "dehydrated", "-c", "-f", conf, "-d", hostName).want(0)
	live := filepath.Join(h.dir, "dehydrated", "certs", hostName)
	first := h.leafOf(live)
	h.serves(first)
	h.client(nil, "dehydrated", "-c", "-f", conf, "-d", hostName).want(0) // unchanged
	h.client(nil, "dehydrated", "-c", "-x", "-f", conf, "-d", hostName).want(0)
	if h.leafOf(live) == first {
		t.Error("not renewed")
	}
	h.serves(h.leafOf(live))
	h.postcert("status").want(0)
}

// trustSystem makes the CA one of those that the system trusts, for clients that
// cannot be told otherwise.
func (h *clientHost) trustSystem() {
	h.t.Helper()
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	if out, err := exec.Command("mount", "--bind", h.ca.RootsFile, bundle).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.t.Cleanup(func() { _ = exec.Command("umount", bundle).Run() })
}

// onlyHTTP makes the CA offer http-01 alone: of the other challenges, which Pebble
// lists in another order each time, uacme 1.7 cannot read one (dns-persist-01 has
// no token).
func (h *clientHost) onlyHTTP() {
	h.ca.Fault(acmetest.Fault{Kind: acmetest.Authz, Edit: func(body []byte) []byte {
		var v map[string]any
		if json.Unmarshal(body, &v) != nil {
			return body
		}
		list, _ := v["challenges"].([]any)
		v["challenges"] = slices.DeleteFunc(list, func(c any) bool { return c.(map[string]any)["type"] != "http-01" })
		out, err := json.Marshal(v)
		if err != nil {
			return body
		}
		return out
	}})
}

// Debian's uacme has no deploy hook: the call stands behind it, with the files.
func TestHookUacme(t *testing.T) {
	h := newClientHost(t, "uacme")
	h.trustSystem()
	h.onlyHTTP()
	www, dir := h.webroot(), filepath.Join(h.dir, "uacme")
	uacme := func(args ...string) answer {
		t.Helper()
		return h.client([]string{"UACME_CHALLENGE_PATH=" + www}, "uacme", append([]string{"-a", h.ca.URL, "-c", dir, "-y"}, args...)...)
	}
	uacme("new", "a@example.test").want(0)
	cert, key := filepath.Join(dir, hostName, "cert.pem"), filepath.Join(dir, "private", hostName, "key.pem")
	var last string
	for range 2 {
		uacme("-h", "/usr/share/uacme/uacme.sh", "-f", "issue", hostName).want(0)
		h.client(nil, h.exe, "hook", "--cert", cert, "--key", key).want(0).quiet()
		if h.leafIn(cert) == last {
			t.Error("not renewed")
		}
		last = h.leafIn(cert)
		h.serves(last)
	}
	h.postcert("status").want(0)
}

// Debian's acmetool runs what lies in its directory of hooks, and tells the names on
// standard input.
func TestHookAcmetool(t *testing.T) {
	h := newClientHost(t, "acmetool")
	h.trustSystem()
	www, dir, hooks := h.webroot(), filepath.Join(h.dir, "acme"), filepath.Join(h.dir, "hooks")
	h.link(filepath.Join(hooks, "postcert"))
	acmetool := func(args ...string) answer {
		t.Helper()
		return h.client(nil, "acmetool", append([]string{"--state", dir, "--hooks", hooks, "--batch"}, args...)...)
	}
	conf := filepath.Join(dir, "conf")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	h.write(filepath.Join(conf, "target"), []byte(fmt.Sprintf("request:\n  provider: %s\n  challenge:\n    webroot-paths: [%s]\n    http-self-test: false\n", h.ca.URL, www)))
	h.write(filepath.Join(conf, "responses"), []byte("\"acme-enter-email\": \"a@example.test\"\n\"acme-agreement:data:text/plain,Do%20what%20thou%20wilt\": true\n"))
	acmetool("want", hostName).want(0)
	cert := filepath.Join(dir, "live", hostName, "fullchain")
	h.serves(h.leafIn(cert))
	h.postcert("status").want(0)
}
