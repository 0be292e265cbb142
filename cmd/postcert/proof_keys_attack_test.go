package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// attacker is a user who is nobody here.
const attacker = 65534

// attack is another process of another user: it flips names in dir, which it
// can write, as fast as it can, between what is its own and links to what is
// not. It ends with its standard input. Each of its calls loses races, and that
// is the point.
func attack(scenario, dir string) int {
	for _, err := range []error{os.Chdir(dir), syscall.Setgroups(nil), syscall.Setgid(attacker), syscall.Setuid(attacker)} {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	ended := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(ended)
	}()
	flip := map[string]func(int){
		"inbox": flipInbox, "state": flipState, "runtime": flipRuntime,
		"shared": func(i int) { flipState(i); flipRuntime(i) },
	}[scenario]
	fmt.Println("ready")
	for i := 0; ; i++ {
		select {
		case <-ended:
			fmt.Println(i)
			return 0
		default:
			flip(i)
			time.Sleep(50 * time.Microsecond) // the machine is not ours alone
		}
	}
}

// flipInbox makes the files of a lineage good ones, root's secret by a symbolic
// link, somebody's open file by a hard link; and the directory another.
func flipInbox(i int) {
	for _, name := range []string{"fullchain.pem", "privkey.pem"} {
		path := hostName + "/" + name
		_ = os.Remove(path + ".new")
		switch i % 4 {
		case 0, 1:
			_ = os.Link("good/"+name, path+".new")
		case 2:
			_ = os.Symlink("../../victim/secret", path+".new")
		case 3:
			_ = os.Link("../victim/open", path+".new")
		}
		_ = os.Rename(path+".new", path)
	}
	if i%7 == 0 {
		_ = os.Rename(hostName, "away")
		_ = os.Symlink("../victim", hostName)
		_ = os.Remove(hostName)
		_ = os.Rename("away", hostName)
	}
}

// flipState makes the state directory one of its own with a forged journal, a
// link to somebody's directory, nothing, and lets its names be links.
func flipState(i int) {
	switch i % 4 {
	case 0:
		_ = os.Mkdir("state", 0o777)
		for _, name := range []string{"lock", "journal", "generations", "history"} {
			_ = os.Symlink("../../victim", "state/"+name)
		}
		_ = os.Symlink("../tree", "state/status")
	case 1:
		_ = os.Remove("state/journal")
		_ = os.Mkdir("state/journal", 0o777)
		_ = os.Link("forged.json", "state/journal/open.json")
		_ = os.Remove("state/lock")
		_ = os.Link("../victim/open", "state/lock")
	case 2:
		_ = os.Rename("state", fmt.Sprint("old", i))
		_ = os.Symlink("../victim", "state")
	case 3:
		_ = os.Remove("state")
	}
}

// flipRuntime does so with the runtime directory and with what a run makes in
// it.
func flipRuntime(i int) {
	names, _ := filepath.Glob("run/*")
	for _, name := range names {
		_ = os.Rename(name, fmt.Sprint(name, "-was-", i))
		_ = os.Symlink("../../victim", name)
	}
	switch i % 40 {
	case 0:
		_ = os.Mkdir("run", 0o777)
	case 20:
		_ = os.Rename("run", fmt.Sprint("old", i))
		_ = os.Symlink("../victim", "run")
	case 30:
		_ = os.Remove("run")
	}
}

// victims are files of root's that a run must not touch, with the names that it
// writes under, and a secret that it must not read.
type victims struct {
	t       *testing.T
	dir     string
	inotify int
	before  string
}

func newVictims(t *testing.T, dir string, secret []byte) *victims {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{
		"secret": 0o600, "open": 0o666, "main.cf": 0o644, "master.cf": 0o644, "lock": 0o644, "open.json": 0o600, "fullchain.pem": 0o600, "privkey.pem": 0o600,
	} {
		data := []byte("of somebody else\n")
		if name == "secret" {
			data = secret
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	v := &victims{t: t, dir: dir}
	v.before = v.look()
	var err error
	if v.inotify, err = syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC); err == nil {
		_, err = syscall.InotifyAddWatch(v.inotify, filepath.Join(dir, "secret"), syscall.IN_ACCESS)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(v.inotify) })
	return v
}

// look is all that can be changed of them, and what else is there.
func (v *victims) look() string {
	v.t.Helper()
	var b strings.Builder
	names, err := atomicfile.OS.ReadDir(v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(v.dir, name)
		info, err := atomicfile.OS.Lstat(path)
		if err != nil {
			v.t.Fatal(err)
		}
		data, _ := os.ReadFile(path) // a directory does not belong here, and shows by its name
		fmt.Fprintf(&b, "%s %s %04o %d:%d %v %d %s\n", name, info.Kind, info.Mode, info.UID, info.GID, info.MTime, info.Ino, atomicfile.Digest(data))
	}
	return b.String()
}

// unharmed fails the test if one was written, chowned or made, and returns how
// often the secret was read.
func (v *victims) unharmed() (reads int) {
	v.t.Helper()
	buf := make([]byte, 1<<16)
	if n, err := syscall.Read(v.inotify, buf); err == nil {
		reads = n / syscall.SizeofInotifyEvent
	}
	if now := v.look(); now != v.before {
		v.t.Errorf("foreign files were touched:\n%s\nwere\n%s", now, v.before)
	}
	return reads
}

// forged is a journal whose undo would write to a victim.
func forged(t *testing.T, victim string) []byte {
	t.Helper()
	file := func(data string) atomicfile.State {
		return atomicfile.NewFile([]byte(data), atomicfile.Attr{Mode: 0o666})
	}
	out, err := json.Marshal(map[string]any{
		"format": 1, "id": "0123456789abcdef01234567", "begun": time.Now(), "note": map[string]any{"instance": "/etc/postfix"},
		"writes": []any{map[string]any{"path": victim, "before": file("forged\n"), "after": file("of somebody else\n")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// underAttack is a host of which the attacker has a directory, beside victims.
type underAttack struct {
	*host
	victims *victims
	secrets *scanner
	theirs  string
	inbox   string // a lineage in it
}

// newUnderAttack makes the attacker's directory with what he needs: a good pair,
// a forged journal, a record of status that leads to the secret.
func newUnderAttack(h *host, mode os.FileMode) *underAttack {
	h.t.Helper()
	secret := h.leaf(certtest.Leaf{})
	u := &underAttack{host: h, theirs: filepath.Join(h.pf.Dir, "theirs"), secrets: &scanner{t: h.t, forms: map[string]map[string][]byte{}}}
	u.secrets.add("secret", secret)
	u.victims = newVictims(h.t, filepath.Join(h.pf.Dir, "victim"), append(secret.KeyPEM(), certtest.EncodeCerts(secret.Cert)...))
	u.inbox = filepath.Join(u.theirs, hostName)
	key, err := generation.InstanceKey(h.pf.ConfigDir)
	if err != nil {
		h.t.Fatal(err)
	}
	sh(h.t, "mkdir -p %[1]s/good %[1]s/tree/%[2]s; ln -s %[3]s/secret %[1]s/tree/%[2]s/%[4]s.json", u.theirs, key, u.victims.dir, hostName)
	h.leaf(certtest.Leaf{}).WriteFiles(h.t, filepath.Join(u.theirs, "good"))
	h.write(filepath.Join(u.theirs, "forged.json"), forged(h.t, filepath.Join(u.victims.dir, "main.cf")))
	sh(h.t, "cp -r %[1]s/good %[1]s/%[2]s; chown -R %[3]d:%[3]d %[1]s", u.theirs, hostName, attacker)
	if err := errors.Join(os.Chown(u.theirs, 0, 0), os.Chmod(u.theirs, mode)); err != nil {
		h.t.Fatal(err)
	}
	return u
}

// attacked runs the commands in turn for so long, and at least ten, and returns how often they
// ended with which exit status.
func (u *underAttack) attacked(limit time.Duration, each func(i int), commands ...[]string) map[int]int {
	u.t.Helper()
	status := map[int]int{}
	for i, end := 0, time.Now().Add(limit); i < 10 || time.Now().Before(end); i++ {
		a := u.postcert(commands[i%len(commands)]...)
		status[a.status]++
		if panicked(a) {
			u.t.Errorf("it crashed\n%s%s", a.stdout, a.stderr)
		}
		u.secrets.clean("what it said", []byte(a.stdout+a.stderr))
		if a.status == statusOK && strings.Contains(strings.Join(commands[i%len(commands)], " "), u.theirs) && !strings.Contains(a.stderr, "input_untrusted_path") {
			u.t.Errorf("it took a file of another user's directory and did not say so\n%s%s", a.stdout, a.stderr)
		}
		each(i)
	}
	return status
}

// R17: a user flips names in each kind of directory that he may be able to
// write: the lineage that root names, the parents of the state and the runtime
// directory, and one like /tmp that has them both. No file of anybody else is
// written, chowned or made; none is read but through the path that root named,
// and that is told each time.
func TestProofFlippedNames(t *testing.T) {
	scenarios := []string{"inbox", "state", "runtime", "shared"}
	postfixtest.Shards(t, len(scenarios), func(t *testing.T, shard int) {
		scenario, limit, mode := scenarios[shard], 10*time.Second, os.FileMode(0o777)
		if long {
			limit = 60 * time.Second
		}
		h := newHost(t, postfixtest.Options{})
		h.env = patient
		good := h.lineage(certtest.Leaf{})
		install, dry := []string{"install-cert", good, "--allow-downgrade"}, []string{"install-cert", good, "--dry-run"}
		if scenario == "shared" {
			mode |= os.ModeSticky
		}
		u := newUnderAttack(h, mode)
		each, commands := func(int) {}, [][]string(nil)
		switch scenario {
		case "inbox":
			commands = [][]string{{"install-cert", u.inbox, "--allow-downgrade"}, {"verify", u.inbox}, {"install-cert", u.inbox, "--dry-run"}}
		case "state":
			h.state = filepath.Join(u.theirs, "state")
			commands = [][]string{install, {"recover"}, {"status"}, {"history"}, {"rollback"}}
		case "runtime":
			h.run = filepath.Join(u.theirs, "run")
			commands = [][]string{install, dry}
		case "shared":
			h.state, h.run = filepath.Join(u.theirs, "state"), filepath.Join(u.theirs, "run")
			commands = [][]string{install, dry, {"status"}}
			each = func(int) { // what is there may be another thing by now
				_ = errors.Join(os.RemoveAll(h.state), os.RemoveAll(h.run))
			}
		}
		stop := play(t, "attack "+scenario+" "+u.theirs)
		status := u.attacked(limit, each, commands...)
		flips := strings.TrimSpace(stop())
		reads := u.victims.unharmed()
		if reads > 0 && scenario != "inbox" {
			t.Errorf("the secret was read %d times", reads)
		}
		if n, err := strconv.Atoi(flips); err != nil || n < 100 {
			t.Errorf("%q flips: that was no attack", flips)
		}
		t.Logf("R17 %s: %v, %s flips, 0 foreign files written, chowned or made, %d reads of the secret; by exit status %v", scenario, limit, flips, reads, status)
	})
}
