package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// stRdonly is ST_RDONLY of statfs(2).
const stRdonly = 1

// Replaceable tells whether [Write] could replace or make the file at path
// with need bytes of content, without changing anything: no temporary file is
// made. The answer is nil or a *[RefusedError] whose reason a person can act
// on, before anything is staged. A container that mounts a single main.cf, an
// immutable file or a full disk are found here and not half-way.
func Replaceable(path string, need int64) error {
	dir, base := filepath.Split(filepath.Clean(path))
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &RefusedError{Path: path, Reason: NoDirectory}
	}
	if err != nil {
		return fmt.Errorf("examining %s: %w", path, err)
	}
	for _, ask := range []func() error{
		func() error { return replaceableFile(path) },
		func() error { return mountedOn(path, filepath.Join(real, base)) },
		func() error { return writableDirectory(path, real) },
		func() error { return roomFor(path, real, need) },
	} {
		if err := ask(); err != nil {
			return err
		}
	}
	return nil
}

// replaceableFile looks at the file itself, if there is one.
func replaceableFile(path string) error {
	now, err := OS.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("examining %s: %w", path, err)
	}
	if err := refuse(path, now); err != nil {
		return err
	}
	return flagged(path, path)
}

// flagged reports the chattr(1) flags of what, under the name of path. An
// immutable file can't be renamed over, nor any name in an immutable or
// append-only directory (ioctl_iflags(2)).
func flagged(path, what string) error {
	f, err := os.OpenFile(what, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		// Not readable is not the same as not replaceable: the directory
		// decides, and it is asked next.
		return nil
	}
	defer f.Close()
	flags := inodeFlags(int(f.Fd()))
	switch {
	case flags&fsImmutable != 0:
		return &RefusedError{Path: path, Reason: Immutable, Detail: what}
	case flags&fsAppendOnly != 0:
		return &RefusedError{Path: path, Reason: AppendOnly, Detail: what}
	}
	return nil
}

// mountedOn refuses a file that something is mounted on: rename(2) says EBUSY.
// Its device number does not tell, because a bind mount keeps it.
func mountedOn(path, real string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil // no proc(5): the rename will tell
	}
	defer f.Close()
	points, err := mountPoints(f)
	if err != nil {
		return fmt.Errorf("reading /proc/self/mountinfo: %w", err)
	}
	if points[real] {
		return &RefusedError{Path: path, Reason: MountPoint}
	}
	return nil
}

// mountPoints reads the fifth field of each line of proc_pid_mountinfo(5),
// where blanks and backslashes are written as octal escapes. Other white space,
// such as a carriage return or U+00A0, stands there as it is and separates
// nothing.
func mountPoints(r io.Reader) (map[string]bool, error) {
	points := map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), " "); len(fields) > 4 {
			points[unescapeOctal(fields[4])] = true
		}
	}
	return points, lines.Err()
}

func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func writableDirectory(path, dir string) error {
	if err := flagged(path, dir); err != nil {
		return err
	}
	// 2 and 1 are W_OK and X_OK. It answers for the effective user only with
	// AT_EACCESS; a root tool is never setuid, so both are the same.
	err := syscall.Access(dir, 2|1)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
		return &RefusedError{Path: path, Reason: ReadOnly}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return &RefusedError{Path: path, Reason: NotWritable, Detail: dir}
	}
	return fmt.Errorf("examining %s: %w", path, err)
}

// roomFor asks for the space of the new file: the old one is freed only after
// the rename.
func roomFor(path, dir string, need int64) error {
	var st syscall.Statfs_t
	if err := retry(func() error { return syscall.Statfs(dir, &st) }); err != nil {
		return fmt.Errorf("examining %s: %w", path, err)
	}
	if st.Flags&stRdonly != 0 {
		return &RefusedError{Path: path, Reason: ReadOnly}
	}
	blocks := st.Bavail
	if os.Geteuid() == 0 {
		blocks = st.Bfree // root may use the reserve
	}
	block := uint64(st.Bsize)
	// One block more, for the directory. Where a size is 0 the file system
	// does not count (st.Blocks), or makes inodes as needed (st.Files).
	wanted := (uint64(max(need, 0))+block-1)/block + 1
	if st.Blocks > 0 && blocks < wanted {
		return &RefusedError{Path: path, Reason: NoSpace, Detail: fmt.Sprintf("%d bytes free, %d needed", blocks*block, wanted*block)}
	}
	if st.Files > 0 && st.Ffree == 0 {
		return &RefusedError{Path: path, Reason: NoInodes}
	}
	return nil
}
