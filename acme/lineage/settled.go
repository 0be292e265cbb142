package lineage

import (
	"context"
	"slices"
	"time"

	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Rest is how long the files of a source must have been left alone before what
// they say is believed. A client that writes them one by one, or one in several
// pieces, makes pauses, and a file that ends at the end of a certificate looks
// complete.
const Rest = time.Second

// glance is the pause between two looks while we wait.
const glance = 50 * time.Millisecond

// readPair reads a pair; a test writes in the middle of it.
var readPair = keypair.Read

// Settled reads a pair from files that another program may be writing right now.
// It waits, at most for wait, until the key is that of the certificate, the chain
// fits the leaf, and all files have been at rest for [Rest]. Files that were left
// alone for long are read at once, whatever they hold.
//
// What is returned is what [keypair.Read] returns, of one read between two equal
// looks; so it is never half of one pair and half of another. If no pair comes
// together, the error is that of the last read (input_missing, pem_truncated,
// key_mismatch, ... each with its file), or lineage_unsettled if the files do not
// come to rest. Whether the pair is fit to serve is for others to judge: one whose
// chain does not fit is returned when waiting did not help.
func Settled(ctx context.Context, src keypair.Source, wait time.Duration) (*keypair.Pair, problem.List, error) {
	if src.Tar != nil {
		return (&reading{}).read(ctx, src).result()
	}
	began := time.Now()
	var last reading // what was read last, between two equal looks
	var seen Look
	var since time.Time // seen is what we see since
	for {
		now := LookAt(src, nil)
		if now != seen {
			seen, since = now, time.Now()
		}
		// What was read right after a change may be from before another one in the
		// same tick of the kernel's clock.
		if last.look != seen || !last.rested && resting(seen, since) >= Rest {
			last = reading{look: seen, rested: resting(seen, since) >= Rest}
			last.read(ctx, src)
			if after := LookAt(src, nil); after != seen {
				last, seen, since = reading{}, after, time.Now()
			}
		}
		if err := context.Cause(ctx); err != nil {
			return nil, nil, err
		}
		rest, waited := resting(seen, since), time.Since(began)
		switch {
		case last.done && last.rested && (last.certain() || rest >= wait || waited >= wait):
			return last.result()
		case waited >= wait:
			return last.unsettled(src, wait)
		}
		pause(ctx, min(glance, wait-waited))
	}
}

// resting is for how long files have been left alone: since we see that they are,
// or since the file system remembers a change of them.
func resting(l Look, since time.Time) time.Duration {
	return max(time.Since(since), time.Since(l.Changed))
}

// reading is one read of a source.
type reading struct {
	look     Look
	done     bool
	rested   bool // the files had been left alone for Rest when it began
	pair     keypair.Pair
	warnings problem.List
	err      error
}

func (r *reading) read(ctx context.Context, src keypair.Source) *reading {
	r.pair, r.warnings, r.err = readPair(ctx, src)
	r.done = true
	return r
}

func (r *reading) result() (*keypair.Pair, problem.List, error) {
	if r.err != nil {
		return nil, r.warnings, r.err
	}
	return &r.pair, r.warnings, nil
}

// final are refusals that no further writing of a client explains.
var final = []string{
	"input_untrusted_path", "input_not_regular", "input_too_large", "args_swapped",
	"key_encrypted", "key_weak", "key_too_large", "sig_weak",
}

// certain tells whether waiting could not bring anything else.
func (r *reading) certain() bool {
	if r.err != nil {
		return slices.ContainsFunc(problem.From(r.err).Errors(), func(p problem.Problem) bool { return slices.Contains(final, p.ID) })
	}
	return whole(r.pair)
}

// whole tells whether the chain is the leaf's: one of another certificate may be
// on its way out, and one that is not there may be still to come.
func whole(p keypair.Pair) bool {
	leaf := p.Leaf()
	if above := p.Intermediates(); len(above) > 0 {
		return leaf.CheckSignatureFrom(above[0]) == nil
	}
	return p.DroppedRoot() != nil || keypair.SelfSigned(leaf)
}

// unsettled is the refusal of files that are still being written.
func (r *reading) unsettled(src keypair.Source, wait time.Duration) (*keypair.Pair, problem.List, error) {
	if r.err != nil {
		return nil, r.warnings, r.err
	}
	return nil, r.warnings, problem.List{problem.New("lineage_unsettled", problem.At{File: src.Cert},
		"%s and the files beside it are being written: they did not come to rest within %s", src.Cert, wait.Round(time.Millisecond))}
}

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
