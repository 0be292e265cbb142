package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ChangedError says that a file is not what it was when the change to it was
// planned, or that it became another one, again and again, while it was read.
// Nothing was written; the caller plans again.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return e.Path + " was changed by somebody else meanwhile"
}

// cool is how far back Replace sets the modification time: more than the 2 s
// that Postfix lets a main.cf cool down (postconf(5) has no parameter for it).
const cool = 3 * time.Second

// Replace puts data in place of the file path, main.cf or master.cf, if it
// holds want; otherwise it returns a *ChangedError. Readers see the old file
// or the new one. The file keeps mode, owner, extended attributes and ACL. If
// path is a symbolic link, the file it points to is replaced, and the link
// stays. mtime is the new modification time; zero is three seconds ago.
//
// It works inside Postfix's own protocol: an exclusive flock(2) on FILE.tmp,
// which also is the file that is renamed. It waits for that lock until ctx
// ends, but at most LockWait.
func (i Instance) Replace(ctx context.Context, path string, want, data []byte, mtime time.Time) error {
	if err := replace(ctx, path, want, data, mtime); err != nil {
		var changed *ChangedError
		if errors.As(err, &changed) {
			return err
		}
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	return nil
}

func replace(ctx context.Context, path string, want, data []byte, mtime time.Time) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return err
	}
	name := filepath.Join(dir, filepath.Base(path))
	tmp, err := lockTemp(ctx, name)
	if err != nil {
		return err
	}
	defer tmp.release()
	// Only now: until we had the lock, postconf could replace the link.
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	if real != name {
		// Those who edit the real file by its own name lock another FILE.tmp,
		// and ours must be in its directory to be renamed over it.
		if tmp, err = lockTemp(ctx, real); err != nil {
			return err
		}
		defer tmp.release()
	}
	old, err := readAttributed(real)
	if err != nil {
		return err
	}
	if !bytes.Equal(old.data, want) {
		return &ChangedError{Path: path}
	}
	if mtime.IsZero() {
		mtime = time.Now().Add(-cool)
		if mtime.Equal(old.mtime) {
			// rsync and backups tell a change by size and time.
			mtime = mtime.Add(time.Nanosecond)
		}
	}
	if err := tmp.fill(data, old, mtime); err != nil {
		return err
	}
	if err := os.Rename(tmp.path, real); err != nil {
		return err
	}
	tmp.renamed = true
	return syncDir(filepath.Dir(real))
}

// fill writes the new file. The mode comes late, as in Postfix: who finds a
// FILE.tmp that a crash left knows by mode 0600 that it was never complete.
func (l *tempLock) fill(data []byte, old attributed, mtime time.Time) error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	if _, err := l.file.Write(data); err != nil {
		return err
	}
	if err := l.file.Chown(old.uid, old.gid); err != nil {
		return err
	}
	for name, value := range old.xattrs {
		if err := syscall.Setxattr(l.path, name, value, 0); err != nil {
			return fmt.Errorf("setting attribute %s of %s: %w", name, l.path, err)
		}
	}
	if err := syscall.Fchmod(int(l.file.Fd()), old.mode); err != nil {
		return fmt.Errorf("setting the mode of %s: %w", l.path, err)
	}
	if err := os.Chtimes(l.path, time.Time{}, mtime); err != nil {
		return err
	}
	return l.file.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
