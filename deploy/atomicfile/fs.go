package atomicfile

import (
	"io"
	"time"
)

// Kind is what stands at a path.
type Kind string

const (
	Absent    Kind = "absent"
	File      Kind = "file" // a regular file
	Symlink   Kind = "symlink"
	Directory Kind = "directory"
	Other     Kind = "other" // device, socket, FIFO
)

// Info is what lstat(2) and fstat(2) tell.
type Info struct {
	Kind     Kind
	Mode     uint32 // 07777
	UID, GID uint32
	Size     int64 // bytes
	MTime    time.Time
	CTime    time.Time // last change of the inode, its number of names included
	Dev, Ino uint64
	Nlink    uint64
	// Exposed is set by Lstat: other users, root aside, can change the names
	// in the directory.
	Exposed bool
}

// FS is the file system as the transaction sees it. Paths are absolute and
// clean. No call follows a symbolic link in the last element of a path. An
// error that says that nothing is there is fs.ErrNotExist; that something is,
// fs.ErrExist.
//
// It exists so that tests can lose, fail and kill at each call; it is not a
// general file system. [OS] is the real one.
type FS interface {
	// Create makes a new, empty regular file of mode 0600, open for writing.
	Create(path string) (FileHandle, error)
	// Open opens a regular file or a directory for reading, and never waits
	// for a FIFO's writer. Anything else is a *RefusedError.
	Open(path string) (FileHandle, error)
	Lstat(path string) (Info, error)
	// ReadDir returns the names in a directory, sorted.
	ReadDir(path string) ([]string, error)
	Readlink(path string) (string, error)
	// Mkdir makes a directory of mode 0700.
	Mkdir(path string) error
	Symlink(target, path string) error
	// Rename replaces what to names, atomically. Both are in one directory.
	Rename(from, to string) error
	// Remove removes a name that is no directory, or an empty directory.
	Remove(path string) error
	// SyncDir forces a directory's names and attributes to disk.
	SyncDir(path string) error
}

// FileHandle is one open file of an [FS]. All changes go through it and not
// through a path, so they hit the file that was opened.
type FileHandle interface {
	io.Reader
	io.Writer
	Stat() (Info, error)
	Chown(uid, gid uint32) error
	Chmod(mode uint32) error // 07777
	// Xattrs returns all extended attributes that can be copied; none where
	// the file system has none.
	Xattrs() (map[string][]byte, error)
	SetXattr(name string, value []byte) error
	RemoveXattr(name string) error
	SetMTime(time.Time) error // to the nanosecond
	Sync() error              // content and attributes to disk
	Close() error
}
