package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// stage is what the packages that stage a host for tests want of a test, for a
// program that is none: a failure ends f, and what was made is removed.
type stage struct {
	testing.TB
	ctx     context.Context
	cleanup []func()
	failed  bool
}

// failure is what f ends with.
type failure struct{ err error }

// outsideTests runs f, which fails as a test does.
func outsideTests[T any](ctx context.Context, f func(t testing.TB) T) (result T, err error) {
	s := &stage{ctx: ctx}
	defer func() {
		if r := recover(); r != nil {
			f, ours := r.(failure)
			if !ours {
				panic(r)
			}
			err = f.err
		}
		for i := len(s.cleanup) - 1; i >= 0; i-- {
			s.cleanup[i]()
		}
		if s.failed && err == nil {
			err = errors.New("see above")
		}
	}()
	return f(s), nil
}

func (s *stage) Helper()                           {}
func (s *stage) Name() string                      { return "bench" }
func (s *stage) Context() context.Context          { return s.ctx }
func (s *stage) Cleanup(f func())                  { s.cleanup = append(s.cleanup, f) }
func (s *stage) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (s *stage) Fatal(args ...any)                 { panic(failure{errors.New(fmt.Sprint(args...))}) }
func (s *stage) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }
func (s *stage) Skipf(format string, args ...any)  { s.Fatalf(format, args...) }
func (s *stage) Error(args ...any)                 { s.failed = true; fmt.Fprintln(os.Stderr, args...) }
func (s *stage) Errorf(format string, args ...any) {
	s.failed = true
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "postcert-bench-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = os.RemoveAll(dir) }) // a directory of the temporary one
	return dir
}

// build makes the binary as it is released and returns its path.
func build(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "postcert")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", path, "postcert/cmd/postcert")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// runtimeDir is where rehearsals run: in memory, as /run is on a host.
const runtimeDir = "/run/memory"

// onDisk puts /run, where the private instances are, on the disk of the
// temporary directory, and a file system in memory inside it.
func onDisk(t testing.TB, memory bool) {
	t.Helper()
	if !memory {
		dir := t.TempDir()
		mount(t, dir, "/run", "", syscall.MS_BIND)
		if err := os.Chmod("/run", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(runtimeDir, 0o755); err != nil {
		t.Fatal(err)
	}
	mount(t, "bench", runtimeDir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV)
}

// mount mounts until the end. The namespace is ours, so nobody else sees it.
func mount(t testing.TB, source, target, kind string, flags uintptr) {
	t.Helper()
	if err := syscall.Mount(source, target, kind, flags, ""); err != nil {
		t.Fatalf("mounting %s: %v", target, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", target, err)
		}
	})
}

// syncCost is what one fsync(2) of a new small file takes in dir: what no
// transaction on this disk can be faster than.
func syncCost(t testing.TB, dir string) series {
	t.Helper()
	var out series
	for range 15 {
		f, err := os.CreateTemp(dir, "sync-")
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(make([]byte, 4096))
		begin := time.Now()
		err = errors.Join(err, f.Sync())
		out = append(out, time.Since(begin))
		if err = errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// goAhead gives all threads of this process, and so what they start, Postfix
// included, precedence over everything else on this machine.
func goAhead(t testing.TB) {
	t.Helper()
	const roundRobin = 2 // SCHED_RR
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	priority := int32(1) // struct sched_param
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		_, _, errno := syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, uintptr(id), roundRobin, uintptr(unsafe.Pointer(&priority)))
		if errno != 0 && errno != syscall.ESRCH {
			t.Logf("no precedence over other processes: %v", errno)
			return
		}
	}
}
