// Package atomicfile replaces one file so that nobody ever sees half of it,
// not after a kill and not after a power cut.
//
// A program that reads a file may start at any moment: a new smtpd(8) opens
// its key the instant after we renamed it, or the instant before. So a file is
// never written in place. [Write] creates a new one beside it under a random
// name, gives it owner, mode, extended attributes and content, forces it to
// disk, renames it over the old one, and forces the directory to disk. Each
// step has a reason:
//
//   - The new file is created with O_EXCL, O_NOFOLLOW and mode 0600, and is
//     changed only through its descriptor. A key is never readable by others
//     for a moment, whatever the umask, and a name that somebody swaps under
//     us leads to no other file.
//   - The name is random. A fixed one left by a killed run blocks the next.
//   - fsync(2) comes before rename(2): otherwise the name can survive a power
//     cut and the content not.
//   - fsync(2) of the directory comes after it: otherwise the old name comes
//     back although we reported success.
//   - A descriptor whose fsync failed is never tried again. The kernel reports
//     a lost write once (https://wiki.postgresql.org/wiki/Fsync_Errors), so
//     the file is thrown away.
//
// What stands at a path is a value, [State]; [Capture] reads it and [Put]
// makes it so again. Package journal builds on these two to change several
// paths as one.
//
// All of it goes through [FS], a small seam with one real implementation,
// [OS]. Tests put a model there that forgets what was not synced, fails at the
// n-th call, or kills the process.
package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Attr is what a file has besides its content.
type Attr struct {
	Mode uint32 `json:"mode"` // permission bits and setuid, setgid, sticky: 07777
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Xattrs are all extended attributes, POSIX ACL and SELinux label
	// included. What is not listed is removed from a new file, except in the
	// security namespace, where the kernel's own label stays.
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
	// MTime is the modification time; zero leaves the time of writing.
	MTime time.Time `json:"mtime,omitzero"`
}

const tempPrefix = ".postcert-"

var tempPattern = regexp.MustCompile(`^\.postcert-[0-9a-f]{32}\.tmp$`)

// TempName returns a name in dir that nobody can guess and that [IsTemp]
// recognises.
func TempName(dir string) string {
	var b [16]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return filepath.Join(dir, tempPrefix+hex.EncodeToString(b[:])+".tmp")
}

// IsTemp tells whether the last element of path is one that [TempName] made.
func IsTemp(path string) bool { return tempPattern.MatchString(filepath.Base(path)) }

// Write makes path a regular file with this content and these attributes, or
// leaves what was there. It returns after the change is on disk.
//
// It refuses, with a *[RefusedError], to replace anything but a regular file
// with one name: a symbolic link belongs to a person who decided where the
// bytes live, and replacing one of several hard links would separate them.
//
// If the error comes from the last step, the fsync of the directory, the new
// file may be in place already.
func Write(fsys FS, path string, data []byte, attr Attr) error {
	now, err := fsys.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("writing %s: %w", path, err)
	default:
		if err := refuse(path, now); err != nil {
			return err
		}
	}
	return replace(fsys, path, data, attr)
}

// refuse says why a thing that stands at path is not to be replaced.
func refuse(path string, now Info) error {
	switch {
	case now.Kind == Symlink:
		return &RefusedError{Path: path, Reason: IsSymlink}
	case now.Kind != File:
		return &RefusedError{Path: path, Reason: NotRegular}
	case now.Nlink > 1:
		return &RefusedError{Path: path, Reason: HardLinked}
	}
	return nil
}

// replace is Write without the look at what is there.
func replace(fsys FS, path string, data []byte, attr Attr) error {
	temp := TempName(filepath.Dir(path))
	info, err := Create(fsys, temp, data, attr)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := fsys.Rename(temp, path); err != nil {
		err = errors.Join(err, discard(fsys, temp))
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	// In a directory that others can write, the name we renamed need not have
	// been our file any more. Nothing of theirs was changed, but it is not
	// what the caller thinks it is.
	now, err := fsys.Lstat(path)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if now.Dev != info.Dev || now.Ino != info.Ino {
		return &RefusedError{Path: path, Reason: Raced}
	}
	return nil
}

// Create makes path, which must not exist, a file with this content and these
// attributes, forced to disk; its directory is not. On an error nothing of it
// is left. It is for files that become visible by a later rename of their
// directory; any other is made by [Write].
func Create(fsys FS, path string, data []byte, attr Attr) (Info, error) {
	f, err := fsys.Create(path)
	if err != nil {
		return Info{}, err
	}
	info, err := fill(f, data, attr)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Info{}, errors.Join(err, discard(fsys, path))
	}
	return info, nil
}

// fill gives an empty file all that it shall have. The content comes first,
// while nobody else can read it; the owner before the mode, because chown(2)
// clears setuid bits, as write(2) does; the mode before the attributes, because
// chmod(2) rewrites the mask of an ACL; the time last of all.
func fill(f FileHandle, data []byte, attr Attr) (Info, error) {
	if _, err := f.Write(data); err != nil {
		return Info{}, err
	}
	if err := setOwner(f, attr); err != nil {
		return Info{}, err
	}
	if err := f.Chmod(attr.Mode); err != nil {
		return Info{}, err
	}
	if err := setXattrs(f, attr.Xattrs); err != nil {
		return Info{}, err
	}
	if !attr.MTime.IsZero() {
		if err := f.SetMTime(attr.MTime); err != nil {
			return Info{}, err
		}
	}
	if err := f.Sync(); err != nil {
		return Info{}, err
	}
	return f.Stat()
}

// setOwner asks only for a change, so that it works for an ordinary user whose
// files are his own.
func setOwner(f FileHandle, attr Attr) error {
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if now.UID == attr.UID && now.GID == attr.GID {
		return nil
	}
	return f.Chown(attr.UID, attr.GID)
}

// setXattrs makes the attributes of f those in want. A directory's default ACL
// gives each new file one that nobody asked for: it goes.
func setXattrs(f FileHandle, want map[string][]byte) error {
	now, err := f.Xattrs()
	if err != nil {
		return err
	}
	for name := range now {
		if _, ok := want[name]; !ok && !strings.HasPrefix(name, "security.") {
			if err := f.RemoveXattr(name); err != nil {
				return err
			}
		}
	}
	for name, value := range want {
		if have, ok := now[name]; ok && string(have) == string(value) {
			continue
		}
		if err := f.SetXattr(name, value); err != nil {
			return err
		}
	}
	return nil
}

// discard removes a temporary file after an error. That it is gone already is
// no second error.
func discard(fsys FS, path string) error {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Ever is the time for a caller of [Sweep] who holds the lock: then a temporary
// file is a dead run's, whatever its time says. It may be later than now, if
// the clock was put back since; and it may hold a key.
var Ever = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// Sweep removes from dir the temporary files that a killed run left: names
// that [TempName] made, no directories, not modified since before. It returns
// their paths. The caller holds the lock under which such files are made, or
// chooses before so that no live one is hit. The owner does not tell whose a
// file is: it may have got the one of the file that it was to replace. A
// directory that does not exist has nothing to sweep.
func Sweep(fsys FS, dir string, before time.Time) ([]string, error) {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sweeping %s: %w", dir, err)
	}
	var gone []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		if !IsTemp(path) {
			continue
		}
		now, err := fsys.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return gone, fmt.Errorf("sweeping %s: %w", dir, err)
		}
		if now.Kind == Directory || now.MTime.After(before) {
			continue
		}
		if err := discard(fsys, path); err != nil {
			return gone, fmt.Errorf("sweeping %s: %w", dir, err)
		}
		gone = append(gone, path)
	}
	if len(gone) > 0 {
		// Not every file system keeps the order of what happens in it (btrfs): a
		// power cut could bring back a key that somebody was told is gone.
		if err := fsys.SyncDir(dir); err != nil {
			return gone, fmt.Errorf("sweeping %s: %w", dir, err)
		}
	}
	return gone, nil
}

// MkdirAll makes path and what it lacks above it directories of mode 0700,
// each forced to disk. Existing ones stay as they are.
func MkdirAll(fsys FS, path string) error {
	now, err := fsys.Lstat(path)
	if err == nil {
		if now.Kind == Directory || now.Kind == Symlink {
			return nil // what lies behind a link shows at the first use
		}
		return &RefusedError{Path: path, Reason: NotDirectory}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(fsys, parent); err != nil {
		return err
	}
	if err := fsys.Mkdir(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(parent)
}
