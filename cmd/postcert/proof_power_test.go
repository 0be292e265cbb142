package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// change is a run of postcert that the power fails in.
type change struct {
	args     []string
	old, new string  // chains: served before, and wanted
	done     string  // which of them an exit status 0 promises
	before   picture // of the host that serves the old one
}

// powerCases are the changes. ready brings the host to where the run begins.
var powerCases = []struct {
	name  string
	ready func(p *powerHost) change
}{
	{"first install", func(p *powerHost) change {
		p.reset()
		dir, chain := p.fresh()
		return p.change(chain, "install-cert", dir)
	}},
	{"renewal", func(p *powerHost) change {
		p.installed()
		dir, chain := p.fresh()
		return p.change(chain, "install-cert", dir)
	}},
	{"config change", func(p *powerHost) change {
		p.installed()
		dir, chain := p.fresh()
		return p.change(chain, "install-cert", dir, "--config", p.settings("layout: pair"))
	}},
	{"rollback", func(p *powerHost) change {
		p.installed()
		dir, _ := p.fresh()
		p.postcert("install-cert", dir, "--no-rehearsal").want(0)
		return p.change(p.former(), "rollback")
	}},
	{"release", func(p *powerHost) change {
		p.installed()
		return p.change(p.first, "release")
	}},
	{"recover", func(p *powerHost) change {
		p.reset()
		dir, chain := p.fresh()
		c := p.change(chain, "recover")
		if a := p.with(killAt+"=reload begin").postcert("install-cert", dir); a.status != -1 {
			p.t.Fatalf("not killed: exit status %d\n%s%s", a.status, a.stdout, a.stderr)
		}
		c.done = c.old
		return c
	}},
}

func (p *powerHost) change(next string, args ...string) change {
	p.t.Helper()
	return change{args: args, old: p.chain(), new: next, done: next, before: p.picture()}
}

// cutAt makes a run of postcert be killed at a point, with its disk where that
// can be done from inside.
func (p *powerHost) cutAt(point string, flag shutdown) []string {
	env := []string{killAt + "=" + point}
	if !p.disk.kind.copied {
		env = append(env, fmt.Sprintf("%s=%d %s", cutWith, flag, p.disk.dir))
	}
	return env
}

// cutDuring runs the change, in which the power fails at the point, and tells
// whether it had ended successfully before. Points are those of killAt; "time
// 0.4" is so many seconds after the start, "end" after the end.
func (p *powerHost) cutDuring(c change, point string, flag shutdown) (finished bool) {
	p.t.Helper()
	cmd := p.with(p.cutAt(point, flag)...).command(c.args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	cut := p.cutInTime(point, flag, ended, cmd.Process)
	var exit *exec.ExitError
	if err := <-ended; err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	status := cmd.ProcessState.ExitCode()
	if status == 0 && !cut {
		p.promised(func() { p.disk.cut(flag) })
		return true
	}
	if status != 0 && status != -1 && !cut { // after a cut it may have seen an error before the kill
		p.t.Fatalf("exit status %d\n%s", status, &out)
	}
	if p.disk.kind.copied {
		p.disk.cut(flag) // at the kill
	}
	for _, file := range p.powerFails() {
		p.t.Errorf("after the cut: %s", file)
	}
	return status == 0
}

// cutInTime takes the power away from a process after the time that a point
// says, unless it ends before.
func (p *powerHost) cutInTime(point string, flag shutdown, ended chan error, process *os.Process) bool {
	p.t.Helper()
	s, ok := strings.CutPrefix(point, "time ")
	if !ok {
		return false
	}
	seconds, _ := strconv.ParseFloat(s, 64)
	select {
	case err := <-ended:
		ended <- err
		return false
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	}
	if !p.disk.kind.copied {
		p.disk.cut(flag)
	}
	_ = process.Kill() // it may have ended
	return true
}

// promised takes the power away after a run that reported success, and fails
// the test if anything that was there is not there after it.
func (p *powerHost) promised(cut func()) {
	p.t.Helper()
	for _, lost := range p.powerFailsAfter(cut) {
		p.t.Errorf("exit status 0, and after the cut: %s", lost)
	}
	p.tally["after exit 0"]++
}

// kept looks at the host after promised: what was reported is served, and
// nothing is open.
func (p *powerHost) kept(chain string) {
	p.t.Helper()
	p.pf.Start()
	if got := p.chain(); got != chain {
		p.t.Errorf("exit status 0, and after the cut %s is served, want %s", got, chain)
	}
	if a := p.postcert("recover"); a.status != 0 || !strings.Contains(a.stdout+a.stderr, "nothing to recover") {
		p.t.Errorf("exit status 0, and after the cut the journal is open: exit status %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	p.clean()
}

// outage takes the power away in the middle of a change, and looks at what
// comes up: before the recovery, after it, and after the next install. way
// varies who comes first, Postfix or the recovery, or only the next install.
func (p *powerHost) outage(c change, point string, flag shutdown, way int) {
	p.t.Helper()
	if p.cutDuring(c, point, flag) {
		p.kept(c.done)
	} else {
		p.settleAfter(c, way)
	}
	dir, chain := p.fresh()
	p.postcert("install-cert", dir, "--no-rehearsal").want(0)
	p.promised(func() { p.disk.cut(logLost) })
	p.kept(chain)
}

// Who comes first after a boot: see settleAfter.
const (
	besidePostfix = iota // Postfix, then the recovery
	besideToo
	beforePostfix // the recovery, as a unit that is ordered before Postfix
	byNextInstall // Postfix, then the next install, which settles what is open
	waysToRecover
)

// settleAfter starts what the machine starts at boot and settles what was
// interrupted. It returns what is served then.
func (p *powerHost) settleAfter(c change, way int) (is string) {
	p.t.Helper()
	if way == beforePostfix { // there is nobody to ask
		p.postcert("recover").want(0)
		p.pf.Start()
		is = p.shows(c.old, c.new)
		p.settled(is, c.before)
		p.tally["recovered before Postfix started"]++
		return is
	}
	p.pf.Start()
	was := p.shows(c.old, c.new)
	p.tally[was+" served before recovery"]++
	if way == byNextInstall {
		p.tally["settled by the next install"]++
		return was
	}
	p.postcert("recover").want(0)
	is = p.shows(c.old, c.new)
	if was != is && is != "old" {
		p.t.Errorf("%s was served, and after the recovery %s is", was, is)
	}
	p.settled(is, c.before)
	p.tally["recovered beside Postfix"]++
	return is
}

// powerPoints are the moments of a case at which the power fails: its end, each
// step, some file operations, and some moments by the clock, which hit what lies
// between the operations. Without POSTCERT_LONG they are the end and two others.
func powerPoints(tr journey, took time.Duration, r *rand.Rand) []string {
	points := []string{"torn replace", "replaced"}
	for _, e := range tr.events {
		if strings.HasSuffix(e, " begin") || e == "commit end" || e == "confirm end" {
			points = append(points, e)
		}
	}
	const ops = 14
	for i := range ops {
		from, to := i*tr.changes/ops, (i+1)*tr.changes/ops
		points = append(points, fmt.Sprintf("op %d", 1+from+r.IntN(max(1, to-from))))
	}
	for range 3 {
		points = append(points, fmt.Sprintf("time %.3f", r.Float64()*took.Seconds()))
	}
	r.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	if !long {
		points = points[:2]
	}
	return append([]string{"end"}, points...)
}

// tally is what a proof counts, by name.
type tally map[string]int

func (c tally) String() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		out = append(out, fmt.Sprintf("%d %s", c[name], name))
	}
	return strings.Join(out, ", ")
}

// R2: the power fails during a change, on a real file system. What comes up is
// whole, and what was reported as done is there.
func TestProofPowerCuts(t *testing.T) {
	const shards = 6
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		for _, kind := range proofDisks(t) {
			powerCuts(t, kind, shard, shards)
		}
	})
}

func powerCuts(t *testing.T, kind diskKind, shard, shards int) {
	p := newPowerHost(t, kind)
	for i, c := range powerCases {
		if !long && i%shards != shard {
			continue
		}
		args := c.ready(p).args
		start := time.Now()
		tr := p.traced(args...)
		for n, point := range powerPoints(tr, time.Since(start), rand.New(rand.NewPCG(1, uint64(i)))) {
			if long && (n+i)%shards != shard {
				continue
			}
			flag, way := []shutdown{logLost, logSaved}[n%2], (n/shards+n)%waysToRecover
			p.in(fmt.Sprintf("%s: %s: %s", kind.name, c.name, point), func() {
				p.outage(c.ready(p), point, flag, way)
				p.tally["during "+c.name]++
			})
		}
	}
	t.Logf("R2 on %s: %s", kind.name, p.tally)
}

// A program that forgets fsync(2) is found by such cuts: otherwise that none is
// found would say nothing. Forgotten of files, a cut after the rename leaves an
// empty one, if the log reached the disk and the content did not; forgotten of
// directories, what was reported as done is undone by the cut.
func TestProofPowerCutsFindCarelessness(t *testing.T) {
	postfixtest.Shards(t, 2, func(t *testing.T, shard int) {
		which := []string{"files", "dirs"}[shard]
		for _, kind := range proofDisks(t) {
			p := newPowerHost(t, kind)
			p.installed()
			p.in(kind.name, func() { p.findCarelessness(which) })
		}
	})
}

func (p *powerHost) findCarelessness(which string) {
	p.t.Helper()
	p.host = p.with(carelessWith + "=" + which)
	dir, _ := p.fresh()
	var found []string
	if which == "files" {
		p.with(p.cutAt("prove begin", logSaved)...).postcert("install-cert", dir).want(-1)
		if p.disk.kind.copied {
			p.disk.cut(logSaved)
		}
		found = p.powerFails()
	} else {
		p.postcert("install-cert", dir).want(0)
		found = p.powerFailsAfter(func() { p.disk.cut(logLost) })
	}
	if len(found) == 0 {
		p.t.Errorf("%s are not synced, and nothing is found after a cut", which)
	}
	p.t.Logf("R2 on %s: %s not synced: found %q", p.disk.kind.name, which, found)
}
