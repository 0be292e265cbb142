// Package lock lets one run change this host at a time.
//
// It is flock(2) on a file that is never removed. The kernel drops the lock
// when its holder ends, however it ends, so there is nothing stale to judge
// and no clock in it. A file that is removed and made again would be two
// files, each locked by somebody; hence never unlinked. What the file contains,
// the process id of the holder, is information for people and decides nothing.
//
// The lock does not pass to programs that the holder starts: its descriptor is
// closed on exec(2).
package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pollInterval is how often a waiting run asks again. flock(2) can wait by
// itself, but then neither ctx nor the limit could end it.
const pollInterval = 20 * time.Millisecond

// HeldError says that another run held the lock to the end of the wait.
type HeldError struct {
	Path   string
	PID    int           // of the holder by its own word; 0 if unknown
	Waited time.Duration // how long we did
}

func (e *HeldError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s is locked by %s", e.Path, who)
}

// Lock is a lock that is held, until [Lock.Release] or the end of the process. A
// Lock that nothing refers to any more is collected, and its file closed: keep
// it.
type Lock struct{ f *os.File }

// Acquire locks path, which is made if it is missing (mode 0600); its directory
// must exist. It waits at most wait, 0 meaning one try, and returns *[HeldError]
// when that was not enough, with ctx's own error behind it when ctx ended first.
//
// One that waits opens the file once. Who watches it with inotify(7), as
// systemd.path(5) does, sees one IN_CLOSE_WRITE when a holder or a waiting run
// ends, however it ends, and none while they wait.
func Acquire(ctx context.Context, path string, wait time.Duration) (*Lock, error) {
	start := time.Now()
	var last error // why the last try did not get it
	var f *os.File // of the last try
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if err := ctx.Err(); err != nil && last != nil {
			return nil, fmt.Errorf("%w (%w)", last, err)
		} else if err != nil {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		l, holder, err := try(path, &f)
		if l != nil || err != nil {
			return l, err
		}
		waited := time.Since(start)
		last = &HeldError{Path: path, PID: holder, Waited: waited}
		if waited >= wait {
			return nil, last
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// Held tells whether somebody holds the lock at path, and who by their own word; 0 if
// that is unknown. It makes nothing and waits for nobody: for the blink of an eye it
// holds a shared lock of its own, so that who wants the lock then tries once more.
func Held(path string) (pid int, held bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	defer f.Close() // and with it the lock
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return holder(f), true
	}
	return 0, false
}

// try returns the lock, or the holder's pid (0 if unknown), or an error. *f is the
// file of the last try, nil before the first; it is opened again only if another
// one stands at path.
func try(path string, f **os.File) (*Lock, int, error) {
	if *f != nil {
		if same, _ := stillAt(path, *f); !same {
			(*f).Close()
			*f = nil
		}
	}
	if *f == nil {
		var err error
		if *f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600); err != nil {
			return nil, 0, fmt.Errorf("locking: %w", err)
		}
	}
	l, pid, err := settle(path, *f)
	if l != nil {
		*f = nil // it is the lock's now
	}
	if err != nil {
		err = fmt.Errorf("locking %s: %w", path, err)
	}
	return l, pid, err
}

// settle locks the opened file and makes sure that it is the one at path.
func settle(path string, f *os.File) (*Lock, int, error) {
	err := flock(f)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, holder(f), nil
	}
	var same bool
	if err == nil {
		same, err = stillAt(path, f)
	}
	if err == nil && same {
		err = announce(f)
	}
	if err != nil || !same {
		// Not the same: somebody removed or replaced the file between our open
		// and our lock, and what we hold is nobody else's lock.
		return nil, 0, err
	}
	return &Lock{f: f}, 0, nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func stillAt(path string, f *os.File) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !mine.Mode().IsRegular() {
		return false, errors.New("not a regular file")
	}
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, now), err
}

// announce writes our pid into the file. On a full disk the lock holds all the
// same: what is written is information only.
func announce(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return nil
	}
	return err
}

func holder(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0) // io.EOF is the rule; an unreadable file names nobody
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

// Release gives the lock back. The file stays, without our pid.
func (l *Lock) Release() error {
	err := l.f.Truncate(0)
	if cerr := l.f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("unlocking: %w", err)
	}
	return nil
}
