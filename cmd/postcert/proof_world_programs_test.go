package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// moment is when a program begins to go wrong, and what a transaction makes of
// it.
type moment struct {
	program string
	only    string // the command of postfix(1) that goes wrong; "": all
	at      string // an event; "" is before the run begins
	before  string // shell, done at the same event
	fail    string // what the seam of Postfix makes fail, to come to an undo
	want    []int
	limit   time.Duration    // that of the program itself
	or      map[string][]int // exit statuses for some of the faults instead of want
}

// callMoments are all at which a transaction calls a program of Postfix. Before the
// commit a bad one stops it, nothing touched (1; 3 where Postfix seems to say
// that it cannot read its configuration); after the commit it is undone, by
// SIGHUP if need be (4); what only informs stops nothing (0). What cannot be
// undone without the program is told (5).
func callMoments(h *host) []moment {
	stops := map[string][]int{"fails": {3}, "slow": {0}}
	nothing := map[string][]int{"slow": {0}, "empty": {0, 4}, "binary": {0, 4}, "10 MiB": {0, 4}}
	const ask, script, undo = 20 * time.Second, 60 * time.Second, 10 * time.Second
	lost := fmt.Sprintf("kill -KILL %d; sleep 0.2; ", h.pf.MasterPID())
	return []moment{
		{program: "postconf", want: []int{1}, or: map[string][]int{"fails": {3}, "slow": {0}, missing: {3}}, limit: ask},
		{program: "postconf", at: "plan begin", want: []int{1}, or: stops, limit: ask},
		{program: "postconf", at: "stage begin", want: []int{1}, or: stops, limit: script + ask},
		{program: "postconf", at: "journal begin", want: []int{1}, or: stops, limit: ask},
		{program: "postconf", at: "reload begin", want: []int{4}, or: nothing, limit: script + undo},
		{program: "postconf", at: "prove begin", want: []int{0}, limit: ask},
		{program: "postconf", at: "undo begin", fail: "Reload 1", want: []int{4}, limit: undo},
		{program: "postfix", at: "rehearse begin", only: "check", want: []int{0}, or: map[string][]int{missing: {4}}, limit: script},
		{program: "postfix", at: "reload begin", only: "reload", want: []int{4}, or: nothing, limit: script + undo},
		{program: "postfix", at: "undo begin", only: "reload", fail: "Reload 1", want: []int{4}, limit: undo},
		{program: "postfix", at: "reload begin", before: lost, only: "start", want: []int{5}, or: map[string][]int{"slow": {4}}, limit: 180 * time.Second},
	}
}

// row is one moment with one fault.
type row struct {
	moment
	misbehaviour
}

func (r row) String() string {
	return strings.Join(strings.Fields(fmt.Sprintf("%s %s %s at %s %s", r.program, r.only, r.name, r.at, r.fail)), " ")
}

// stuck tells that the program's own time limit ends it.
func (r row) stuck() bool { return r.name == "hung" || r.name == "endless" }

// rows are those that are tried, the longest ones first. The short form leaves
// out what waits for a long limit a second time.
func rows(h *host) []row {
	var out []row
	for i, m := range callMoments(h) {
		for j, f := range faults {
			r := row{m, f}
			endless := f.name == "endless" && m.at != "plan begin"
			waits := r.stuck() && (m.only == "start" || m.at == "stage begin" || m.at == "journal begin")
			alike := slices.Contains([]string{"empty", "binary", "10 MiB"}, f.name) && (i+j)%3 != 0
			scripts := f.name == "slow" && m.program == "postconf" && m.at == ""
			if long || !endless && !waits && !alike && !scripts {
				out = append(out, r)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b row) int { return int(b.cost() - a.cost()) })
	return out
}

func (r row) cost() time.Duration {
	if r.stuck() {
		return r.limit
	}
	return 0
}

// The time that a run may take beside what its programs are given: a run takes
// one or two seconds; the rest is for a machine with other work, and for what
// waits for an undo: see undoReload in package deploy.
const leeway = time.Minute

const (
	soon    = leeway
	twoAsks = leeway + 30*time.Second // deadlines of a proof and of the undo's
)

// R7, S24: the programs of Postfix hang, are missing, fail, die, are slow, or
// print nonsense, from each moment on at which a transaction calls them.
func TestProofPrograms(t *testing.T) {
	t.Parallel()
	const shards = 6
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{MaxUse: 1})
		programs := stagePrograms(t)
		reset := h.original()
		old, lineage := h.chain(), h.lineage(certtest.Leaf{})
		next := h.chainOf(lineage)
		var figures statuses
		for i := range rows(h) {
			r := rows(h)[i] // the master can be another one by now
			if i%shards != shard {
				continue
			}
			reset()
			h.at(r.String(), func(h *host) { figures.add(r.String(), h.meets(programs, r, old, next, lineage)) })
			programs.clear()
		}
		t.Logf("R7, programs, shard %d: %s", shard, &figures)
	})
}

// meets installs a lineage for the first time while a program goes wrong.
func (h *host) meets(s *programs, r row, old, next, lineage string) weathered {
	h.t.Helper()
	f := facing{want: r.want, limit: r.cost() + leeway, mend: s.clear}
	if codes, ok := r.or[r.name]; ok {
		f.want = codes
	}
	if r.name == "slow" {
		f.limit += leeway // postfix-script calls postconf two dozen times
	}
	command := s.set(r.program, r.only, r.misbehaviour)
	if r.at == "" {
		sh(h.t, "%s", command)
	} else {
		f.env = append(f.env, doAt+"="+r.at+": "+r.before+command)
	}
	if r.fail != "" {
		f.env = append(f.env, failAt+"="+r.fail)
	}
	if slices.Contains(f.want, 1) {
		f.says = []string{r.program, "Postfix serves what it served before"}
	}
	return h.faces(f, old, next, "install-cert", lineage)
}
