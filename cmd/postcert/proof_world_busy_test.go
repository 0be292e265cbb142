package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// slots is how many processes the smtpd on port 25 may have in these tests.
const slots = 3

// idlers are clients who took all slots and say nothing.
type idlers []net.Conn

// occupy connects as often as there are slots, and waits for each greeting:
// then a process serves it.
func (h *host) occupy() idlers {
	h.t.Helper()
	var out idlers
	for range slots {
		c, err := net.Dial("tcp", postfixtest.SMTP)
		if err != nil {
			h.t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 4)); err != nil {
			h.t.Errorf("no slot was free: %v", err)
		}
		out = append(out, c)
	}
	return out
}

func (l idlers) leave() {
	for _, c := range l {
		_ = c.Close()
	}
}

// busyHost has a port 25 with few processes.
func busyHost(t *testing.T) *host {
	return newHost(t, postfixtest.Options{MaxUse: 1, SMTPD: []string{fmt.Sprintf("smtp inet n - n - %d smtpd", slots)}}).with(patience)
}

// A listener whose slots are all taken by idle clients cannot be asked: that
// says nothing about a certificate, so a renewal is kept and not called a
// success, and the next run proves it.
func TestProofSlots(t *testing.T) {
	t.Parallel()
	cases := []func(*testing.T){slotsRenewal, slotsFirst, slotsBefore}
	postfixtest.Shards(t, len(cases), func(t *testing.T, shard int) { cases[shard](t) })
}

// slotsRenewal: they are taken in the middle of a renewal.
func slotsRenewal(t *testing.T) {
	h := busyHost(t)
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	l := h.lineage(certtest.Leaf{})
	var taken idlers
	h.during("reload begin", func() { taken = h.occupy() }, "install-cert", l).want(9).says("127.0.0.1:25").says("not verified")
	for addr, mode := range listeners {
		if addr != postfixtest.SMTP {
			h.wantServed(addr, mode, h.leafOf(l))
		}
	}
	h.clean()
	h.postcert("recover").want(0).says("nothing to recover")
	h.postcert("status").want(8)
	// Still taken: the next run finds no reason to undo it either.
	h.postcert("install-cert", l).want(9)
	h.postcert("status").want(8)
	taken.leave()
	h.postcert("install-cert", l).want(0)
	h.postcert("status").want(0)
	h.serves(h.leafOf(l))
	t.Log("renewal beside idle clients: kept, exit 9; again 9; proven by the next run when they have left")
}

// slotsFirst: they are taken in the middle of a first install. It changes
// main.cf, and what cannot be proven is undone; that the port serves the old
// leaf again cannot be proven either, and that is said: 5, until it can.
func slotsFirst(t *testing.T) {
	h := busyHost(t)
	old, before := h.chain(), h.picture()
	l := h.lineage(certtest.Leaf{})
	var taken idlers
	h.during("commit end", func() { taken = h.occupy() }, "install-cert", l).want(5).says("127.0.0.1:25").says("postcert recover")
	for addr, mode := range listeners {
		if leaf, err := postfixtest.ServedLeaf(t, addr, mode); addr != postfixtest.SMTP && (err != nil || leaf == h.leafOf(l)) {
			t.Errorf("%s serves %s (%v)", addr, leaf, err)
		}
	}
	taken.leave()
	h.postcert("recover").want(0)
	h.shows(old, "")
	h.settled("old", before)
	h.postcert("install-cert", l).want(0)
	h.serves(h.leafOf(l))
	t.Log("first install beside idle clients: undone, exit 5 because it cannot be proven; settled by recover when they have left")
}

// slotsBefore: they were taken before the first install began.
func slotsBefore(t *testing.T) {
	h := busyHost(t)
	taken := h.occupy()
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(9).says("broken_before").says("127.0.0.1:25")
	taken.leave()
	h.postcert("install-cert", l).want(0)
	h.serves(h.leafOf(l))
	t.Log("first install after idle clients came: kept, exit 9; proven by the next run when they have left")
}

// queueFiles is how many files the queue of TestProofQueue holds.
const queueFiles = 100_000

// R21: postfix check looks at each file of a large queue: a change waits for it
// within its limit, and says so if that takes long.
func TestProofQueue(t *testing.T) {
	t.Parallel()
	postfixtest.Shards(t, 1, func(t *testing.T, _ int) { largeQueue(t) })
}

func largeQueue(t *testing.T) {
	h := newHost(t, postfixtest.Options{}).with(patience)
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	small := h.timed("install-cert", h.lineage(certtest.Leaf{}))
	fillQueue(t, filepath.Join(h.pf.QueueDir, "hold"))
	begin := time.Now()
	sh(t, "postfix -c %s check", h.pf.ConfigDir)
	check := time.Since(begin)
	large := h.timed("install-cert", h.lineage(certtest.Leaf{}))
	if large > 2*time.Minute {
		t.Errorf("a renewal took %v", large)
	}
	// The script that looks at the queue takes longer than is worth no word.
	s := stagePrograms(t)
	sh(t, "%s", s.set("postfix", "check", misbehaviour{"slow", "sleep 11"}))
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0).says("[postfix_check")
	s.clear()
	t.Logf("R21: postfix check with %d files in the queue takes %v; a renewal %v, with an empty queue %v",
		queueFiles, check.Round(time.Millisecond), large.Round(time.Millisecond), small.Round(time.Millisecond))
}

func (h *host) timed(args ...string) time.Duration {
	h.t.Helper()
	begin := time.Now()
	a := h.postcert(args...).want(0)
	took := time.Since(begin)
	if took > 30*time.Second {
		h.t.Logf("%v:\n%s%s", took, a.stdout, a.stderr)
	}
	return took
}

// queueFile makes a file as Postfix does: the name ends with the inode's number,
// because postsuper(1) renames those that do not.
func queueFile(dir string, hash, number, uid int) error {
	path := filepath.Join(dir, strconv.Itoa(number))
	if err := os.WriteFile(path, []byte("x"), 0o700); err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%X0000%X", hash, fi.Sys().(*syscall.Stat_t).Ino)
	return errors.Join(os.Chown(path, uid, -1), os.Rename(path, filepath.Join(dir, name)))
}

// fillQueue puts files into the hold queue, below directories as Postfix hashes
// them: qmgr(8) leaves them alone there, and would throw away others as damaged.
func fillQueue(t *testing.T, dir string) {
	t.Helper()
	u, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 16 {
		sub := filepath.Join(dir, fmt.Sprintf("%X", n))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range queueFiles / 16 {
			if err := queueFile(sub, n, i, uid); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(sub, uid, -1); err != nil {
			t.Fatal(err)
		}
	}
}
