package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// written are calls that change something by a path, which had success; a file
// that is opened for reading only is none.
var written = regexp.MustCompile(`(?m)^\d+ +(?:(?:creat|rename|renameat2?|unlink|unlinkat|mkdir|mkdirat|symlink|symlinkat|link|linkat|truncate|chmod|fchmodat|chown|fchownat|mknod|mknodat)\(.*|open(?:at)?\(.*O_(?:WRONLY|RDWR|CREAT).*)\) = [0-9]+`)

// hostileCalls are calls of the hook with a value that no client gives, each in
// the form of each client. Those who look at such a value could be led astray.
func hostileCalls(h *host, tr *trap) map[string]func() *exec.Cmd {
	h.t.Helper()
	fifo := filepath.Join(h.dir, "fifo")
	if err := os.Mkdir(fifo, 0o700); err != nil {
		h.t.Fatal(err)
	}
	for _, f := range []string{"fullchain.pem", "privkey.pem", "fullchain", "privkey"} {
		if err := syscall.Mkfifo(filepath.Join(fifo, f), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	touch := "touch " + tr.marker
	values := map[string]string{
		"substitution": "$(" + touch + ")", "backquotes": "`" + touch + "`", "semicolon": ";" + touch, "pipe": "|" + touch,
		"absolute substitution": "/$(" + touch + ")", "absolute semicolon": "/x;" + touch + ";", "newline": "/x\n" + touch, "escape": "/\x1b]0;x\x07",
		"up": "../../../../etc", "absolute up": "/etc/letsencrypt/live/../../postfix", "long": "/" + strings.Repeat("a", 120_000),
		"device": "/dev", "kernel": "/proc/self/fd", "fifo": fifo, "option": "--config=" + tr.dir, "format": "/%s%n%x", "empty": "", "not UTF-8": "/\xff\xfe",
	}
	out := map[string]func() *exec.Cmd{}
	for name, v := range values {
		env := func(kv ...string) func() *exec.Cmd {
			return func() *exec.Cmd { return h.hookCommand(append(slices.Clone(tr.env), kv...)) }
		}
		out["certbot "+name] = env("RENEWED_LINEAGE="+v, "RENEWED_DOMAINS="+v)
		out["lego "+name] = env("LEGO_CERT_PATH="+v+"/fullchain.pem", "LEGO_CERT_KEY_PATH="+v+"/privkey.pem", "LEGO_CERT_DOMAIN="+v)
		out["acme.sh "+name] = env("CERT_FULLCHAIN_PATH="+v+"/fullchain.pem", "CERT_KEY_PATH="+v+"/privkey.pem", "Le_Domain="+v)
		out["dehydrated "+name] = func() *exec.Cmd {
			return h.hookCommand(tr.env, "deploy_cert", v, v+"/privkey.pem", v+"/cert.pem", v+"/fullchain.pem", v, v)
		}
		out["acmetool "+name] = func() *exec.Cmd {
			cmd := h.hookCommand(append(slices.Clone(tr.env), "ACME_STATE_DIR="+h.dir), "live-updated")
			cmd.Stdin = strings.NewReader("x" + v + "\n" + v + "\n")
			return cmd
		}
	}
	return out
}

// R12: whatever a hook is called with, it runs nothing of it and writes nowhere;
// and what is wrong is refused by its id, at once.
func TestProofR12HostileCalls(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	tr := newTrap(h, certtest.NewCA(t, certtest.Authority{Name: "Stranger"}))
	le := h.letsencrypt()
	h.certbot(le.renew(hostName, certtest.Leaf{})).want(0)
	calls := hostileCalls(h, tr)
	if len(calls) < 60 {
		t.Fatalf("only %d calls", len(calls))
	}
	state := postfixtest.Tree(t, h.state)
	silent := filepath.Join(h.dir, "silent.yaml")
	h.write(silent, []byte("notify: none\n"))
	id := regexp.MustCompile(`\[(hook_|input_)[a-z_]+\]`)
	var slowest time.Duration
	h.untouched(func() {
		for name, call := range calls {
			cmd := call()
			cmd.Env = append(cmd.Env, "POSTCERT_CONFIG="+silent)
			out := filepath.Join(t.TempDir(), "trace")
			args := []string{"-f", "-s", "300", "-e", "trace=execve,%file", "-e", "signal=none", "-o", out}
			for _, kv := range cmd.Env {
				args = append(args, "-E", kv)
			}
			traced := exec.Command("/usr/bin/strace", append(append(args, cmd.Path), cmd.Args[1:]...)...)
			traced.Env, traced.Stdin = []string{"LC_ALL=C"}, cmd.Stdin
			a := h.finish(traced)
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(data, []byte("execve(")); n != 1 {
				t.Errorf("%s: %d programs were run", name, n-1)
			}
			if w := written.FindAll(data, -1); len(w) > 0 {
				t.Errorf("%s wrote: %s", name, bytes.Join(w, []byte("\n")))
			}
			empty := strings.HasSuffix(name, " empty") && strings.HasPrefix(name, "acmetool")
			if a.status != statusUsage && a.status != statusRefused || !id.MatchString(a.stderr) || empty {
				if !harmless(name) {
					t.Errorf("%s ended with %d: %s", name, a.status, a.stderr)
				}
			}
			if strings.ContainsAny(a.stderr, "\x1b\x07") || strings.Contains(a.stderr, "\xff") {
				t.Errorf("%s: the value got to the terminal: %q", name, a.stderr)
			}
			// Without strace, which makes it slow, and with a mail that tells of the
			// first; in time of this process, because of whatever else runs here.
			plain := call()
			h.finish(plain)
			slowest = max(slowest, plain.ProcessState.UserTime()+plain.ProcessState.SystemTime())
		}
	})
	if err := os.RemoveAll(filepath.Join(h.state, "notify")); err != nil {
		t.Fatal(err)
	}
	for _, d := range postfixtest.Compare(state, postfixtest.Tree(t, h.state)) {
		t.Errorf("state: %s", d)
	}
	tr.sprung(t)
	if slowest > time.Second {
		t.Errorf("the slowest took %v", slowest)
	}
	t.Logf("R12: %d calls, 0 programs run, 0 files written, the slowest took %v", len(calls), slowest)
}

// harmless are calls that are no error: a special file where the certificate
// should be, in a lineage that nothing says is ours.
func harmless(name string) bool {
	_, kind, _ := strings.Cut(name, " ")
	return slices.Contains([]string{"device", "kernel", "fifo", "empty"}, kind)
}

// R12: an honest lineage in a hostile environment is deployed, by the programs of
// the system alone; one that anybody could have written is not.
func TestProofR12HostileEnvironment(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	tr := newTrap(h, certtest.NewCA(t, certtest.Authority{Name: "Stranger"}))
	le := h.letsencrypt()
	live := le.renew(hostName, certtest.Leaf{})
	h.certbot(live).want(0)
	live = le.renew(hostName, certtest.Leaf{})
	cmd := h.hookCommand(append(slices.Clone(tr.env), testDeadline+"=30s", "RENEWED_LINEAGE="+live, "RENEWED_DOMAINS=$(touch "+tr.marker+")\n;x"))
	a, programs, _ := trace(h, cmd)
	a.want(0)
	h.serves(h.leafOf(live))
	if n := tr.foreign(t, programs); n < 5 {
		t.Errorf("only %d of %d programs had the fixed environment", n, len(programs))
	}
	tr.sprung(t)

	// The certificate is public: it makes nothing ours that others can write.
	evil := filepath.Join(tr.dir, "evil")
	if err := os.Mkdir(evil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(evil, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"fullchain.pem", "privkey.pem"} {
		data, err := os.ReadFile(filepath.Join(live, f))
		if err != nil {
			t.Fatal(err)
		}
		h.write(filepath.Join(evil, f), data)
	}
	h.untouched(func() { h.certbot(evil, "--json").refuses(3, "input_untrusted_path") })
	live = le.renew(hostName, certtest.Leaf{})
	h.renewHere().want(0)
	h.serves(h.leafOf(live))
	h.postcert("status").want(0)
}
