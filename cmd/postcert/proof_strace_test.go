package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// What the transaction does, it does on the main goroutine. Bound to the first
// thread, it does it where strace(1) without -f looks: there the n-th call is
// the n-th call of the transaction, and not one of some helper's.
func init() {
	if os.Getenv(asPostcert) != "" {
		runtime.LockOSThread()
	}
}

// patient is for runs whose proof is to succeed, on a machine where others want
// the processor too: a longer deadline costs them nothing.
var patient = []string{testDeadline + "=30s"}

// straceLimit is how long a run may take that is watched and meets an error.
const straceLimit = 90 * time.Second

// straced runs postcert under strace with these further flags and returns what
// both said. A run that does not end is ended, and told by status -1.
func (h *host) straced(flags []string, args ...string) (answer, string) {
	h.t.Helper()
	postfixtest.Need(h.t, "strace")
	cmd := h.command(args...)
	log := filepath.Join(h.t.TempDir(), "strace")
	flags = append([]string{"-o", log, "-y", "-s", "0", "-e", "signal=none"}, flags...)
	for _, kv := range cmd.Env {
		flags = append(flags, "-E", kv)
	}
	traced := exec.Command("/usr/bin/strace", append(append(flags, cmd.Path), cmd.Args[1:]...)...)
	traced.Env = []string{"LC_ALL=C"}
	traced.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	traced.WaitDelay = time.Second
	late := time.AfterFunc(straceLimit, func() { _ = syscall.Kill(-traced.Process.Pid, syscall.SIGKILL) })
	a := h.finish(traced)
	late.Stop()
	data, err := os.ReadFile(log)
	if err != nil {
		h.t.Fatal(err)
	}
	return a, string(data)
}

var (
	callLine = regexp.MustCompile(`^([a-z0-9_]+)\(`)
	callOn   = regexp.MustCompile(`^[a-z0-9_]+\((?:"[^"]*"\.*, )?(?:\d+|AT_FDCWD)<([^>]*)>`)
)

// ofTheRuntime is the place of a call that Go's runtime makes for itself, and
// does not survive the failure of: its event descriptor, a new thread.
const ofTheRuntime = "anon_inode:"

// callsOf lists the system calls of a run by name: on what each was made, which
// is the path behind its first descriptor, or "pipe:[1]" and the like.
func callsOf(log string) map[string][]string {
	calls := map[string][]string{}
	for line := range strings.Lines(log) {
		name := callLine.FindStringSubmatch(line)
		if name == nil {
			continue
		}
		on := ""
		if m := callOn.FindStringSubmatch(line); m != nil {
			on = m[1]
		} else if strings.Contains(line, "CLONE_THREAD") {
			on = ofTheRuntime
		}
		calls[name[1]] = append(calls[name[1]], on)
	}
	return calls
}

// fault is a system call that fails.
type fault struct {
	call, errno string
	n           int
}

func (f fault) String() string { return fmt.Sprintf("%s %d %s", f.call, f.n, f.errno) }

// flags make strace inject it. close(2) is shown too, to see when a descriptor
// ends.
func (f fault) flags() []string {
	return []string{"-e", "trace=" + f.call + ",close", "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", f.call, f.errno, f.n)}
}

// faultErrors are the errors of the sweep.
var faultErrors = []string{"EIO", "ENOSPC", "EROFS", "EACCES", "EINTR", "EMFILE"}

// sweepOf is one system call in a sweep: with how many of the errors the short
// form fails each of its calls, or how many of them are a sample.
type sweepOf struct {
	call   string
	errors []string // each with all n
	sample int      // about so many n, one error after the other; 0 is all
}

// shortSweep is what every change must pass; longSweep meets each n of each
// call, and where the calls are few, with each error.
var (
	shortSweep = []sweepOf{
		{call: "fsync", errors: []string{"EIO"}}, {call: "renameat", errors: []string{"EIO"}},
		{call: "openat", sample: 8}, {call: "write", sample: 6}, {call: "close", sample: 4},
		{call: "mkdirat", sample: 2}, {call: "symlinkat", sample: 2}, {call: "fchown", sample: 2}, {call: "clone", sample: 3},
	}
	longSweep = []sweepOf{
		{call: "fsync", errors: faultErrors}, {call: "renameat", errors: faultErrors}, {call: "symlinkat", errors: faultErrors},
		{call: "fchown", errors: faultErrors}, {call: "mkdirat", errors: faultErrors}, {call: "clone", errors: []string{"EAGAIN", "ENOMEM"}},
		{call: "write", errors: faultErrors}, {call: "openat"}, {call: "close"},
	}
)

// faultsFor are the faults of a sweep, for the calls that a run has made.
func faultsFor(sweep []sweepOf, calls map[string][]string) []fault {
	var out []fault
	turn := 0
	for _, s := range sweep {
		var at []int
		for i, on := range calls[s.call] {
			if faultable(s.call, on) {
				at = append(at, i+1)
			}
		}
		for _, errno := range s.errors {
			for _, n := range at {
				out = append(out, fault{s.call, errno, n})
			}
		}
		if s.errors != nil {
			continue
		}
		step := 1
		if s.sample > 0 {
			step = max(1, len(at)/s.sample)
		}
		for i := 0; i < len(at); i += step {
			out = append(out, fault{s.call, faultErrors[turn%len(faultErrors)], at[i]})
			turn++
		}
	}
	return out
}

// faultable tells whether a fault of that call says something about a disk.
// strace leaves out a call that it fails, but a close(2) that fails has closed:
// without it the reader of a pipe would wait for ever, which is nothing that a
// kernel does.
func faultable(call, on string) bool {
	if strings.HasPrefix(on, ofTheRuntime) {
		return false
	}
	return call != "close" || strings.HasPrefix(on, "/")
}

var injected = regexp.MustCompile(`(?m)^(\w+\(.*) \(INJECTED\)$`)

// met is the line of the call that failed; "" if the run had no such call.
func (f fault) met(log string) string {
	if m := injected.FindStringSubmatch(log); m != nil {
		return m[1]
	}
	return ""
}

var descriptor = regexp.MustCompile(`^(fsync|close)\((\d+)<`)

// fsyncAgain is the line at which a descriptor whose fsync(2) failed is synced
// once more; "" if there is none. The kernel tells of a lost write once: the
// second call would say that all is well. A call that a signal interrupted has
// lost nothing.
func fsyncAgain(log string) string {
	failed := map[string]bool{}
	for line := range strings.Lines(log) {
		m := descriptor.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[1] == "close":
			delete(failed, m[2])
		case failed[m[2]]:
			return line
		case strings.Contains(line, "= -1 ") && !strings.Contains(line, "EINTR"):
			failed[m[2]] = true
		}
	}
	return ""
}

// promised tells whether a success says of that file or directory that it is on
// disk: the configuration with the certificate, a generation that is stored, an
// entry of the journal.
func (h *host) promised(path string) bool {
	return path == h.pf.ConfigDir || strings.HasPrefix(path, h.pf.ConfigDir+"/") ||
		strings.HasPrefix(path, h.state+"/") && atomicfile.IsTemp(path) && !strings.HasPrefix(path, h.state+"/history/") && !strings.HasPrefix(path, h.state+"/status/") ||
		filepath.Base(path) == generation.FilePostfix
}

// panicked tells whether the program ended in its own confusion.
func panicked(a answer) bool {
	return strings.Contains(a.stderr, "goroutine ") || strings.Contains(a.stderr, "fatal error:") || strings.Contains(a.stderr, "panic:")
}

// survives fails the test unless the host is, after a run that met a fault,
// what its exit status says: the old chain and not a byte changed, or the new
// one; with 5, after a recovery. mend takes the fault away, before it. It
// returns which chain is served.
func (h *host) survives(a answer, mend func(), before picture, old, next string) string {
	h.t.Helper()
	expect := "old"
	switch a.status {
	case statusOK, statusNotVerified:
		expect = "new"
	case statusFailed, statusUsage, statusRefused, statusRolledBack, statusIncomplete:
	default:
		h.t.Errorf("exit status %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	if panicked(a) {
		h.t.Errorf("it crashed:\n%s%s", a.stdout, a.stderr)
	}
	// Also an undo that is incomplete leaves a pair that can be served.
	if got := h.shows(old, next); got != expect && a.status != statusIncomplete {
		h.t.Errorf("exit status %d, and the %s chain is served\n%s%s", a.status, got, a.stdout, a.stderr)
	}
	mend()
	h.postcert("recover").want(0)
	if got := h.shows(old, next); got != expect {
		h.t.Errorf("exit status %d, and the %s chain is served after the recovery\n%s%s", a.status, got, a.stdout, a.stderr)
	}
	h.settled(expect, before)
	return expect
}

// survivesCrash is survives for a run that may have ended anywhere.
func (h *host) survivesCrash(before picture, old, next string) string {
	h.t.Helper()
	h.shows(old, next)
	h.postcert("recover").want(0)
	is := h.shows(old, next)
	h.settled(is, before)
	return is
}

// sweepFaults is what one shard of the sweep has seen, for one kind of run.
type sweepFaults struct {
	status map[int]int
	calls  map[string]int
	missed int // another call was failed than the one that was meant
}

func (s *sweepFaults) String() string {
	var words []string
	total := 0
	for _, call := range slices.Sorted(maps.Keys(s.calls)) {
		words = append(words, fmt.Sprintf("%s %d", call, s.calls[call]))
		total += s.calls[call]
	}
	return fmt.Sprintf("%d faults (%s), %d not met; exit status: %v", total, strings.Join(words, ", "), s.missed, s.status)
}

// meet runs one install with one fault and judges what it left.
func (s *sweepFaults) meet(h *host, f fault, old, lineage string) string {
	h.t.Helper()
	before := h.picture()
	a, log := h.straced(f.flags(), "install-cert", lineage)
	line := f.met(log)
	if on := callsOf(line)[f.call]; line == "" || !faultable(f.call, on[0]) {
		s.missed++ // calls come in another order each time: this was none of ours
		return h.survivesCrash(before, old, h.chainOf(lineage))
	}
	s.status[a.status]++
	s.calls[f.call]++
	if a.status == statusOK && f.call == "fsync" && f.errno != "EINTR" && h.promised(callsOf(line)["fsync"][0]) {
		h.t.Errorf("%s, and it says that all is well", line)
	}
	if again := fsyncAgain(log); again != "" {
		h.t.Errorf("a failed fsync was repeated: %s", again)
	}
	is := h.survives(a, func() {}, before, old, h.chainOf(lineage))
	if h.t.Failed() {
		h.t.Logf("%s\nexit status %d\n%s%s", line, a.status, a.stdout, a.stderr)
	}
	return is
}

// R6: one system call of a first install or of a renewal fails.
func TestProofSystemCalls(t *testing.T) {
	const shards = 5
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		sweep := shortSweep
		if long {
			sweep = longSweep
		}
		h := newHost(t, postfixtest.Options{MaxUse: 1})
		h.env = patient
		reset := h.original()
		old, lineage := h.chain(), h.lineage(certtest.Leaf{})
		every := "trace=fsync,renameat,openat,write,close,mkdirat,symlinkat,fchown,clone"
		a, log := h.straced([]string{"-e", every}, "install-cert", lineage)
		a.want(0)
		first := &sweepFaults{status: map[int]int{}, calls: map[string]int{}}
		for i, f := range faultsFor(sweep, callsOf(log)) {
			if i%shards == shard {
				reset()
				h.at("first "+f.String(), func(h *host) { first.meet(h, f, old, lineage) })
			}
		}
		t.Logf("R6 first install: %v", first)
		reset()
		h.postcert("install-cert", lineage).want(0)
		a, log = h.straced([]string{"-e", every}, "install-cert", h.lineage(certtest.Leaf{}))
		a.want(0)
		renewal := &sweepFaults{status: map[int]int{}, calls: map[string]int{}}
		old, lineage = h.chain(), h.lineage(certtest.Leaf{})
		for i, f := range faultsFor(sweep, callsOf(log)) {
			if i%shards != shard {
				continue
			}
			h.at("renewal "+f.String(), func(h *host) {
				if renewal.meet(h, f, old, lineage) == "new" {
					old, lineage = h.chain(), h.lineage(certtest.Leaf{})
				}
			})
		}
		t.Logf("R6 renewal: %v", renewal)
		h.postcert("install-cert", lineage).want(0)
		h.serves(h.leafOf(lineage))
	})
}

// R6: a write is cut short in the middle of a file, as the limit of a file's
// size (RLIMIT_FSIZE) does it: the kernel writes what fits and refuses the rest.
func TestProofShortWrites(t *testing.T) {
	postfixtest.Need(t, "prlimit")
	sizes := []int{0, 500, 1500, 3000, 6000, 12000}
	if long {
		sizes = nil
		for size := 0; size < 20000; size += 250 {
			sizes = append(sizes, size)
		}
	}
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	h.env = patient
	reset := h.original()
	old, lineage := h.chain(), h.lineage(certtest.Leaf{})
	status := map[int]int{}
	for _, size := range sizes {
		reset()
		h.at(fmt.Sprintf("%d bytes", size), func(h *host) {
			before, cmd := h.picture(), h.command("install-cert", lineage)
			cmd.Args = append([]string{"prlimit", fmt.Sprintf("--fsize=%d", size), cmd.Path}, cmd.Args[1:]...)
			cmd.Path = "/usr/bin/prlimit"
			a := h.finish(cmd)
			status[a.status]++
			h.survives(a, func() {}, before, old, h.chainOf(lineage))
			if h.t.Failed() {
				h.t.Logf("exit status %d\n%s%s", a.status, a.stdout, a.stderr)
			}
		})
	}
	if len(status) == 1 && status[0] > 0 {
		t.Error("no limit was met")
	}
	t.Logf("R6 short writes: %d sizes, by exit status %v", len(sizes), status)
}
