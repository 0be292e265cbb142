package main

import (
	"errors"
	"fmt"
	"io"
	"net"
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

// withFlag prepares a run of install-cert in which a flag of the harness has
// another value.
func (h *host) withFlag(flag, value string, args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := h.command(append([]string{"install-cert"}, append(args, "--json")...)...)
	at := slices.Index(cmd.Args, flag)
	if at < 0 {
		h.t.Fatalf("no %s among the arguments", flag)
	}
	cmd.Args[at+1] = value
	return cmd
}

// wants fails the test unless an answer has this status and this id.
func (a answer) wants(status int, id string) answer {
	a.t.Helper()
	if ids := a.errorIDs(); a.status != status || !slices.Contains(ids, id) {
		a.t.Errorf("status %d, errors %q, want %d, %q\n%s%s", a.status, ids, status, id, a.stdout, a.stderr)
	}
	return a
}

// TestBadInput: whatever is given, the answer comes soon, has a stable id, and
// nothing was touched.
func TestBadInput(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	good := h.pairDir(h.leaf(certtest.Leaf{}))
	cert, key := filepath.Join(good, "fullchain.pem"), filepath.Join(good, "privkey.pem")
	fifo := filepath.Join(h.dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(h.pf.Dir, "socket")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	giant := h.pairFile("giant.pem", []byte("-----BEGIN CERTIFICATE-----\n"))
	if err := os.Truncate(giant, 1<<30); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(h.dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	garbage := h.pairFile("garbage", []byte("no tar at all, and no PEM either\n"))
	for _, tc := range []struct {
		name   string
		status int
		id     string
		args   []string
	}{
		{"no such lineage", 3, "input_missing", []string{"/nonexistent/lineage"}},
		{"a file as lineage", 3, "input_not_directory", []string{cert}},
		{"an empty lineage", 3, "input_missing", []string{t.TempDir()}},
		{"no such file", 3, "input_missing", []string{"--cert", "/nonexistent.pem", "--key", key}},
		{"a directory", 3, "input_not_regular", []string{"--cert", good, "--key", key}},
		{"a FIFO", 3, "input_not_regular", []string{"--cert", cert, "--key", fifo}},
		{"a socket", 3, "input_not_regular", []string{"--cert", cert, "--key", socket}},
		{"a device", 3, "input_not_regular", []string{"--cert", "/dev/zero", "--key", key}},
		{"of the kernel", 3, "input_not_regular", []string{"--cert", "/proc/self/environ", "--key", key}},
		{"1 GiB", 3, "input_too_large", []string{"--cert", giant, "--key", key}},
		{"a loop of links", 3, "input_unreadable", []string{"--cert", loop, "--key", key}},
		{"swapped", 3, "args_swapped", []string{"--cert", key, "--key", cert}},
		{"garbage", 3, "pem_empty", []string{"--cert", garbage, "--key", key}},
		{"no key", 3, "key_missing", []string{"--cert", cert}},
		{"tar: missing", 3, "input_missing", []string{"--tar", "/nonexistent.tar"}},
		{"tar: a directory", 3, "input_unreadable", []string{"--tar", good}},
		{"tar: a FIFO nobody writes to", 3, "tar_invalid", []string{"--tar", fifo}},
		{"tar: a device", 3, "input_too_large", []string{"--tar", "/dev/zero"}},
		{"tar: garbage", 3, "tar_invalid", []string{"--tar", garbage}},
		{"tar: 1 GiB", 3, "input_too_large", []string{"--tar", giant}},
		{"bad name", 3, "name_invalid", []string{good, "--name", "../../etc/shadow"}},
		{"unknown service", 3, "service_unknown", []string{good, "--service", "nosuch/inet"}},
		{"trust: missing", 3, "trust_invalid", []string{good, "--trust", "/nonexistent.pem"}},
		{"trust: a FIFO", 3, "trust_invalid", []string{good, "--trust", fifo}},
		{"nothing given", 2, "usage", nil},
		{"two sources", 2, "usage", []string{good, "--cert", cert}},
		{"unknown flag", 2, "usage", []string{good, "--force"}},
		{"config: missing", 2, "config_unreadable", []string{good, "--config", "/nonexistent.yaml"}},
		{"config: garbage", 2, "config_syntax", []string{good, "--config", h.pairFile("c.yaml", []byte("a: [\n"))}},
		{"config: unknown key", 2, "config_unknown_key", []string{good, "--config", h.pairFile("c.yaml", []byte("certificate: []\n"))}},
		{"no postconf there", 3, "postfix_missing", []string{good, "--config", h.pairFile("c.yaml", []byte("command_directory: /nonexistent\n"))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			h.refuses(tc.status, tc.id, append([]string{"install-cert"}, tc.args...)...)
		})
	}
	h.t = t
	h.untouched(func() {
		empty := t.TempDir()
		h.finish(h.withFlag("--instance", empty, good)).wants(2, "instance_unknown")
		h.finish(h.withFlag("--instance", "nosuch", good)).wants(2, "instance_unknown")
		h.finish(h.withFlag("--state-dir", garbage, good)).wants(3, "state_not_writable")
		h.finish(h.withFlag("--state-dir", "/proc/postcert", good)).wants(3, "state_not_writable")
		h.asNobody(key, good)
	})
	// After all that the good pair is installed as if nothing had been.
	h.postcert("install-cert", good).want(0)
}

// asNobody runs postcert as a user who may not read the key, and as one who may
// read it but not write the state directory.
func (h *host) asNobody(key, good string) {
	h.t.Helper()
	exe := filepath.Join(h.pf.Dir, "postcert")
	copyFile(h.t, exe, h.exe, 0o755)
	open := filepath.Join(h.pf.Dir, "open")
	if err := os.MkdirAll(open, 0o755); err != nil {
		h.t.Fatal(err)
	}
	for _, f := range []string{"fullchain.pem", "privkey.pem"} {
		copyFile(h.t, filepath.Join(open, f), filepath.Join(good, f), 0o644)
	}
	closed := filepath.Join(open, "closed.pem")
	copyFile(h.t, closed, key, 0o600)
	trust := filepath.Join(open, "root.pem")
	copyFile(h.t, trust, h.trust, 0o644)
	run := func(args ...string) answer {
		cmd := h.withFlag("--trust", trust, args...)
		cmd.Path = exe
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return h.finish(cmd)
	}
	run("--cert", filepath.Join(open, "fullchain.pem"), "--key", closed).wants(3, "input_unreadable")
	run(open, "--name", hostName).wants(3, "state_not_writable")
}

func copyFile(t *testing.T, to, from string, mode os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Chmod(mode), out.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenConfiguration: Postfix itself could not read its configuration
// before we came, so nothing is edited.
func TestBrokenConfiguration(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	// A smtpd that starts meanwhile would end, and master(8) start no other for
	// a minute; whether one runs makes no difference to the answer.
	h.pf.Stop()
	good := h.pairDir(h.leaf(certtest.Leaf{}))
	main, master := h.pf.Main(), h.pf.Master()
	for _, tc := range []struct {
		name, id string
		spoil    func()
		mend     func()
	}{
		{"main.cf", "config_broken", func() { h.pf.SetMain(append([]byte("this is no parameter\n"), main...)) }, func() { h.pf.SetMain(main) }},
		{"master.cf", "config_broken", func() { h.pf.SetMaster(append(master, "smtps inet n\n"...)) }, func() { h.pf.SetMaster(master) }},
		{"no main.cf", "instance_unknown", func() { os.Remove(h.pf.ConfigDir + "/main.cf") }, func() { h.pf.SetMain(main) }},
		{"no master.cf", "instance_unknown", func() { os.Remove(h.pf.ConfigDir + "/master.cf") }, func() { h.pf.SetMaster(master) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			tc.spoil()
			defer tc.mend()
			before, stored := h.pf.Files(), h.stored()
			a := h.postcert("install-cert", good, "--json")
			if ids := a.errorIDs(); !slices.Contains(ids, tc.id) || a.status != 3 && a.status != 2 {
				t.Errorf("status %d, errors %q, want %s\n%s%s", a.status, ids, tc.id, a.stdout, a.stderr)
			}
			for _, d := range append(postfixtest.Compare(before, h.pf.Files()), postfixtest.Compare(stored, h.stored())...) {
				t.Errorf("changed: %s", d)
			}
		})
	}
}

// mounts mounts something until the end of the test; the mounts are those of
// the test's own namespace.
func mounts(t *testing.T, source, target, kind string, flags uintptr, data string) (undo func()) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("mounting %s: %v", target, err)
	}
	done := false
	undo = func() {
		if !done {
			done = true
			if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", target, err)
			}
		}
	}
	t.Cleanup(undo)
	return undo
}

// readOnly makes path read-only.
func readOnly(t *testing.T, path string) (undo func()) {
	t.Helper()
	undo = mounts(t, path, path, "", syscall.MS_BIND, "")
	if err := syscall.Mount("", path, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return undo
}

// TestNotReplaceable: a target that cannot be replaced is found while planning,
// before anything is staged, let alone written.
func TestNotReplaceable(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	good := h.pairDir(h.leaf(certtest.Leaf{}))
	conf, tls := h.pf.ConfigDir, filepath.Join(h.pf.ConfigDir, "tls")
	file := filepath.Join(tls, hostName+".pem")
	elsewhere := t.TempDir()
	victim := h.pairFile("victim", []byte("precious\n"))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	chattr := func(t *testing.T, path string) func() {
		if out, err := exec.Command("chattr", "+i", path).CombinedOutput(); err != nil {
			t.Fatalf("chattr +i %s: %v: %s", path, err, out)
		}
		return func() { must(exec.Command("chattr", "-i", path).Run()) }
	}
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T) func()
	}{
		{"bind mount on main.cf", func(t *testing.T) func() { return mounts(t, conf+"/main.cf", conf+"/main.cf", "", syscall.MS_BIND, "") }},
		{"immutable main.cf", func(t *testing.T) func() { return chattr(t, conf+"/main.cf") }},
		{"immutable directory", func(t *testing.T) func() { return chattr(t, conf) }},
		{"read-only", func(t *testing.T) func() { return readOnly(t, conf) }},
		{"tls is a link", func(*testing.T) func() { must(os.Symlink(elsewhere, tls)); return func() { must(os.Remove(tls)) } }},
		{"tls is a file", func(*testing.T) func() { h.write(tls, nil); return func() { must(os.Remove(tls)) } }},
		{"tls is everybody's", func(*testing.T) func() {
			must(os.Mkdir(tls, 0o700))
			must(os.Chmod(tls, 0o777))
			return func() { must(os.Remove(tls)) }
		}},
		{"tls is another's", func(*testing.T) func() {
			must(os.Mkdir(tls, 0o700))
			must(os.Chown(tls, 65534, 65534))
			return func() { must(os.Remove(tls)) }
		}},
		{"a link in the way", func(*testing.T) func() {
			must(os.Mkdir(tls, 0o750))
			must(os.Symlink(victim, file))
			return func() { must(os.RemoveAll(tls)) }
		}},
		{"a hard link in the way", func(*testing.T) func() {
			must(os.Mkdir(tls, 0o750))
			h.write(filepath.Join(conf, "precious"), []byte("precious\n"))
			must(os.Link(filepath.Join(conf, "precious"), file))
			return func() { must(os.RemoveAll(tls)); must(os.Remove(filepath.Join(conf, "precious"))) }
		}},
		{"a directory in the way", func(*testing.T) func() { must(os.MkdirAll(file, 0o750)); return func() { must(os.RemoveAll(tls)) } }},
		{"no room", func(t *testing.T) func() {
			must(os.Mkdir(tls, 0o750))
			undo := mounts(t, "full", tls, "tmpfs", 0, "size=64k,mode=0750")
			return func() { undo(); must(os.Remove(tls)) }
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.t = t
			undo := tc.spoil(t)
			defer undo()
			id := "config_not_replaceable"
			switch {
			case tc.name == "no room":
				id = "disk_full"
			case strings.HasPrefix(tc.name, "tls is "):
				id = "tls_directory_unfit"
			}
			h.refuses(statusRefused, id, "install-cert", good)
		})
	}
	h.t = t
	if data, err := os.ReadFile(victim); err != nil || string(data) != "precious\n" {
		t.Errorf("the file behind the link is %q, %v", data, err)
	}
	h.postcert("install-cert", good).want(0)
}

// TestForeignLock: another run holds the lock.
func TestForeignLock(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	good := h.pairDir(h.leaf(certtest.Leaf{}))
	if err := os.MkdirAll(h.state, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(h.state, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, 4711)
	h.refuses(statusBusy, "busy", "install-cert", good, "--timeout", "700ms").says("4711")
}

// S14: the file system of the state directory is full, or read-only, at any
// point: the old pair stays, and no temporary file.
func TestS14FullOrReadOnly(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	first, second := h.leaf(certtest.Leaf{}), h.leaf(certtest.Leaf{})
	h.installs(fingerprint(first.Cert), h.pairDir(first))
	saved := t.TempDir()
	if out, err := exec.Command("cp", "-a", h.state+"/.", saved).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := h.pairDir(second)
	undo := readOnly(t, h.state)
	h.refuses(statusRefused, "state_not_writable", "install-cert", dir)
	undo()
	failed := 0
	for _, free := range []int{0, 8, 11, 12, 24} {
		undo := mounts(t, "full", h.state, "tmpfs", 0, "mode=0700,size=1m")
		if out, err := exec.Command("cp", "-a", saved+"/.", h.state).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		fill(t, filepath.Join(h.state, "filler"), int64(free)*4096)
		stored, leaf := h.stored(), h.served()
		before := h.pf.Files()
		a := h.postcert("install-cert", dir, "--json")
		if a.status == 0 {
			h.serves(fingerprint(second.Cert))
			undo()
			break
		}
		failed++
		if ids := a.errorIDs(); a.status != statusFailed && a.status != statusRefused && a.status != statusRolledBack || !slices.Contains(ids, "disk_full") && a.status != statusRolledBack {
			t.Errorf("with %d pages free: status %d, errors %q\n%s%s", free, a.status, ids, a.stdout, a.stderr)
		}
		if a.status == statusRolledBack {
			// What was full may have kept the journal from being closed: the
			// next run, with room, finds nothing else to do.
			os.Remove(filepath.Join(h.state, "filler"))
			delete(stored, "filler")
			h.postcert("recover").want(0)
		}
		for _, d := range append(postfixtest.Compare(before, h.pf.Files()), postfixtest.Compare(stored, h.stored())...) {
			t.Errorf("with %d pages free: changed: %s", free, d)
		}
		h.serves(leaf)
		undo()
	}
	if failed < 2 {
		t.Errorf("the disk was full %d times; want each step to meet it", failed)
	}
}

// fill leaves that many bytes of the file system free.
func fill(t *testing.T, path string, free int64) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, zeroes{}, int64(st.Bfree)*st.Bsize-free); err != nil {
		t.Fatal(err)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// S13: whatever the umask and the modes that were there, the key is root's
// alone at every moment.
func TestS13Modes(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	first, second := h.leaf(certtest.Leaf{}), h.leaf(certtest.Leaf{})
	tls := filepath.Join(h.pf.ConfigDir, "tls")
	file := filepath.Join(tls, hostName+".pem")
	if err := errors.Join(os.Mkdir(tls, 0o755), os.Chmod(tls, 0o755), os.WriteFile(file, []byte("old\n"), 0o644), os.Chmod(file, 0o644)); err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	stop := watchModes(t, []string{tls, h.state, h.run}, file)
	h.installs(fingerprint(first.Cert), h.pairDir(first))
	h.installs(fingerprint(second.Cert), h.pairDir(second))
	h.postcert("rollback").want(0)
	if n := stop(); n < 20 {
		t.Errorf("only %d looks were taken", n)
	}
	st, err := os.Lstat(file)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("%s has mode %v (%v), want 0600", file, st.Mode(), err)
	}
	if s := st.Sys().(*syscall.Stat_t); s.Uid != 0 || s.Gid != 0 {
		t.Errorf("%s belongs to %d:%d", file, s.Uid, s.Gid)
	}
	for name, f := range postfixtest.Tree(t, h.state) {
		if f.Mode.Perm()&0o077 != 0 {
			t.Errorf("%s in the state directory has mode %v", name, f.Mode)
		}
	}
}

// watchModes looks at every file below dirs as fast as it can, and fails the
// test for one with a private key that others may read, except one that still
// is what stood at ours before. It returns, when stopped, how often it looked.
func watchModes(t *testing.T, dirs []string, ours string) (stop func() int) {
	done, result := make(chan struct{}), make(chan int)
	look := func(path string) {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil || !st.Mode().IsRegular() || st.Mode().Perm()&0o077 == 0 {
			return
		}
		if data, _ := io.ReadAll(f); strings.Contains(string(data), "PRIVATE KEY") {
			t.Errorf("%s holds a key and has mode %v", path, st.Mode())
		}
		if path == ours && st.Size() > 10 {
			t.Errorf("%s has mode %v", path, st.Mode())
		}
	}
	go func() {
		n := 0
		for {
			for _, d := range dirs {
				_ = filepath.WalkDir(d, func(path string, e os.DirEntry, err error) error {
					if err == nil && e.Type().IsRegular() {
						look(path)
					}
					return nil
				})
			}
			n++
			select {
			case <-done:
				result <- n
				return
			case <-time.After(500 * time.Microsecond):
			}
		}
	}()
	return func() int { close(done); return <-result }
}
