package lock

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// closes tells how often the file was closed by who could have written it, since
// the last call.
func closes(t *testing.T, fd int) int {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := syscall.Read(fd, buf)
	if err == syscall.EAGAIN {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for off := 0; off < n; {
		event := (*syscall.InotifyEvent)(unsafe.Pointer(&buf[off]))
		if event.Mask&syscall.IN_CLOSE_WRITE != 0 {
			count++
		}
		off += syscall.SizeofInotifyEvent + int(event.Len)
	}
	return count
}

// TestWatched: the unit that settles an interrupted change is started by the close
// of this file. The death of a holder must be seen, and a run that waits, which asks
// fifty times a second, must not look like fifty.
func TestWatched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	// With IN_OPEN between them, the kernel does not make one event of two.
	if _, err := syscall.InotifyAddWatch(fd, path, syscall.IN_CLOSE_WRITE|syscall.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	cmd := startHolder(t, path)
	ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
	defer cancel()
	if l, err := Acquire(ctx, path, time.Hour); err == nil {
		l.Release()
		t.Fatal("locked twice")
	}
	if n := closes(t, fd); n != 1 {
		t.Errorf("a run that waited and gave up was seen %d times, want once", n)
	}
	if _, held := Held(path); !held {
		t.Error("not held")
	}
	if n := closes(t, fd); n != 0 {
		t.Errorf("a question was seen %d times", n)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if n := closes(t, fd); n != 1 {
		t.Errorf("the death of the holder was seen %d times, want once", n)
	}
}
