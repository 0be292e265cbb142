package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// A private namespace has no time of day of its own (time_namespaces(7) know
// only the monotonic clocks), so the jumps are made at the seam through which
// the program reads the time of day. That no wait asks the time of day is shown
// in package deploy, in a bubble of testing/synctest.

// jumps are those that the clock makes.
var jumps = []string{"-1h", "+1h", "-2160h", "+2160h", "@1970", "@2106"}

// R11: the clock jumps while a change is on its way: it is neither undone nor
// held up. An undo that is on its way is ended too.
func TestProofClockMeanwhile(t *testing.T) {
	t.Parallel()
	postfixtest.Shards(t, clockShards, clockMeanwhile)
}

const clockShards = 3

func clockMeanwhile(t *testing.T, shard int) {
	h := newHost(t, postfixtest.Options{MaxUse: 1}).with(patience)
	reset := h.original()
	old, lineage := h.chain(), h.lineage(certtest.Leaf{})
	next := h.chainOf(lineage)
	var figures statuses
	events := []string{"stage begin", "journal begin", "prove begin", "undo begin"}
	for i, jump := range jumps {
		for j, event := range events {
			if !long && (i+j)%2 == 1 || (i+j/2)%clockShards != shard {
				continue
			}
			reset()
			name := jump + " at " + event
			h.at(name, func(h *host) {
				f := facing{env: []string{clockAt + "=" + event + " " + jump}, want: []int{0}, limit: leeway}
				if event == "undo begin" {
					f.env, f.want = append(f.env, failAt+"=Reload 1"), []int{4}
				}
				a := h.faces(f, old, next, "install-cert", lineage)
				figures.add(name, a)
				h.saneTimes()
			})
		}
	}
	t.Logf("R11, meanwhile, shard %d: %s", shard, &figures)
}

// saneTimes fails the test for a configuration file that is "hot" by its time:
// Postfix would pause for 2 s in each new process.
func (h *host) saneTimes() {
	h.t.Helper()
	begin := time.Now()
	h.pf.Postconf("-h", "myhostname")
	if took := time.Since(begin); took > 1500*time.Millisecond && !strings.Contains(loadOfMachine(), "busy") {
		fi, _ := os.Stat(filepath.Join(h.pf.ConfigDir, "main.cf"))
		h.t.Errorf("postconf took %v: main.cf has the time %v", took, fi.ModTime())
	}
}

// loadOfMachine says "busy" if so many processes want to run that times say
// nothing.
func loadOfMachine() string {
	data, err := os.ReadFile("/proc/loadavg")
	var one float64
	if _, serr := fmt.Sscan(string(data), &one); err != nil || serr != nil || one > 8 {
		return "busy"
	}
	return ""
}

// R11: the clock is another one when the interrupted change is settled: that is
// done at once and entirely, keys in temporary files included.
func TestProofClockRecover(t *testing.T) {
	t.Parallel()
	postfixtest.Shards(t, clockShards, clockRecover)
}

func clockRecover(t *testing.T, shard int) {
	h := newHost(t, postfixtest.Options{MaxUse: 1}).with(patience)
	reset := h.original()
	old, lineage := h.chain(), h.lineage(certtest.Leaf{})
	next := h.chainOf(lineage)
	tr := h.traced("install-cert", lineage)
	points := []string{"reload begin", "torn replace", "replaced"}
	for n := tr.at["stage begin"] + 1; n <= tr.at["commit end"]; n++ {
		points = append(points, fmt.Sprintf("op %d", n))
	}
	runs := 0
	for i, point := range points {
		if !long && i%3 != 0 && i > 2 || i/3%clockShards != shard {
			continue
		}
		jump := jumps[(runs+i)%len(jumps)]
		reset()
		runs++
		h.at(point+", then "+jump, func(h *host) {
			before := h.picture()
			if a := h.with(killAt+"="+point).postcert("install-cert", lineage); a.status != -1 {
				h.t.Fatalf("not killed: %d\n%s%s", a.status, a.stdout, a.stderr)
			}
			// The next reset takes main.cf away for a moment, which no "postfix
			// check" may meet that the killed run has left: it would write it.
			defer h.alone()
			begin := time.Now()
			other := h.with(clockAt + "=begin " + jump)
			other.postcert("recover").want(0)
			if took := time.Since(begin); took > leeway {
				h.t.Errorf("the recovery took %v", took)
			}
			if got := h.shows(old, next); got != "old" {
				h.t.Errorf("%s is served", got)
			}
			h.settled("old", before)
			other.postcert("recover").want(0).says("nothing to recover")
		})
	}
	t.Logf("R11, between journal and recover, shard %d: %d kills, each settled at another time of day", shard, runs)
}

// R11: what the clock says is what a certificate is judged by, and nothing that
// is not valid at that time is installed.
func TestProofClockJudges(t *testing.T) {
	t.Parallel()
	postfixtest.Shards(t, 1, func(t *testing.T, _ int) { clockJudges(t) })
}

func clockJudges(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	good := h.lineage(certtest.Leaf{NotAfter: time.Now().Add(60 * 24 * time.Hour)})
	h.with(patience).postcert("install-cert", h.lineage(certtest.Leaf{NotBefore: time.Now().Add(-24 * time.Hour)})).want(0)
	for jump, id := range map[string]string{
		"+2160h": "cert_expired", "@2106": "cert_expired", "-2160h": "cert_not_yet_valid", "@1970": "cert_not_yet_valid", "-2h": "cert_not_yet_valid",
	} {
		h.at(jump, func(h *host) { h.with(clockAt+"=begin "+jump).replay(id, "install-cert", good) })
	}
	// The clock goes back, changes are made, and it is put right: the history
	// has them in the order in which they happened.
	for i, jump := range []string{"+1h", "-30m", "+0h"} {
		lineage := h.lineage(certtest.Leaf{})
		h.with(patience, clockAt+"=begin "+jump).postcert("install-cert", lineage, "--allow-downgrade").want(0)
		if got := h.lastWinner(); got != h.leafOf(lineage) {
			t.Errorf("%d: after a change at %s the last of the history is %s, installed was %s", i, jump, got, h.leafOf(lineage))
		}
	}
}
