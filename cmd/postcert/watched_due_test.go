package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"postcert/acme/lineage"
	"postcert/cmd/postcert/internal/status"
	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// When a pass over another client's files is due: for what is new at once, for
// what failed when its time has come, for nothing else before the daily proof.
func TestWatchedDue(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ca := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{})
	tests := []struct {
		name  string
		turn  func(seen status.Seen) status.Turn
		retry time.Duration // of the record; 0: none
		after func(f certtest.Files)
		want  time.Duration // from now; -1: the daily proof
		why   string
	}{
		{name: "never seen", turn: func(status.Seen) status.Turn { return status.Turn{} }, why: "another certificate"},
		{name: "seen", turn: over, want: -1, why: "daily proof"},
		{name: "written again", turn: over, after: touch, want: -1, why: "daily proof"},
		{name: "renewed", turn: over, after: renewedBy(t, ca), why: "another certificate"},
		{name: "another chain", turn: over, after: leafOnly, why: "another certificate"},
		{name: "gone", turn: over, after: func(f certtest.Files) { _ = os.Remove(f.Fullchain) }, why: "a change"},
		{name: "failed", turn: over, retry: time.Hour, want: time.Hour, why: "deploy again"},
		{name: "failed, written again", turn: over, retry: time.Hour, after: touch, want: time.Hour, why: "deploy again"},
		{name: "failed, renewed", turn: over, retry: time.Hour, after: renewedBy(t, ca), why: "another certificate"},
		{name: "killed", turn: killed, want: 5 * time.Minute, why: "a pass that did not end, again"},
		{name: "killed, written again", turn: killed, after: touch, want: 5 * time.Minute, why: "a pass that did not end, again"},
		{name: "killed, renewed", turn: killed, after: renewedBy(t, ca), why: "another certificate"},
		{name: "refused", turn: refused, want: watchInterval, why: "another look"},
		{name: "refused, written again", turn: refused, after: touch, why: "a change"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			f := ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, dir)
			d := newDesk(t, dir)
			list, err := d.a.wishes(nil)
			if err != nil {
				t.Fatal(err)
			}
			turn := tt.turn(list[0].look().seen)
			turn.Version, turn.Name = status.Version, hostName
			if !turn.Began.IsZero() {
				turn.Began, turn.Ended = now, now
				if turn.Failures > 0 {
					turn.Next = now.Add(5 * time.Minute)
				}
			}
			if err := d.a.turns().End(turn, turn.Ended, turn.Failures > 0); err != nil {
				t.Fatal(err)
			}
			if turn.Seen.Open { // which End takes away
				reopen(t, d, list[0], now)
			}
			if tt.retry > 0 {
				up := status.Update{Instance: "/etc/postfix", Name: hostName, Time: now.Add(tt.retry - time.Minute), Leaf: "x", Outcome: "failed", Exit: 1, Issued: true}
				if err := d.a.records().Record(up); err != nil {
					t.Fatal(err)
				}
			}
			if tt.after != nil {
				time.Sleep(20 * time.Millisecond) // the kernel's clock ticks
				tt.after(f)
			}
			tasks, sources, err := d.a.due(now)
			if err != nil || len(tasks) != 1 || len(sources) != 1 {
				t.Fatalf("%v, %v, %v", tasks, sources, err)
			}
			got := tasks[0]
			if !strings.HasPrefix(got.Why, tt.why) || tt.want >= 0 && got.At.Sub(now) != tt.want || tt.want < 0 && !got.At.After(now.Add(time.Minute)) {
				t.Errorf("due %v from now: %s; want %v: %s", got.At.Sub(now), got.Why, tt.want, tt.why)
			}
		})
	}
}

// reopen leaves a pass that has begun, five minutes before the next may.
func reopen(t *testing.T, d *desk, w wish, now time.Time) {
	t.Helper()
	seen := w.look().seen
	seen.Open = true
	if _, err := d.a.turns().BeginWith(w.name, seen, now, func(int) time.Duration { return 5 * time.Minute }); err != nil {
		t.Fatal(err)
	}
}

func over(seen status.Seen) status.Turn { return status.Turn{Began: time.Unix(1, 0), Seen: seen} }

func killed(seen status.Seen) status.Turn {
	seen.Open = true
	return status.Turn{Began: time.Unix(1, 0), Seen: seen}
}

func refused(seen status.Seen) status.Turn {
	seen.Refused = true
	return status.Turn{Began: time.Unix(1, 0), Seen: seen}
}

func touch(f certtest.Files) {
	data, _ := os.ReadFile(f.Key)
	_ = os.WriteFile(f.Key, data, 0o600)
}

func leafOnly(f certtest.Files) {
	data, _ := os.ReadFile(f.Cert)
	_ = os.WriteFile(f.Fullchain, data, 0o600)
}

func renewedBy(t *testing.T, ca *certtest.CA) func(f certtest.Files) {
	return func(f certtest.Files) { ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, f.Dir) }
}

// What another client wrote anew is taken to the listeners although its leaf is
// the deployed one, as its chain may be another; what was not waits for its turn.
func TestFreshIsNotLeftAlone(t *testing.T) {
	d := newDesk(t, t.TempDir())
	now := d.a.now()
	turn := status.Turn{Name: hostName, Began: now, Ended: now}
	rec := &status.Record{Name: hostName, Issued: "leaf", Wanted: "leaf", Served: &status.Served{Time: now, Agrees: true}}
	for _, fresh := range []bool{true, false} {
		left := d.a.leaveAlone(rec, "leaf", "", turn, passOptions{reason: "renew", scheduled: true, fresh: fresh})
		if (left == "") != fresh {
			t.Errorf("fresh: %v: left alone: %q", fresh, left)
		}
	}
}

// A client that begins the next renewal right after our read: what was read is
// remembered, not what is there now, so that the new one is seen as new.
func TestRenewedAfterRead(t *testing.T) {
	ca := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{})
	dir := t.TempDir()
	f := ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, dir)
	d := newDesk(t, dir)
	d.a.seams.settle = 3 * time.Second
	list, err := d.a.wishes(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { settled = lineage.Settled }()
	settled = func(ctx context.Context, src keypair.Source, wait time.Duration) (*keypair.Pair, problem.List, error) {
		p, warnings, err := lineage.Settled(ctx, src, wait)
		renewedBy(t, ca)(f)
		return p, warnings, err
	}
	turn := status.Turn{Version: status.Version, Name: hostName, Began: time.Now()}
	pair, _, err := d.a.readLive(t.Context(), list[0], lineageFiles(dir), &turn)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := lineage.Leaf(list[0].reads()); keypair.Fingerprint(leaf) == pair.Fingerprint() {
		t.Fatal("nothing was renewed after the read")
	}
	if err := d.a.turns().End(turn, time.Now(), false); err != nil {
		t.Fatal(err)
	}
	if tasks, _, err := d.a.due(time.Now()); err != nil || !strings.HasPrefix(tasks[0].Why, "another certificate") {
		t.Errorf("due: %+v, %v", tasks, err)
	}
}

// A file system that does not answer holds up the daemon once, for a moment, and
// makes nothing due; when it answers again, it is looked at again.
func TestLooksDoNotWait(t *testing.T) {
	ca := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{})
	dir := t.TempDir()
	ca.Leaf(t, certtest.Leaf{Names: []string{hostName}}).WriteFiles(t, dir)
	d := newDesk(t, dir)
	hang := make(chan struct{})
	d.a.looks = newLooks()
	d.a.looks.limit = 50 * time.Millisecond
	d.a.looks.look = func(w wish) glimpse { <-hang; return w.look() }
	now := time.Now()
	turn := status.Turn{Version: status.Version, Name: hostName, Began: now, Seen: status.Seen{Content: "old", Look: "old"}}
	if err := d.a.turns().End(turn, now, false); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if tasks, sources, _ := d.a.due(now); len(sources) > 0 || tasks[0].Why != "daily proof" {
			t.Fatalf("due: %+v", tasks)
		}
	}
	if took := time.Since(now); took > 500*time.Millisecond {
		t.Errorf("waited %v", took)
	}
	close(hang)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if tasks, _, _ := d.a.due(now); strings.HasPrefix(tasks[0].Why, "another certificate") {
			return
		}
		if time.Now().After(end) {
			t.Fatal("not looked at again")
		}
	}
}
