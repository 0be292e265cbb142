package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/deploy/journal"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// actor is one process that changes this host, or asks about it, at the same
// time as all the others, and the exit statuses that it may end with.
type actor struct {
	name string
	args func(r *round) []string
	want []int
}

// Somebody else's edit of main.cf makes a plan stale (7), and one at the moment
// of the commit has it undone (4). A rollback can find nothing to go back to (3),
// a release nothing to give back.
var (
	installs = actor{"install-cert", func(r *round) []string {
		return []string{"install-cert", r.lineage(), "--allow-downgrade"}
	}, []int{0, 4, 7, 9}}
	hookInstalls = actor{"install-cert --json", func(r *round) []string {
		return []string{"install-cert", r.lineage(), "--allow-downgrade", "--json", "-q"}
	}, []int{0, 4, 7, 9}}
	recovers = actor{"recover", func(*round) []string { return []string{"recover"} }, []int{0, 7}}
	goesBack = actor{"rollback", func(*round) []string { return []string{"rollback"} }, []int{0, 3, 4, 7, 9}}
	releases = actor{"release", func(*round) []string { return []string{"release"} }, []int{0, 3, 4, 7, 9}}
	asks     = actor{"status", func(*round) []string { return []string{"status", "--json"} }, []int{0, 8}}
)

// cast are the 16 of a round.
var cast = []actor{
	installs, installs, installs, installs, installs, hookInstalls, hookInstalls, hookInstalls,
	recovers, recovers, recovers, goesBack, goesBack, releases, asks, asks,
}

// round gives each install of a round a lineage of its own.
type round struct {
	mu       sync.Mutex
	lineages []string
}

func (r *round) lineage() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lineages[0]
	r.lineages = append(r.lineages[1:], l)
	return l
}

// R9, S30: 16 at once, round after round, while somebody else edits main.cf.
// They take turns, each tells the truth, the last winner by the history is what
// is served, and nobody is ever shown anything but a known leaf whose key fits.
func TestProofActors(t *testing.T) {
	t.Parallel()
	const shards = 3
	rounds := 2 // for each shard: 6
	if long {
		rounds = 67 // 201
	}
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{MaxUse: 1}).with(released)
		known := map[string]bool{h.served(): true}
		r := &round{}
		for range 8 {
			l := h.lineage(certtest.Leaf{})
			r.lineages = append(r.lineages, l)
			known[h.leafOf(l)] = true
		}
		h.postcert("install-cert", r.lineage()).want(0)
		ctx, stop := context.WithCancel(t.Context())
		w := &onlooker{h: h, known: known}
		e := &editor{h: h}
		var others sync.WaitGroup
		others.Go(func() { w.watch(ctx) })
		others.Go(func() { e.edit(ctx) })
		var s stage9
		for n := range rounds {
			s.play(h, r)
			if t.Failed() {
				t.Logf("in round %d", n+1)
				break
			}
		}
		stop()
		others.Wait()
		e.lost()
		h.serialised()
		h.clean()
		t.Logf("R9, shard %d: %d rounds of %d actors: %s; %d foreign edits, none lost; %d sessions and %d files looked at, all of a known leaf with its key",
			shard, rounds, len(cast), &s, len(e.made), w.sessions, w.files)
	})
}

// stage9 counts what the actors did.
type stage9 struct {
	mu     sync.Mutex
	counts map[string]int
	busy   time.Duration // the longest wait for the lock that ended with 7
	took   time.Duration // the longest process
}

func (s *stage9) String() string {
	var out []string
	for name, n := range s.counts {
		out = append(out, fmt.Sprintf("%s: %d", name, n))
	}
	slices.Sort(out)
	return fmt.Sprintf("%s; longest %v, longest that ended busy %v", strings.Join(out, ", "), s.took.Round(time.Second/10), s.busy.Round(time.Second/10))
}

// play starts all actors of a round and waits for them, then looks whether what
// is served is what the history says.
func (s *stage9) play(h *host, r *round) {
	h.t.Helper()
	var all sync.WaitGroup
	for _, a := range cast {
		all.Go(func() {
			time.Sleep(rand.N(500 * time.Millisecond))
			s.act(h, a, a.args(r))
		})
	}
	all.Wait()
	if last := h.lastWinner(); last != "" {
		for addr, mode := range listeners {
			postfixtest.WaitServed(h.t, addr, mode, last)
		}
	}
}

// deadlock is longer than any actor can take: each of the others may have its
// turn first, and each waits for the lock for 30 s at most.
const deadlock = 4 * time.Minute

func (s *stage9) act(h *host, a actor, args []string) {
	cmd := h.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		h.t.Error(err)
		return
	}
	guard := time.AfterFunc(deadlock, func() {
		h.t.Errorf("%s does not end", a.name)
		_ = cmd.Process.Kill()
	})
	_ = cmd.Wait()
	guard.Stop()
	took, status := time.Since(begin), cmd.ProcessState.ExitCode()
	if !slices.Contains(a.want, status) {
		h.t.Errorf("%s: exit status %d, want one of %d\n%s%s", a.name, status, a.want, &stdout, &stderr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = map[string]int{}
	}
	s.counts[fmt.Sprintf("%s %d", a.name, status)]++
	s.took = max(s.took, took)
	if status == 7 && strings.Contains(stdout.String()+stderr.String(), "is locked by") {
		s.busy = max(s.busy, took)
		if took > busyLimit {
			h.t.Errorf("%s: busy only after %v", a.name, took)
		}
	}
}

// busyLimit is the 30 s that a command waits for the lock, and what a process
// needs beside that, on a machine that runs 15 others.
const busyLimit = 40 * time.Second

// lastWinner is the leaf of the last change that the history says is served, ""
// if that was a release.
func (h *host) lastWinner() string {
	h.t.Helper()
	winner := ""
	for _, v := range h.postcert("history", "--json").want(0).json()["history"].([]any) {
		rec := v.(map[string]any)
		if o := rec["outcome"]; o == "installed" || o == "not_verified" {
			winner = fmt.Sprint(rec["leaf"])
		}
	}
	return winner
}

// serialised fails the test if two transactions were open at the same time, or
// if a generation was made twice.
func (h *host) serialised() {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.state, "history", "*.json"))
	if err != nil || len(files) == 0 {
		h.t.Fatalf("no history: %v", err)
	}
	var end time.Time
	for _, file := range files { // in the order in which they began
		data, err := os.ReadFile(file)
		if err != nil {
			h.t.Fatal(err)
		}
		var r journal.Record
		if err := json.Unmarshal(data, &r); err != nil {
			h.t.Fatal(err)
		}
		if r.Begun.Before(end) {
			h.t.Errorf("%s began before the one before it had ended", filepath.Base(file))
		}
		end = r.Closed
	}
}

// onlooker looks at this host as its clients and its Postfix do, by openssl, all
// the time.
type onlooker struct {
	h               *host
	known           map[string]bool
	sessions, files int
}

func (w *onlooker) watch(ctx context.Context) {
	t := w.h.t
	for ctx.Err() == nil {
		for addr, mode := range listeners {
			leaf, err := postfixtest.ServedLeaf(t, addr, mode)
			switch {
			case err != nil && strings.Contains(err.Error(), "no answer within"):
				t.Logf("witness: %v", err) // a busy machine
			case err != nil:
				t.Errorf("witness: %v", err)
			case !w.known[leaf]:
				t.Errorf("witness: %s serves a leaf that nobody installed: %s", addr, leaf)
			}
			w.sessions++
			w.file()
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// file looks at the bytes that Postfix would read now.
func (w *onlooker) file() {
	t := w.h.t
	path := filepath.Join(w.h.pf.ConfigDir, "tls", hostName+".pem")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return // not adopted at the moment
	}
	if err != nil {
		t.Errorf("witness: %v", err)
		return
	}
	w.files++
	leaf, err1 := openssl(data, "x509", "-outform", "der")
	key, err2 := openssl(data, "pkey", "-pubout")
	cert, err3 := openssl(data, "x509", "-noout", "-pubkey")
	switch {
	case err1 != nil || err2 != nil || err3 != nil:
		t.Errorf("witness: %s cannot be read: %v", path, errors.Join(err1, err2, err3))
	case !bytes.Equal(key, cert):
		t.Errorf("witness: the key in %s is not that of its leaf", path)
	case !w.known[postfixtest.Fingerprint(leaf)]:
		t.Errorf("witness: %s holds a leaf that nobody installed", path)
	}
}

// openssl runs openssl(1) on data.
func openssl(data []byte, args ...string) ([]byte, error) {
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("openssl %s: %w: %s", args[0], err, &stderr)
	}
	return out, err
}

// editor is somebody else who edits main.cf by postconf(1) at any moment.
type editor struct {
	h    *host
	made []string
}

func (e *editor) edit(ctx context.Context) {
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second + rand.N(4*time.Second)):
		}
		name := fmt.Sprintf("somebody_elses_%d", n)
		// Not the context: who is killed while he edits loses his own edit.
		out, err := exec.Command("postconf", "-c", e.h.pf.ConfigDir, "-e", name+" = "+name).CombinedOutput()
		if err != nil {
			e.h.t.Errorf("postconf -e: %v: %s", err, out)
			continue
		}
		e.made = append(e.made, name)
	}
}

// lost fails the test for each edit that is not in main.cf any more.
func (e *editor) lost() {
	main := string(e.h.pf.Main())
	for _, name := range e.made {
		if n := strings.Count(main, "\n"+name+" = "+name+"\n"); n != 1 {
			e.h.t.Errorf("the edit of %s is there %d times", name, n)
		}
	}
	if len(e.made) == 0 {
		e.h.t.Error("nobody edited")
	}
}

var lockedBy = regexp.MustCompile(`is locked by process (\d+)`)

// S30: the lock is held for longer than a command waits: it ends with 7 after
// 30 s, says who holds the lock, and has touched nothing.
func TestProofBusy(t *testing.T) {
	t.Parallel()
	postfixtest.Shards(t, 1, func(t *testing.T, _ int) { heldLock(t) })
}

func heldLock(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	first, second := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	holder := h.with(released, doAt+"=commit begin: sleep 36").command("install-cert", first)
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(h.state, "journal", "open.json")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no transaction was opened")
		}
	}
	var all sync.WaitGroup
	var figures statuses
	for _, args := range [][]string{{"install-cert", second}, {"install-cert", second, "--json"}, {"recover"}, {"rollback"}, {"release"}} {
		all.Go(func() {
			begin := time.Now()
			a := weathered{answer: h.postcert(args...), took: time.Since(begin)}
			figures.add(args[0], a)
			if a.status != 7 || a.took < 30*time.Second || a.took > 34*time.Second {
				t.Errorf("%s: exit status %d after %v, want 7 after 30 s\n%s%s", args[0], a.status, a.took, a.stdout, a.stderr)
			}
			m := lockedBy.FindStringSubmatch(a.stdout + a.stderr)
			if m == nil || m[1] != fmt.Sprint(holder.Process.Pid) {
				t.Errorf("%s does not say that process %d holds the lock:\n%s%s", args[0], holder.Process.Pid, a.stdout, a.stderr)
			}
		})
	}
	all.Wait()
	if err := holder.Wait(); err != nil {
		t.Errorf("the one that held the lock: %v", err)
	}
	h.serves(h.leafOf(first))
	t.Logf("S30: %s", &figures)
}
