package lock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const envPath = "LOCK_TEST_PATH"

// TestMain lets the test binary be the other process: it takes the lock, says
// so, and waits to be killed.
func TestMain(m *testing.M) {
	if path := os.Getenv(envPath); path != "" {
		l, err := Acquire(context.Background(), path, 10*time.Second)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		time.Sleep(time.Minute) // the parent kills us long before
		if err := l.Release(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startHolder starts another process that holds the lock.
func startHolder(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{envPath + "=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "held" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	return cmd
}

func TestHeldByAnotherProcess(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "lock")
	cmd := startHolder(t, path)
	start := time.Now()
	_, err := Acquire(ctx, path, 100*time.Millisecond)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != cmd.Process.Pid || held.Path != path {
		t.Fatalf("got %v, want HeldError of process %d", err, cmd.Process.Pid)
	}
	if waited := time.Since(start); waited < 100*time.Millisecond || waited > 5*time.Second {
		t.Errorf("waited %v", waited)
	}
	// SIGKILL: nobody cleans up, the kernel does.
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l, err := Acquire(ctx, path, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

func TestContextEndsTheWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Acquire(context.Background(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Acquire(ctx, path, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestOneHolderAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var wg sync.WaitGroup
	// Atomic for the race detector, which does not know that flock orders.
	var inside, total atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 5 {
				l, err := Acquire(context.Background(), path, 30*time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d holders", n)
				}
				total.Add(1)
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				if err := l.Release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := total.Load(); n != 40 {
		t.Errorf("got %d turns, want 40", n)
	}
}

// TestReplacedFile: who locks a file that was removed or replaced since it was
// opened holds nothing, and must notice.
func TestReplacedFile(t *testing.T) {
	for _, replace := range []bool{false, true} {
		t.Run(fmt.Sprintf("replaced %v", replace), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock")
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
			if replace {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if l, _, err := settle(path, f); l != nil || err != nil {
				t.Errorf("got %v, %v; want no lock", l, err)
			}
			if l, err := Acquire(context.Background(), path, 0); err != nil {
				t.Error(err)
			} else if err := l.Release(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNotARegularFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "target"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo", "", "missing/lock"} {
		if _, err := Acquire(context.Background(), filepath.Join(dir, name), 0); err == nil {
			t.Errorf("%q: locked", name)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "target")); err == nil {
		t.Error("the link was followed")
	}
}

// Who only asks whether the lock is held makes no file, and keeps nobody out.
func TestHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if pid, held := Held(path); held || pid != 0 {
		t.Errorf("no file: %d, %v", pid, held)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("made: %v", err)
	}
	l, err := Acquire(context.Background(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if pid, held := Held(path); !held || pid != os.Getpid() {
		t.Errorf("held: %d, %v", pid, held)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if _, held := Held(path); held {
		t.Error("released, and held")
	}
	if l, err = Acquire(context.Background(), path, 0); err != nil {
		t.Fatalf("after the question: %v", err)
	}
	_ = l.Release()
}
