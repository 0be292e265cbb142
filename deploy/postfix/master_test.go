package postfix

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

func TestLockListed(t *testing.T) {
	const locks = `3: OFDLCK ADVISORY  WRITE -1 00:9d:480 0 EOF
28: FLOCK  ADVISORY  WRITE 1220 00:64:482 0 EOF
29: FLOCK  ADVISORY  WRITE 1220 00:64:480 0 EOF
29: -> FLOCK  ADVISORY  WRITE 1333 00:64:480 0 EOF
30: FLOCK  ADVISORY  READ 1444 00:64:480 0 EOF
31: POSIX  ADVISORY  WRITE 1555 00:64:480 0 EOF
32: FLOCK
`
	for _, tt := range []struct {
		pid   int
		inode uint64
		want  bool
	}{
		{1220, 480, true}, {1220, 482, true}, {1220, 48, false}, {1221, 480, false}, {122, 480, false},
		{1333, 480, false}, // waits for it
		{1444, 480, false}, // we, asking whether it is locked
		{1555, 480, false}, // another kind of lock
	} {
		if got := lockListed(locks, tt.pid, tt.inode); got != tt.want {
			t.Errorf("process %d, inode %d: %v, want %v", tt.pid, tt.inode, got, tt.want)
		}
	}
}

// TestHoldsLock asks the real list.
func TestHoldsLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.pid")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if holdsLock(os.Getpid(), path) {
		t.Error("held before it was locked")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if !holdsLock(os.Getpid(), path) {
		t.Error("our own lock is not found")
	}
	if holdsLock(os.Getpid()+1, path) {
		t.Error("somebody else holds our lock")
	}
}

// TestStartsPostfix has the words of systemctl(1) about the units of Debian 11 to
// 14, and about others that a master may have been started in.
func TestStartsPostfix(t *testing.T) {
	for line, want := range map[string]bool{
		"ExecStart={ path=postfix ; argv[]=postfix debian-systemd-start ; ignore_errors=no ; pid=0 }":                  true,
		"ExecStart={ path=/usr/sbin/postmulti ; argv[]=/usr/sbin/postmulti -i - -p start ; ignore_errors=no ; pid=0 }": true,
		"ExecStart={ path=/usr/sbin/postfix ; argv[]=/usr/sbin/postfix start ; ignore_errors=no ; pid=0 }":             true,
		"ExecStart={ path=/usr/lib/postfix/sbin/master ; argv[]=/usr/lib/postfix/sbin/master -i ; pid=0 }":             true,
		"ExecStart={ path=/bin/true ; argv[]=/bin/true ; ignore_errors=no ; pid=0 }":                                   false,
		"ExecStart={ path=/usr/bin/certbot ; argv[]=/usr/bin/certbot renew --deploy-hook /usr/sbin/postfix reload ; }": false,
		"ExecStart={ path=/usr/bin/postcert ; argv[]=/usr/bin/postcert renew --instance /etc/postfix ; pid=0 }":        false,
		"": false,
	} {
		if got := startsPostfix(line); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}

// TestMasterEnding ends a process that holds master's lock, as master does, while
// it is looked for without a pause: it runs and can be seen, or does not run.
func TestMasterEnding(t *testing.T) {
	queue, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, pidFile := filepath.Join(t.TempDir(), "master"), filepath.Join(queue, "pid", "master.pid")
	if data, err := os.ReadFile(sleep); err != nil || os.WriteFile(program, data, 0o755) != nil || os.Mkdir(filepath.Dir(pidFile), 0o755) != nil {
		t.Fatal("no program of the name master: ", err)
	}
	for range 200 {
		cmd := locking(t, program, queue, pidFile)
		if m, err := masterIn(queue); err != nil || m.PID != cmd.Process.Pid {
			t.Fatalf("alive, process %d: %+v, %v", cmd.Process.Pid, m, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := masterIn(queue)
			if err != nil {
				t.Fatal(err)
			}
			if !m.Running {
				break
			}
			if !m.Visible() {
				t.Fatal("its end was taken for a master that runs elsewhere")
			}
		}
		_ = cmd.Wait() // it was killed
	}
}

// locking starts a program in queue that holds the lock on the pid file, with its
// number in it.
func locking(t *testing.T, program, queue, pidFile string) *exec.Cmd {
	t.Helper()
	lock, err := os.Create(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() // the process has its own
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "60")
	cmd.Dir, cmd.ExtraFiles = queue, []*os.File{lock}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := lock.WriteString(strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	return cmd
}
