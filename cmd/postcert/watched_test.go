package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/acme/lineage/lineagetest"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// newWatchHost is a mail host whose certificates another client obtains.
func newWatchHost(t *testing.T) *acmeHost {
	t.Helper()
	h := &acmeHost{host: newHost(t, postfixtest.Options{})}
	h.write(h.issuers(), certtest.EncodeCerts(h.root.Cert))
	return h
}

// watching writes a configuration with one watched certificate; its path.
func (h *acmeHost) watching(lineage string) string {
	path := filepath.Join(h.dir, "postcert.yaml")
	h.write(path, []byte(fmt.Sprintf("certificates: [{name: %s, source: watch, lineage: %s}]\ninstances: [{config_directory: %s, certificate: %[1]s}]\ntrust: [%[4]s]\n",
		hostName, lineage, h.pf.ConfigDir, h.trust)))
	return path
}

func (h *acmeHost) leaf() *certtest.Pair {
	return h.host.ca.Leaf(h.t, certtest.Leaf{Names: []string{hostName}})
}

// writtenLeaf is the fingerprint of what a test wrote, judged against what openssl is shown.
func writtenLeaf(p *certtest.Pair) string { return postfixtest.Fingerprint(p.Cert.Raw) }

func (d *daemonProcess) installs() int { return strings.Count(d.text(), "deploy=installed") }

// deploys waits until exactly n deploys are done, and openssl is shown p.
func (d *daemonProcess) deploys(n int, p *certtest.Pair, limit time.Duration) {
	d.h.t.Helper()
	d.until(fmt.Sprintf("deploy %d", n), limit, func() bool { return d.installs() >= n })
	if got := d.installs(); got != n {
		d.h.t.Errorf("%d deploys, want %d", got, n)
	}
	d.h.serves(writtenLeaf(p))
}

// S42: every way in which other programs replace a pair, step by step, leads to
// exactly one deploy, of the complete new pair. Each way has a directory of its
// own, which a new configuration names: SIGHUP alone changes what is watched, and
// the same certificate in another directory is not deployed again.
func TestS42Writers(t *testing.T) {
	h := newWatchHost(t)
	now := h.leaf()
	var d *daemonProcess
	pause := func() { time.Sleep(120 * time.Millisecond) }
	for i, w := range lineagetest.Writers {
		base := filepath.Join(h.dir, fmt.Sprint("writer", i))
		dir, _, _ := w.Source(base, hostName)
		w.Write(t, base, hostName, 1, now, func() {})
		conf := h.watching(dir)
		if d == nil {
			d = h.daemon("--config", conf)
			d.deploys(1, now, 30*time.Second)
		} else {
			d.signal(syscall.SIGHUP)
			d.until("the new configuration", 10*time.Second, func() bool { return strings.Count(d.text(), "was read again") == i })
		}
		time.Sleep(300 * time.Millisecond)
		now = h.leaf()
		w.Write(t, base, hostName, 2, now, pause)
		ended := time.Now()
		d.deploys(i+2, now, 30*time.Second)
		t.Logf("S42: %s: one deploy, served %v after the last step", w.Name, time.Since(ended).Round(10*time.Millisecond))
		// Another certificate beside it is nobody's concern.
		w.Write(t, base, hostName+"-0001", 1, h.leaf(), func() {})
	}
	time.Sleep(3 * time.Second)
	d.deploys(len(lineagetest.Writers)+1, now, 0)
	if strings.Contains(d.text(), "level=ERROR") {
		t.Errorf("errors:\n%s", d.text())
	}
	d.ends(10 * time.Second)
}

// S43: what was renewed while the daemon was down is deployed when it is up, once.
func TestS43DaemonWasDown(t *testing.T) {
	h := newWatchHost(t)
	lineage := h.lineage(certtest.Leaf{})
	conf := h.watching(lineage)
	d := h.daemon("--config", conf)
	d.says("deploy=installed", 30*time.Second)
	d.ends(10 * time.Second)
	next := h.leaf()
	next.WriteFiles(t, lineage)
	for i := range 3 {
		d = h.daemon("--config", conf)
		if i == 0 {
			d.deploys(1, next, 30*time.Second)
		} else {
			time.Sleep(1500 * time.Millisecond)
			d.deploys(0, next, 0)
		}
		d.ends(10 * time.Second)
	}
}

// A deploy that fails waits for its time, however often the same certificate is
// written again. A new one does not wait.
func TestWatchBackOff(t *testing.T) {
	h := newWatchHost(t)
	before := h.served()
	lineage := h.lineage(certtest.Leaf{})
	if out, err := exec.Command("chattr", "+i", filepath.Join(h.pf.ConfigDir, "main.cf")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mend := func() { _ = exec.Command("chattr", "-i", filepath.Join(h.pf.ConfigDir, "main.cf")).Run() }
	t.Cleanup(mend)
	d := h.daemon("--config", h.watching(lineage))
	d.says("deploy_again=", 30*time.Second)
	for range 3 {
		data, err := os.ReadFile(filepath.Join(lineage, "fullchain.pem"))
		if err != nil {
			t.Fatal(err)
		}
		h.write(filepath.Join(lineage, "fullchain.pem"), data)
		time.Sleep(1200 * time.Millisecond)
	}
	if n := strings.Count(d.text(), "deploy_again="); n != 1 {
		t.Errorf("%d deploys of the same certificate", n)
	}
	h.serves(before)
	mend()
	next := h.leaf()
	next.WriteFiles(t, lineage)
	d.deploys(1, next, 20*time.Second)
	d.ends(10 * time.Second)
}

// A key that comes much later than its certificate: nothing is served of the half,
// the refusal says what is missing, and the pair is deployed when it is whole.
func TestWatchLateKey(t *testing.T) {
	h := newWatchHost(t)
	h.env = append(h.env, testSettle+"=3s")
	lineage := h.lineage(certtest.Leaf{})
	d := h.daemon("--config", h.watching(lineage))
	d.says("deploy=installed", 30*time.Second)
	before, next := h.served(), h.leaf()
	h.write(filepath.Join(lineage, "fullchain.pem"), next.FullchainPEM())
	d.says("id=key_mismatch", 30*time.Second)
	h.serves(before)
	h.write(filepath.Join(lineage, "privkey.pem"), next.KeyPEM())
	d.deploys(2, next, 20*time.Second)
	d.ends(10 * time.Second)
}

// mountFile puts a single file where another one is, as a container is given one.
func mountFile(t *testing.T, from, to string) {
	t.Helper()
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(to, syscall.MNT_DETACH) })
}

// S44: a single file is mounted from where it was then replaced by a rename: no
// renewal can be seen any more, and that is said before anything expires.
func TestS44MountedFile(t *testing.T) {
	h := newWatchHost(t)
	store, lineage := h.lineage(certtest.Leaf{}), filepath.Join(h.dir, "mounted")
	if err := os.Mkdir(lineage, 0o700); err != nil {
		t.Fatal(err)
	}
	files := []string{"fullchain.pem", "privkey.pem"}
	for _, f := range files {
		h.write(filepath.Join(lineage, f), nil)
		mountFile(t, filepath.Join(store, f), filepath.Join(lineage, f))
	}
	conf := h.watching(lineage)
	if a := h.postcert("renew", "--config", conf).want(0); strings.Contains(a.stdout+a.stderr, "source_stale") {
		t.Error("said too early")
	}
	old, next := h.served(), h.leaf()
	if err := os.Mkdir(store+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	next.WriteFiles(t, store+".new")
	for _, f := range files {
		if err := os.Rename(filepath.Join(store+".new", f), filepath.Join(store, f)); err != nil {
			t.Fatal(err)
		}
	}
	h.postcert("renew", "--config", conf).want(0).says("source_stale").says("mount of a single file")
	h.postcert("status", "--config", conf).want(0).says("source_stale")
	h.serves(old)
	for _, f := range files {
		if err := syscall.Unmount(filepath.Join(lineage, f), 0); err != nil {
			t.Fatal(err)
		}
		mountFile(t, filepath.Join(store, f), filepath.Join(lineage, f))
	}
	if a := h.postcert("renew", "--config", conf).want(0); strings.Contains(a.stdout+a.stderr, "source_stale") {
		t.Error("said although it is mended")
	}
	h.serves(writtenLeaf(next))
}

// S44: a source that goes on with the served certificate when it should have been
// renewed is reported, with the lineage that certbot made beside it.
func TestS44StaleSource(t *testing.T) {
	h := newWatchHost(t)
	clock := filepath.Join(h.dir, "clock")
	h.env = []string{childClock + "=" + clock}
	h.write(clock, []byte("0s"))
	lineage := h.lineage(certtest.Leaf{})
	conf := h.watching(lineage)
	h.postcert("renew", "--config", conf).want(0)
	for _, tt := range []struct {
		days  int
		stale bool
	}{{58, false}, {62, false}, {64, true}, {89, true}} {
		h.write(clock, []byte(fmt.Sprintf("%dh", tt.days*24)))
		for _, command := range []string{"renew", "status"} {
			a := h.postcert(command, "--config", conf, "--json").want(0)
			if strings.Contains(a.stdout, "source_stale") != tt.stale {
				t.Errorf("%s after %d days: %s", command, tt.days, a.stdout)
			}
		}
	}
	if err := os.Mkdir(lineage+"-0001", 0o700); err != nil {
		t.Fatal(err)
	}
	h.host.ca.Leaf(t, certtest.Leaf{Names: []string{hostName}, NotBefore: time.Now()}).WriteFiles(t, lineage+"-0001")
	h.postcert("status", "--config", conf).want(0).says("a newer one for the same names is in " + lineage + "-0001")
}
