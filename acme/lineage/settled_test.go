package lineage_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postcert/acme/lineage"
	"postcert/acme/lineage/lineagetest"
	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// pairs are certificates of one name, each with a chain of its own; every other
// one goes on with the key of the one before, so that a mixture of the two has a
// key that matches.
func pairs(t *testing.T, n int) []*certtest.Pair {
	t.Helper()
	root := certtest.NewCA(t, certtest.Authority{})
	var out []*certtest.Pair
	for i := range n {
		ca := root.Intermediate(t, certtest.Authority{})
		p := ca.Leaf(t, certtest.Leaf{Names: []string{"mail.example.test"}})
		if i%2 == 1 {
			p = ca.Leaf(t, certtest.Leaf{Names: []string{"mail.example.test"}, Signer: out[i-1].Key})
		}
		out = append(out, p)
	}
	return out
}

// same tells whether a pair is exactly what was written.
func same(p *keypair.Pair, want *certtest.Pair) bool {
	other, _, err := keypair.Parse(keypair.Input{Name: "cert", Data: want.FullchainPEM()}, keypair.Input{Name: "key", Data: want.KeyPEM()}, keypair.Input{})
	return err == nil && p != nil && p.Equal(other) && bytes.Equal(p.Fullchain(), want.FullchainPEM())
}

// Whoever reads while a client writes, at any moment, gets the old pair or the new
// one, whole; whoever asks while it is being written gets the new one in the end.
// Time is not real here: the pauses of the writers are up to 2 s each.
func TestSettledWhileWritten(t *testing.T) {
	all := pairs(t, 6)
	for _, w := range lineagetest.Writers {
		t.Run(w.Name, func(t *testing.T) {
			base := t.TempDir()
			_, cert, key := w.Source(base, "mail.example.test")
			src := keypair.Source{Cert: cert, Key: key}
			synctest.Test(t, func(t *testing.T) {
				random, other := rand.New(rand.NewPCG(1, uint64(len(w.Name)))), rand.New(rand.NewPCG(2, uint64(len(w.Name)))) // of the writer, of the reader
				w.Write(t, base, "mail.example.test", 1, all[0], func() {})
				for i := 1; i < len(all); i++ {
					written := make(chan struct{})
					go func() {
						defer close(written)
						w.Write(t, base, "mail.example.test", i+1, all[i], func() { time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second)))) })
					}()
					time.Sleep(time.Duration(other.Int64N(int64(3 * time.Second))))
					for done := false; !done; {
						select {
						case <-written:
							done = true // one more, that begins after the end
						default:
						}
						p, _, err := lineage.Settled(t.Context(), src, 30*time.Second)
						if err != nil {
							t.Fatalf("pair %d: %v", i+1, err)
						}
						if !same(p, all[i]) && (done || !same(p, all[i-1])) {
							t.Fatalf("pair %d: read %v, which is neither it nor the one before (written: %v)", i+1, p, done)
						}
					}
				}
			})
		})
	}
}

// A lineage that stays as no client leaves it is refused when the time is over,
// with what is wrong and where.
func TestSettledStaysWrong(t *testing.T) {
	all := pairs(t, 3) // 0 and 1 share a key, 2 has its own
	write := func(dir, name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name     string
		make     func(dir string)
		id, file string
	}{
		{"new certificate, old key", func(dir string) { write(dir, "fullchain.pem", all[2].FullchainPEM()) }, "key_mismatch", "privkey.pem"},
		{"no certificate", func(dir string) { os.Remove(filepath.Join(dir, "fullchain.pem")) }, "input_missing", "fullchain.pem"},
		{"no key", func(dir string) { os.Remove(filepath.Join(dir, "privkey.pem")) }, "input_missing", "privkey.pem"},
		{"a link to nothing", func(dir string) {
			os.Remove(filepath.Join(dir, "privkey.pem"))
			_ = os.Symlink("gone", filepath.Join(dir, "privkey.pem"))
		}, "input_missing", "privkey.pem"},
		{"an empty key", func(dir string) { write(dir, "privkey.pem", nil) }, "pem_empty", "privkey.pem"},
		{"half a certificate", func(dir string) { write(dir, "fullchain.pem", all[0].CertPEM()[:200]) }, "pem_truncated", "fullchain.pem"},
		{"no directory", func(dir string) { os.RemoveAll(dir) }, "input_missing", "fullchain.pem"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "lineage")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(dir, "fullchain.pem", all[0].FullchainPEM())
			write(dir, "privkey.pem", all[0].KeyPEM())
			tt.make(dir)
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p, _, err := lineage.Settled(t.Context(), lineageIn(dir), 10*time.Second)
				if p != nil || err == nil {
					t.Fatalf("read %v", p)
				}
				list := problem.From(err)
				if len(list) == 0 || list[0].ID != tt.id || list[0].At.File != filepath.Join(dir, tt.file) {
					t.Errorf("refused with %+v, want %s of %s", list, tt.id, tt.file)
				}
				if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
					t.Errorf("refused after %v", took)
				}
			})
		})
	}
}

func lineageIn(dir string) keypair.Source {
	return keypair.Source{Cert: filepath.Join(dir, "fullchain.pem"), Key: filepath.Join(dir, "privkey.pem")}
}

// Files that are written again and again are refused as such, and the end of ctx
// ends the wait.
func TestSettledNeverAtRest(t *testing.T) {
	p := pairs(t, 1)[0]
	dir := t.TempDir()
	p.WriteFiles(t, dir)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var writer sync.WaitGroup
		defer writer.Wait()
		defer cancel()
		writer.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				mtime := time.Unix(int64(1700000000+i), 0)
				_ = os.Chtimes(filepath.Join(dir, "fullchain.pem"), mtime, mtime)
				time.Sleep(300 * time.Millisecond)
			}
		})
		_, _, err := lineage.Settled(ctx, lineageIn(dir), 10*time.Second)
		if list := problem.From(err); len(list) != 1 || list[0].ID != "lineage_unsettled" {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(3*time.Second, cancel)
		began := time.Now()
		if _, _, err := lineage.Settled(ctx, lineageIn(dir), 10*time.Second); !errors.Is(err, context.Canceled) {
			t.Errorf("after its end: %v", err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("went on for %v", took)
		}
	})
}

// What was left alone for long is read, or refused, without waiting.
func TestSettledAtRest(t *testing.T) {
	p := pairs(t, 1)[0]
	dir := t.TempDir()
	p.WriteFiles(t, dir)
	time.Sleep(lineage.Rest) // the time of a change cannot be set, so this is real
	began := time.Now()
	got, _, err := lineage.Settled(t.Context(), lineageIn(dir), 10*time.Second)
	if err != nil || !same(got, p) {
		t.Fatalf("read %v, %v", got, err)
	}
	if took := time.Since(began); took > lineage.Rest/2 {
		t.Errorf("took %v", took)
	}
	began = time.Now()
	if _, _, err := lineage.Settled(t.Context(), keypair.Source{Cert: "/etc/hostname", Key: "/etc/hostname"}, 10*time.Second); err == nil {
		t.Error("read a pair from nonsense")
	}
	if took := time.Since(began); took > lineage.Rest {
		t.Errorf("the refusal of old nonsense took %v", took)
	}
}

// With a key that is used on, a new leaf beside the chain of the old one has a key
// that matches: the chain must be the leaf's as well, as long as there is time.
func TestSettledStaleChain(t *testing.T) {
	all := pairs(t, 2)
	dir := t.TempDir()
	files := all[0].WriteFiles(t, dir)
	src := keypair.Source{Cert: files.Cert, Key: files.Key, Chain: files.Chain}
	synctest.Test(t, func(t *testing.T) {
		if err := os.WriteFile(files.Cert, all[1].CertPEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(5 * time.Second)
			if err := os.WriteFile(files.Chain, all[1].ChainPEM(), 0o600); err != nil {
				t.Error(err)
			}
		}()
		p, _, err := lineage.Settled(t.Context(), src, 10*time.Second)
		if err != nil || !same(p, all[1]) {
			t.Errorf("read %v, %v", p, err)
		}
	})
}

// A chain of several certificates that is written in pieces looks complete after
// each of them: only that the file was left alone tells that no more comes.
func TestSettledLongChain(t *testing.T) {
	ca := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{}).Intermediate(t, certtest.Authority{})
	old, next := ca.Leaf(t, certtest.Leaf{}), ca.Leaf(t, certtest.Leaf{})
	if len(next.Chain) != 2 {
		t.Fatalf("%d intermediates", len(next.Chain))
	}
	dir := t.TempDir()
	f := old.WriteFiles(t, dir)
	synctest.Test(t, func(t *testing.T) {
		if err := os.WriteFile(f.Key, next.KeyPEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		whole := next.FullchainPEM()
		half := append(next.CertPEM(), certtest.EncodeCerts(next.Chain[0])...)
		if err := os.WriteFile(f.Fullchain, half, 0o600); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(900*time.Millisecond, func() {
			if err := os.WriteFile(f.Fullchain, whole, 0o600); err != nil {
				t.Error(err)
			}
		})
		p, _, err := lineage.Settled(t.Context(), lineageIn(dir), 10*time.Second)
		if err != nil || !same(p, next) {
			t.Errorf("read %v, %v: a piece of a chain", p, err)
		}
	})
}
