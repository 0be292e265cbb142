package acme

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
	"postcert/verify/keypair"
)

var errKilled = errors.New("killed")

// killer ends a process at its n-th step: each change of the file system and
// each request to the CA is one, and so is the moment after a request was done
// and before its answer is read. From then on nothing works any more, so nothing
// is cleaned up.
type killer struct {
	left int
	dead bool
	last string
	seen int
}

func (k *killer) step(what string) error {
	if k.dead {
		return errKilled
	}
	k.seen++
	if k.left--; k.left == 0 {
		k.dead, k.last = true, what
		return errKilled
	}
	return nil
}

// life is what is done in one process: register, obtain, renew, change the
// account's key.
func (b *bench) life(ctx context.Context) error {
	if err := b.register(ctx); err != nil {
		return err
	}
	if _, err := b.Obtain(ctx, b.spec, Options{}); err != nil {
		return err
	}
	st, err := b.State(b.spec.Name)
	if err != nil {
		return err
	}
	if st.Current != nil && st.Current.Number == 1 {
		if now := b.ca.clock(); now.Before(st.Current.IssuedAt.Add(70 * day)) {
			time.Sleep(st.Current.IssuedAt.Add(70 * day).Sub(now))
		}
		if _, err := b.Obtain(ctx, b.spec, Options{}); err != nil {
			return err
		}
	}
	_, err = b.Rollover(ctx, AccountSpec{Directory: b.spec.Directory})
	return err
}

// killed runs a life that ends at step n, with everything that a new process
// finds then. false: it came to its end before.
func killed(t *testing.T, n int) (*bench, *killer, bool) {
	t.Helper()
	b := newBench(t, 90*day)
	k := &killer{left: n}
	b.fs.Before = func(op crashfs.Op) error { return k.step(op.String()) }
	b.ca.step = k.step
	err := b.life(t.Context())
	b.ca.step = nil
	if !k.dead {
		if err != nil {
			t.Fatalf("a life without a kill: %v", err)
		}
		return b, k, false
	}
	return b, k, true
}

// goesOn is what a new process must find and finish on a file system that a kill
// or a power cut left.
func goesOn(t *testing.T, b *bench, k *killer) {
	t.Helper()
	made, issued, registered := len(b.ca.made), b.ca.issued, len(b.ca.accounts)
	before, err := b.State(b.spec.Name)
	if err != nil {
		t.Fatalf("killed at %s: the state is %v", k.last, err)
	}
	if before.Current != nil {
		loads(t, b, before.Current)
	}
	var lastErr error
	for range 8 {
		b.boot(t)
		if lastErr = b.life(t.Context()); lastErr == nil {
			break
		}
		var e *Error
		if !errors.As(lastErr, &e) {
			t.Fatalf("killed at %s: %v", k.last, lastErr)
		}
		if time.Now().Before(e.Next) {
			time.Sleep(time.Until(e.Next))
		}
	}
	if lastErr != nil {
		t.Fatalf("killed at %s: %v", k.last, lastErr)
	}
	st, err := b.State(b.spec.Name)
	if err != nil || st.Current == nil || st.Pending != nil {
		t.Fatalf("killed at %s: %+v %v", k.last, st, err)
	}
	loads(t, b, st.Current)
	// Two certificates are what a life needs. A third order is made only if the
	// kill came between the CA's making one and our having written it down.
	lost := 0
	if made > issued && before.Pending != nil && before.Pending.OrderURL == "" {
		lost = 1
	}
	if b.ca.issued != 2 || len(b.ca.made) > 2+lost {
		t.Errorf("killed at %s: pending was %+v: %d orders, %d certificates; had %d, %d", k.last, before.Pending, len(b.ca.made), b.ca.issued, made, issued)
	}
	if registered > 1 || len(b.ca.accounts) != 1 || b.ca.count("Register") > 2 {
		t.Errorf("killed at %s: %d accounts, %d registrations", k.last, len(b.ca.accounts), b.ca.count("Register"))
	}
	for path := range b.fs.Tree(memory) {
		if strings.Contains(path, "/accounts/") && strings.HasSuffix(path, ".next") {
			t.Errorf("killed at %s: %s is left", k.last, path)
		}
	}
	noLeftKeys(t, b, k)
}

// noLeftKeys: no temporary file or directory, which may hold a key, outlives the
// next runs.
func noLeftKeys(t *testing.T, b *bench, k *killer) {
	t.Helper()
	keys := 0
	var walk func(dir string)
	walk = func(dir string) {
		names, err := b.fs.ReadDir(dir)
		if err != nil {
			return // a file
		}
		for _, name := range names {
			if atomicfile.IsTemp(name) {
				t.Errorf("killed at %s: %s/%s is left", k.last, dir, name)
			}
			if name == FilePrivateKey {
				keys++
			}
			walk(dir + "/" + name)
		}
	}
	walk(memory)
	if keys != 2 {
		t.Errorf("killed at %s: %d private keys, want those of two versions: %v", k.last, keys, b.fs.Tree(memory))
	}
}

// loads: key and chain of a version are a pair, by a reader of its own.
func loads(t *testing.T, b *bench, v *Version) {
	t.Helper()
	tree := b.fs.Tree(v.Dir)
	read := func(name string) keypair.Input {
		h, err := b.fs.Open(v.Dir + "/" + name)
		if err != nil {
			t.Fatalf("%s: %v in %v", name, err, tree)
		}
		defer h.Close()
		data := make([]byte, 1<<16)
		n, _ := h.Read(data)
		return keypair.Input{Name: name, Data: data[:n]}
	}
	if _, _, err := keypair.Parse(read(FileFullChain), read(FilePrivateKey), keypair.Input{}); err != nil {
		t.Errorf("version %d is no pair: %v", v.Number, err)
	}
}

// A power cut instead of a kill: of what was not forced to disk, any part may be
// gone.
func TestProofPowerCut(t *testing.T) {
	cuts := 0
	for n := 1; ; n++ {
		var b *bench
		var k *killer
		var dead bool
		var when time.Time
		var left []*crashfs.FS
		synctest.Test(t, func(t *testing.T) {
			b, k, dead = killed(t, n)
			when = time.Now()
			b.fs.Limit = 3
			if !dead {
				return
			}
			for _, model := range []crashfs.Model{crashfs.Ordered, crashfs.Weak} {
				left = slices.AppendSeq(left, b.fs.Crashes(model))
			}
		})
		for _, cut := range left {
			cuts++
			script := b.ca.clone()
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(when))
				after := &bench{fs: cut, spec: b.spec, ca: script}
				after.boot(t)
				goesOn(t, after, k)
			})
		}
		if !dead || t.Failed() {
			break
		}
	}
	t.Logf("R25: %d power cuts in the life of an order", cuts)
}

// clone is a CA that stands where s does.
func (s *script) clone() *script {
	c := *s
	s = &c
	s.asked, s.made = slices.Clone(s.asked), slices.Clone(s.made)
	s.accounts, s.bySerial, s.replaced = maps.Clone(s.accounts), maps.Clone(s.bySerial), maps.Clone(s.replaced)
	orders := map[string]*scripted{}
	for url, o := range s.orders {
		copied := *o
		orders[url] = &copied
	}
	s.orders = orders
	return s
}

// A kill at each step of a life: no order is lost, no second one is made while
// the first can be resumed, account and keys are intact.
func TestKilled(t *testing.T) {
	var steps []string
	for n := 1; ; n++ {
		done := false
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, k, dead := killed(t, n)
				if !dead {
					done = true
					return
				}
				steps = append(steps, k.last)
				b.fs = b.fs.Clone()
				b.boot(t)
				goesOn(t, b, k)
			})
		})
		if done || t.Failed() {
			break
		}
	}
	t.Logf("%d steps", len(steps))
	for _, want := range []string{"NewOrder", "NewOrder done", "Solve done", "Finalize done", "Download", "Register done", "ChangeKey done", "RenewalInfo"} {
		if !slices.Contains(steps, want) {
			t.Errorf("no kill at %s", want)
		}
	}
}
