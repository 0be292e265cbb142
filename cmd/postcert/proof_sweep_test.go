package main

import (
	"strconv"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// S31, R1: postcert is killed at each event and before each file operation of
// the ways through the engine: all of them with POSTCERT_LONG, a sample
// otherwise.

// sweepShards is how many hosts share the points of a sweep.
const sweepShards = 4

// sweep is what one host has met of the points of a way.
type sweep struct {
	Way            string
	Killed, Points int
	Old, New       int // what was served in the end
}

// reportSweep has the figures of a sweep told when its hosts have ended.
func reportSweep(t *testing.T) {
	gather(t, func(t *testing.T, parts []sweep) {
		var sum sweep
		for _, p := range parts {
			sum.Way, sum.Points = p.Way, p.Points
			sum.Killed, sum.Old, sum.New = sum.Killed+p.Killed, sum.Old+p.Old, sum.New+p.New
		}
		if long && sum.Killed < sum.Points || sum.Killed == 0 {
			t.Errorf("killed at %d of %d points", sum.Killed, sum.Points)
		}
		tell(t, "R1: %s killed at %d of its %d events, file operations and replacements: 0 mixed or broken pairs, then %d times old and %d times new",
			sum.Way, sum.Killed, sum.Points, sum.Old, sum.New)
	})
}

// share are the points of this shard.
func (s *sweep) share(shard int, tr journey, points []string, more ...string) []string {
	points = append(points, more...)
	s.Points = len(tr.events) + tr.changes + len(more)
	var out []string
	for i, p := range points {
		if i%sweepShards == shard {
			out = append(out, p)
		}
	}
	return out
}

func (s *sweep) settled(is string) {
	s.Killed++
	if is == "new" {
		s.New++
	} else {
		s.Old++
	}
}

// sweptHost is a host for a sweep. Its patience is for machines that have
// much else to do.
func sweptHost(t *testing.T) *host {
	return newHost(t, postfixtest.Options{MaxUse: 1, Main: []string{"inet_protocols = ipv4"}}).with(testDeadline + "=120s")
}

// After a SIGKILL at any moment of the first install, new processes of Postfix
// serve the old pair or the new one, and recover finishes or undoes.
func TestProofKillFirstInstall(t *testing.T) {
	reportSweep(t)
	postfixtest.Shards(t, sweepShards, func(t *testing.T, shard int) {
		h, s := sweptHost(t), sweep{Way: "a first install"}
		reset := h.original()
		old, lineage := h.chain(), h.lineage(certtest.Leaf{})
		next := h.chainOf(lineage)
		tr := h.traced("install-cert", lineage)
		for _, point := range s.share(shard, tr, points(tr, "lock begin", 12), "rehearsing", "checking", "torn replace", "replaced") {
			reset()
			h.at(point, func(h *host) {
				is := h.killed(h.picture(), point, old, next, "install-cert", lineage)
				s.settled(is)
				if is == "new" && point != "confirm end" && !strings.HasPrefix(point, "op ") {
					h.t.Errorf("the recovery left the new pair")
				}
			})
		}
		h.postcert("install-cert", lineage).want(0)
		h.serves(h.leafOf(lineage))
		hand(t, shard, s)
	})
}

// The same for a renewal, which is a switch of one file. Every other time the
// next install settles what was left instead of recover.
func TestProofKillRenewal(t *testing.T) {
	reportSweep(t)
	postfixtest.Shards(t, sweepShards, func(t *testing.T, shard int) {
		h, s := sweptHost(t), sweep{Way: "a renewal"}
		h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
		lineage := h.lineage(certtest.Leaf{})
		tr := h.traced("install-cert", lineage)
		old := h.chain()
		lineage = h.lineage(certtest.Leaf{})
		for i, point := range s.share(shard, tr, points(tr, "commit begin", 10)) {
			h.at(point, func(h *host) {
				next := h.chainOf(lineage)
				is := "new"
				if i%2 == 0 {
					is = h.killed(h.picture(), point, old, next, "install-cert", lineage)
				} else {
					h.dies(point, "install-cert", lineage)
					h.shows(old, next)
					h.postcert("install-cert", lineage).want(0)
					if h.shows(old, next) != "new" {
						h.t.Error("the next install did not serve the new pair")
					}
					h.clean()
				}
				if s.settled(is); is == "new" {
					old, lineage = next, h.lineage(certtest.Leaf{})
				}
			})
		}
		h.postcert("install-cert", lineage).want(0)
		if n := len(h.generations()); n > 3 {
			t.Errorf("%d generations are kept", n)
		}
		hand(t, shard, s)
	})
}

// The same for going back and forth between two generations.
func TestProofKillRollback(t *testing.T) {
	reportSweep(t)
	postfixtest.Shards(t, sweepShards, func(t *testing.T, shard int) {
		h, s := sweptHost(t), sweep{Way: "a rollback"}
		chains := map[int]string{}
		for n := 1; n <= 2; n++ {
			lineage := h.lineage(certtest.Leaf{})
			h.postcert("install-cert", lineage).want(0)
			chains[n] = h.chainOf(lineage)
		}
		tr := h.traced("rollback", "--to", "1")
		now, other := 1, 2
		for _, point := range s.share(shard, tr, points(tr, "commit begin", 8)) {
			h.at(point, func(h *host) {
				is := h.killed(h.picture(), point, chains[now], chains[other], "rollback", "--to", strconv.Itoa(other))
				if s.settled(is); is == "new" {
					now, other = other, now
				}
			})
		}
		h.postcert("rollback", "--to", strconv.Itoa(other)).want(0)
		h.shows(chains[other], "")
		hand(t, shard, s)
	})
}

// The same for a recovery that is itself killed: the one after it brings the
// same state as if nothing had happened.
func TestProofKillRecover(t *testing.T) {
	reportSweep(t)
	postfixtest.Shards(t, sweepShards, func(t *testing.T, shard int) {
		h, s := sweptHost(t), sweep{Way: "a recovery"}
		reset := h.original()
		before := h.picture()
		old, lineage := h.chain(), h.lineage(certtest.Leaf{})
		next := h.chainOf(lineage)
		open := func(h *host) {
			h.t.Helper()
			reset()
			h.dies("reload begin", "install-cert", lineage)
		}
		open(h)
		tr := h.traced("recover")
		for _, point := range s.share(shard, tr, points(tr, "undo begin", 8), "torn replace", "replaced") {
			h.at(point, func(h *host) {
				open(h)
				is := h.killed(before, point, old, next, "recover")
				if s.settled(is); is != "old" {
					h.t.Errorf("%s is served after the recovery", is)
				}
			})
		}
		hand(t, shard, s)
	})
}
