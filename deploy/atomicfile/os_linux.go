package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// OS is the real file system.
//
// Each call walks to the directory of its path element by element and then
// works relative to its descriptor. A symbolic link on the way is followed
// only if it belongs to root or to the user that we run as and has no second
// name: /etc/postfix may be a link that the administrator made, but somebody
// who can write one of the directories can't lead us out of it, whatever
// fs.protected_symlinks says. A link that he did make is a *[RefusedError].
var OS FS = osFS{}

type osFS struct{}

const maxLinks = 40 // as the kernel's own limit, path_resolution(7)

// openDir walks to a directory and returns an O_PATH descriptor of it.
func openDir(path string) (int, error) {
	if !filepath.IsAbs(path) {
		return -1, errors.New("not an absolute path")
	}
	dir, err := openAt(-100, "/", oPath|syscall.O_DIRECTORY) // AT_FDCWD
	if err != nil {
		return -1, err
	}
	todo := elements(path)
	for links := 0; len(todo) > 0; {
		next, err := openAt(dir, todo[0], oPath|syscall.O_NOFOLLOW)
		if err != nil {
			syscall.Close(dir)
			return -1, err
		}
		target, isLink, err := stepLink(next, path)
		switch {
		case err != nil:
		case !isLink:
			syscall.Close(dir)
			dir, todo = next, todo[1:]
			continue
		case links >= maxLinks:
			err = syscall.ELOOP
		case filepath.IsAbs(target):
			syscall.Close(dir)
			dir, err = openAt(-100, "/", oPath|syscall.O_DIRECTORY)
		}
		syscall.Close(next)
		if err != nil {
			syscall.Close(dir)
			return -1, err
		}
		links++
		todo = append(elements(target), todo[1:]...)
	}
	return dir, nil
}

func elements(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// stepLink looks at one element of a path: where it leads if it is a link
// that may be followed.
func stepLink(fd int, path string) (target string, isLink bool, err error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return "", false, err
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return "", false, nil
	case syscall.S_IFLNK:
		if st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Nlink > 1 {
			return "", true, &RefusedError{Path: path, Reason: ForeignLink}
		}
		target, err = readlinkat(fd)
		return target, true, err
	}
	return "", false, syscall.ENOTDIR
}

func openAt(dir int, name string, flags int) (int, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = syscall.Openat(dir, name, flags|syscall.O_CLOEXEC, 0o600)
		return err
	})
	return fd, err
}

// in runs call with a descriptor of path's directory and its last element.
func in(op, path string, call func(dir int, name string) error) error {
	dir, err := openDir(filepath.Dir(path))
	if err == nil {
		err = call(dir, filepath.Base(path))
		syscall.Close(dir)
	}
	return named(op, path, err)
}

// named gives a system error its place; a refusal has one.
func named(op, path string, err error) error {
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

func (osFS) Create(path string) (FileHandle, error) {
	var f FileHandle
	err := in("create", path, func(dir int, name string) error {
		fd, err := openAt(dir, name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW)
		if err != nil {
			return err
		}
		f = osFile{os.NewFile(uintptr(fd), path)}
		return nil
	})
	return f, err
}

func (osFS) Open(path string) (FileHandle, error) {
	var f osFile
	err := in("open", path, func(dir int, name string) error {
		fd, err := openAt(dir, name, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_NOCTTY)
		if errors.Is(err, syscall.ELOOP) {
			return &RefusedError{Path: path, Reason: IsSymlink}
		}
		if err != nil {
			return err
		}
		f = osFile{os.NewFile(uintptr(fd), path)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Kind != File && info.Kind != Directory {
		err = &RefusedError{Path: path, Reason: NotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (osFS) Lstat(path string) (Info, error) {
	var info Info
	err := in("lstat", path, func(dir int, name string) error {
		fd, err := openAt(dir, name, oPath|syscall.O_NOFOLLOW)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		if info, err = stat(fd); err != nil {
			return err
		}
		info.Exposed, err = exposed(dir)
		return err
	})
	return info, err
}

// exposed tells whether a directory can be written by a user who is neither
// root nor the one that we run as. An ACL that lets somebody in shows as
// group bits.
func exposed(dir int) (bool, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(dir, &st); err != nil {
		return false, err
	}
	return st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0, nil
}

func stat(fd int) (Info, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return Info{}, err
	}
	kind := Other
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		kind = File
	case syscall.S_IFLNK:
		kind = Symlink
	case syscall.S_IFDIR:
		kind = Directory
	}
	return Info{
		Kind: kind, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Size: st.Size,
		MTime: time.Unix(st.Mtim.Unix()), CTime: time.Unix(st.Ctim.Unix()), Dev: uint64(st.Dev), Ino: st.Ino, Nlink: uint64(st.Nlink),
	}, nil
}

func (osFS) ReadDir(path string) ([]string, error) {
	fd, err := listable("readdir", path)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // opened for reading: nothing can be lost
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (osFS) Readlink(path string) (string, error) {
	var target string
	err := in("readlink", path, func(dir int, name string) error {
		fd, err := openAt(dir, name, oPath|syscall.O_NOFOLLOW)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		target, err = readlinkat(fd)
		return err
	})
	return target, err
}

func (osFS) Mkdir(path string) error {
	return in("mkdir", path, func(dir int, name string) error {
		return syscall.Mkdirat(dir, name, 0o700)
	})
}

func (osFS) Symlink(target, path string) error {
	return in("symlink", path, func(dir int, name string) error {
		return symlinkat(target, dir, name)
	})
}

func (osFS) Rename(from, to string) error {
	if filepath.Dir(from) != filepath.Dir(to) {
		return &fs.PathError{Op: "rename", Path: from, Err: syscall.EXDEV}
	}
	return in("rename", to, func(dir int, name string) error {
		return syscall.Renameat(dir, filepath.Base(from), dir, name)
	})
}

func (osFS) Remove(path string) error {
	return in("remove", path, func(dir int, name string) error {
		err := unlinkat(dir, name, 0)
		// Linux says EISDIR; POSIX and some file systems EPERM.
		if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EPERM) {
			if derr := unlinkat(dir, name, atRemoveDir); !errors.Is(derr, syscall.ENOTDIR) {
				return derr
			}
		}
		return err
	})
}

func (osFS) SyncDir(path string) error {
	fd, err := listable("fsync", path)
	if err != nil {
		return err
	}
	err = retry(func() error { return syscall.Fsync(fd) })
	if cerr := syscall.Close(fd); err == nil {
		err = cerr
	}
	return named("fsync", path, err)
}

// listable opens a directory for reading. Its own name may be a link that the
// walk may follow, such as /etc/postfix.
func listable(op, path string) (int, error) {
	dir, err := openDir(path)
	if err != nil {
		return -1, named(op, path, err)
	}
	defer syscall.Close(dir)
	fd, err := openAt(dir, ".", syscall.O_RDONLY|syscall.O_DIRECTORY)
	return fd, named(op, path, err)
}

type osFile struct{ *os.File }

func (f osFile) Stat() (Info, error) { return stat(int(f.Fd())) }

func (f osFile) Chown(uid, gid uint32) error { return f.File.Chown(int(uid), int(gid)) }

// Chmod passes the bits as they are: os.FileMode keeps setuid elsewhere.
func (f osFile) Chmod(mode uint32) error {
	return f.wrap("chmod", retry(func() error { return syscall.Fchmod(int(f.Fd()), mode) }))
}

func (f osFile) SetMTime(t time.Time) error { return f.wrap("utimensat", futimens(int(f.Fd()), t)) }

// Xattrs leaves out what the kernel computes from a file's content itself:
// IMA and EVM, which would be false on other content.
func (f osFile) Xattrs() (map[string][]byte, error) {
	names, err := flistxattr(int(f.Fd()))
	if errors.Is(err, syscall.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, f.wrap("flistxattr", err)
	}
	var all map[string][]byte
	for _, name := range names {
		if name == "security.ima" || name == "security.evm" {
			continue
		}
		value, err := fgetxattr(int(f.Fd()), name)
		if errors.Is(err, syscall.ENODATA) || errors.Is(err, syscall.ENOTSUP) {
			continue // gone since, or listed and not readable
		}
		if err != nil {
			return nil, f.wrap("fgetxattr", err)
		}
		if all == nil {
			all = map[string][]byte{}
		}
		all[name] = value
	}
	return all, nil
}

func (f osFile) SetXattr(name string, value []byte) error {
	return f.wrap("fsetxattr "+name, fsetxattr(int(f.Fd()), name, value))
}

func (f osFile) RemoveXattr(name string) error {
	err := fremovexattr(int(f.Fd()), name)
	if errors.Is(err, syscall.ENODATA) {
		return nil
	}
	return f.wrap("fremovexattr "+name, err)
}

func (f osFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: f.Name(), Err: err}
}
