package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/cmd/postcert/internal/status"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// The calls of clients that are not run for real, each exactly in the form that
// acme/lineage cites, and each with a certificate that must be served after it.
func TestHookForms(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	inter := certtest.EncodeCerts(h.ca.Cert)
	// in makes a directory with a pair under the client's own names.
	in := func(cert, key string, leafOnly bool) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "a")
		for _, d := range []string{filepath.Dir(cert), filepath.Dir(key)} {
			if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		p := h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}})
		chain := p.FullchainPEM()
		if leafOnly {
			chain = p.CertPEM()
		}
		h.write(filepath.Join(dir, cert), chain)
		h.write(filepath.Join(dir, key), p.KeyPEM())
		h.write(filepath.Join(dir, "chain.pem"), inter)
		h.write(filepath.Join(dir, "leaf.pem"), p.CertPEM())
		return dir
	}
	served := func(name, dir string, a answer) {
		t.Helper()
		a.want(0).quiet()
		if got, want := h.served(), h.leafAt(filepath.Join(dir, "leaf.pem")); got != want {
			t.Errorf("%s: %s is served, want %s", name, got, want)
		}
	}
	// Nothing is deployed yet, so the name decides.
	dir := in("fullchain.cer", "mail.key", false)
	served("acme.sh", dir, h.hook([]string{"CERT_PATH=" + dir + "/mail.cer", "CERT_KEY_PATH=" + dir + "/mail.key", "CA_CERT_PATH=" + dir + "/ca.cer",
		"CERT_FULLCHAIN_PATH=" + dir + "/fullchain.cer", "Le_Domain=" + hostName}))
	h.postcert("release").want(0)

	dir = in("certificates/a.crt", "certificates/a.key", false)
	v5 := []string{"LEGO_HOOK_ACCOUNT_ID=a", "LEGO_HOOK_ACCOUNT_EMAIL=a@example.test", "LEGO_HOOK_CERT_NAME=a", "LEGO_HOOK_CERT_NAME_SANITIZED=a",
		"LEGO_HOOK_CERT_KEY_TYPE=EC256", "LEGO_HOOK_CERT_DOMAINS=" + hostName, "LEGO_HOOK_CERT_PATH=" + dir + "/certificates/a.crt",
		"LEGO_HOOK_CERT_KEY_PATH=" + dir + "/certificates/a.key"}
	h.untouched25(func() { h.hook(v5).want(0).says("hook_left") })
	h.postcert("install-cert", "--cert", dir+"/certificates/a.crt", "--key", dir+"/certificates/a.key").want(0)
	p := h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}})
	h.write(dir+"/certificates/a.crt", p.FullchainPEM())
	h.write(dir+"/certificates/a.key", p.KeyPEM())
	h.write(dir+"/leaf.pem", p.CertPEM())
	served("lego v5", dir, h.hook(v5))

	for _, client := range []struct{ name, cert, key string }{
		{"getssl", hostName + "/fullchain.crt", hostName + "/" + hostName + ".key"},
		{"uacme", hostName + "/cert.pem", "private/key.pem"},
		{"step", "mail.crt", "mail.key"},
	} {
		dir := in(client.cert, client.key, false)
		served(client.name, dir, h.hook(nil, "--cert", filepath.Join(dir, client.cert), "--key", filepath.Join(dir, client.key)))
	}
	dir = in("mail.crt", "mail.key", true)
	served("certmonger", dir, h.hook(nil, "--cert", dir+"/mail.crt", "--key", dir+"/mail.key", "--chain", dir+"/chain.pem"))
	h.renewHere().want(0) // from three files, which the record names
	p = h.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}})
	h.write(dir+"/mail.crt", p.CertPEM())
	h.write(dir+"/mail.key", p.KeyPEM())
	h.renewHere().want(0)
	if h.served() != fingerprint(p.Cert) {
		t.Error("renew does not look where the hook was pointed to")
	}
	h.hook(nil, "--cert", dir+"/mail.crt", "extra").want(2)
	h.hook(nil).want(2).says("hook_unrecognised").says("postcert help hook")
}

// leafAt is the fingerprint of the certificate in a file.
func (h *host) leafAt(path string) string {
	h.t.Helper()
	dir := h.t.TempDir()
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(filepath.Join(dir, "fullchain.pem"), data)
	return h.leafOf(dir)
}

// untouched25 is untouched, of a host that listens on port 25 alone.
func (h *host) untouched25(f func()) {
	h.t.Helper()
	before, leaf := h.pf.Files(), h.served()
	f()
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		h.t.Errorf("changed: %s", d)
	}
	if got := h.served(); got != leaf {
		h.t.Errorf("%s is served, want %s", got, leaf)
	}
}

// Several instances: the hook treats those that the lineage is ours in, and leaves
// the others as they are.
func TestHookSeveralInstances(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{"multi_instance_enable = yes"}})
	le := h.letsencrypt()
	inbound := le.renew("mx.example.test", certtest.Leaf{})
	cert := filepath.Join(h.dir, "second.pem")
	postfixtest.WritePair(t, cert, "mx.example.test")
	other := postfixtest.New(t, postfixtest.Options{Cert: cert, Name: "postfix-in", Address: postfixtest.SecondAddress, Main: []string{"myhostname = mx.example.test"}})
	other.Start()
	h.pf.AppendMain("multi_instance_directories = " + other.ConfigDir)
	if err := syscall.Mount(h.pf.ConfigDir, "/etc/postfix", "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount("/etc/postfix", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	call := func(lineage string) answer {
		t.Helper()
		cmd := h.hookCommand([]string{"RENEWED_LINEAGE=" + lineage})
		i := slices.Index(cmd.Args, h.pf.ConfigDir) - 1
		cmd.Args = slices.Delete(cmd.Args, i, i+2)
		return h.finish(cmd)
	}
	second := func() string {
		t.Helper()
		leaf, err := postfixtest.ServedLeaf(t, postfixtest.SecondAddress+":25", postfixtest.StartTLS)
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	live := le.renew(hostName, certtest.Leaf{})
	was := second()
	call(live).want(0).quiet()
	h.serves(h.leafOf(live))
	if second() != was {
		t.Error("the other instance was changed")
	}
	h.untouched(func() { call(inbound).want(0).quiet() })
	if second() != h.leafOf(inbound) {
		t.Error("the other instance does not serve its own")
	}
	both := le.renew(hostName, certtest.Leaf{Names: []string{hostName, "mx.example.test"}})
	h.untouched(func() { call(inbound).want(0).quiet() })
	call(both).want(0).quiet()
	h.serves(h.leafOf(both))
}

// A lineage that one service alone names, by an override, is for that service.
func TestHookService(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	live, own := le.renew(hostName, certtest.Leaf{}), le.renew("submit.example.test", certtest.Leaf{})
	h.pf.Postconf("-P", "submissions/inet/smtpd_tls_cert_file="+own+"/fullchain.pem", "submissions/inet/smtpd_tls_key_file="+own+"/privkey.pem")
	h.pf.Reload()
	h.certbot(live).want(0).quiet()
	for range 2 {
		own = le.renew("submit.example.test", certtest.Leaf{})
		h.certbot(own).want(0).quiet()
		h.wantServed(postfixtest.Submissions, postfixtest.Implicit, h.leafOf(own))
		h.wantServed(postfixtest.Submission, postfixtest.StartTLS, h.leafOf(live))
	}
	own = le.renew("submit.example.test", certtest.Leaf{})
	h.renewHere().want(0) // by the record, which knows the service too
	h.wantServed(postfixtest.Submissions, postfixtest.Implicit, h.leafOf(own))
	h.wantServed(postfixtest.Submission, postfixtest.StartTLS, h.leafOf(live))
}

// A hook that is killed in the middle, as lego does after two minutes, is not
// forgotten: status fails until renew, which needs no configuration, has done it.
func TestHookKilled(t *testing.T) {
	for _, at := range []string{"plan begin", "commit end"} {
		t.Run(at, func(t *testing.T) {
			h := newHost(t, postfixtest.Options{})
			le := h.letsencrypt()
			h.certbot(le.renew(hostName, certtest.Leaf{})).want(0)
			live := le.renew(hostName, certtest.Leaf{})
			cmd := h.hookCommand([]string{"RENEWED_LINEAGE=" + live, killAt + "=" + at})
			if a := h.finish(cmd); a.status != -1 {
				t.Fatalf("not killed: %d\n%s", a.status, a.stderr)
			}
			h.postcert("status").want(8)
			h.renewHere().want(0)
			h.serves(h.leafOf(live))
			h.postcert("status").want(0)
		})
	}
}

// The time of a hook is limited, and what is not done then is left to the timer.
func TestHookLate(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	h.certbot(le.renew(hostName, certtest.Leaf{})).want(0)
	live := le.renew(hostName, certtest.Leaf{})
	h.untouched(func() {
		a := h.during("plan begin", func() { time.Sleep(1200 * time.Millisecond) }, "hook", "--timeout", "1s", "--trust", h.trust, "--cert", live+"/fullchain.pem", "--key", live+"/privkey.pem")
		if a.status == 0 {
			t.Fatal("it had no limit")
		}
		a.says("postcert renew")
	})
	h.postcert("status").want(8)
	h.renewHere().want(0)
	h.serves(h.leafOf(live))
}

// Failures are tried again with growing pauses when the daemon asks, and at once
// when a person or a timer does.
func TestHookBackOff(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	h.certbot(le.renew(hostName, certtest.Leaf{})).want(0)
	live := le.renew(hostName, certtest.Leaf{})
	h.pf.AppendMain(badProtocols[1])
	h.certbot(live).want(3)
	rec := h.record()
	if rec.Retry != h.leafOf(live) || rec.Failures != 1 || rec.NextAttempt.Before(time.Now()) || rec.Lineage != live || rec.LastError.ID != "rehearsal_refused" {
		t.Errorf("the record is %+v", rec)
	}
	h.renewHere("--scheduled").want(0).says("left alone")
	h.renewHere().want(3)
	if again := h.record(); again.Failures != 2 || !again.NextAttempt.After(rec.NextAttempt) {
		t.Errorf("the record is %+v", again)
	}
	h.pf.ReplaceMain(badProtocols[1], "")
	h.renewHere().want(0)
	if rec = h.record(); rec.Retry != "" || rec.Failures != 0 {
		t.Errorf("the record is %+v", rec)
	}
	// A person decided otherwise: that is not undone.
	h.postcert("rollback").want(0)
	h.untouched(func() { h.renewHere().want(0).says("somebody installed another") })
	live = le.renew(hostName, certtest.Leaf{})
	h.renewHere().want(0)
	h.serves(h.leafOf(live))
}

// record is the host's only record.
func (h *host) record() *status.Record {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.state, "status", "*", hostName+".json"))
	if err != nil || len(files) != 1 {
		h.t.Fatalf("%q, %v", files, err)
	}
	rec, err := status.Store{Path: func(_, _ string) (string, error) { return files[0], nil }}.Read("", "")
	if err != nil {
		h.t.Fatal(err)
	}
	return rec
}

// Under -v the hook says what it does; the words for another's lineage are for
// those who look for them.
func TestHookVerbose(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	le := h.letsencrypt()
	live := le.renew(hostName, certtest.Leaf{})
	h.hook([]string{"RENEWED_LINEAGE=" + live}, "-v").want(0).says("rehearse").says("installed")
	h.hook([]string{"RENEWED_LINEAGE=" + le.renew("www.example.net", certtest.Leaf{})}, "-vv").want(0).says("another's lineage")
	dry := h.hook([]string{"RENEWED_LINEAGE=" + le.renew(hostName, certtest.Leaf{})}, "-v", "--dry-run").want(0)
	dry.says("nothing was changed")
	if got := h.served(); got == h.leafOf(live) {
		t.Errorf("%s", fmt.Sprint(strings.TrimSpace(dry.stdout)))
	}
}
