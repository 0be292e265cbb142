package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// attack is another process and another user: it owns dir and puts links to
// files of others under each name there, as fast as it can, and swaps the
// directory itself for a link. It ends when it is killed.
func attack(dir string) int {
	// Relative paths, because the way to dir need not be open to others.
	for _, err := range []error{os.Chdir(filepath.Dir(dir)), syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)} {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	fmt.Println("ready")
	dir = filepath.Base(dir)
	sub := dir + "/sub"
	for i := 0; ; i++ {
		names, _ := os.ReadDir(sub) // each call here loses races, and that is the point
		targets := []string{sub + "/file"}
		for _, n := range names {
			targets = append(targets, sub+"/"+n.Name())
		}
		for _, path := range targets {
			_ = os.Remove(path)
			switch i % 3 {
			case 0:
				_ = os.Symlink("../../victim/secret", path)
			case 1:
				// fs.protected_hardlinks lets him: he may write the file.
				_ = os.Link("victim/open", path)
			case 2:
				// Exclusively: he must not write to a victim himself.
				if f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err == nil {
					_, _ = f.WriteString("attacker")
					_ = f.Close()
				}
			}
		}
		if i%5 == 0 {
			_ = os.Rename(sub, dir+"/away")
			_ = os.Symlink("../victim", sub)
			_ = os.Remove(sub)
			_ = os.Rename(dir+"/away", sub)
		}
	}
}

// victims makes files of root beside the attacker's directory and returns what
// they look like.
func victims(t *testing.T, base string) func() string {
	t.Helper()
	dir := base + "/victim"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"secret": 0o600, "open": 0o666, "file": 0o600} {
		write(t, dir+"/"+name, "victim "+name, mode)
	}
	return func() string {
		var b bytes.Buffer
		names, err := OS.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			info, err := OS.Lstat(dir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(dir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s %04o %d:%d %v %d %q\n", name, info.Mode, info.UID, info.GID, info.MTime, info.Ino, data)
		}
		return b.String()
	}
}

// TestAttacker works for some seconds in a directory that the attacker owns.
// Losing is fine: refusing, failing, finding a file of his. Writing, changing
// the owner of, or reading a file of somebody else is not.
func TestAttacker(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	look := victims(t, base)
	was := look()
	dir := base + "/theirs"
	for _, path := range []string{dir, dir + "/sub"} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	startAttack(t, dir)
	path := dir + "/sub/file"
	var done, lost, read int
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		if err := Write(OS, path, []byte("ours"), Attr{Mode: 0o640, UID: 1, GID: 1}); err == nil {
			done++
		} else {
			lost++
		}
		s, err := Capture(OS, path)
		if err == nil && s.Kind == File {
			read++
			if got := string(s.Data); bytes.Contains(s.Data, []byte("victim")) {
				t.Fatalf("read a foreign file: %q", got)
			}
		}
		_, _ = Sweep(OS, dir+"/sub", time.Now()) // what it says is not the question
	}
	if now := look(); now != was {
		t.Errorf("foreign files: got\n%s\nwant\n%s", now, was)
	}
	if lost < 20 || done+read < 1 {
		t.Errorf("%d writes, %d lost races, %d reads: that was no race", done, lost, read)
	}
	t.Logf("%d writes, %d lost races, %d reads", done, lost, read)
}

// TestWriteSeesExchange: what stands at the path after the rename may be
// somebody else's.
func TestWriteSeesExchange(t *testing.T) {
	path := t.TempDir() + "/file"
	err := Write(exchanged{OS}, path, []byte("ours"), mine(0o600))
	if reason(err) != Raced {
		t.Errorf("got %v, want %s", err, Raced)
	}
}

// exchanged is a file system on which somebody is faster after each rename.
type exchanged struct{ FS }

func (e exchanged) Rename(from, to string) error {
	other := to + ".other"
	return errors.Join(e.FS.Rename(from, to), os.WriteFile(other, []byte("theirs"), 0o600), os.Rename(other, to))
}

func TestProvesOnlyName(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	look := func(ctime time.Duration, nlink uint64) Info { return Info{CTime: at.Add(ctime), Nlink: nlink} }
	for _, c := range []struct {
		name          string
		first, second Info
		want          bool
	}{
		{"unchanged for long", look(-time.Hour, 1), look(-time.Hour, 1), true},
		{"linked meanwhile", look(-time.Hour, 1), look(0, 2), false},
		{"linked and removed meanwhile", look(-time.Hour, 1), look(0, 1), false},
		{"changed within the clock's step", look(-time.Millisecond, 1), look(-time.Millisecond, 1), false},
		{"changed in the future", look(time.Hour, 1), look(time.Hour, 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := provesOnlyName(at, c.first, c.second); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// flickering is a file system on which somebody wins each race of attack_test:
// the victim's second name is there whenever we use it, and gone whenever we
// count the names.
type flickering struct {
	FS
	victim string
}

func (f flickering) Open(path string) (FileHandle, error) {
	err := os.Link(f.victim, path)
	h, oerr := f.FS.Open(path)
	return h, errors.Join(err, oerr, os.Remove(path))
}

func (f flickering) Lstat(path string) (Info, error) {
	err := os.Link(f.victim, path)
	info, lerr := f.FS.Lstat(path)
	info.Nlink = 1
	return info, errors.Join(err, lerr, os.Remove(path))
}

func TestForeignFileBehindFlickeringLink(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/victim", "secret", 0o600)
	if err := errors.Join(os.Mkdir(dir+"/theirs", 0o700), os.Chmod(dir+"/theirs", 0o777)); err != nil {
		t.Fatal(err)
	}
	fsys := flickering{OS, dir + "/victim"}
	if s, err := Capture(fsys, dir+"/theirs/file"); reason(err) != Raced {
		t.Errorf("Capture: got %q, %v; want %s", s.Data, err, Raced)
	}
	if data, err := ReadFile(fsys, dir+"/theirs/file", 10); reason(err) != Raced {
		t.Errorf("ReadFile: got %q, %v; want %s", data, err, Raced)
	}
}

// TestReadInExposedDirectory: an ordinary file there can be read, at once if
// it is old and after a moment if it is new.
func TestReadInExposedDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/file", "x", 0o600)
	for range 2 {
		if s, err := Capture(OS, dir+"/file"); err != nil || string(s.Data) != "x" {
			t.Errorf("got %v, %v", s, err)
		}
	}
}

func startAttack(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{envAttack + "=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // killed is how it ends
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("the attacker did not start: %v", err)
	}
}

// TestNoKeyIsEverReadable watches a directory while keys are written to it
// under a mask that hides nothing.
func TestNoKeyIsEverReadable(t *testing.T) {
	umask(t, 0)
	dir := t.TempDir()
	var stop atomic.Bool
	var looks atomic.Int64
	seen := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			names, _ := os.ReadDir(dir)
			for _, n := range names {
				info, err := os.Lstat(dir + "/" + n.Name())
				if err != nil {
					continue // renamed since
				}
				looks.Add(1)
				if info.Mode().Perm()&0o077 != 0 {
					select {
					case seen <- fmt.Sprint(n.Name(), " ", info.Mode()):
					default:
					}
				}
			}
		}
	}()
	writes := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); writes++ {
		write(t, dir+"/mail.pem", "key", 0o600)
	}
	stop.Store(true)
	<-done
	select {
	case s := <-seen:
		t.Errorf("a key was readable: %s", s)
	default:
	}
	if looks.Load() < 100 {
		t.Errorf("only %d looks", looks.Load())
	}
	t.Logf("%d writes, %d looks", writes, looks.Load())
}
