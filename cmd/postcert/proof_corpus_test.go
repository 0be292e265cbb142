package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// corpusShards is how many hosts share the corpus among them.
const corpusShards = 6

// R23: each pair of corpusSample becomes the /etc/postfix of a host, byte for
// byte, and gets a certificate. Then only the planned lines differ, by a line
// differ that knows nothing of ours and by postconf; mode, owner, attributes,
// access lists and links stay. Afterwards one half is undone, by a reload that
// fails, and nothing differs; the other half is released, and only times do.
func TestProofCorpus(t *testing.T) {
	postfixtest.Shards(t, corpusShards, func(t *testing.T, shard int) {
		w := newCorpusWorld(t)
		for i, p := range corpusSample(t) {
			if i%corpusShards == shard {
				t.Run(p.name, func(t *testing.T) { w.try(t, p, i) })
			}
		}
		var said []string
		for _, k := range slices.Sorted(maps.Keys(w.counts)) {
			said = append(said, fmt.Sprintf("%s %d", k, w.counts[k]))
		}
		t.Logf("R23: shard %d: %s", shard, strings.Join(said, ", "))
	})
}

// corpusHost is a host with one pair of the corpus.
type corpusHost struct {
	*host
	pair         corpusPair
	world        *corpusWorld
	main, master string // the real files
	names        []string
}

// try is the life of one pair.
func (w *corpusWorld) try(t *testing.T, p corpusPair, number int) {
	_, logged := w.log.since(0)
	defer func() {
		if t.Failed() {
			text, _ := w.log.since(logged)
			t.Logf("Postfix logged:\n%s", text)
		}
	}()
	h := w.host(t, p)
	h.start()
	defer h.stop()
	lineage := h.lineage(certtest.Leaf{Names: h.names})
	args := append([]string{"install-cert", lineage, "--json"}, p.args...)
	before := h.look()
	tree := postfixtest.Tree(t, p.dir)
	nothing := func() {
		t.Helper()
		for _, d := range postfixtest.Compare(tree, postfixtest.Tree(t, p.dir)) {
			t.Errorf("differs: %s", d)
		}
		h.judgeNothing(before, h.look(), true)
	}
	switch {
	case p.refused != "":
		w.counts["refused"]++
		h.postcert(args...).want(3).says(`"` + p.refused + `"`)
		nothing()
	case number%2 == 0:
		w.counts["undone"]++
		var during sight
		a := h.committed(func() { during = h.look() }, args...).want(4)
		h.judge(a, before, during)
		nothing()
	default:
		w.counts["released"]++
		a := h.postcert(args...).want(p.exit)
		installed := h.look()
		h.judge(a, before, installed)
		h.postcert("release").want(p.release)
		if p.release == 4 { // it would take away TLS that is served, and was undone
			h.judgeNothing(installed, h.look(), true)
			return
		}
		h.judgeNothing(before, h.look(), false)
	}
}

// committed runs postcert, calls f while it waits with everything committed, and
// lets the reload that follows fail.
func (h *corpusHost) committed(f func(), args ...string) answer {
	h.t.Helper()
	mark := filepath.Join(h.dir, "paused")
	var stdout, stderr bytes.Buffer
	cmd := h.with(failAt+"=Reload 1", pauseAt+"=commit end="+mark).command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan bool)
	go func() { _ = cmd.Wait(); close(done) }() // the status is in ProcessState
	for wait := true; wait; {
		select {
		case <-done:
			wait = false
		case <-time.After(5 * time.Millisecond):
			if _, err := os.Stat(mark); err == nil {
				f()
				if err := os.Remove(mark); err != nil {
					h.t.Error(err)
				}
				<-done
				wait = false
			}
		}
	}
	return answer{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), h.t}
}

// settings reads what postconf prints, by name.
func settings(out string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ="); ok {
			all[name] = strings.TrimSpace(value)
		}
	}
	// $process_id is postconf's own; debugger_command names it on many hosts.
	if pid := all["process_id"]; pid != "" {
		for name, value := range all {
			all[name] = strings.ReplaceAll(value, " "+pid+" ", " PID ")
		}
		delete(all, "process_id")
	}
	return all
}

// sight is all that can be seen of the configuration at one moment.
type sight struct {
	laid
	other string              // what the second name of main.cf leads to
	asked []map[string]string // what postconf says, to each of views
}

// views are the questions to postconf: as written and expanded.
var views = [][]string{nil, {"-P"}, {"-x"}, {"-Px"}}

func (h *corpusHost) look() sight {
	h.t.Helper()
	s := sight{laid: readLaid(h.t, h.pair.dir, h.main, h.master)}
	if h.pair.hard {
		data, err := os.ReadFile(filepath.Join(h.pair.dir, "main.cf.linked"))
		if err != nil {
			h.t.Error(err)
		}
		s.other = string(data)
	}
	for _, v := range views {
		s.asked = append(s.asked, settings(h.postconf(v...)))
	}
	return s
}

// judge holds a change against its plan.
func (h *corpusHost) judge(a answer, before, after sight) {
	t := h.t
	t.Helper()
	var out struct {
		Plan struct {
			Edits      []plannedEdit
			Dependants []string
		}
	}
	if err := json.Unmarshal([]byte(a.stdout), &out); err != nil {
		t.Fatal(err)
	}
	edits := out.Plan.Edits
	h.world.counts["edits"] += len(edits)
	judgeEdits(t, edits, slices.Contains(h.pair.args, "--enable"))
	judgeMain(t, []byte(before.main), []byte(after.main), edits)
	judgeMaster(t, []byte(before.master), []byte(after.master), edits)
	h.judgeInodes(before, after, false)
	for i := range views {
		h.judgeView(i, before.asked[i], after.asked[i], edits, out.Plan.Dependants)
	}
	if t.Failed() {
		t.Logf("main.cf:\n%smaster.cf:\n%sthe plan: %s", diffWords(hunks([]byte(before.main), []byte(after.main))), diffWords(hunks([]byte(before.master), []byte(after.master))), a.planBytes())
	}
}

// judgeView compares two answers of postconf: the names that differ are those
// of the plan, and, expanded, those that follow by reference.
func (h *corpusHost) judgeView(view int, before, after map[string]string, edits []plannedEdit, dependants []string) {
	h.t.Helper()
	parameters := h.world.parameters
	overrides, expanded := view%2 == 1, view >= 2
	want := map[string]bool{}
	for _, e := range edits {
		if (e.Service != "") == overrides {
			want[strings.TrimPrefix(e.Service+"/"+e.Parameter, "/")] = true
		}
	}
	for _, d := range dependants {
		if service, name, found := strings.Cut(d, ":"); expanded && found == overrides {
			if found {
				d = service + "/" + name
			}
			want[d] = true
		}
	}
	got := map[string]bool{}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(before)), slices.Collect(maps.Keys(after))) {
		_, was := before[name]
		_, is := after[name]
		// postconf prints a parameter of the administrator's own only as long
		// as another one names it; judgeMain has looked at its line.
		own := was != is && parameters[name] == "" && !overrides
		if before[name] != after[name] && !own {
			got[name] = true
		}
	}
	if !maps.Equal(got, want) {
		h.t.Errorf("postconf %q: %v differ, planned are %v", views[view], slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// judgeInodes compares what the two files are beside their bytes.
func (h *corpusHost) judgeInodes(before, after sight, times bool) {
	h.t.Helper()
	for _, c := range []struct {
		name string
		a, b inode
	}{{"main.cf", before.mainAt, after.mainAt}, {"master.cf", before.masterAt, after.masterAt}, {"the file behind main.cf", before.real, after.real}} {
		if !times {
			c.a.mtime, c.b.mtime = time.Time{}, time.Time{}
		}
		if h.pair.hard {
			// A file is replaced, not written into: the second name keeps what
			// it had, and is a file of its own from then on.
			c.a.links, c.b.links = 0, 0
		}
		if c.a != c.b {
			h.t.Errorf("%s is %+v, was %+v", c.name, c.b, c.a)
		}
	}
	if before.other != after.other {
		h.t.Error("the second name of main.cf leads to other bytes")
	}
}

// judgeNothing fails the test if anything differs; times counts modification
// times too.
func (h *corpusHost) judgeNothing(before, after sight, times bool) {
	h.t.Helper()
	for _, c := range []struct{ name, a, b string }{{"main.cf", before.main, after.main}, {"master.cf", before.master, after.master}} {
		if c.a != c.b {
			h.t.Errorf("%s is not what it was: %s", c.name, diffWords(hunks([]byte(c.a), []byte(c.b))))
		}
	}
	h.judgeInodes(before, after, times)
	for i, v := range views {
		if !maps.Equal(before.asked[i], after.asked[i]) {
			h.t.Errorf("postconf %q is another one", v)
		}
	}
}
