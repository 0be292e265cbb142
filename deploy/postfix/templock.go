package postfix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// LockWait is how long Replace waits at most for others who edit the same
// file. postconf(1) holds the lock for milliseconds, or for 2 s while main.cf
// is hot.
const LockWait = 15 * time.Second

// tempLock is the exclusive right to write FILE.tmp and to rename it to FILE,
// as in edit_file_open() of Postfix's util/edit_file.c.
type tempLock struct {
	path    string // FILE.tmp
	file    *os.File
	renamed bool
}

// errRetry says that FILE.tmp was not what we had to lock; look again.
var errRetry = errors.New("retry")

// lockTemp creates and locks file + ".tmp". The loop is Postfix's: between our
// open and our lock, the holder before us renamed or removed the file.
func lockTemp(ctx context.Context, file string) (*tempLock, error) {
	ctx, cancel := context.WithTimeout(ctx, LockWait)
	defer cancel()
	for {
		l, err := tryLockTemp(file + ".tmp")
		if !errors.Is(err, errRetry) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the lock on %s.tmp, which another program holds: %w", file, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

func tryLockTemp(path string) (_ *tempLock, err error) {
	// A named pipe that somebody left there opens at once only for both.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if err == syscall.EWOULDBLOCK || err == syscall.EINTR {
			return nil, errRetry
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if err := checkTemp(f, path); err != nil {
		return nil, err
	}
	return &tempLock{path: path, file: f}, nil
}

// checkTemp looks whether the locked file f still is path and may be written
// to; if not, errRetry.
func checkTemp(f *os.File, path string) error {
	var opened, named syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &opened); err != nil {
		return fmt.Errorf("looking at %s: %w", path, err)
	}
	if err := syscall.Lstat(path, &named); err != nil || opened.Dev != named.Dev || opened.Ino != named.Ino {
		return errRetry // renamed or removed by the one before us
	}
	// A crash in the middle of rename(2) can leave one file under both names;
	// writing to it would write to FILE. Postfix removes the name and retries.
	if opened.Mode&syscall.S_IFMT != syscall.S_IFREG || opened.Nlink > 1 || opened.Mode&0o7777 != 0o600 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return errRetry
	}
	return nil
}

// release gives up the lock, and removes FILE.tmp before that if it has not
// become FILE: without the lock it would be somebody else's.
func (l *tempLock) release() {
	if !l.renamed {
		// What stays behind is an empty or half file of mode 0600, which the
		// next one to lock it truncates or removes.
		_ = os.Remove(l.path)
	}
	l.file.Close()
}

// SweepReplace removes FILE.tmp beside path, main.cf or master.cf, that a
// killed Replace left, unless somebody holds its lock: then it is at work.
func (i Instance) SweepReplace(path string) error {
	st, err := os.Lstat(path + ".tmp")
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	l, err := tryLockTemp(path + ".tmp")
	if errors.Is(err, errRetry) {
		return nil // locked, or complete and removed
	}
	if err != nil {
		return err
	}
	l.release()
	return syncDir(filepath.Dir(path)) // or a power cut brings it back
}

// maxConfig is the largest main.cf or master.cf that is read.
const maxConfig = 4 << 20

// attributed is a file's content and all that Replace keeps of it.
type attributed struct {
	data     []byte
	mode     uint32
	uid, gid int
	mtime    time.Time
	xattrs   map[string][]byte
}

// readAttributed reads a regular file and its attributes through one
// descriptor, except the attributes' values, which the standard library reads
// by path.
func readAttributed(path string) (attributed, error) {
	data, st, err := readRegular(path)
	if err != nil {
		return attributed{}, err
	}
	a := attributed{
		data: data, mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid),
		mtime: time.Unix(st.Mtim.Unix()),
	}
	a.xattrs, err = xattrs(path)
	return a, err
}

// readRegular reads a file once, through one descriptor. It follows symbolic
// links, as Postfix does, but waits for no pipe and reads no device.
func readRegular(path string) ([]byte, syscall.Stat_t, error) {
	var st syscall.Stat_t
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, st, err
	}
	defer f.Close()
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return nil, st, fmt.Errorf("looking at %s: %w", path, err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, st, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, st, err
	}
	if len(data) > maxConfig {
		return nil, st, fmt.Errorf("%s is larger than %d bytes", path, maxConfig)
	}
	return data, st, nil
}

// xattrs are the extended attributes to keep, ACL and SELinux label among
// them. Signatures of the old content (security.ima, security.evm) are not.
func xattrs(path string) (map[string][]byte, error) {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := syscall.Listxattr(path, buf)
	if err == syscall.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing attributes of %s: %w", path, err)
	}
	out := map[string][]byte{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || name == "security.ima" || name == "security.evm" {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		k, err := syscall.Getxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("reading attribute %s of %s: %w", name, path, err)
		}
		out[name] = value[:k]
	}
	return out, nil
}
