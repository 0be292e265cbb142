package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// hostName is the name that the host of the proof is known by.
const hostName = "mail.example.test"

// listeners are where the load goes, and what openssl is asked for.
var listeners = map[string]postfixtest.Mode{
	postfixtest.SMTP:        postfixtest.StartTLS,
	postfixtest.Submission:  postfixtest.StartTLS,
	postfixtest.Submissions: postfixtest.Implicit,
}

// aside is a listener that no load goes to. An impostor in front of it lets the
// proof of a good certificate fail without a change to what the load meets.
const aside = "127.0.0.1:2525"

// site is a mail host under load: a private Postfix, the released programs, and
// the certificates of a throw-away CA.
type site struct {
	t       *testing.T
	pf      *postfixtest.Instance
	ca      *certtest.CA
	dir     string
	leaves  string // file for the load: what may be presented
	first   string // leaf of before the first deploy
	served  *certtest.Pair
	deploys []deployed
	bare    []time.Time // reloads without a deploy
}

// deployed is one run of postcert.
type deployed struct {
	stage      stage
	begin, end time.Time
	candidate  string // leaf
	status     int
	unverified bool // installed with exit status 9
}

// TestProofLoad runs good and bad deploys of the released binary beside 50
// sessions at a time, and judges every handshake by what may have been presented
// at its time.
//
// Eight sessions begin before the first reload and last until the end: no reload
// may drop them. No session that begins later is longer than a few seconds, and
// there is a reason. A smtpd that is idle, or has just been started, when the
// master reloads may still take one connection. The master no longer listens to
// it then, believes it to be idle until it ends, and starts no other: whoever
// connects to this service meanwhile waits for the end of that one session
// (master_restart_service keeps avail_proc, and master_avail_listen wants it to
// be 0). So it is with every "postfix reload" of a busy host, with or without a
// deploy; what bare reloads cost under the same load is measured beside it.
func TestProofLoad(t *testing.T) {
	good, bad, bare, hold := 12, 12, 6, "6s"
	if os.Getenv("POSTCERT_LONG") != "" {
		good, bad, bare, hold = 200, 200, 20, "15s"
	}
	s := newSite(t)
	lasting := s.startLoad("lasting", 8, "-long", "8", "-hold", "4h")
	short := s.startLoad("short", 42, "-long", "8", "-hold", hold)
	s.bareReloads(bare)
	for i := range max(good, bad) {
		if end, limited := t.Deadline(); limited && time.Until(end) < 2*time.Minute {
			t.Errorf("the time is over after %d deploys of %d", len(s.deploys), good+bad)
			break
		}
		if i%25 == 0 {
			t.Logf("%d deploys until now", len(s.deploys))
		}
		if i < good {
			s.deploy(s.good())
		}
		if i < bad {
			s.deploy(s.bad(i))
		}
	}
	time.Sleep(time.Second) // the last leaf is to be seen too
	s.judge(lasting(), short())
	s.nothingQueued()
}

// newSite starts Postfix. Its process limit is Postfix's own, 100 for each
// service: 50 sessions of the load may all meet the same listener, and an
// install opens 3 beside them. Clients from mynetworks, as the load is one, have
// no limits by smtpd_client_event_limit_exceptions. At OpenSSL's security level 3
// an RSA key of 2048 bits is too small, which only OpenSSL can know.
func newSite(t *testing.T) *site {
	t.Helper()
	postfixtest.Need(t, "postfix", "openssl")
	s := &site{t: t, dir: t.TempDir()}
	root := certtest.NewCA(t, certtest.Authority{})
	s.ca = root.Intermediate(t, certtest.Authority{})
	s.write("root.pem", certtest.EncodeCerts(root.Cert))
	s.served = s.leaf(certtest.Leaf{})
	s.first = fingerprintOf(s.served.Cert)
	s.leaves = s.write("leaves", nil)
	s.allow(s.served)
	s.pf = postfixtest.New(t, postfixtest.Options{
		Cert: s.write("first.pem", s.served.PostfixPEM()), Address: "all",
		Main:   []string{"tls_medium_cipherlist = aNULL:-aNULL:HIGH:@STRENGTH:@SECLEVEL=3"},
		Master: []string{"2525 inet n - n - - smtpd -o syslog_name=postfix/aside"},
	})
	for _, name := range []string{"cmd/postcert", "contrib/load", "contrib/impostor"} {
		build := exec.Command("go", "build", "-o", s.dir, "postcert/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	s.makeWrapper()
	s.pf.Start()
	s.pf.WaitLog("daemon started")
	return s
}

func (s *site) write(name string, data []byte) (path string) {
	s.t.Helper()
	path = filepath.Join(s.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// leaf is a leaf for two names of the host.
func (s *site) leaf(l certtest.Leaf) *certtest.Pair {
	s.t.Helper()
	if l.Names == nil {
		l.Names = []string{hostName, "mx.example.test"}
	}
	return s.ca.Leaf(s.t, l)
}

func fingerprintOf(c *x509.Certificate) string { return postfixtest.Fingerprint(c.Raw) }

// allow tells the load that a leaf may be presented from now on.
func (s *site) allow(p *certtest.Pair) {
	s.t.Helper()
	file, err := os.OpenFile(s.leaves, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, fingerprintOf(p.Cert)); err != nil {
		s.t.Fatal(err)
	}
}

// outcome is what one load program reports.
type outcome struct {
	report  Report
	records []Record
}

// startLoad starts the released load program and returns when so many sessions
// are open. The function returned ends it and returns what it reports.
func (s *site) startLoad(name string, parallel int, args ...string) func() outcome {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	connects := func() int { return strings.Count(s.pf.Log(), ": connect from ") }
	before := connects()
	var stdout, stderr bytes.Buffer
	if think := os.Getenv("POSTCERT_TEST_THINK"); think != "" { // for a machine that others need too
		args = append(args, "-think", think)
	}
	cmd := exec.Command(filepath.Join(s.dir, "load"), append(args, "-to", "postmaster@"+hostName, "-for", "2h", "-parallel", strconv.Itoa(parallel),
		"-leaves", s.leaves, "-maillog", s.pf.LogFile, "-sessions", file, "-json")...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = cmd.Process.Kill() })
	for end := time.Now().Add(time.Minute); connects() < before+parallel; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("the load does not begin: %s", &stderr)
		}
	}
	return func() (o outcome) {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // the status is in ProcessState
		if err := json.Unmarshal(stdout.Bytes(), &o.report); err != nil {
			s.t.Fatalf("%v in %s%s", err, &stdout, &stderr)
		}
		if (cmd.ProcessState.ExitCode() == 0) != o.report.Well {
			s.t.Errorf("exit status %d, and the report says %v", cmd.ProcessState.ExitCode(), o.report.Well)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		for dec := json.NewDecoder(bytes.NewReader(data)); dec.More(); {
			var rec Record
			if err := dec.Decode(&rec); err != nil {
				s.t.Fatal(err)
			}
			o.records = append(o.records, rec)
		}
		return o
	}
}

// bareReloads tells Postfix to reload, n times, without a deploy: what that costs
// the clients is no deploy's doing.
func (s *site) bareReloads(n int) {
	s.t.Helper()
	for range n {
		s.pf.Reload()
		s.bare = append(s.bare, time.Now())
		time.Sleep(1500 * time.Millisecond)
	}
}

// deploy runs postcert once, and asks openssl what is served after it.
func (s *site) deploy(st stage) {
	s.t.Helper()
	d := deployed{stage: st, candidate: fingerprintOf(st.pair.Cert)}
	if st.status != 3 {
		s.allow(st.pair)
	}
	lineage := filepath.Join(s.dir, "lineage", hostName)
	if err := os.MkdirAll(lineage, 0o700); err != nil {
		s.t.Fatal(err)
	}
	st.pair.WriteFiles(s.t, lineage)
	cmd := exec.Command(filepath.Join(s.dir, "postcert"), "install-cert", lineage, "--instance", s.pf.ConfigDir, "--json",
		"--state-dir", s.pf.Dir+"/state", "--runtime-dir", s.pf.Dir+"/run", "--trust", filepath.Join(s.dir, "root.pem"))
	cmd.Args = append(cmd.Args, st.args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if st.before != nil {
		defer st.before()()
	}
	d.begin = time.Now()
	_ = cmd.Run() // the status is in ProcessState
	d.end = time.Now()
	switch d.status = cmd.ProcessState.ExitCode(); {
	case d.status == 9 && st.status == 0:
		d.status, d.unverified = 0, true // installed; a listener could not be asked in time
	case d.status != st.status || !strings.Contains(stdout.String(), st.says):
		s.t.Errorf("deploy %d, %s: exit status %d, want %d and %q\n%s%s", len(s.deploys), st.name, d.status, st.status, st.says, &stdout, &stderr)
	}
	if d.status == 0 {
		s.served = st.pair
	}
	s.deploys = append(s.deploys, d)
	s.witness(d)
}

// witness asks openssl what each listener serves. Behind a deploy that could not
// be verified it waits until the listener answers again.
func (s *site) witness(d deployed) {
	s.t.Helper()
	want := fingerprintOf(s.served.Cert)
	var all sync.WaitGroup
	for addr, mode := range listeners {
		all.Go(func() {
			got, err := postfixtest.ServedLeaf(s.t, addr, mode)
			for range 3 {
				if err == nil || !d.unverified {
					break
				}
				got, err = postfixtest.ServedLeaf(s.t, addr, mode)
			}
			if err != nil || got != want {
				s.t.Errorf("after deploy %d, %s: %s serves %s (%v), want %s", len(s.deploys), d.stage.name, addr, got, err, want)
			}
		})
	}
	all.Wait()
}

// nothingQueued fails the test if a message is left in the queue: each was
// accepted and must have been delivered.
func (s *site) nothingQueued() {
	s.t.Helper()
	left := 0
	for _, queue := range []string{"incoming", "active", "deferred", "hold", "maildrop", "corrupt"} {
		err := filepath.WalkDir(filepath.Join(s.pf.QueueDir, queue), func(_ string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				left++
			}
			return err
		})
		if err != nil {
			s.t.Error(err)
		}
	}
	if left > 0 {
		s.t.Errorf("%d messages are left in the queue", left)
	}
}
