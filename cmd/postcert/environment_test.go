package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/deploy/program"
	"postcert/verify/certtest"
)

// trap is an environment that would have somebody else's programs run, keys
// written, and strangers trusted, in a program that listened to it.
type trap struct {
	dir, marker, tmp, keys string
	env                    []string
	notified               *net.UnixConn
}

func newTrap(h *host, stranger *certtest.CA) *trap {
	h.t.Helper()
	dir, err := os.MkdirTemp("/run", "trap")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { os.RemoveAll(dir) })
	p := func(name string) string { return filepath.Join(dir, name) }
	tr := &trap{dir: dir, marker: p("marker"), tmp: p("tmp"), keys: p("keys")}
	for _, d := range []string{"bin", "tmp", "etc", "certs"} {
		if err := os.Mkdir(p(d), 0o777); err != nil {
			h.t.Fatal(err)
		}
	}
	script := []byte("#!/bin/sh\necho \"$0 $*\" >>" + tr.marker + "\nexit 0\n")
	for _, name := range strings.Fields("postconf postfix postmulti postlog postmap openssl systemctl master sh sed id postcert") {
		if err := os.WriteFile(p("bin/"+name), script, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	roots := certtest.EncodeCerts(stranger.Cert)
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"etc/main.cf", []byte("command_directory = " + p("bin") + "\ndaemon_directory = " + p("bin") + "\n")},
		{"etc/master.cf", nil}, {"roots.pem", roots}, {"certs/stranger.pem", roots},
		{"rc", script}, {"openssl.cnf", []byte("openssl_conf = nothing\n[broken\n")}, {"preload.so", []byte("no object\n")},
	} {
		h.write(p(f.name), f.data)
	}
	if tr.notified, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: p("notify"), Net: "unixgram"}); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { tr.notified.Close() })
	tr.env = []string{
		"PATH=" + p("bin"), "LD_PRELOAD=" + p("preload.so"), "LD_LIBRARY_PATH=" + p("bin"), "MAIL_CONFIG=" + p("etc"),
		"SSLKEYLOGFILE=" + tr.keys, "GODEBUG=x509negativeserial=1,x509sha1=1,x509usefallbackroots=1,rsa1024min=0,execerrdot=0",
		"SSL_CERT_FILE=" + p("roots.pem"), "SSL_CERT_DIR=" + p("certs"), "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9",
		"TMPDIR=" + tr.tmp, "OPENSSL_CONF=" + p("openssl.cnf"), "OPENSSL_MODULES=" + p("bin"), "NOTIFY_SOCKET=" + p("notify"), "IFS=/",
		"BASH_ENV=" + p("rc"), "ENV=" + p("rc"), "HOME=" + p("tmp"), "XDG_CONFIG_HOME=" + p("etc"), "XDG_RUNTIME_DIR=" + p("tmp"),
		"LC_ALL=tr_TR.UTF-8", "LANGUAGE=de", "TZ=:" + p("rc"), "POSTLOG_SERVICE=" + p("rc"), "CDPATH=" + dir,
	}
	return tr
}

// sprung fails the test for everything that the environment had an effect on.
func (tr *trap) sprung(t *testing.T) {
	t.Helper()
	if data, err := os.ReadFile(tr.marker); err == nil {
		t.Errorf("programs of the environment were run:\n%s", data)
	}
	if _, err := os.Lstat(tr.keys); err == nil {
		t.Error("session keys were written to SSLKEYLOGFILE")
	}
	if left, _ := os.ReadDir(tr.tmp); len(left) > 0 {
		t.Errorf("TMPDIR was used: %v", left)
	}
	raw, err := tr.notified.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 100), syscall.MSG_DONTWAIT)
		if err == nil {
			t.Errorf("NOTIFY_SOCKET got %d bytes", n)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
}

// started is one execve(2) that succeeded, as strace shows it.
type started struct {
	path string
	env  []string
}

var execLine = regexp.MustCompile(`execve\("((?:[^"\\]|\\.)*)", \[.*?\], \[(.*)\]\) = 0`)

// trace runs cmd under strace and returns what its processes executed, itself
// left out, and the whole trace.
func trace(h *host, cmd *exec.Cmd) (answer, []started, string) {
	h.t.Helper()
	postfixtest.Need(h.t, "strace")
	out := filepath.Join(h.t.TempDir(), "trace")
	args := []string{"-f", "--seccomp-bpf", "-v", "-s", "99999", "-e", "trace=execve,prctl,prlimit64,setrlimit", "-e", "signal=none", "-o", out}
	// strace itself is not to have that environment.
	for _, kv := range cmd.Env {
		args = append(args, "-E", kv)
	}
	traced := exec.Command("/usr/bin/strace", append(append(args, cmd.Path), cmd.Args[1:]...)...)
	traced.Env = []string{"LC_ALL=C"}
	traced.Stdin = cmd.Stdin
	a := h.finish(traced)
	data, err := os.ReadFile(out)
	if err != nil {
		h.t.Fatal(err)
	}
	var all []started
	for _, m := range execLine.FindAllStringSubmatch(string(data), -1) {
		s := started{path: m[1]}
		for kv := range strings.SplitSeq(m[2], `", "`) {
			s.env = append(s.env, strings.Trim(kv, `"`))
		}
		all = append(all, s)
	}
	if len(all) == 0 || all[0].path != cmd.Path {
		h.t.Fatalf("strace did not see postcert:\n%s", data)
	}
	return a, all[1:], string(data)
}

// TestHostileEnvironment: the outcome is the same whatever the environment
// says, and the programs that are run are the system's, with an environment
// that is always the same.
func TestHostileEnvironment(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	stranger := certtest.NewCA(t, certtest.Authority{Name: "Stranger"})
	tr := newTrap(h, stranger)
	h.env = tr.env

	bad := stranger.Leaf(t, certtest.Leaf{Names: []string{hostName}})
	h.refuses(statusRefused, "chain_incomplete", "install-cert", h.pairDir(bad))
	tr.sprung(t)
	first, second := h.leaf(certtest.Leaf{}), h.leaf(certtest.Leaf{})
	h.installs(fingerprint(first.Cert), h.pairDir(first))
	tr.sprung(t)

	// strace is slow, so the proof may take longer.
	h.env = append(tr.env, testDeadline+"=30s")
	a, programs, _ := trace(h, h.command("install-cert", h.pairDir(second)))
	a.want(0)
	h.serves(fingerprint(second.Cert))
	tr.sprung(t)
	if n := tr.foreign(t, programs); n < 5 {
		t.Errorf("only %d of %d programs had the fixed environment %q", n, len(programs), program.Environment)
	}
}

// ourPrograms are the places that programs may be run from.
var ourPrograms = regexp.MustCompile(`^/(usr/)?(s?bin|lib/postfix(/sbin)?|libexec/postfix)/[^/]+$`)

// foreign fails the test for each program that was run from elsewhere or got
// something of the environment, and counts those that had the fixed one.
func (tr *trap) foreign(t *testing.T, programs []started) (asWeStartThem int) {
	t.Helper()
	for _, p := range programs {
		if !ourPrograms.MatchString(p.path) {
			t.Errorf("a program was run from an unexpected place: %s", p.path)
		}
		if slices.Equal(p.env, program.Environment) {
			asWeStartThem++
		}
		for _, kv := range p.env {
			name, value, _ := strings.Cut(kv, "=")
			if strings.Contains(value, tr.dir) || strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "POSTCERT_") ||
				slices.Contains([]string{"GODEBUG", "IFS", "HTTP_PROXY", "LANGUAGE", "SSLKEYLOGFILE"}, name) && value != " \\t\\n" {
				t.Errorf("%s got %s of our caller's environment", p.path, kv)
			}
		}
	}
	return asWeStartThem
}

// S26: cron and snap: next to no environment, no home, no terminal, and a
// working directory that is gone.
func TestS26BareEnvironment(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	p := h.leaf(certtest.Leaf{})
	dir := h.pairDir(p)
	bare := func(line string, args ...string) answer {
		cmd := h.command(args...)
		bare := exec.Command("/bin/sh", append([]string{"-c", line + ` && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)...)
		bare.Env = []string{asPostcert + "=1", quickExit, testDeadline + "=4s", "PATH=/usr/bin:/bin"}
		bare.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return h.finish(bare)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	leave := fmt.Sprintf("mkdir %[1]s && cd %[1]s && rmdir %[1]s", gone)
	bare(leave, "install-cert", dir).want(0)
	h.serves(fingerprint(p.Cert))
	bare(leave, "install-cert", "fullchain.pem", "--json").wants(statusRefused, "input_missing")
	// A relative path means the caller's directory, as with every program.
	bare("cd "+dir, "install-cert", "--cert", "./fullchain.pem", "--key", "privkey.pem", "--dry-run").want(0)
	bare("cd "+filepath.Dir(dir), "install-cert", filepath.Base(dir), "--dry-run").want(0)
}
