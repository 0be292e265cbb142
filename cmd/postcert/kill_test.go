package main

import (
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// long runs every operation where a sample does otherwise.
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
	data, err := os.ReadFile(filepath.Join(lineage, "fullchain.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, postfixtest.Fingerprint(block.Bytes))
	}
	return strings.Join(out, " ")
}

// chain is what openssl is shown, the same on all listeners; "" if it is not
// the same. New processes answer, because such a host's smtpd serves one
// connection (max_use = 1).
func (h *host) chain() string {
	h.t.Helper()
	var first string
	for addr, mode := range listeners {
		chain, err := postfixtest.ServedChain(h.t, addr, mode)
		if err != nil {
			h.t.Fatalf("%s: %v", addr, err)
		}
		var prints []string
		for _, der := range chain {
			prints = append(prints, postfixtest.Fingerprint(der))
		}
		joined := strings.Join(prints, " ")
		if first == "" {
			first = joined
		}
		if joined != first {
			return ""
		}
	}
	return first
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

// stateTree is the state directory without its lock, whose content tells who
// held it last.
func (h *host) stateTree() postfixtest.Files {
	h.t.Helper()
	if _, err := os.Lstat(h.state); err != nil {
		return postfixtest.Files{}
	}
	tree := postfixtest.Tree(h.t, h.state)
	delete(tree, "lock")
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
	file := filepath.Join(h.dir, "trace")
	h.with(traceTo + "=" + file).postcert(args...).want(0)
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

// killed runs args with a SIGKILL at the point and looks at the host between
// the kill and the recovery, after it, and after another one. It returns what
// is served in the end.
func (h *host) killed(before picture, point, old, next string, args ...string) string {
	h.t.Helper()
	a := h.with(killAt + "=" + point).postcert(args...)
	if a.status != -1 {
		h.t.Fatalf("the run was not killed: exit status %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	was := h.shows(old, next)
	h.postcert("recover").want(0)
	is := h.shows(old, next)
	if was == "old" && is == "new" {
		h.t.Errorf("the recovery installed what was not served")
	}
	h.settled(is, before)
	config, state := h.pf.Files(), h.stateTree()
	h.postcert("recover").want(0).says("nothing to recover")
	for _, d := range append(postfixtest.Compare(config, h.pf.Files()), postfixtest.Compare(state, h.stateTree())...) {
		h.t.Errorf("the second recovery changed %s", d)
	}
	return is
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

// S31: after a SIGKILL at any moment of the first install, new processes of
// Postfix serve the old pair or the new one, and recover finishes or undoes.
func TestS31KillFirstInstall(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	reset := h.original()
	old, lineage := h.chain(), h.lineage(certtest.Leaf{})
	next := h.chainOf(lineage)
	tr := h.traced("install-cert", lineage)
	for _, point := range append(points(tr, "lock begin", 6), "rehearsing", "torn replace", "replaced") {
		reset()
		h.at(point, func(h *host) {
			is := h.killed(h.picture(), point, old, next, "install-cert", lineage)
			if is == "new" && point != "confirm end" && !strings.HasPrefix(point, "op ") {
				h.t.Errorf("the recovery left the new pair")
			}
		})
	}
	h.postcert("install-cert", lineage).want(0)
	h.serves(h.leafOf(lineage))
}

// S31 for a renewal, which is a switch of one file. Every other time the next
// install settles what was left instead of recover.
func TestS31KillRenewal(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	lineage := h.lineage(certtest.Leaf{})
	tr := h.traced("install-cert", lineage)
	old := h.chain()
	lineage = h.lineage(certtest.Leaf{})
	for i, point := range points(tr, "commit begin", 4) {
		h.at(point, func(h *host) {
			next := h.chainOf(lineage)
			if i%2 == 0 {
				if h.killed(h.picture(), point, old, next, "install-cert", lineage) == "old" {
					return
				}
			} else {
				if a := h.with(killAt+"="+point).postcert("install-cert", lineage); a.status != -1 {
					h.t.Fatalf("not killed: %d\n%s%s", a.status, a.stdout, a.stderr)
				}
				h.shows(old, next)
				h.postcert("install-cert", lineage).want(0)
				if h.shows(old, next) != "new" {
					h.t.Error("the next install did not serve the new pair")
				}
				h.clean()
			}
			old, lineage = next, h.lineage(certtest.Leaf{})
		})
	}
	h.postcert("install-cert", lineage).want(0)
	if n := len(h.generations()); n > 3 {
		t.Errorf("%d generations are kept", n)
	}
}

// S31 for going back and forth between two generations.
func TestS31KillRollback(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	chains := map[int]string{}
	for n := 1; n <= 2; n++ {
		lineage := h.lineage(certtest.Leaf{})
		h.postcert("install-cert", lineage).want(0)
		chains[n] = h.chainOf(lineage)
	}
	tr := h.traced("rollback", "--to", "1")
	now, other := 1, 2
	for _, point := range points(tr, "commit begin", 3) {
		h.at(point, func(h *host) {
			if h.killed(h.picture(), point, chains[now], chains[other], "rollback", "--to", strconv.Itoa(other)) == "new" {
				now, other = other, now
			}
		})
	}
	h.postcert("rollback", "--to", strconv.Itoa(other)).want(0)
	h.shows(chains[other], "")
}

// S31 for a recovery that is itself killed: the one after it brings the same
// state as if nothing had happened.
func TestS31KillRecover(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	reset := h.original()
	before := h.picture()
	old, lineage := h.chain(), h.lineage(certtest.Leaf{})
	next := h.chainOf(lineage)
	open := func(h *host) {
		h.t.Helper()
		reset()
		if a := h.with(killAt+"=reload begin").postcert("install-cert", lineage); a.status != -1 {
			h.t.Fatalf("not killed: %d\n%s%s", a.status, a.stdout, a.stderr)
		}
	}
	open(h)
	tr := h.traced("recover")
	for _, point := range append(points(tr, "undo begin", 5), "torn replace", "replaced") {
		h.at(point, func(h *host) {
			open(h)
			is := h.killed(before, point, old, next, "recover")
			if is != "old" {
				h.t.Errorf("%s is served after the recovery", is)
			}
		})
	}
}
