package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// dovecot is Debian's Dovecot on a host of a test, with a configuration of its
// own that nothing but the test writes.
type dovecot struct {
	h       *host
	dir     string // configuration, sockets, log
	tls     string // the copies it reads
	process *exec.Cmd
}

// The addresses at which it listens.
const (
	imaps = "127.0.0.1:993"
	imap  = "127.0.0.1:143"
)

// newDovecot prepares a Dovecot; its directory of copies is empty.
func newDovecot(h *host) *dovecot {
	h.t.Helper()
	postfixtest.Need(h.t, "dovecot", "doveadm")
	dir, err := os.MkdirTemp("/run", "dovecot")
	if err != nil {
		h.t.Fatal(err)
	}
	d := &dovecot{h: h, dir: dir, tls: filepath.Join(dir, "tls")}
	h.t.Cleanup(func() { d.stop(); _ = os.RemoveAll(dir) })
	for _, sub := range []string{"", "run", "state", "tls"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // its processes are not root
		h.t.Fatal(err)
	}
	h.write(d.conf(), fmt.Appendf(nil, `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <%[1]s/tls/fullchain.pem
ssl_key = <%[1]s/tls/privkey.pem
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
`, dir))
	return d
}

func (d *dovecot) conf() string { return filepath.Join(d.dir, "dovecot.conf") }

// start runs it until both its ports answer.
func (d *dovecot) start() {
	d.h.t.Helper()
	d.process = exec.Command("/usr/sbin/dovecot", "-F", "-c", d.conf())
	var said bytes.Buffer
	d.process.Stdout, d.process.Stderr = &said, &said
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.process.Start(); err != nil {
		d.h.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); d.leaf(imaps) == "" || d.leaf(imap) == ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
			d.h.t.Fatalf("Dovecot does not answer\n%s%s", &said, log)
		}
	}
}

func (d *dovecot) stop() {
	if d.process == nil {
		return
	}
	_ = d.process.Process.Signal(syscall.SIGTERM)
	_ = d.process.Wait()
	d.process = nil
}

// leaf is what openssl is shown at an address; "" if nothing.
func (d *dovecot) leaf(addr string) string {
	d.h.t.Helper()
	var args []string
	if addr == imap {
		args = []string{"-starttls", "imap"}
	}
	leaf, err := postfixtest.ServedLeaf(d.h.t, addr, postfixtest.Implicit, args...)
	if err != nil {
		return ""
	}
	return leaf
}

// serves waits until both ports show this leaf: the last login processes of
// before a reload may take a connection after it.
func (d *dovecot) serves(leaf string) {
	d.h.t.Helper()
	for _, addr := range []string{imaps, imap} {
		got := ""
		for end := time.Now().Add(5 * time.Second); got != leaf && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			got = d.leaf(addr)
		}
		if got != leaf {
			d.h.t.Errorf("Dovecot serves %.8s on %s, want %.8s", got, addr, leaf)
		}
	}
}

// give copies a lineage's files to where Dovecot reads them.
func (d *dovecot) give(lineage string) {
	d.h.t.Helper()
	for _, name := range []string{"fullchain.pem", "privkey.pem"} {
		data, err := os.ReadFile(filepath.Join(lineage, name))
		if err != nil {
			d.h.t.Fatal(err)
		}
		d.h.write(filepath.Join(d.tls, name), data)
	}
}

// configure returns the host with a configuration in which Dovecot is a
// companion; extra replaces the reload command, or is "".
func (d *dovecot) configure(reload string) *host {
	d.h.t.Helper()
	if reload == "" {
		reload = fmt.Sprintf("reload: [/usr/bin/doveadm, -c, %s, reload], ", d.conf())
	}
	path := filepath.Join(d.h.t.TempDir(), "postcert.yaml")
	d.h.write(path, fmt.Appendf(nil, "companions:\n  - {name: dovecot, export: {directory: %s, owner: root, group: dovecot}, %sprobe: [\"imaps://%s\", \"imap://%s\"]}\n", d.tls, reload, imaps, imap))
	return d.h.with("POSTCERT_CONFIG=" + path)
}

// S36: Dovecot beside Postfix gets the certificate in the same transaction: its
// copies, its reload, the proof; and goes back with it. Its configuration is
// not touched.
func TestS36Dovecot(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	d := newDovecot(h)
	old, first, second := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	d.give(old)
	d.start()
	before, err := os.ReadFile(d.conf())
	if err != nil {
		t.Fatal(err)
	}
	c := d.configure("")
	c.postcert("install-cert", first, "--dry-run").want(0).says("companion    dovecot: copies in " + d.tls)
	d.serves(h.leafOf(old))
	c.postcert("install-cert", first).want(0).says("companion 2 of 2 proven").says("dovecot/companion")
	h.serves(h.leafOf(first))
	d.serves(h.leafOf(first))
	d.mode("privkey.pem", 0o640)
	d.mode("fullchain.pem", 0o644)

	c.postcert("install-cert", second).want(0)
	h.serves(h.leafOf(second))
	d.serves(h.leafOf(second))
	c.postcert("install-cert", second).want(0).says("unchanged")
	c.postcert("status").want(0).says(imaps)

	c.postcert("rollback").want(0)
	h.serves(h.leafOf(first))
	d.serves(h.leafOf(first))
	if after, err := os.ReadFile(d.conf()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("its configuration was changed (%v)", err)
	}
}

// mode fails the test if a copy has another mode, or another owner or group
// than the configuration asks for.
func (d *dovecot) mode(name string, want os.FileMode) {
	d.h.t.Helper()
	info, err := os.Stat(filepath.Join(d.tls, name))
	if err != nil {
		d.h.t.Fatal(err)
	}
	gid, err := exec.Command("id", "-g", "dovecot").Output()
	st := info.Sys().(*syscall.Stat_t)
	if err != nil || info.Mode().Perm() != want || st.Uid != 0 || fmt.Sprint(st.Gid) != strings.TrimSpace(string(gid)) {
		d.h.t.Errorf("%s has mode %04o, owner %d, group %d (%v)", name, info.Mode().Perm(), st.Uid, st.Gid, err)
	}
}

// S36: a Dovecot that goes on with the former certificate, because its reload
// is forgotten or fails, takes the whole change back.
func TestS36NotReloaded(t *testing.T) {
	for name, reload := range map[string]string{"forgotten": " ", "fails": "reload: [/bin/false], ", "does nothing": "reload: [/bin/true], "} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, postfixtest.Options{})
			d := newDovecot(h)
			old, l := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
			d.give(old)
			d.start()
			copies, before := d.files(), h.chain()
			d.configure(reload).postcert("install-cert", l).want(4).says("dovecot")
			h.shows(before, "")
			d.serves(h.leafOf(old))
			if after := d.files(); after != copies {
				t.Errorf("the copies were\n%s\nand are\n%s", copies, after)
			}
			h.clean()
		})
	}
}

// files are name, mode, owner, time and digest of the copies.
func (d *dovecot) files() string {
	d.h.t.Helper()
	out, err := exec.Command("sh", "-c", "cd "+d.tls+" && stat -c '%n %a %u:%g %y' * && sha256sum *").CombinedOutput()
	if err != nil {
		d.h.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// S36: one that is down is no reason to undo, and no success: it is asked again
// by the next run.
func TestS36Down(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	d := newDovecot(h)
	d.give(h.lineage(certtest.Leaf{}))
	l := h.lineage(certtest.Leaf{})
	c := d.configure("")
	c.postcert("install-cert", l).want(9).says("companion_down").says(imaps)
	h.serves(h.leafOf(l))
	c.postcert("status").want(8)
	d.start()
	d.serves(h.leafOf(l))
	c.postcert("install-cert", l).want(0)
	c.postcert("status").want(0)
}

// S36: killed between the proof of Postfix and that of Dovecot, both are as they
// were after recover; copies that were not there are not there.
func TestS36Killed(t *testing.T) {
	for _, point := range []string{"companion begin", "companion end"} {
		t.Run(point, func(t *testing.T) {
			h := newHost(t, postfixtest.Options{})
			d := newDovecot(h)
			old, l := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
			d.give(old)
			d.start()
			copies, before := d.files(), h.chain()
			c := d.configure("")
			c.with(doAt+"="+point+": kill -9 $PPID").postcert("install-cert", l)
			c.postcert("status").want(8).says("interrupted")
			h.postcert("recover").want(0) // the journal knows all it needs
			h.shows(before, "")
			d.serves(h.leafOf(old))
			if after := d.files(); after != copies {
				t.Errorf("the copies were\n%s\nand are\n%s", copies, after)
			}
			h.clean()
			c.postcert("install-cert", l).want(0)
			d.serves(h.leafOf(l))
		})
	}
}

// What cannot be done for a companion is refused before anything is touched.
func TestCompanionRefused(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	writable := filepath.Join(t.TempDir(), "reload")
	h.write(writable, []byte("#!/bin/sh\n"))
	if err := os.Chmod(writable, 0o777); err != nil {
		t.Fatal(err)
	}
	l := h.lineage(certtest.Leaf{})
	for id, companion := range map[string]string{
		"export_directory":  "export: {directory: /nowhere/tls}",
		"companion_account": "export: {directory: /etc, group: nobody-has-this}",
		"companion_program": "reload: [" + writable + "]",
	} {
		path := filepath.Join(t.TempDir(), "postcert.yaml")
		h.write(path, []byte("companions: [{name: dovecot, "+companion+"}]\n"))
		h.untouched(func() {
			h.postcert("install-cert", l, "--config", path, "--json").refuses(3, id)
		})
	}
}
