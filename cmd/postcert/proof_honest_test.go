package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// R3: the exit status is the truth. Beside a mixed row of runs a witness asks
// openssl, without a pause, what each listener presents. What postcert says
// about itself is compared with nothing but that.

// honestShards is how many hosts share the runs.
const honestShards = 3

// sighting is one answer that the witness got.
type sighting struct {
	asked time.Time
	addr  string
	chain string // fingerprints, leaf first
	err   error
}

// witness asks all listeners, one after the other, until it is dismissed.
type witness struct {
	mu     sync.Mutex
	seen   []sighting
	rounds int
	stop   chan struct{}
	done   chan struct{}
}

func newWitness(t *testing.T) *witness {
	w := &witness{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			for addr, mode := range listeners {
				s := sighting{asked: time.Now(), addr: addr}
				s.chain, s.err = presented(t, addr, mode)
				w.mu.Lock()
				w.seen = append(w.seen, s)
				w.mu.Unlock()
			}
			w.mu.Lock()
			w.rounds++
			w.mu.Unlock()
			select {
			case <-w.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		close(w.stop)
		<-w.done
	})
	return w
}

// round waits until the witness has begun and ended a round.
func (w *witness) round() {
	w.mu.Lock()
	until := w.rounds + 2
	w.mu.Unlock()
	for now := 0; now < until; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		now = w.rounds
		w.mu.Unlock()
	}
}

// take returns what was asked since it was called last.
func (w *witness) take() []sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.seen
	w.seen = nil
	return out
}

// honest is what one host, or all, have met.
type honest struct {
	Runs      map[string]int // by kind
	Exits     map[int]int
	Sightings int
}

// kindOfRun is one kind of run, and the exit statuses that it may have.
type kindOfRun struct {
	name  string
	leaf  certtest.Leaf
	env   []string
	exits []int
	again bool // the pair that is installed already
	dies  bool // SIGKILL, then recover
}

var kindsOfRun = []kindOfRun{
	{name: "good", exits: []int{0}},
	{name: "unchanged", exits: []int{0}, again: true},
	{name: "expired", leaf: certtest.Leaf{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}, exits: []int{3}},
	{name: "other name", leaf: certtest.Leaf{Names: []string{"other.example.test"}}, exits: []int{3}},
	{name: "stopped before the commit", env: []string{doAt + "=journal end: kill -TERM $PPID"}, exits: []int{143}},
	{name: "stopped after the commit", env: []string{doAt + "=prove begin: kill -TERM $PPID"}, exits: []int{143}},
	{name: "reload fails", env: []string{failAt + "=Reload 1"}, exits: []int{4}},
	{name: "first write fails", env: []string{failAt + "=op 3 EIO"}, exits: []int{0, 1, 4}},
	{name: "a write of the commit fails", env: []string{failAt + "=op 50 EIO"}, exits: []int{0, 1, 4}},
	{name: "undo fails", env: []string{failAt + "=Reload *, Refresh *"}, exits: []int{5}},
	{name: "killed in the commit", env: []string{killAt + "=commit begin +60us"}, dies: true},
	{name: "killed in the reload", env: []string{killAt + "=reload begin +10ms"}, dies: true},
	{name: "killed in the proof", env: []string{killAt + "=prove begin +60ms"}, dies: true},
	{name: "killed at the end", env: []string{killAt + "=confirm end"}, dies: true},
}

// TestProofHonestExit: exit status 0 if and only if every listener presents the
// new certificate, and any other status if and only if every listener presents
// the old one; but for 5, which says that it does not know. While a run lasts
// there is never an answer that is neither, nor none.
func TestProofHonestExit(t *testing.T) {
	gather(t, func(t *testing.T, parts []honest) {
		sum, runs := honest{Runs: map[string]int{}, Exits: map[int]int{}}, 0
		for _, p := range parts {
			for k, n := range p.Runs {
				sum.Runs[k] += n
				runs += n
			}
			for k, n := range p.Exits {
				sum.Exits[k] += n
			}
			sum.Sightings += p.Sightings
		}
		for _, k := range kindsOfRun {
			if sum.Runs[k.name] == 0 {
				t.Errorf("no run of the kind %q", k.name)
			}
		}
		var exits []string
		for _, status := range slices.Sorted(maps.Keys(sum.Exits)) {
			exits = append(exits, fmt.Sprintf("%d of %d", sum.Exits[status], status))
		}
		tell(t, "R3: %d runs of %d kinds, exit statuses: %s (-1 is a kill); the witness got %d answers, 0 against an exit status, 0 neither old nor new, 0 missing",
			runs, len(sum.Runs), strings.Join(exits, ", "), sum.Sightings)
	})
	postfixtest.Shards(t, honestShards, func(t *testing.T, shard int) {
		h := sweptHost(t)
		h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
		o := &honesty{w: newWitness(t), out: honest{Runs: map[string]int{}, Exits: map[int]int{}}, old: h.chain()}
		rounds := 3
		if long {
			rounds = 40
		}
		for i := range rounds * len(kindsOfRun) {
			k := kindsOfRun[i%len(kindsOfRun)]
			// Each kind is everywhere in the end, beside other neighbours.
			if (i+i/len(kindsOfRun))%honestShards != shard {
				continue
			}
			h.at(k.name, func(h *host) { o.run(h, k) })
			if t.Failed() {
				return
			}
		}
		hand(t, shard, o.out)
	})
}

// honesty is a host that is watched.
type honesty struct {
	w       *witness
	out     honest
	old     string // the chain that is served
	lineage string // of the last good run
}

// run makes one run of a kind and compares its exit status with what was seen.
func (o *honesty) run(h *host, k kindOfRun) {
	h.t.Helper()
	if k.again && o.lineage == "" {
		k.again = false
	}
	lineage := o.lineage
	if !k.again {
		lineage = h.lineage(k.leaf)
	}
	next := h.chainOf(lineage)
	a := h.with(k.env...).postcert("install-cert", lineage)
	ended := time.Now()
	o.out.Runs[k.name]++
	o.out.Exits[a.status]++
	if k.dies && a.status != -1 && a.status != 0 || !k.dies && !slices.Contains(k.exits, a.status) {
		h.t.Errorf("exit status %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	if a.status == -1 || a.status == 5 || strings.Contains(a.stderr, "[journal_open]") {
		h.postcert("recover").want(0)
		ended = time.Now()
	}
	o.w.round()
	seen := o.w.take()
	last, want := seen[len(seen)-1].chain, o.old
	if a.status == 0 || a.status == -1 && last == next {
		want = next
	}
	for _, s := range seen {
		if s.err != nil || s.chain != o.old && s.chain != next {
			h.t.Errorf("%s presented %q (%v), neither old (%s) nor new (%s)", s.addr, s.chain, s.err, o.old, next)
		} else if s.asked.After(ended) && s.chain != want {
			h.t.Errorf("exit status %d, and %s presents %s, want %s\n%s%s", a.status, s.addr, s.chain, want, a.stdout, a.stderr)
		}
	}
	if o.out.Sightings += len(seen); want == next {
		o.old, o.lineage = next, lineage
	}
	h.postcert("recover").want(0).says("nothing to recover")
}
