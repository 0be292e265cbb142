package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/journal"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// cyclesWanted is how many installs the long form runs, if not 10,000.
const cyclesWanted = "POSTCERT_TEST_CYCLES"

// launchAs makes the test binary a small launcher: it runs its arguments and
// writes what wait4(2) says of them to descriptor 3. A child's ru_maxrss is at
// least that of the process that started it (Linux keeps it across execve), so a
// test that has grown cannot measure it.
const launchAs = "POSTCERT_TEST_LAUNCH"

func init() {
	if os.Getenv(launchAs) == "" {
		return
	}
	os.Unsetenv(launchAs)
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	_ = cmd.Run() // the status is in ProcessState
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Fprintln(os.NewFile(3, "usage"), usage.Maxrss, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Microseconds())
	os.Exit(cmd.ProcessState.ExitCode())
}

// cycle is what one install cost, and what was there after it.
type cycle struct {
	wall, cpu   float64 // ms; cpu is that of postcert and all it started
	memory      float64 // KiB, the peak of postcert or of the largest program that it ran
	files       float64 // in the state, runtime and configuration directories
	bytes       float64
	descriptors float64 // of Postfix's master
	processes   float64 // of the host, postcert's and Postfix's
}

// TestProofEndurance installs new leaves, one after the other, in one state
// directory, and compares the last tenth of the runs with the first: nothing
// grows. The host is of some age when the first tenth begins: its mail log is
// longer than what postcert reads of it, and the history is full; the long form
// fills the history itself.
func TestProofEndurance(t *testing.T) {
	cycles := 50
	if long {
		cycles = 10000
	}
	if n, err := strconv.Atoi(os.Getenv(cyclesWanted)); err == nil && n >= 20 {
		cycles = n
	}
	h := newHost(t, postfixtest.Options{})
	h.releasedBinary()
	h.fillLog(2 << 20)
	warm := max(5, cycles/100)
	var all []cycle
	for i := range warm + cycles {
		if i == warm-1 {
			h.fillHistory()
		}
		c := h.oneCycle()
		if i >= warm {
			all = append(all, c)
		}
		if i%20 == 0 {
			h.serves(h.leafOf(filepath.Join(h.dir, hostName)))
		}
	}
	h.serves(h.leafOf(filepath.Join(h.dir, hostName)))
	if names, err := os.ReadDir(filepath.Join(h.state, "history")); err != nil || len(names) > journal.KeepRecords {
		t.Errorf("%d records in the history (%v), want at most %d", len(names), err, journal.KeepRecords)
	}
	compare(t, all)
}

// releasedBinary makes the host run postcert as it is released, not this test
// binary: static, and small.
func (h *host) releasedBinary() {
	h.t.Helper()
	h.exe = filepath.Join(h.dir, "postcert")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", h.exe, "postcert/cmd/postcert")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

// fillLog makes the mail log as long as on a host that has been up for a while.
func (h *host) fillLog(size int) {
	h.t.Helper()
	line := time.Now().Add(-time.Hour).Format(time.Stamp) + " mail postfix/smtpd[1]: connect from localhost[127.0.0.1]\n"
	file, err := os.OpenFile(h.pf.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(strings.Repeat(line, size/len(line))); err != nil {
		h.t.Fatal(err)
	}
}

// fillHistory makes the history full, with older copies of the last record.
func (h *host) fillHistory() {
	h.t.Helper()
	if long {
		return
	}
	dir := filepath.Join(h.state, "history")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		h.t.Fatalf("no history: %v", err)
	}
	name := entries[len(entries)-1].Name()
	for i := range journal.KeepRecords {
		old := fmt.Sprintf("2020%04d%s", i, name[len("20200000"):]) // names begin with the time
		copyFile(h.t, filepath.Join(dir, old), filepath.Join(dir, name), 0o600)
	}
}

// oneCycle installs a new leaf and looks at what it cost and what it left.
func (h *host) oneCycle() cycle {
	h.t.Helper()
	lineage := filepath.Join(h.dir, hostName)
	if err := os.MkdirAll(lineage, 0o700); err != nil {
		h.t.Fatal(err)
	}
	h.leaf(certtest.Leaf{}).WriteFiles(h.t, lineage)
	install := h.command("install-cert", lineage, "--json")
	cmd := exec.Command("/proc/self/exe", append([]string{h.exe}, install.Args[1:]...)...)
	cmd.Env = append(install.Env, launchAs+"=1")
	read, write, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer read.Close()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &stdout, &stderr, []*os.File{write}
	begin := time.Now()
	err = cmd.Run()
	var c cycle
	c.wall = time.Since(begin).Seconds() * 1000
	write.Close()
	var answer struct {
		Transaction struct{ Outcome string }
	}
	if err != nil || json.Unmarshal(stdout.Bytes(), &answer) != nil || answer.Transaction.Outcome != "installed" {
		h.t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	var micros float64
	if _, err := fmt.Fscan(read, &c.memory, &micros); err != nil {
		h.t.Fatal(err)
	}
	c.cpu = micros / 1000
	h.measure(&c)
	return c
}

// measure counts what is there after a cycle.
func (h *host) measure(c *cycle) {
	h.t.Helper()
	for _, dir := range []string{h.state, h.run, h.pf.ConfigDir} {
		err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := e.Info()
			if err == nil && fi.Mode().IsRegular() {
				c.bytes += float64(fi.Size())
			}
			c.files++
			return err
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
	count := func(pattern string) float64 {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			h.t.Fatalf("%s: %v", pattern, err)
		}
		return float64(len(names))
	}
	c.descriptors = count(fmt.Sprintf("/proc/%d/fd/*", h.pf.MasterPID()))
	c.processes = count("/proc/[0-9]*")
}

// growth is how much the last tenth may exceed the first: the share of its cycles
// that is compared is the median, or the least where others on the machine have a
// say. Files and descriptors must be the same, processes but for some smtpd. Bytes
// vary with the digits of numbers and the lengths of signatures. Memory is the
// garbage collector's affair, within its steps. CPU time varies with what else the
// machine does, and the time by the clock even more.
var growth = []struct {
	what   string
	of     func(cycle) float64
	rank   float64 // 0.5 is the median, 0 the least
	factor float64
	more   float64
}{
	{"files", func(c cycle) float64 { return c.files }, 0.5, 1, 0},
	{"bytes", func(c cycle) float64 { return c.bytes }, 0.5, 1.01, 512},
	{"descriptors of the master", func(c cycle) float64 { return c.descriptors }, 0.5, 1, 0},
	{"processes", func(c cycle) float64 { return c.processes }, 0.5, 1, 4},
	{"memory KiB", func(c cycle) float64 { return c.memory }, 0.5, 1.10, 0},
	{"CPU ms", func(c cycle) float64 { return c.cpu }, 0.5, 1.25, 10},
	{"least ms by the clock", func(c cycle) float64 { return c.wall }, 0, 2, 500},
}

// compare fails the test if the last tenth needs more than the first.
func compare(t *testing.T, all []cycle) {
	t.Helper()
	tenth := len(all) / 10
	figures := []string{fmt.Sprintf("R30: %d cycles, the first and the last tenth", len(all))}
	for _, g := range growth {
		first, last := ranked(all[:tenth], g.of, g.rank), ranked(all[len(all)-tenth:], g.of, g.rank)
		figures = append(figures, fmt.Sprintf("%s %.0f %.0f", g.what, first, last))
		if limit := first*g.factor + g.more; last > limit {
			t.Errorf("%s: %.0f in the first tenth, %.0f in the last, more than %.0f", g.what, first, last, limit)
		}
	}
	t.Log(strings.Join(figures, "; "))
}

func ranked(cycles []cycle, of func(cycle) float64, rank float64) float64 {
	var values []float64
	for _, c := range cycles {
		values = append(values, of(c))
	}
	slices.Sort(values)
	return values[int(rank*float64(len(values)))]
}
