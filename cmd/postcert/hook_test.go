package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// letsencrypt is a directory as certbot keeps it: versions in archive/NAME, and in
// live/NAME links to one of them.
type letsencrypt struct {
	h    *host
	dir  string
	made map[string]int
}

func (h *host) letsencrypt() *letsencrypt {
	return &letsencrypt{h, filepath.Join(h.dir, "letsencrypt"), map[string]int{}}
}

func (l *letsencrypt) live(name string) string { return filepath.Join(l.dir, "live", name) }

// renew makes the next version of a lineage live and returns its directory.
func (l *letsencrypt) renew(name string, leaf certtest.Leaf) string {
	l.h.t.Helper()
	if len(leaf.Names) == 0 {
		leaf.Names = []string{name}
	}
	l.made[name]++
	from := l.h.t.TempDir()
	l.h.ca.Leaf(l.h.t, leaf).WriteFiles(l.h.t, from)
	archive := filepath.Join(l.dir, "archive", name)
	for _, dir := range []string{archive, l.live(name)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			l.h.t.Fatal(err)
		}
	}
	for _, part := range []string{"fullchain", "privkey"} {
		data, err := os.ReadFile(filepath.Join(from, part+".pem"))
		if err != nil {
			l.h.t.Fatal(err)
		}
		l.h.write(filepath.Join(archive, fmt.Sprintf("%s%d.pem", part, l.made[name])), data)
	}
	l.turn(name, l.made[name])
	return l.live(name)
}

// turn makes a version live.
func (l *letsencrypt) turn(name string, n int) {
	l.h.t.Helper()
	for _, part := range []string{"fullchain", "privkey"} {
		link := filepath.Join(l.live(name), part+".pem")
		_ = os.Remove(link)
		if err := os.Symlink(fmt.Sprintf("../../archive/%s/%s%d.pem", name, part, n), link); err != nil {
			l.h.t.Fatal(err)
		}
	}
}

// hookCommand prepares a call of the hook: flags of ours come before what the
// client gives. Of the environment it has what a client sets, and little else.
func (h *host) hookCommand(env []string, args ...string) *exec.Cmd {
	ours := []string{"hook", "--instance", h.pf.ConfigDir, "--state-dir", h.state, "--runtime-dir", h.run, "--trust", h.trust}
	cmd := exec.Command(h.exe, append(ours, args...)...)
	cmd.Env = append([]string{asPostcert + "=1", quickExit, testDeadline + "=4s", testSettle + "=3s", "PATH=/usr/bin:/bin"}, env...)
	return cmd
}

func (h *host) hook(env []string, args ...string) answer {
	h.t.Helper()
	return h.finish(h.hookCommand(env, args...))
}

// certbot calls the hook as certbot does.
func (h *host) certbot(lineage string, args ...string) answer {
	h.t.Helper()
	return h.hook([]string{"RENEWED_LINEAGE=" + lineage, "RENEWED_DOMAINS=evil.example.test " + hostName}, args...)
}

// quiet fails the test if anything was printed.
func (a answer) quiet() answer {
	a.t.Helper()
	if a.stdout+a.stderr != "" {
		a.t.Errorf("it is not quiet:\n%s%s", a.stdout, a.stderr)
	}
	return a
}

func (h *host) reloads() int { return strings.Count(h.pf.Log(), "refreshing") }

// renewHere runs the pass of a timer, without any configuration.
func (h *host) renewHere(args ...string) answer {
	h.t.Helper()
	return h.postcert(append([]string{"renew", "--trust", h.trust}, args...)...)
}

// S53, S41: ten renewals by the hook, each of which is served, and the calls for
// other lineages between them: no output, nothing touched by the others.
func TestHookRenewals(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	web := le.renew("www.example.net", certtest.Leaf{})
	for i := range 10 {
		live := le.renew(hostName, certtest.Leaf{})
		h.certbot(live).want(0).quiet()
		h.serves(h.leafOf(live))
		if i > 1 {
			continue
		}
		h.untouched(func() {
			reloads, state := h.reloads(), postfixtest.Tree(t, h.state)
			h.certbot(web).want(0).quiet()
			for _, d := range postfixtest.Compare(state, postfixtest.Tree(t, h.state)) {
				t.Errorf("another's lineage changed the state: %s", d)
			}
			h.certbot(live).want(0).quiet() // unchanged, as in a dry run with --run-deploy-hooks
			if n := h.reloads(); n != reloads {
				t.Errorf("%d reloads, want %d", n, reloads)
			}
		})
	}
	h.postcert("status").want(0).says("when it is renewed in ")
	if got := h.postcert("history").want(0); strings.Count(got.stdout, "hook") < 10 {
		t.Errorf("the history does not say who it was:\n%s", got.stdout)
	}
}

// What is ours before anything is deployed: the names decide only where nothing
// else does, and the first notice says how to adopt what is not.
func TestHookFirst(t *testing.T) {
	t.Run("myhostname is another, main.cf names the lineage", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{Main: []string{"myhostname = vm.internal"}})
		le := h.letsencrypt()
		live, web := le.renew(hostName, certtest.Leaf{}), le.renew("www.example.net", certtest.Leaf{})
		h.pf.Postconf("smtpd_tls_cert_file="+live+"/fullchain.pem", "smtpd_tls_key_file="+live+"/privkey.pem")
		h.pf.Reload()
		h.serves(h.leafOf(live))
		h.untouched(func() { h.certbot(web).want(0) })
		next := le.renew(hostName, certtest.Leaf{})
		h.certbot(next).want(0).quiet()
		h.serves(h.leafOf(next))
		if main := string(h.pf.Main()); !strings.Contains(main, filepath.Join(h.pf.ConfigDir, "tls", hostName+".pem")) {
			t.Errorf("not adopted:\n%s", main)
		}
		// The parameter names the lineage no more, the record does.
		next = le.renew(hostName, certtest.Leaf{})
		h.certbot(next).want(0).quiet()
		h.serves(h.leafOf(next))
	})
	t.Run("myhostname is another, nothing names the lineage", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{Main: []string{"myhostname = vm.internal"}})
		le := h.letsencrypt()
		web := le.renew("www.example.net", certtest.Leaf{})
		h.untouched(func() {
			h.certbot(web).want(0).says("hook_not_ours").says("www.example.net").says("postcert install-cert " + web)
		})
		// The first certificate of these tests is for the host's name.
		live := le.renew(hostName, certtest.Leaf{})
		h.certbot(live).want(0).quiet()
		h.serves(h.leafOf(live))
		h.untouched(func() { h.certbot(web).want(0).quiet() })
	})
	t.Run("adopted by hand", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{Main: []string{"myhostname = vm.internal"}})
		le := h.letsencrypt()
		web := le.renew("www.example.net", certtest.Leaf{})
		h.postcert("install-cert", web, "--allow-name", hostName, "--host", "www.example.net").want(0)
		web = le.renew("www.example.net", certtest.Leaf{})
		h.certbot(web).want(0).quiet()
		h.serves(h.leafOf(web))
		// Nor is one that covers our name ours any more.
		h.untouched(func() { h.certbot(le.renew(hostName, certtest.Leaf{})).want(0).quiet() })
	})
	t.Run("released", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{})
		le := h.letsencrypt()
		h.certbot(le.renew(hostName, certtest.Leaf{})).want(0)
		h.postcert("release").want(0)
		h.untouched(func() {
			h.certbot(le.renew(hostName, certtest.Leaf{})).want(0).says("hook_left").says("postcert install-cert")
			h.renewHere().want(0)
		})
	})
}

// Without a record, what is deployed tells whose it is: the archive holds it.
func TestHookForgotten(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{"myhostname = vm.internal"}})
	le := h.letsencrypt()
	live := le.renew(hostName, certtest.Leaf{})
	h.certbot(live).want(0)
	if err := os.RemoveAll(filepath.Join(h.state, "status")); err != nil {
		t.Fatal(err)
	}
	// Nor is it forgotten under which name it is kept, which is not the lineage's.
	if err := os.Rename(filepath.Join(le.dir, "live", hostName), filepath.Join(le.dir, "live", "other")); err != nil {
		t.Fatal(err)
	}
	live = le.live("other")
	other := h.letsencrypt().renew("smtp.example.net", certtest.Leaf{Names: []string{hostName}})
	h.untouched(func() { h.certbot(other).want(0).says("hook_not_ours") })
	h.certbot(live).want(0).quiet()
	if err := os.RemoveAll(filepath.Join(h.state, "status")); err != nil {
		t.Fatal(err)
	}
	next := h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}})
	archive := filepath.Join(le.dir, "archive", hostName)
	for part, data := range map[string][]byte{"fullchain": next.FullchainPEM(), "privkey": next.KeyPEM()} {
		h.write(filepath.Join(archive, part+"2.pem"), data)
		link := filepath.Join(live, part+".pem")
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(archive, part+"2.pem"), link); err != nil {
			t.Fatal(err)
		}
	}
	h.certbot(live).want(0).quiet()
	h.serves(fingerprint(next.Cert))
	h.postcert("status").want(0)
	if names := h.postcert("status", "--json").want(0).json()["certificates"].([]any); len(names) != 1 {
		t.Errorf("%d certificates are remembered", len(names))
	}
}

// S40, S02, S03, S05 as the hook meets them: the old pair stays, somebody can see
// it, and renew brings the new one without the client and without configuration.
func TestHookRemembers(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	h.env = append(h.env, testSettle+"=3s")
	live := le.renew(hostName, certtest.Leaf{})
	h.certbot(live).want(0)
	old := h.leafOf(live)
	fails := func(id string, mend func()) {
		t.Helper()
		h.untouched(func() {
			h.certbot(live, "--json").refuses(3, id)
			h.postcert("status").want(8)
			h.renewHere().want(3)
		})
		mend()
		h.renewHere().want(0)
		h.serves(h.leafOf(live))
		h.postcert("status").want(0)
		h.certbot(live).want(0).quiet()
	}

	// Half of it is there: the writer goes on later, or never.
	le.renew(hostName, certtest.Leaf{})
	key := filepath.Join(live, "privkey.pem")
	whole, err := os.Readlink(key)
	if err != nil {
		t.Fatal(err)
	}
	link := func(target string) {
		t.Helper()
		_ = os.Remove(key)
		if err := os.Symlink(target, key); err != nil {
			t.Fatal(err)
		}
	}
	link("../../archive/" + hostName + "/privkey1.pem")
	fails("key_mismatch", func() { link(whole) })

	// A file that ends in the middle.
	now := h.leafOf(live)
	le.renew(hostName, certtest.Leaf{})
	chain := filepath.Join(live, "fullchain.pem")
	data, err := os.ReadFile(chain)
	if err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(chain)
	if err != nil {
		t.Fatal(err)
	}
	h.write(real, data[:100])
	fails("pem_truncated", func() { h.write(real, data) })
	if h.leafOf(live) == now {
		t.Fatal("the same certificate")
	}

	// The links are turned back to an older version.
	le.turn(hostName, 1)
	if h.leafOf(live) != old {
		t.Fatal("not turned back")
	}
	fails("downgrade", func() { le.turn(hostName, 3) })
}

// S26: as cron and snap run it: an empty environment but for the client's, no
// standard input, a working directory that is gone.
func TestHookBareEnvironment(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	live := h.letsencrypt().renew(hostName, certtest.Leaf{})
	gone := t.TempDir() + "/gone"
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := h.hookCommand(nil)
	script := `cd "$1" && rmdir "$1" && shift && exec "$@" </dev/null`
	full := exec.Command("/bin/sh", append([]string{"-c", script, "sh", gone}, cmd.Args...)...)
	full.Env = []string{asPostcert + "=1", quickExit, testDeadline + "=4s", "RENEWED_LINEAGE=" + live}
	h.finish(full).want(0).quiet()
	h.serves(h.leafOf(live))
}

// A link to the program is a hook: under the name postcert-hook always, and under
// any name in the environment of a client.
func TestHookByName(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	config := filepath.Join(h.dir, "postcert.yaml")
	h.write(config, []byte(fmt.Sprintf("state_dir: %s\nruntime_dir: %s\ntrust: [%s]\n", h.state, h.run, h.trust)))
	call := func(name string, env []string, args ...string) answer {
		t.Helper()
		link := filepath.Join(t.TempDir(), name)
		if err := os.Symlink(h.exe, link); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(link, args...)
		cmd.Env = append([]string{asPostcert + "=1", quickExit, testDeadline + "=4s", "POSTCERT_CONFIG=" + config, "POSTCERT_INSTANCE=" + h.pf.ConfigDir}, env...)
		return h.finish(cmd)
	}
	live := le.renew(hostName, certtest.Leaf{})
	call("50-mail", []string{"RENEWED_LINEAGE=" + live}).want(0).quiet()
	h.serves(h.leafOf(live))
	live = le.renew(hostName, certtest.Leaf{})
	call("postcert-hook", nil, "deploy_cert", "evil", live+"/privkey.pem", live+"/cert.pem", live+"/fullchain.pem", live+"/chain.pem", "1").want(0).quiet()
	h.serves(h.leafOf(live))
	call("postcert-hook", nil, "this_hookscript_is_broken__dehydrated_is_working_fine").want(0).quiet()
	call("postcert-hook", nil, "deploy_challenge", "--json", "-h", "--").want(0).quiet()
	call("postcert", []string{"ACME_STATE_DIR=/var/lib/acme"}, "challenge-http-start", "a").want(42).quiet()
	call("postcert", nil).want(0).says("Usage:")
	call("postcert", []string{"RENEWED_LINEAGE=" + live}, "version").want(0).says("postcert")
}

// Several instances: the hook treats those that the lineage is ours in.
func TestCommandLine(t *testing.T) {
	certbot := map[string]string{"RENEWED_LINEAGE": "/l"}
	acmetool := map[string]string{"ACME_STATE_DIR": "/s"}
	tests := []struct {
		argv []string
		env  map[string]string
		want string
	}{
		{[]string{"postcert"}, nil, ""},
		{[]string{"/usr/bin/postcert", "hook", "--json"}, certbot, "hook --json"},
		{[]string{"/usr/bin/postcert", "status"}, certbot, "status"},
		{[]string{"/etc/letsencrypt/renewal-hooks/deploy/50-x"}, certbot, "hook --"},
		{[]string{"postcert-hook", "--json"}, nil, "hook -- --json"},
		{[]string{"/x/50-postcert-hook"}, nil, "hook --"},
		{[]string{"postcert", "live-updated"}, acmetool, "hook -- live-updated"},
		{[]string{"postcert", "status"}, acmetool, "status"},
		{[]string{"postcert"}, map[string]string{"LEGO_CERT_PATH": "/a"}, "hook --"},
		{[]string{"postcert"}, map[string]string{"LEGO_CERT_PATH": "/a", "RENEWED_LINEAGE": "/l"}, ""},
		{nil, nil, ""},
	}
	for _, tt := range tests {
		if got := strings.Join(commandLine(tt.argv, tt.env), " "); got != tt.want {
			t.Errorf("%q in %v is %q, want %q", tt.argv, tt.env, got, tt.want)
		}
	}
	// What a client appends is never an option of ours.
	within(t, "hook", "deploy_challenge", "a", "-token", "--nonsense", "--help").want(0).quiet()
	if got := commandLine([]string{"postcert", "a", "b"}, nil); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("arguments are %q", got)
	}
}
