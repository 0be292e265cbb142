package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// R1: postcert is killed at random moments, and nothing that Postfix could show
// in between or afterwards is ever anything but the old pair or the new one.
//
// Left to chance alone, nearly all kills would meet the steps that wait, the
// rehearsal and the proof. So each step of each way through the engine gets its
// share: a kill is aimed at one, at a random moment of as long as that step took
// the last time. Where it landed is what the killed run had recorded, never what
// was aimed at, and only that is counted.

// killShards is how many hosts take the kills side by side.
const killShards = 5

// stepsToHit are the times of a transaction in which kills must land, and
// leastPerStep how many in each.
var stepsToHit = []string{
	placeStart, "lock", placeSettle, "plan", "stage", "rehearse", "journal", "commit", "reload", "prove", "confirm",
	"undo", "restore", "reprove", placeEnd,
}

const leastPerStep = 15

// TestProofRandomKills: after a SIGKILL at a random moment of a first install,
// a renewal, a change of configuration, a rollback, a recovery or an undo, and
// before anything is recovered, new smtpd processes on every listener serve the
// old pair or the new one; recover, or the next install, settles it; nothing of
// ours lives on; and one state directory takes it all without growing.
func TestProofRandomKills(t *testing.T) {
	gather(t, reportKills)
	postfixtest.Shards(t, killShards, func(t *testing.T, shard int) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		c := newCourse(t, rand.New(rand.NewPCG(seed, uint64(shard))))
		wanted := c.share(shard)
		for _, w := range ways {
			c.travel(w, wanted)
			hand(t, shard, c.tally) // what a later failure does not take away
		}
		c.arrive()
		hand(t, shard, c.tally)
	})
}

// killTally is what one host or all of them have met.
type killTally struct {
	Kills    map[string]int // by way and place, "renewal: commit"
	Slow     int            // runs that were told that a listener had no time to answer
	Missed   int            // runs that ended before they could be killed
	Next     int            // settled by the next run instead of recover
	After    int            // next runs after a recovery
	Lingered time.Duration  // the longest that a process of ours outlived a recovery
	Ops      map[string]int // file operations in or after which a kill landed
	Files    int            // most files in the state directory, history excepted
	Keys     int            // most generations
	Records  int            // most records in the history
}

func (a *killTally) add(b killTally) {
	for k, n := range b.Kills {
		a.Kills[k] += n
	}
	for k, n := range b.Ops {
		a.Ops[k] += n
	}
	a.Missed, a.Next, a.After, a.Slow = a.Missed+b.Missed, a.Next+b.Next, a.After+b.After, a.Slow+b.Slow
	a.Lingered, a.Files, a.Keys, a.Records = max(a.Lingered, b.Lingered), max(a.Files, b.Files), max(a.Keys, b.Keys), max(a.Records, b.Records)
}

// reportKills adds up what the hosts have met, and demands the shares.
func reportKills(t *testing.T, parts []killTally) {
	sum := killTally{Kills: map[string]int{}, Ops: map[string]int{}}
	for _, p := range parts {
		sum.add(p)
	}
	kills, perStep, perWay := 0, map[string]int{}, map[string]int{}
	for k, n := range sum.Kills {
		way, place, _ := strings.Cut(k, ": ")
		kills, perStep[place], perWay[way] = kills+n, perStep[place]+n, perWay[way]+n
	}
	least := 300
	if long {
		least = 3000
	}
	if kills < least {
		t.Errorf("%d kills, want %d", kills, least)
	}
	var steps, byWay []string
	for _, s := range stepsToHit {
		steps = append(steps, fmt.Sprintf("%s %d", s, perStep[s]))
		if perStep[s] < leastPerStep {
			t.Errorf("%d kills landed in %s, want %d", perStep[s], s, leastPerStep)
		}
	}
	for _, w := range slices.Sorted(maps.Keys(perWay)) {
		byWay = append(byWay, fmt.Sprintf("%s %d", w, perWay[w]))
	}
	t.Logf("kills by way: %s; %d runs ended before their kill; %d were repeated because the host was too slow to answer them", strings.Join(byWay, ", "), sum.Missed, sum.Slow)
	tell(t, "R1: %d random kills, 0 mixed or broken pairs; where they landed: %s; %d different file operations; "+
		"%d settled by the next run, the others by recover, then %d next runs; processes of ours gone after %.1f s at most; "+
		"state directory: at most %d generations, %d records, %d other files",
		kills, strings.Join(steps, ", "), len(sum.Ops), sum.Next, sum.After, sum.Lingered.Seconds(), sum.Keys, sum.Records, sum.Files)
}

// way is one of the ways through the engine.
type way struct {
	name   string
	events []string // the times that begin with them are aimed at
	share  int      // kills aimed at each, of 300 in all
	base   string   // the configuration that it begins with; "" is any adopted one
	begin  func(c *course) errand
}

// errand is one run of a way.
type errand struct {
	args   []string
	env    []string
	next   view // what is served when it is done
	undone bool // it never gets there
	status int  // when it is not killed
}

var installSteps = []string{
	programStart, "lock begin", "lock end", "plan begin", "stage begin", "rehearse begin", "journal begin", "commit begin",
	"reload begin", "prove begin", "confirm begin", "confirm end",
}

var ways = []way{
	{"adopting overrides", installSteps, 4, "overrides", func(c *course) errand { return c.install("", "--adopt-overrides") }},
	{"first install", installSteps, 4, "original", func(c *course) errand { return c.install("") }},
	{"renewal", installSteps, 4, "", func(c *course) errand { return c.install("") }},
	{"rollback", installSteps, 4, "", (*course).rollback},
	{"recovery", []string{programStart, "lock begin", "lock end", "reprove end"}, 4, "", (*course).recovery},
	{"recovery", []string{"undo begin", "restore begin", "reprove begin"}, 8, "", (*course).recovery},
	{"undo", []string{"undo begin", "restore begin", "reprove begin", "reprove end"}, 8, "", (*course).failing},
	{"service", installSteps, 4, "adopted", func(c *course) errand {
		return c.install(postfixtest.Submissions, "--service", "submissions/inet", "--name", "own")
	}},
}

// share is how many kills of each way must land in which place on one host.
func (c *course) share(shard int) map[string]int {
	wanted, i := map[string]int{}, 0
	for _, w := range ways {
		for _, event := range w.events {
			n := w.share
			if long {
				n *= 10
			}
			for ; n > 0; n-- {
				if i++; i%killShards == shard {
					wanted[w.name+": "+placeAfter(event)]++
				}
			}
		}
	}
	return wanted
}

// course is a host that is killed on over and over.
type course struct {
	h     *host
	rng   *rand.Rand
	now   view                     // what is served
	on    string                   // the base that the host is at, unchanged
	bases map[string]base          // by name
	took  map[string]time.Duration // by the event it begins with
	tally killTally
	// resets and settledBy count, so that every so many are done otherwise.
	resets, settledBy int
}

// base is a configuration that a way begins with, and what is served by it.
type base struct {
	dir  string
	view view
}

func newCourse(t *testing.T, rng *rand.Rand) *course {
	h := sweptHost(t)
	c := &course{h: h, rng: rng, bases: map[string]base{}, took: map[string]time.Duration{}}
	c.tally = killTally{Kills: map[string]int{}, Ops: map[string]int{}}
	// Until a run has recorded how long it took.
	for event, d := range map[string]time.Duration{"undo begin": 3 * time.Millisecond, "restore begin": 100 * time.Millisecond,
		"reprove begin": 300 * time.Millisecond, "reprove end": time.Millisecond} {
		c.took[event] = d
	}
	c.save("original")
	stale := filepath.Join(h.dir, "stale.pem")
	leaf := postfixtest.WritePair(t, stale, hostName)
	h.overridden(stale)
	postfixtest.WaitServed(t, postfixtest.Submissions, postfixtest.Implicit, leaf)
	c.save("overrides")
	c.survive(h, errand{args: []string{"install-cert", h.lineage(certtest.Leaf{}), "--adopt-overrides"}})
	c.now = h.look()
	return c
}

// save makes the present configuration a base.
func (c *course) save(name string) {
	c.h.t.Helper()
	c.now, c.on = c.h.look(), name
	c.bases[name] = base{filepath.Join(c.h.dir, "base-"+name), c.now}
	sh(c.h.t, "rm -rf %[2]s; cp -a %[1]s %[2]s", c.h.pf.ConfigDir, c.bases[name].dir)
}

// ready brings the host to where a way begins. The state directory stays, but
// for every third first install, which has none.
func (c *course) ready(w way) {
	c.h.t.Helper()
	if _, have := c.bases[w.base]; w.base == "" || w.base == c.on {
		return
	} else if !have {
		c.save(w.base)
		return
	}
	b := c.bases[w.base]
	sh(c.h.t, "rm -rf %[1]s; cp -a %[2]s %[1]s", c.h.pf.ConfigDir, b.dir)
	if c.resets++; w.base == "original" && c.resets%3 == 0 {
		sh(c.h.t, "rm -rf %s %s", c.h.state, c.h.run)
	}
	c.h.pf.Reload()
	for addr, mode := range listeners {
		leaf, _, _ := strings.Cut(b.view[addr], " ")
		postfixtest.WaitServed(c.h.t, addr, mode, leaf)
	}
	c.now, c.on = b.view, w.base
}

// travel goes a way until each place of it has had its share of kills.
func (c *course) travel(w way, wanted map[string]int) {
	total := 0
	for _, event := range w.events {
		total += wanted[w.name+": "+placeAfter(event)]
	}
	for range 3*total + 10 {
		var open []string
		for _, event := range w.events {
			if place := w.name + ": " + placeAfter(event); c.tally.Kills[place] < wanted[place] {
				open = append(open, event)
			}
		}
		if len(open) == 0 || c.h.t.Failed() {
			return
		}
		c.strike(w, open[c.rng.IntN(len(open))])
	}
}

// strike makes one run that is killed at a random moment after the event, and
// everything that follows it.
func (c *course) strike(w way, event string) {
	c.h.t.Helper()
	c.ready(w)
	before, old := c.h.picture(), c.now
	run := w.begin(c)
	after := time.Duration(c.rng.Float64() * float64(max(c.took[event], 5*time.Microsecond)))
	c.h.at(fmt.Sprintf("%s %s +%s", w.name, event, after), func(h *host) {
		rec := filepath.Join(h.dir, "record")
		a := h.with(append(slices.Clone(run.env), recordTo+"="+rec, killAt+"="+event+" +"+after.String())...).postcert(run.args...)
		moments := readRecord(h.t, rec)
		maps.Copy(c.took, lengths(moments))
		if a.status == -1 {
			place, op := landed(moments)
			c.tally.Kills[w.name+": "+place]++
			c.tally.Ops[w.name+": "+op]++
			defer func() {
				if h.t.Failed() {
					h.t.Logf("killed in %s, last file operation %q", place, op)
				}
			}()
		} else {
			c.tally.Missed++
			a.want(run.status)
		}
		h.between(old, run.next)
		c.settle(h, run, before, old)
		c.tally.Lingered = max(c.tally.Lingered, h.alone())
	})
}

// settle ends what the killed run left, by recover or by the next run.
func (c *course) settle(h *host, run errand, before picture, old view) {
	h.t.Helper()
	var is string
	if c.settledBy++; c.settledBy%2 == 0 && run.args[0] != "recover" {
		c.works(h, run.args...)
		c.tally.Next++
		if is = h.serving(old, run.next); is != "new" {
			h.t.Errorf("after the next run the %s pair is served", is)
		}
		h.clean()
	} else {
		h.postcert("recover").want(0)
		is = h.serving(old, run.next)
		h.settled(is, before)
		h.twice()
		if is == "new" && run.undone {
			h.t.Error("the recovery left the new pair")
		}
		if c.settledBy%4 == 1 && is == "old" && run.args[0] != "recover" {
			c.works(h, run.args...)
			c.tally.After++
			if is = h.serving(old, run.next); is != "new" {
				h.t.Errorf("after the run that followed the recovery the %s pair is served", is)
			}
		}
	}
	c.measure(h)
	if is == "new" {
		c.now, c.on = run.next, ""
	}
}

// works is a run that succeeds, on a host that may be so busy that a listener
// does not answer in time: then nothing is wrong but the time.
func (c *course) works(h *host, args ...string) {
	h.t.Helper()
	a := h.postcert(args...)
	for range 4 {
		if a.status != 9 && !strings.Contains(a.stderr, "[rehearsal_not_run]") {
			break
		}
		c.tally.Slow++
		a = h.postcert(args...)
	}
	a.want(0)
}

// install is an install of a new pair, for all listeners or only one.
func (c *course) install(only string, flags ...string) errand {
	lineage := c.h.lineage(certtest.Leaf{})
	chain := c.h.chainOf(lineage)
	next := view{}
	for addr := range listeners {
		next[addr] = chain
		if only != "" && addr != only {
			next[addr] = c.now[addr]
		}
	}
	return errand{args: append([]string{"install-cert", lineage}, flags...), next: next}
}

// failing is an install that is undone, because the reload fails.
func (c *course) failing() errand {
	run := c.install("")
	run.env, run.status, run.undone = []string{failAt + "=Reload 1"}, 4, true
	return run
}

// rollback goes to some other generation.
func (c *course) rollback() errand {
	c.h.t.Helper()
	for {
		all, _ := filepath.Glob(filepath.Join(c.h.state, "generations", "*", hostName, "[0-9]*", "postfix.pem"))
		for _, i := range c.rng.Perm(len(all)) {
			n, err := strconv.Atoi(filepath.Base(filepath.Dir(all[i])))
			chain := chainIn(c.h.t, all[i])
			if err != nil || n == 0 || chain == c.now[postfixtest.SMTP] {
				continue
			}
			next := view{}
			for addr := range listeners {
				next[addr] = chain
			}
			return errand{args: []string{"rollback", hostName, "--to", strconv.Itoa(n)}, next: next}
		}
		run := c.install("")
		c.works(c.h, run.args...)
		c.now = c.h.look()
	}
}

// recovery is one of an install that was killed when its undo was on disk.
func (c *course) recovery() errand {
	c.h.t.Helper()
	run := c.install("")
	points := []string{"commit begin", "commit end", "reload begin", "reload end", "prove begin", "prove end"}
	point := points[c.rng.IntN(len(points))]
	c.h.dies(point, run.args...)
	return errand{args: []string{"recover"}, next: run.next, undone: true}
}

// survive is a run that is not killed, to learn how long its steps take.
func (c *course) survive(h *host, run errand) {
	h.t.Helper()
	rec := filepath.Join(h.dir, "record")
	h.with(append(slices.Clone(run.env), recordTo+"="+rec)...).postcert(run.args...).want(run.status)
	maps.Copy(c.took, lengths(readRecord(h.t, rec)))
	c.on = ""
}

// arrive installs once more when all is over, and looks at what has piled up.
func (c *course) arrive() {
	c.h.t.Helper()
	if c.h.t.Failed() {
		return
	}
	c.ready(way{base: "adopted"})
	run := c.install("")
	c.works(c.h, run.args...)
	if is := c.h.serving(c.now, run.next); is != "new" {
		c.h.t.Errorf("in the end the %s pair is served", is)
	}
	c.h.clean()
	c.tally.Lingered = max(c.tally.Lingered, c.h.alone())
	c.measure(c.h)
	// Two names, of each three generations and what was there before.
	if c.tally.Keys > 2*4 || c.tally.Files > 60 || c.tally.Records > 200 {
		c.h.t.Errorf("the state directory has grown: at most %d generations, %d records, %d other files", c.tally.Keys, c.tally.Records, c.tally.Files)
	}
}

// measure counts what the state directory holds.
func (c *course) measure(h *host) {
	h.t.Helper()
	files, records := 0, 0
	for name, f := range h.stateTree() {
		switch {
		case !f.Mode.IsRegular():
		case strings.HasPrefix(name, "history/"):
			records++
		default:
			files++
		}
	}
	c.tally.Files, c.tally.Records = max(c.tally.Files, files), max(c.tally.Records, records)
	c.tally.Keys = max(c.tally.Keys, len(h.generations()))
}
