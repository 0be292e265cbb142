package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

	// For the sources of these forms see lineage.Named.
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
	// acme.sh --deploy sources a script of ours and calls a function in it:
	// acme.sh, _deploy: $d_command "$_d" "$CERT_KEY_PATH" "$CERT_PATH" "$CA_CERT_PATH" "$CERT_FULLCHAIN_PATH".
	script, err := os.ReadFile("../../contrib/hooks/acme.sh/postcert.sh")
	if err != nil {
		t.Fatal(err)
	}
	file, conf := filepath.Join(h.dir, "postcert.sh"), filepath.Join(h.dir, "postcert.yaml")
	h.write(file, []byte(strings.Replace(string(script), "/usr/bin/postcert", h.exe, 1)))
	h.write(conf, []byte(fmt.Sprintf("state_dir: %s\nruntime_dir: %s\ntrust: [%s]\n", h.state, h.run, h.trust)))
	dir = in("fullchain.cer", "mail.key", false)
	sh := exec.Command("/bin/sh", "-c", `. "$0"; postcert_deploy mail "$1/mail.key" "$1/mail.cer" "$1/ca.cer" "$1/fullchain.cer"`, file, dir)
	sh.Env = []string{asPostcert + "=1", quickExit, testDeadline + "=4s", "POSTCERT_CONFIG=" + conf, "POSTCERT_INSTANCE=" + h.pf.ConfigDir}
	served("acme.sh --deploy", dir, h.finish(sh))
	h.hook(nil, "--cert", dir+"/fullchain.cer", "extra").want(2)
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
	// One that Postfix cannot read does not keep the other from its renewal, and
	// gets its own from renew when it is mended.
	was = second()
	main, err := os.ReadFile(other.ConfigDir + "/main.cf")
	if err != nil {
		t.Fatal(err)
	}
	other.SetMain(append([]byte("this is no parameter\n"), main...))
	both, inbound = le.renew(hostName, certtest.Leaf{Names: []string{hostName, "mx.example.test"}}), le.renew("mx.example.test", certtest.Leaf{})
	call(both).want(3).says("config_broken")
	h.serves(h.leafOf(both))
	h.untouched(func() { call(inbound).want(3).says("config_broken") })
	other.SetMain(main)
	if second() != was {
		t.Error("the other instance was changed")
	}
	h.untouched(func() { h.renewHere().want(0) })
	if second() != h.leafOf(inbound) {
		t.Error("the other instance was not made up for")
	}
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
		a := h.with(testHook+"=1s").during("plan begin", func() { time.Sleep(1200 * time.Millisecond) }, "hook", "--trust", h.trust, "--cert", live+"/fullchain.pem", "--key", live+"/privkey.pem")
		if a.status == 0 {
			t.Fatal("it had no limit")
		}
		a.says("not done within the 1s that a hook has").says("postcert renew")
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

// What install-cert took from somewhere is not a promise that it stays there, nor
// that it is judged again without what a person allowed; a drift is told, and not
// undone behind anybody's back.
func TestHookAfterInstallCert(t *testing.T) {
	t.Run("cleared away", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{Only25: true})
		l := h.lineage(certtest.Leaf{})
		h.postcert("install-cert", l).want(0)
		if rec := h.record(); rec.Lineage != l || rec.Issued != rec.Installed {
			t.Errorf("the record is %+v", rec)
		}
		if err := os.RemoveAll(l); err != nil {
			t.Fatal(err)
		}
		h.renewHere().want(0)
		h.postcert("status").want(0)
	})
	t.Run("allowed once", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{Only25: true})
		dir := filepath.Join(h.dir, "self")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		postfixtest.WritePair(t, filepath.Join(dir, "both.pem"), hostName)
		h.postcert("install-cert", "--cert", dir+"/both.pem", "--allow-self-signed").want(0)
		h.postcert("renew").want(0)
		h.hook(nil, "--cert", dir+"/both.pem").want(0).quiet()
	})
	t.Run("where others can write", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{Only25: true})
		l := h.lineage(certtest.Leaf{})
		if err := os.Chmod(l, 0o777); err != nil {
			t.Fatal(err)
		}
		h.postcert("install-cert", l).want(0).says("input_untrusted_path")
		if rec := h.record(); rec.Lineage != "" {
			t.Errorf("it is looked at again: %+v", rec)
		}
		h.renewHere().want(0)
	})
	t.Run("drift", func(t *testing.T) {
		h := newHost(t, postfixtest.Options{Only25: true})
		le := h.letsencrypt()
		live := le.renew(hostName, certtest.Leaf{})
		h.certbot(live).want(0)
		h.pf.Postconf("smtpd_tls_cert_file=" + filepath.Join(h.dir, "first.pem"))
		h.pf.Reload()
		first := h.leafAt(filepath.Join(h.dir, "first.pem"))
		postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, first)
		h.untouched25(func() { h.renewHere().want(8) })
		h.certbot(live).want(0) // the client says so again
		if h.served() != h.leafOf(live) {
			t.Error("not served again")
		}
	})
}

// The daemon, too, needs neither configuration nor client for what a hook left.
func TestHookDaemon(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	h.certbot(le.renew(hostName, certtest.Leaf{})).want(0)
	live := le.renew(hostName, certtest.Leaf{})
	h.pf.AppendMain(badProtocols[1])
	h.certbot(live).want(3)
	h.pf.ReplaceMain(badProtocols[1], "")
	clock := filepath.Join(h.dir, "clock")
	h.write(clock, []byte("2m"))
	h.env = append(h.env, childClock+"="+clock)
	h.write(filepath.Join(h.dir, "issuers.pem"), certtest.EncodeCerts(h.root.Cert))
	d := (&acmeHost{host: h}).daemon()
	d.until("what the hook left is served", time.Minute, func() bool {
		leaf, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS)
		return err == nil && leaf == h.leafOf(live)
	})
	d.says("deploy=installed", time.Minute)
	// One that no hook is called for is found as well.
	live = le.renew(hostName, certtest.Leaf{})
	h.write(clock, []byte("30m"))
	d.signal(syscall.SIGHUP)
	d.until("a renewal without a hook is served", time.Minute, func() bool {
		leaf, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS)
		return err == nil && leaf == h.leafOf(live)
	})
	h.serves(h.leafOf(live))
}

// Postfix is broken or not running when the hook is called: that is said and
// remembered, and done later.
func TestHookWhenPostfixIsNot(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	h.certbot(le.renew(hostName, certtest.Leaf{})).want(0)

	live := le.renew(hostName, certtest.Leaf{})
	main := h.pf.Main()
	h.pf.AppendMain("smtpd_banner = ${")
	if a := h.certbot(live); a.status == 0 {
		t.Error("a broken main.cf is fine")
	}
	h.pf.SetMain(main)
	h.postcert("status").want(8)
	h.renewHere().want(0)
	h.serves(h.leafOf(live))
	h.postcert("status").want(0)

	live = le.renew(hostName, certtest.Leaf{})
	h.pf.Stop()
	h.certbot(live).want(9)
	h.pf.Start()
	h.serves(h.leafOf(live))
	h.renewHere().want(0)
	h.postcert("status").want(0)
}

// S03: the hook is called while the key is still the old one; what it takes in the
// end is the complete new pair, and clients see the old or the new one meanwhile.
func TestHookWhileWritten(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	le := h.letsencrypt()
	live := le.renew(hostName, certtest.Leaf{})
	h.certbot(live).want(0)
	old := h.leafOf(live)
	le.renew(hostName, certtest.Leaf{})
	key := filepath.Join(live, "privkey.pem")
	point := func(n int) error {
		_ = os.Remove(key)
		return os.Symlink(fmt.Sprintf("../../archive/%s/privkey%d.pem", hostName, n), key)
	}
	if err := point(1); err != nil {
		t.Fatal(err)
	}
	fresh := h.leafOf(live)
	done := make(chan error, 1)
	go func() {
		time.Sleep(1500 * time.Millisecond)
		done <- point(2)
	}()
	end := make(chan struct{})
	seen := make(chan map[string]int, 1)
	go func() {
		all := map[string]int{}
		for {
			leaf, err := postfixtest.ServedLeaf(t, postfixtest.Submission, postfixtest.StartTLS)
			if err != nil {
				leaf = err.Error()
			}
			all[leaf]++
			select {
			case <-end:
				seen <- all
				return
			default:
			}
		}
	}()
	h.certbot(live).want(0).quiet()
	close(end)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for leaf, n := range <-seen {
		if leaf != old && leaf != fresh {
			t.Errorf("%d times: %s", n, leaf)
		}
	}
	h.serves(fresh)
}
