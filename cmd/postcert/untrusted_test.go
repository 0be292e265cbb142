package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// TestUntrustedDirectories: where somebody else could put a journal, or a link
// in the way of what is written, nothing is read and nothing written.
func TestUntrustedDirectories(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	h.env = patient
	good := h.lineage(certtest.Leaf{})
	open := filepath.Join(h.pf.Dir, "open")
	// Not by Mkdir, whose mode the umask reduces.
	if err := errors.Join(os.Mkdir(open, 0o755), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(h.pf.Dir, "theirs")
	if err := errors.Join(os.Mkdir(theirs, 0o700), os.Chown(theirs, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, filepath.Join(open, "sub"), theirs} {
		h.at("state directory "+filepath.Base(dir), func(h *host) {
			h.state = dir
			h.postcert("install-cert", good).want(statusRefused).says("directory_untrusted")
			h.postcert("recover").want(statusRefused).says("directory_untrusted")
		})
		h.at("runtime directory "+filepath.Base(dir), func(h *host) {
			h.run = dir
			h.postcert("install-cert", good).want(statusRefused).says("directory_untrusted")
			h.postcert("install-cert", good, "--dry-run").want(statusRefused).says("directory_untrusted")
		})
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("made in %s: %v", dir, entries)
		}
	}
}

// TestStatusFollowsNoLink: a record is a file of ours, or it is none, and what it would
// say is in the history.
func TestStatusFollowsNoLink(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	h.env = patient
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	found, err := filepath.Glob(filepath.Join(h.state, "status", "*", "*.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("got %v, %v; want one record", found, err)
	}
	// A named pipe too: to open it would wait for ever.
	for _, put := range map[string]func() error{
		"link": func() error { return os.Symlink(h.trust, found[0]) },
		"pipe": func() error { return syscall.Mkfifo(found[0], 0o600) },
	} {
		if err := errors.Join(os.Remove(found[0]), put()); err != nil {
			t.Fatal(err)
		}
		h.postcert("status").want(0).says("record_unreadable").says(found[0])
	}
}
