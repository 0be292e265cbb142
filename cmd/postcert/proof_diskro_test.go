package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// switchable is a set of directories that are mounts of their own, which can be
// made read-only: by the test, or by a shell command in the middle of a run.
type switchable struct {
	h    *host
	name string
	dirs []string
}

// newSwitchable mounts each directory on itself. The kernel makes no mount
// read-only in which a file is open for writing, and a run has the lock of the
// state directory open: so of that one it is what is below it that is switched,
// which is all that is written after the lock.
func (h *host) newSwitchable(name string) *switchable {
	h.t.Helper()
	s := &switchable{h: h, name: name, dirs: []string{h.pf.ConfigDir}}
	if name == "state" {
		s.dirs = nil
		for _, sub := range []string{"generations", "history", "journal", "status"} {
			s.dirs = append(s.dirs, filepath.Join(h.state, sub))
		}
	}
	for _, dir := range s.dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			h.t.Fatal(err)
		}
		if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				h.t.Error(err)
			}
		})
	}
	return s
}

// off is the shell command that makes them read-only; on makes them writable.
func (s *switchable) off() string {
	var commands []string
	for _, dir := range s.dirs {
		commands = append(commands, "mount -o remount,bind,ro "+dir)
	}
	return strings.Join(commands, " && ")
}

func (s *switchable) on() {
	s.h.t.Helper()
	for _, dir := range s.dirs {
		if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT, ""); err != nil {
			s.h.t.Fatal(err)
		}
	}
}

// isOff tells whether the command worked: whether nothing can be written.
func (s *switchable) isOff() bool {
	return syscall.Access(s.dirs[len(s.dirs)-1], 2) == syscall.EROFS // W_OK
}

// moments are the events of a run at which something is switched: the beginning
// of each step, and both ends with POSTCERT_LONG; then those of an undo, for
// which the reload fails.
func moments(tr journey) []string {
	var out []string
	for _, e := range tr.events {
		if long || strings.HasSuffix(e, " begin") || e == "commit end" || e == "confirm end" {
			out = append(out, e)
		}
	}
	return append(out, "undo begin", "restore begin", "reprove begin")
}

// readOnlyAt runs one install during which the directories become read-only,
// and judges what it leaves. It returns which chain is served in the end.
func (s *switchable) readOnlyAt(h *host, event, old, lineage string, status map[int]int) string {
	h.t.Helper()
	before, env := h.picture(), []string{doAt + "=" + event + ": " + s.off()}
	switch event {
	case "undo begin", "restore begin", "reprove begin":
		env = append(env, failAt+"=Reload 1")
	case "start":
		sh(h.t, "%s", s.off())
		env = nil
	}
	a := h.with(env...).postcert("install-cert", lineage)
	status[a.status]++
	if !s.isOff() {
		h.t.Fatalf("it did not become read-only\n%s%s", a.stdout, a.stderr)
	}
	if a.status != statusOK && !strings.HasSuffix(event, "begin") && !strings.Contains(a.stderr, "read-only") {
		h.t.Errorf("exit status %d, and it does not say that a file system is read-only", a.status)
	}
	is := h.survives(a, s.on, before, old, h.chainOf(lineage))
	if h.t.Failed() {
		h.t.Logf("exit status %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	return is
}

// R5: the configuration or the state directory is read-only at the start, or
// becomes so at any event of a first install, of a renewal and of their undo.
func TestProofReadOnly(t *testing.T) {
	const shards = 4 // which directory, and which kind of run
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		name := []string{"configuration", "state"}[shard/2]
		h := newHost(t, postfixtest.Options{MaxUse: 1})
		h.env = patient
		s := h.newSwitchable(name)
		reset := h.originalOn()
		old, lineage := h.chain(), h.lineage(certtest.Leaf{})
		status := map[int]int{}
		events := append([]string{"start"}, moments(h.traced("install-cert", lineage))...)
		if kind := shard % 2; kind == 0 {
			for _, event := range events {
				reset()
				h.at("first "+event, func(h *host) { s.readOnlyAt(h, event, old, lineage, status) })
			}
			reset()
		} else {
			if !long {
				events = []string{"start", "commit begin", "commit end", "confirm begin", "undo begin"}
			}
			for _, event := range events {
				lineage = h.lineage(certtest.Leaf{})
				old := h.chain()
				h.at("renewal "+event, func(h *host) { s.readOnlyAt(h, event, old, lineage, status) })
			}
		}
		h.postcert("install-cert", lineage).want(0)
		h.serves(h.leafOf(lineage))
		t.Logf("R5 %s: %d runs, by exit status %v", fmt.Sprint(name, " ", []string{"first install", "renewal"}[shard%2]), len(events), status)
	})
}
