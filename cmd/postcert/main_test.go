package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// asPostcert makes the test binary behave as the released one: same main, and
// interrupted only through the seams.
const asPostcert = "POSTCERT_TEST_AS_POSTCERT"

// quickExit is for each process that a test starts: one with the race detector
// waits for a second before it ends.
const quickExit = "GORACE=atexit_sleep_ms=0"

// testDeadline shortens the proof. The other variables that interrupt a run
// are in seams_test.go.
const testDeadline = "POSTCERT_TEST_DEADLINE"

// testHook shortens the time that a hook has.
const testHook = "POSTCERT_TEST_HOOK"

// testSettle shortens the wait for files that never become a pair.
const testSettle = "POSTCERT_TEST_SETTLE"

func TestMain(m *testing.M) {
	if os.Getenv(asPostcert) != "" {
		os.Unsetenv(asPostcert)
		actAsPostcert()
	}
	postfixtest.Main(m)
}

func actAsPostcert() {
	a := &app{env: takeEnvironment(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	a.seams.deadline, _ = time.ParseDuration(a.env[testDeadline])
	a.seams.settle, _ = time.ParseDuration(a.env[testSettle])
	delete(a.env, testDeadline)
	delete(a.env, testSettle)
	a.seams.hook, _ = time.ParseDuration(a.env[testHook])
	delete(a.env, testHook)
	clockFile(a)
	done := interrupted(a)
	pausing(a)
	powered(a)
	protect()
	ctx, stop := signalContext(context.Background(), a)
	status := run(ctx, a, commandLine(os.Args, a.env))
	stop()
	done()
	os.Exit(status)
}

// clockFile makes the time of day another one by what a file says, at any moment,
// for this process and for those that it starts as a daemon.
func clockFile(a *app) {
	a.seams.childEnv = []string{asPostcert + "=1", quickExit, testDeadline + "=" + a.seams.deadline.String(), testSettle + "=" + a.seams.settle.String()}
	file := a.env[childClock]
	if file == "" {
		return
	}
	delete(a.env, childClock)
	a.seams.childEnv = append(a.seams.childEnv, childClock+"="+file)
	a.seams.now = func() time.Time {
		data, _ := os.ReadFile(file)
		by, _ := time.ParseDuration(strings.TrimSpace(string(data)))
		return time.Now().Round(0).Add(by)
	}
}

// host is a mail host of a test: a private Postfix on ports 25, 587 and 465, a
// throw-away CA, and postcert's own directories.
type host struct {
	t     *testing.T
	pf    *postfixtest.Instance
	root  *certtest.CA // trust anchor
	ca    *certtest.CA // the intermediate that signs leaves
	state string
	run   string
	trust string   // file of the CA's root
	env   []string // for postcert
	stdin []byte
	dir   string // of files that a test makes
	exe   string
	also  *strings.Replacer // of what differs from run to run, for golden files
}

// hostName is the name that the hosts of the tests are known by.
const hostName = "mail.example.test"

// newHost starts Postfix with the given options. Its first certificate is
// self-signed, unless o.Cert says otherwise.
func newHost(t *testing.T, o postfixtest.Options) *host {
	t.Helper()
	postfixtest.Need(t, "postfix", "openssl")
	h := &host{t: t, dir: t.TempDir(), root: certtest.NewCA(t, certtest.Authority{})}
	h.ca = h.root.Intermediate(t, certtest.Authority{})
	if o.Cert == "" {
		o.Cert = filepath.Join(h.dir, "first.pem")
		postfixtest.WritePair(t, o.Cert, hostName)
	}
	h.pf = postfixtest.New(t, o)
	h.state, h.run = filepath.Join(h.pf.Dir, "state"), filepath.Join(h.pf.Dir, "run")
	h.trust = filepath.Join(h.dir, "root.pem")
	h.write(h.trust, certtest.EncodeCerts(h.root.Cert))
	var err error
	if h.exe, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	h.pf.Start()
	return h
}

func (h *host) write(path string, data []byte) {
	h.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// lineage makes a directory as certbot keeps it and returns it.
func (h *host) lineage(l certtest.Leaf) string {
	h.t.Helper()
	if len(l.Names) == 0 {
		l.Names = []string{hostName}
	}
	dir := filepath.Join(h.dir, "lineage-"+strconv.Itoa(int(time.Now().UnixNano()%1e9)), hostName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	h.ca.Leaf(h.t, l).WriteFiles(h.t, dir)
	return dir
}

// leafOf is the fingerprint of a lineage's leaf, by openssl.
func (h *host) leafOf(lineage string) string {
	h.t.Helper()
	out, err := exec.Command("openssl", "x509", "-in", filepath.Join(lineage, "fullchain.pem"), "-outform", "der").Output()
	if err != nil {
		h.t.Fatal(err)
	}
	return postfixtest.Fingerprint(out)
}

// answer is what one run of postcert said.
type answer struct {
	stdout, stderr string
	status         int
	t              *testing.T
}

// command prepares a run of postcert on this host.
func (h *host) command(args ...string) *exec.Cmd {
	args = append(args, "--instance", h.pf.ConfigDir, "--state-dir", h.state, "--runtime-dir", h.run)
	if len(args) > 0 && (args[0] == "install-cert" || args[0] == "verify") {
		args = append(args, "--trust", h.trust)
	}
	cmd := exec.Command(h.exe, args...)
	cmd.Env = append([]string{asPostcert + "=1", quickExit, testDeadline + "=4s", "PATH=/usr/bin:/bin"}, h.env...)
	cmd.Stdin = bytes.NewReader(h.stdin)
	return cmd
}

// postcert runs the program and returns what it said.
func (h *host) postcert(args ...string) answer {
	h.t.Helper()
	return h.finish(h.command(args...))
}

// finish runs a prepared command.
func (h *host) finish(cmd *exec.Cmd) answer {
	h.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return answer{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), h.t}
}

// want fails the test if the exit status is another one.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("exit status %d, want %d\n%s%s", a.status, status, a.stdout, a.stderr)
	}
	return a
}

// says fails the test if none of the output has the text.
func (a answer) says(text string) answer {
	a.t.Helper()
	if !strings.Contains(a.stdout+a.stderr, text) {
		a.t.Fatalf("output does not say %q:\n%s%s", text, a.stdout, a.stderr)
	}
	return a
}

// json decodes standard output, which must be one object.
func (a answer) json() map[string]any {
	a.t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		a.t.Fatalf("%v in %q (%s)", err, a.stdout, a.stderr)
	}
	return v
}

// listeners are the addresses of a host and how TLS begins there.
var listeners = map[string]postfixtest.Mode{
	postfixtest.SMTP:        postfixtest.StartTLS,
	postfixtest.Submission:  postfixtest.StartTLS,
	postfixtest.Submissions: postfixtest.Implicit,
}

// serves fails the test unless openssl is shown this leaf on every listener.
func (h *host) serves(leaf string) {
	h.t.Helper()
	for addr, mode := range listeners {
		got, err := postfixtest.ServedLeaf(h.t, addr, mode)
		if err != nil || got != leaf {
			h.t.Errorf("%s serves %s (%v), want %s", addr, got, err, leaf)
		}
	}
}

// served is what openssl is shown on port 25.
func (h *host) served() string {
	h.t.Helper()
	leaf, err := postfixtest.ServedLeaf(h.t, postfixtest.SMTP, postfixtest.StartTLS)
	if err != nil {
		h.t.Fatal(err)
	}
	return leaf
}

// untouched runs f and fails the test if a byte, mode, owner or time in the
// configuration directory is another one after it, or another leaf is served.
func (h *host) untouched(f func()) {
	h.t.Helper()
	before, leaf := h.pf.Files(), h.served()
	f()
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		h.t.Errorf("changed: %s", d)
	}
	h.serves(leaf)
}
