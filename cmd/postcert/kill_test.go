package main

import (
	"encoding/pem"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// long runs every operation where a sample does otherwise: contrib/test.sh -long.
var long = os.Getenv("POSTCERT_LONG") != ""

// with is the same host for runs that are given these variables, each as
// "NAME=value".
func (h *host) with(env ...string) *host {
	other := *h
	other.env = append(slices.Clone(h.env), env...)
	return &other
}

// chainOf is the fingerprints of a lineage's chain, joined, leaf first.
func (h *host) chainOf(lineage string) string {
	h.t.Helper()
	return chainIn(h.t, filepath.Join(lineage, "fullchain.pem"))
}

// chainIn is the fingerprints of the certificates in a PEM file.
func chainIn(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, postfixtest.Fingerprint(block.Bytes))
		}
	}
	return strings.Join(out, " ")
}

// view is the chain that each listener presents, by address.
type view map[string]string

// look asks openssl on every listener. New processes answer, because such a
// host's smtpd serves one connection (max_use = 1). That a handshake comes about
// at all shows that key and certificate belong together.
func (h *host) look() view {
	h.t.Helper()
	out := view{}
	for addr, mode := range listeners {
		var err error
		if out[addr], err = presented(h.t, addr, mode); err != nil {
			h.t.Fatal(err)
		}
	}
	return out
}

// presented is the chain that openssl is shown, as fingerprints.
func presented(t *testing.T, addr string, mode postfixtest.Mode) (string, error) {
	t.Helper()
	chain, err := postfixtest.ServedChain(t, addr, mode)
	if err != nil {
		return "", fmt.Errorf("%s: %w", addr, err)
	}
	var prints []string
	for _, der := range chain {
		prints = append(prints, postfixtest.Fingerprint(der))
	}
	return strings.Join(prints, " "), nil
}

// between fails the test unless each listener presents its whole old chain or
// its whole new one.
func (h *host) between(old, next view) {
	h.t.Helper()
	for addr, got := range h.look() {
		if got != old[addr] && got != next[addr] {
			h.t.Errorf("%s serves %s, neither old (%s) nor new (%s)", addr, got, old[addr], next[addr])
		}
	}
}

// serving says whether the old or the new chains are served, by all listeners
// together.
func (h *host) serving(old, next view) string {
	h.t.Helper()
	got := h.look()
	switch {
	case maps.Equal(got, old):
		return "old"
	case maps.Equal(got, next):
		return "new"
	}
	h.t.Fatalf("served is %s, neither old (%s) nor new (%s)", got, old, next)
	return ""
}

// chain is what openssl is shown, the same on all listeners; "" if it is not
// the same.
func (h *host) chain() string {
	h.t.Helper()
	seen := h.look()
	for _, chain := range seen {
		if chain != seen[postfixtest.SMTP] {
			return ""
		}
	}
	return seen[postfixtest.SMTP]
}

// shows says whether the old or the new chain is served, and fails if it is
// neither, or not the same everywhere. A process that the master started for a
// connection which another one took may wait with the old configuration until
// the reload: it is asked away first.
func (h *host) shows(old, next string) string {
	h.t.Helper()
	got := h.chain()
	for range 4 {
		if got == "" {
			got = h.chain()
		}
	}
	switch got {
	case old:
		return "old"
	case next:
		return "new"
	default:
		h.t.Fatalf("served is %s, neither old (%s) nor new (%s)", got, old, next)
	}
	return ""
}

// stateTree is the state directory without its locks, whose content and time tell
// who held them last.
func (h *host) stateTree() postfixtest.Files {
	h.t.Helper()
	if _, err := os.Lstat(h.state); err != nil {
		return postfixtest.Files{}
	}
	tree := postfixtest.Tree(h.t, h.state)
	delete(tree, "lock")
	delete(tree, "notify/lock")
	return tree
}

// generations are the directories that hold a key.
func (h *host) generations() []string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.state, "generations", "*", "*", "*", "postfix.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

// clean fails the test for what a settled run must not leave: temporary files,
// an open journal, keys kept for it, rehearsals and their processes.
func (h *host) clean() {
	h.t.Helper()
	err := filepath.WalkDir(h.pf.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // of Postfix's own, come and gone
		}
		name := d.Name()
		if in := filepath.Dir(path); filepath.Base(filepath.Dir(in)) == "status" || filepath.Base(filepath.Dir(in)) == "notify" || filepath.Base(in) == "notify" {
			return nil // outside of the lock: swept a minute later, see status.Store.Record
		}
		if atomicfile.IsTemp(path) || name == "main.cf.tmp" || name == "master.cf.tmp" || name == ".open" || name == "staged" || name == "open.json" || name == "phase.json" {
			h.t.Errorf("left behind: %s", path)
		}
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	rooms, _ := filepath.Glob(filepath.Join(h.run, "rehearsal", "*"))
	for _, room := range rooms {
		h.t.Errorf("left behind: %s", room)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && strings.HasPrefix(dir, h.run+"/") {
			h.t.Errorf("left behind: process with working directory %s (%s)", dir, link)
		}
	}
}

// picture is what an undone change must leave as it was.
type picture struct {
	files       postfixtest.Files
	generations []string
}

func (h *host) picture() picture { return picture{h.pf.Files(), h.generations()} }

// settled fails the test unless the host is exactly as it was, if the old chain
// is served, and clean.
func (h *host) settled(which string, before picture) {
	h.t.Helper()
	h.clean()
	if which != "old" {
		return
	}
	for _, d := range postfixtest.Compare(before.files, h.pf.Files()) {
		h.t.Errorf("not as it was: %s", d)
	}
	if got := h.generations(); !slices.Equal(got, before.generations) {
		h.t.Errorf("generations %q, were %q", got, before.generations)
	}
}

// original remembers the configuration and returns a function that makes the
// host again one that postcert never saw.
func (h *host) original() func() {
	h.t.Helper()
	saved := filepath.Join(h.dir, "original")
	sh(h.t, "cp -a %s %s", h.pf.ConfigDir, saved)
	leaf := h.served()
	return func() {
		h.t.Helper()
		// A "postfix check" that outlived the run that was killed asks postconf(1)
		// for installation parameters, and writes them into main.cf if it gets no
		// answer: which it would not while the configuration is not there.
		h.alone()
		_, err := os.Lstat(filepath.Join(h.pf.ConfigDir, "tls"))
		sh(h.t, "rm -rf %s %s %s; cp -a %s %s", h.pf.ConfigDir, h.state, h.run, saved, h.pf.ConfigDir)
		if err != nil {
			return // nothing is installed: every process has the original
		}
		h.pf.Reload()
		for addr, mode := range listeners {
			postfixtest.WaitServed(h.t, addr, mode, leaf)
		}
	}
}

func sh(t *testing.T, format string, args ...any) {
	t.Helper()
	if out, err := exec.Command("/bin/sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// journey is how many file operations a run made, and its events in order, each
// with the number of the last changing operation before it.
type journey struct {
	changes, looks int
	events         []string
	at             map[string]int
}

// traced runs postcert and returns what it did.
func (h *host) traced(args ...string) journey {
	h.t.Helper()
	return h.tracedTo(0, args...)
}

// tracedTo is traced of a run that ends with this exit status.
func (h *host) tracedTo(status int, args ...string) journey {
	h.t.Helper()
	file := filepath.Join(h.dir, "trace")
	h.with(traceTo + "=" + file).postcert(args...).want(status)
	data, err := os.ReadFile(file)
	if err != nil {
		h.t.Fatal(err)
	}
	f := strings.Split(strings.TrimSpace(string(data)), "\n")
	tr := journey{at: map[string]int{}}
	tr.changes, _ = strconv.Atoi(f[0])
	tr.looks, _ = strconv.Atoi(f[1])
	for _, line := range f[2:] {
		name, n, _ := strings.Cut(line, "@")
		tr.events = append(tr.events, name)
		tr.at[name], _ = strconv.Atoi(n)
	}
	return tr
}

// sample is about want of the numbers 1 to n, or all with POSTCERT_LONG.
func sample(n, want int) []int {
	step := 1
	if !long {
		step = max(1, n/want)
	}
	var out []int
	for i := 1; i <= n; i += step {
		out = append(out, i)
	}
	return out
}

// points are the moments at which a run is killed: its events, from the first
// one named on, and a sample of about want of its file operations.
func points(tr journey, from string, want int) []string {
	out := []string{}
	began := long
	for _, e := range tr.events {
		began = began || e == from
		// The end of a step and the beginning of the next are one moment, but
		// for the state that the steps around the commit leave.
		if long || began && (strings.HasSuffix(e, " begin") || e == "commit end" || e == "confirm end") {
			out = append(out, e)
		}
	}
	for _, n := range sample(tr.changes, want) {
		out = append(out, fmt.Sprintf("op %d", n))
	}
	return out
}

// dies runs args with a SIGKILL at the point.
func (h *host) dies(point string, args ...string) {
	h.t.Helper()
	if a := h.with(killAt + "=" + point).postcert(args...); a.status != -1 {
		h.t.Fatalf("not killed at %s: exit status %d\n%s%s", point, a.status, a.stdout, a.stderr)
	}
}

// killed runs args with a SIGKILL at the point and looks at the host between
// the kill and the recovery, after it, and after another one. It returns what
// is served in the end.
func (h *host) killed(before picture, point, old, next string, args ...string) string {
	h.t.Helper()
	h.dies(point, args...)
	was := h.shows(old, next)
	h.postcert("recover").want(0)
	is := h.shows(old, next)
	if was == "old" && is == "new" {
		h.t.Errorf("the recovery installed what was not served")
	}
	h.settled(is, before)
	h.twice()
	return is
}

// twice recovers once more and fails the test if that changes anything.
func (h *host) twice() {
	h.t.Helper()
	config, state := h.pf.Files(), h.stateTree()
	h.postcert("recover").want(0).says("nothing to recover")
	for _, d := range append(postfixtest.Compare(config, h.pf.Files()), postfixtest.Compare(state, h.stateTree())...) {
		h.t.Errorf("the second recovery changed %s", d)
	}
}

// at runs f as a subtest on the same host.
func (h *host) at(name string, f func(h *host)) {
	h.t.Helper()
	h.t.Run(name, func(t *testing.T) {
		other := *h
		other.t = t
		f(&other)
	})
}

// alone waits until the only processes are the test's own and those of the
// master of Postfix, and fails the test after 60 s. It returns how long that
// took.
func (h *host) alone() time.Duration {
	h.t.Helper()
	begin := time.Now()
	for {
		left := strangers(h.pf.MasterPID())
		took := time.Since(begin)
		if len(left) == 0 {
			return took
		}
		if took > time.Minute {
			h.t.Fatalf("processes are left after a minute: %q", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// strangers are the processes of this pid namespace that are neither its first
// one nor this one, nor in the process group of the master.
func strangers(master int) []string {
	var out []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// PID (COMM) STATE PPID PGRP ..., and COMM may hold anything.
		line := string(data)
		f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if pgrp, _ := strconv.Atoi(f[2]); pid == 1 || pid == os.Getpid() || pgrp == master && master != 0 || f[0] == "Z" {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		out = append(out, strings.TrimSpace(line[:strings.LastIndexByte(line, ')')+1]+" "+strings.ReplaceAll(string(args), "\x00", " ")))
	}
	return out
}

// While "postfix check" runs beside the rehearsal, the run is killed, on a host
// whose postconf(1) warns of something. What is left of the check then has
// nobody who reads its words, and must not do anything else than it would have.
func TestS31KillWhileChecking(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1, Main: []string{"biff = yes"}})
	before := h.picture()
	h.dies("checking", "install-cert", h.lineage(certtest.Leaf{}))
	h.postcert("recover").want(0)
	h.alone()
	h.settled("old", before)
}

// What was wanted when the run was killed is not forgotten: status fails after a
// recovery that undid it, names it, and agrees after one that finished it.
func TestS31StatusAfterKill(t *testing.T) {
	h := sweptHost(t)
	first := h.lineage(certtest.Leaf{})
	h.dies("prove begin", "install-cert", first)
	h.postcert("recover").want(0).says("is undone")
	h.postcert("status").want(8).says("wanted_not_installed").says("in the middle of it")
	h.postcert("install-cert", first).want(0)
	h.postcert("status").want(0)

	next := h.lineage(certtest.Leaf{})
	h.dies("reload end", "install-cert", next)
	h.postcert("status").want(8).says("transaction_open")
	h.postcert("recover").want(0).says("is undone")
	h.postcert("status").want(8).says("wanted_not_installed").says(h.leafOf(next)[:16])
	tr := h.traced("install-cert", next)
	h.postcert("status").want(0)

	last := h.lineage(certtest.Leaf{})
	h.dies("op "+strconv.Itoa(tr.at["confirm begin"]+10), "install-cert", last)
	h.postcert("recover").want(0).says("was proven before the interruption")
	h.postcert("status").want(0)
	h.serves(h.leafOf(last))
}
