package lineage

import (
	"context"
	"os"
	"testing"
	"time"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// A client that begins while we read, with a key that it uses on: the files that
// were read fit together, and yet they are of two pairs. And one that writes right
// after our read, within one tick of the kernel's clock, so that no look can tell.
func TestSettledWrittenDuringRead(t *testing.T) {
	ca := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{})
	old := ca.Leaf(t, certtest.Leaf{})
	next := ca.Leaf(t, certtest.Leaf{Signer: old.Key})
	for _, sameTick := range []bool{false, true} {
		dir := t.TempDir()
		f := old.WriteFiles(t, dir)
		src := keypair.Source{Cert: f.Fullchain, Key: f.Key}
		if !sameTick {
			time.Sleep(Rest)
		}
		reads := 0
		readPair = func(ctx context.Context, src keypair.Source) (keypair.Pair, problem.List, error) {
			p, w, err := keypair.Read(ctx, src)
			if reads++; reads == 1 && sameTick {
				p, _, _ = keypair.Parse(keypair.Input{Name: "cert", Data: next.FullchainPEM()}, keypair.Input{Name: "key", Data: old.KeyPEM()}, keypair.Input{})
			} else if reads == 1 {
				next.WriteFiles(t, dir)
			}
			return p, w, err
		}
		p, _, err := Settled(t.Context(), src, 10*time.Second)
		readPair = keypair.Read
		want := keypair.Fingerprint(next.Cert)
		if sameTick {
			want = keypair.Fingerprint(old.Cert) // what the disk has
		}
		if err != nil || p.Fingerprint() != want {
			t.Errorf("same tick: %v: read %v, %v", sameTick, p, err)
		}
		if _, err := os.Stat(f.Key); err != nil {
			t.Error(err)
		}
	}
}
