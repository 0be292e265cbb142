package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// try runs args, interrupted as env says, and fails the test unless the exit
// status is one of want and true: nothing touched (1, 3), everything as before and
// served (4, 130, 143), the new chain served (0), or a journal with which
// recover puts everything back (5).
func (h *host) try(env []string, old, next string, want []int, args ...string) answer {
	h.t.Helper()
	before := h.picture()
	a := h.with(env...).postcert(args...)
	if !slices.Contains(want, a.status) {
		h.t.Errorf("exit status %d, want one of %d\n%s%s", a.status, want, a.stdout, a.stderr)
	}
	open := strings.Contains(a.stderr, "[journal_open]")
	if a.status == 5 || open {
		h.postcert("recover").want(0)
	}
	expect := "old"
	if a.status == 0 {
		expect = "new"
	}
	if got := h.shows(old, next); got != expect {
		h.t.Errorf("exit status %d, and the %s chain is served\n%s%s", a.status, got, a.stdout, a.stderr)
	}
	h.settled(expect, before)
	if h.t.Failed() {
		h.t.Logf("%s%s", a.stdout, a.stderr)
	}
	h.postcert("recover").want(0).says("nothing to recover")
	return a
}

// S32, S14: each call of Postfix fails once, or always, during a first install.
func TestStepsFailingPostfix(t *testing.T) {
	const shards = 3
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{MaxUse: 1})
		reset := h.original()
		old, lineage := h.chain(), h.lineage(certtest.Leaf{})
		next := h.chainOf(lineage)
		for i, c := range []struct {
			fail, at string
			want     int
		}{
			{fail: "Snapshot 1", want: 1},
			{fail: "Unchanged 1", want: 1},
			{fail: "Candidate 1", want: 1},
			{fail: "Master 1", want: 1},
			{fail: "Check *", want: 0},
			{fail: "LogSince *", want: 0},
			{fail: "Replace 1", want: 4},
			{fail: "Reload 1", want: 4},
			{fail: "Reload 1, LogSince *", want: 4},
			{fail: "Reload *", want: 4},
			{fail: "Reload *, Refresh *", want: 5},
			{fail: "Reload 1, Replace 2", want: 5},
			{fail: "Reload 1, Master 2", want: 4},
			{fail: "Restart *", at: fmt.Sprintf("reload begin: kill -KILL %d; sleep 0.2", h.pf.MasterPID()), want: 5},
		} {
			if i%shards != shard {
				continue
			}
			reset()
			h.at(c.fail+c.at, func(h *host) {
				h.try([]string{failAt + "=" + c.fail, doAt + "=" + c.at}, old, next, []int{c.want}, "install-cert", lineage)
			})
		}
		reset()
		h.postcert("install-cert", lineage).want(0)
		h.serves(h.leafOf(lineage))
	})
}

// One file operation fails, for a first install and for a renewal: before the
// commit nothing was touched, after it everything is undone, and after the
// proof the change stays. A single failure is never too much for the undo.
func TestStepsFailingFile(t *testing.T) {
	const shards = 4
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{MaxUse: 1})
		reset := h.original()
		old, first := h.chain(), h.lineage(certtest.Leaf{})
		tr := h.traced("install-cert", first)
		var cases []string
		for _, n := range sample(tr.changes, 8) {
			cases = append(cases, fmt.Sprintf("op %d EIO", n))
		}
		// What fails between the proof and the end has a rule of its own.
		for n := tr.at["confirm begin"] + 1; n <= tr.changes; n += 4 {
			cases = append(cases, fmt.Sprintf("op %d EIO", n))
		}
		for _, n := range sample(tr.looks, 4) {
			cases = append(cases, fmt.Sprintf("look %d EIO", n))
		}
		for i, c := range cases {
			if i%shards != shard {
				continue
			}
			reset()
			h.at("first "+c, func(h *host) {
				h.try([]string{failAt + "=" + c}, old, h.chainOf(first), []int{0, 1, 3, 4}, "install-cert", first)
			})
		}
		h.postcert("install-cert", first).want(0)
		old = h.chain()
		for i, n := range sample(tr.changes, 4) {
			if i%shards != shard {
				continue
			}
			lineage := h.lineage(certtest.Leaf{})
			c := fmt.Sprintf("op %d EIO", n)
			h.at("renewal "+c, func(h *host) {
				h.try([]string{failAt + "=" + c}, old, h.chainOf(lineage), []int{0, 1, 4}, "install-cert", lineage)
			})
			old = h.chain()
		}
		second := h.lineage(certtest.Leaf{})
		h.postcert("install-cert", second).want(0)
		h.serves(h.leafOf(second))
	})
}

// S14: the file system becomes full at some moment and stays so. An undo that
// needs no space succeeds; the one of a renewal needs some, says 5, and
// succeeds once there is space.
func TestStepsFullFileSystem(t *testing.T) {
	const shards = 4
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{MaxUse: 1})
		reset := h.original()
		old, first := h.chain(), h.lineage(certtest.Leaf{})
		tr := h.traced("install-cert", first)
		for i, n := range sample(tr.changes, 4) {
			if i%shards != shard {
				continue
			}
			c := fmt.Sprintf("op %d+ ENOSPC", n)
			reset()
			h.at("first "+c, func(h *host) {
				h.try([]string{failAt + "=" + c}, old, h.chainOf(first), []int{0, 1, 3, 4}, "install-cert", first)
			})
		}
		h.postcert("install-cert", first).want(0)
		old = h.chain()
		for i, n := range sample(tr.changes, 4) {
			if i%shards != shard {
				continue
			}
			lineage := h.lineage(certtest.Leaf{})
			c := fmt.Sprintf("op %d+ ENOSPC", n)
			h.at("renewal "+c, func(h *host) {
				h.try([]string{failAt + "=" + c}, old, h.chainOf(lineage), []int{0, 1, 4, 5}, "install-cert", lineage)
			})
			old = h.chain()
		}
	})
}

// Somebody else replaces the installed file before the proof: it is
// contradicted, their file is left alone and told, and what was served before
// is served again.
func TestStepsForeignFileBeforeProof(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	old, lineage := h.served(), h.lineage(certtest.Leaf{})
	other := h.dir + "/other.pem"
	postfixtest.WritePair(t, other, hostName)
	file := h.pf.ConfigDir + "/tls/" + hostName + ".pem"
	a := h.with(doAt+"=prove begin: cp "+other+" "+file).postcert("install-cert", lineage)
	a.want(4).says(file)
	h.serves(old)
	h.postcert("recover").want(0).says("nothing to recover")
	h.clean()
}

// signalled are the events at which a signal arrives: those at which the run
// is stopped before anything was touched, and those at which it is undone.
var signalled = []string{
	"lock begin", "plan begin", "rehearse begin", "rehearse end", "journal end",
	"commit begin", "commit end", "reload end", "prove begin",
}

// A signal stops a run cleanly or has it undone, never in between.
func TestStepsSignal(t *testing.T) {
	const shards = 3
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{MaxUse: 1})
		old, first := h.chain(), h.lineage(certtest.Leaf{})
		for i, event := range signalled {
			if i%shards != shard {
				continue
			}
			name, status := "TERM", 143
			if i%2 == 1 {
				name, status = "INT", 130
			}
			h.at("first "+event+" "+name, func(h *host) {
				h.try([]string{doAt + "=" + event + ": kill -" + name + " $PPID"}, old, h.chainOf(first), []int{status}, "install-cert", first)
			})
		}
		h.at("during the undo", func(h *host) {
			h.try([]string{failAt + "=Reload 1", doAt + "=undo begin: kill -TERM $PPID; sleep 0.1; kill -INT $PPID"}, old, h.chainOf(first), []int{143}, "install-cert", first)
		})
		h.at("after the proof", func(h *host) {
			h.try([]string{doAt + "=confirm begin: kill -TERM $PPID"}, old, h.chainOf(first), []int{0}, "install-cert", first)
		})
		old = h.chain()
		for _, event := range []string{"rehearse begin", "commit end", "prove begin"} {
			lineage := h.lineage(certtest.Leaf{})
			h.at("renewal "+event, func(h *host) {
				h.try([]string{doAt + "=" + event + ": kill -TERM $PPID"}, old, h.chainOf(lineage), []int{143}, "install-cert", lineage)
			})
		}
	})
}

// --timeout ends a run before the commit, and has it undone after it; the undo
// is not cut short. How long this machine needs to come as far as that is measured.
func TestStepsTimeout(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	old, lineage := h.chain(), h.lineage(certtest.Leaf{})
	begin := time.Now()
	h.postcert("install-cert", lineage, "--dry-run").want(0)
	limit := max(4*time.Second, 3*time.Since(begin))
	for _, c := range []struct {
		event string
		want  int
	}{{"rehearse begin", 1}, {"reload end", 4}} {
		h.at(c.event, func(h *host) {
			a := h.try([]string{fmt.Sprintf("%s=%s: sleep %.1f", doAt, c.event, limit.Seconds()+1)}, old, h.chainOf(lineage), []int{c.want}, "install-cert", lineage, "--timeout", limit.String())
			a.says("--timeout")
		})
	}
}

// groups makes a control group of its own in each hierarchy that is mounted
// writable, below the one that this process is in, and returns their
// directories. They go with the test.
func groups(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mine, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(mounts)) {
		point := strings.Fields(line)[4]
		_, super, _ := strings.Cut(line, " - ")
		name := "::"
		switch {
		case strings.HasPrefix(super, "cgroup ") && strings.Contains(super, "name=systemd"):
			name = ":name=systemd:"
		case strings.HasPrefix(super, "cgroup ") && strings.Contains(super, "freezer"):
			name = ":freezer:"
		case !strings.HasPrefix(super, "cgroup2 "):
			continue
		}
		for own := range strings.Lines(string(mine)) {
			_, path, ok := strings.Cut(strings.TrimSpace(own), name)
			if !ok {
				continue
			}
			dir, err := os.MkdirTemp(filepath.Join(point, path), "postcert-test-")
			if err != nil {
				t.Logf("no control group in %s: %v", point, err)
				continue
			}
			t.Cleanup(func() { _ = os.Remove(dir) }) // a process that has not gone yet keeps it
			out = append(out, dir)
		}
	}
	return out
}

// S24 from a oneshot unit: the master is lost, and the one that the rollback
// starts belongs where the old one was. It lives on when the session, the
// process group and the control groups of the run are ended.
func TestS24MasterOutlivesTheRun(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	leaf, master := h.served(), h.pf.MasterPID()
	where := cgroups(t, master)
	dirs := groups(t)
	cmd := h.with(doAt+"="+fmt.Sprintf("reload begin: kill -KILL %d; sleep 0.2", master)).command("install-cert", h.lineage(certtest.Leaf{}))
	join := `for g in ` + strings.Join(dirs, " ") + `; do echo $$ > $g/cgroup.procs; done; exec "$0" "$@"`
	cmd.Args = append([]string{"sh", "-c", join}, cmd.Args...)
	cmd.Path = "/bin/sh"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != 4 {
		t.Fatalf("exit status %d, want 4\n%s", got, out)
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nobody may be left in it
	for _, dir := range dirs {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		for pid := range strings.FieldsSeq(string(procs)) {
			t.Errorf("process %s is left in %s", pid, dir)
			sh(t, "kill -KILL %s", pid)
		}
	}
	h.serves(leaf)
	if now := h.pf.MasterPID(); now == master || now == 0 {
		t.Errorf("master is process %d, was %d", now, master)
	} else if got := cgroups(t, now); got != where {
		t.Errorf("master is in\n%s, was in\n%s", got, where)
	}
}

func cgroups(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
