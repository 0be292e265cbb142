package atomicfile

import (
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// The system calls that package syscall has no function for. All work on
// descriptors. Numbers and flags are those of Linux, the same on each
// architecture that Go names them for.

const (
	oPath        = 0x200000 // O_PATH, open(2)
	atRemoveDir  = 0x200    // AT_REMOVEDIR, unlinkat(2)
	utimeOmit    = 1<<30 - 2
	fsImmutable  = 0x10       // FS_IMMUTABLE_FL, ioctl_iflags(2)
	fsAppendOnly = 0x20       // FS_APPEND_FL
	fsGetFlags   = 0x80086601 // FS_IOC_GETFLAGS where long has 64 bits
)

func errnoOf(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

func unlinkat(dir int, name string, flags int) error {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	return retry(func() error {
		_, _, e := syscall.Syscall(syscall.SYS_UNLINKAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(flags))
		return errnoOf(e)
	})
}

func symlinkat(target string, dir int, name string) error {
	t, err := syscall.BytePtrFromString(target)
	if err != nil {
		return err
	}
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, e := syscall.Syscall(syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(t)), uintptr(dir), uintptr(unsafe.Pointer(p)))
	return errnoOf(e)
}

// readlinkat reads the link that the O_PATH descriptor link itself is.
func readlinkat(link int) (string, error) {
	p, err := syscall.BytePtrFromString("")
	if err != nil {
		return "", err
	}
	buf := make([]byte, 4097) // PATH_MAX is 4096
	n, _, e := syscall.Syscall6(syscall.SYS_READLINKAT, uintptr(link), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if e != 0 {
		return "", e
	}
	if int(n) == len(buf) {
		return "", syscall.ENAMETOOLONG
	}
	return string(buf[:n]), nil
}

func futimens(fd int, t time.Time) error {
	times := [2]syscall.Timespec{{Nsec: utimeOmit}, syscall.NsecToTimespec(t.UnixNano())}
	_, _, e := syscall.Syscall6(syscall.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0)
	return errnoOf(e)
}

// inodeFlags are the attributes that chattr(1) sets; none where the file
// system knows no such thing.
func inodeFlags(fd int) uint {
	var flags uint64 // the kernel writes an int, into the lower half or the whole
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), fsGetFlags, uintptr(unsafe.Pointer(&flags)))
	if e != 0 {
		return 0
	}
	return uint(uint32(flags))
}

// readAttr calls a system call of the getxattr(2) kind, which fills a buffer
// and says ERANGE if it is too short, until the whole fits.
func readAttr(call func(buf []byte) (int, syscall.Errno)) ([]byte, error) {
	for {
		n, e := call(nil)
		if e != 0 {
			return nil, e
		}
		buf := make([]byte, n)
		if n == 0 {
			return buf, nil
		}
		n, e = call(buf)
		if e == syscall.ERANGE {
			continue // it grew between the two calls
		}
		if e != 0 {
			return nil, e
		}
		return buf[:n], nil
	}
}

// room gives a buffer an address even where it is empty, which the calls read
// as the question for a length.
func room(b []byte) *byte {
	if len(b) == 0 {
		return new(byte)
	}
	return &b[0]
}

func flistxattr(fd int) ([]string, error) {
	b, err := readAttr(func(buf []byte) (int, syscall.Errno) {
		n, _, e := syscall.Syscall(syscall.SYS_FLISTXATTR, uintptr(fd), uintptr(unsafe.Pointer(room(buf))), uintptr(len(buf)))
		return int(n), e
	})
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == 0 }), nil
}

func fgetxattr(fd int, name string) ([]byte, error) {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return nil, err
	}
	return readAttr(func(buf []byte) (int, syscall.Errno) {
		n, _, e := syscall.Syscall6(syscall.SYS_FGETXATTR, uintptr(fd), uintptr(unsafe.Pointer(p)),
			uintptr(unsafe.Pointer(room(buf))), uintptr(len(buf)), 0, 0)
		return int(n), e
	})
}

func fsetxattr(fd int, name string, value []byte) error {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, e := syscall.Syscall6(syscall.SYS_FSETXATTR, uintptr(fd), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(room(value))), uintptr(len(value)), 0, 0)
	return errnoOf(e)
}

func fremovexattr(fd int, name string) error {
	p, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, e := syscall.Syscall(syscall.SYS_FREMOVEXATTR, uintptr(fd), uintptr(unsafe.Pointer(p)), 0)
	return errnoOf(e)
}
