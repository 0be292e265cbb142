package crashfs

import (
	"io"
	"maps"
	"syscall"
	"time"

	"postcert/deploy/atomicfile"
)

// handle is an open file.
type handle struct {
	fs       *FS
	ino      *inode
	path     string
	at       int
	writable bool
	closed   bool
}

func (h *handle) Read(b []byte) (int, error) {
	if h.ino.kind != atomicfile.File {
		return 0, fail("read", h.path, syscall.EISDIR)
	}
	if h.at >= len(h.ino.data) {
		return 0, io.EOF
	}
	n := copy(b, h.ino.data[h.at:])
	h.at += n
	return n, nil
}

func (h *handle) Write(b []byte) (int, error) {
	if !h.writable {
		return 0, fail("write", h.path, syscall.EBADF)
	}
	err := h.fs.change("write", h.path, func() error {
		h.ino.data = append(h.ino.data[:len(h.ino.data):len(h.ino.data)], b...)
		h.ino.mtime = time.Now()
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (h *handle) Stat() (atomicfile.Info, error) { return h.ino.info(), nil }

func (h *handle) Chown(uid, gid uint32) error {
	return h.fs.change("chown", h.path, func() error { h.ino.uid, h.ino.gid = uid, gid; return nil })
}

func (h *handle) Chmod(mode uint32) error {
	return h.fs.change("chmod", h.path, func() error { h.ino.mode = mode; return nil })
}

func (h *handle) Xattrs() (map[string][]byte, error) { return maps.Clone(h.ino.xattrs), nil }

func (h *handle) SetXattr(name string, value []byte) error {
	return h.fs.change("setxattr", h.path, func() error {
		all := maps.Clone(h.ino.xattrs)
		if all == nil {
			all = map[string][]byte{}
		}
		all[name] = append([]byte(nil), value...)
		h.ino.xattrs = all
		return nil
	})
}

func (h *handle) RemoveXattr(name string) error {
	return h.fs.change("removexattr", h.path, func() error {
		all := maps.Clone(h.ino.xattrs)
		delete(all, name)
		h.ino.xattrs = all
		return nil
	})
}

func (h *handle) SetMTime(t time.Time) error {
	return h.fs.change("utimens", h.path, func() error { h.ino.mtime = t; return nil })
}

func (h *handle) Sync() error {
	return h.fs.change("fsync", h.path, func() error { h.fs.sync(h.ino); return nil })
}

func (h *handle) Close() error {
	if h.closed {
		return fail("close", h.path, syscall.EBADF)
	}
	h.closed = true
	if !h.writable {
		return nil
	}
	return h.fs.change("close", h.path, func() error { return nil })
}
