package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"postcert/acme"
	"postcert/acme/lineage"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// settleWait is how long a pass waits for the files of another client to fit
// together. A client that replaces them one by one needs a few seconds at most.
const settleWait = 10 * time.Second

// watchInterval is how often files of another client are tried again that cannot
// be read as a pair, although they stay as they are.
const watchInterval = 10 * time.Minute

// foreign tells whether another client obtains the certificate.
func (w wish) foreign() bool { return w.source != config.SourceACME }

// reads is where the pair of another client is.
func (w wish) reads() keypair.Source {
	if !w.files.isZero() {
		return keypair.Source{Cert: w.files.cert, Key: w.files.key, Chain: w.files.chain, Foreign: true}
	}
	return lineage.In(w.lineage, w.name)
}

// glimpse is a look at the files of another client: where they are, and what they
// hold now.
type glimpse struct {
	src  keypair.Source
	seen status.Seen
}

// look has a look at the files of another client. No key is read for it.
func (w wish) look() glimpse {
	if !w.foreign() {
		return glimpse{}
	}
	src := w.reads()
	return glimpse{src, status.Seen{Look: lineage.LookAt(src, nil).Sum, Content: lineage.Content(src)}}
}

// seen is what the files of another client hold now.
func (w wish) seen() status.Seen { return w.look().seen }

// lookLimit is how long the daemon waits for the file system of another client: a
// network file system whose server is gone does not answer for hours.
const lookLimit = 5 * time.Second

// looks are made beside the daemon's loop, so that a file system which does not
// answer keeps no other certificate from being renewed.
type looks struct {
	limit time.Duration
	look  func(w wish) glimpse

	mu   sync.Mutex
	busy map[string]bool // by certificate
}

func newLooks() *looks {
	return &looks{limit: lookLimit, look: wish.look, busy: map[string]bool{}}
}

// at has a look; false if there is no answer.
func (l *looks) at(w wish) (glimpse, bool) {
	l.mu.Lock()
	busy := l.busy[w.name]
	l.busy[w.name] = true
	l.mu.Unlock()
	if busy {
		return glimpse{}, false
	}
	answer := make(chan glimpse, 1)
	go func() {
		s := l.look(w)
		l.mu.Lock()
		l.busy[w.name] = false
		l.mu.Unlock()
		answer <- s
	}()
	timer := time.NewTimer(l.limit)
	defer timer.Stop()
	select {
	case s := <-answer:
		return s, true
	case <-timer.C:
		return glimpse{}, false
	}
}

// lookAt has a look at the files of another client. If there is no answer, what
// the last pass saw of them counts, so that nothing is due because of it.
func (a *app) lookAt(w wish, turn status.Turn) glimpse {
	if a.looks == nil {
		return w.look()
	}
	s, ok := a.looks.at(w)
	if !ok {
		a.log.Warn("the file system does not answer", "name", w.name, "lineage", w.lineage)
		s.seen = turn.Seen
	}
	return s
}

// settled reads another client's pair; a test writes right after it.
var settled = lineage.Settled

// readLive reads the live pair; that of another client when it has settled. The
// key passes through this process, which ends soon.
func (a *app) readLive(ctx context.Context, w wish, live pairFiles, turn *status.Turn) (keypair.Pair, problem.List, error) {
	if live.ours {
		return keypair.Read(ctx, keypair.Source{Cert: live.cert, Key: live.key})
	}
	before := w.seen()
	p, warnings, err := settled(ctx, w.reads(), cmp.Or(a.seams.settle, settleWait))
	if ctx.Err() != nil {
		return keypair.Pair{}, warnings, err
	}
	turn.Seen = w.seen()
	if err != nil {
		turn.Seen.Refused = true
		return keypair.Pair{}, warnings, err
	}
	if turn.Seen.Look != before.Look { // then what is there now may be newer than what was read
		turn.Seen.Content = lineage.ContentOf(*p)
	}
	return *p, warnings, nil
}

// due is when the files of another client need a pass, zero if they do not,
// and why.
func (s glimpse) due(turn status.Turn, now time.Time) (time.Time, string) {
	switch seen := s.seen; {
	case turn.Seen.Changed(seen) && seen.Content != turn.Seen.Content && seen.Content != "":
		return now, "another certificate in " + filepath.Dir(s.src.Cert)
	case turn.Seen.Changed(seen):
		return now, "a change in " + filepath.Dir(s.src.Cert)
	case turn.Seen.Open:
		return now, "a pass that did not end"
	case turn.Seen.Refused:
		return turn.Ended.Add(watchInterval), "another look at the files of the other client"
	}
	return time.Time{}, ""
}

// stale warns of a source that goes on with the certificate that is deployed,
// although its client should have renewed it by now.
func (a *app) stale(w wish) problem.List {
	src := w.reads()
	leaf := lineage.Leaf(src)
	if leaf == nil || !a.deploys(w, keypair.Fingerprint(leaf)) {
		return nil
	}
	at := problem.At{File: src.Cert}
	until := leaf.NotAfter.UTC().Format(time.DateTime)
	if gone := lineage.LookAt(src, nil).Gone; gone != "" {
		return problem.List{problem.Warn("source_stale", at,
			"%s is a mount of a single file that was replaced where it is mounted from: no renewal can be seen here; the certificate %s expires on %s UTC", gone, w.name, until)}
	}
	due := acme.LifetimeDue(leaf.NotBefore, leaf.NotAfter)
	if grace := leaf.NotAfter.Sub(leaf.NotBefore) / 30; !a.now().After(due.Add(grace)) {
		return nil
	}
	where := "its client does not renew it, or does so elsewhere"
	if newer := newerBeside(src.Cert, leaf); newer != "" {
		where = "a newer one for the same names is in " + newer
	}
	return problem.List{problem.Warn("source_stale", at, "%s still holds the certificate %s that expires on %s UTC; by its age it was to be renewed on %s: %s",
		src.Cert, w.name, until, due.UTC().Format(time.DateOnly), where)}
}

// deploys tells whether a certificate is the one that is to be served, as far as
// the records know.
func (a *app) deploys(w wish, leaf string) bool {
	list, known := a.targets(w)
	if !known {
		list = a.recordedTargets(w)
	}
	other := false
	for _, t := range list {
		rec, err := a.records().Read(t.directory, w.name)
		if err != nil || rec == nil {
			continue
		}
		if rec.Wanted == leaf {
			return true
		}
		other = other || rec.Wanted != ""
	}
	return !other
}

// newerBeside is a lineage that certbot has made beside one, NAME-0001, with a
// newer certificate for the same names; "" if there is none.
func newerBeside(cert string, leaf *x509.Certificate) string {
	beside, err := filepath.Glob(filepath.Dir(cert) + "-[0-9][0-9][0-9][0-9]")
	if err != nil {
		return ""
	}
	for _, dir := range beside {
		other := lineage.Leaf(keypair.Source{Cert: filepath.Join(dir, filepath.Base(cert))})
		if other != nil && other.NotBefore.After(leaf.NotBefore) && sameNames(other, leaf) {
			return dir
		}
	}
	return ""
}

func sameNames(a, b *x509.Certificate) bool {
	x, y := slices.Sorted(slices.Values(a.DNSNames)), slices.Sorted(slices.Values(b.DNSNames))
	return slices.Equal(x, y)
}

// staleSources are the warnings of all sources, or of the named one.
func (a *app) staleSources(name string, res *result) {
	var names []string
	if name != "" {
		names = []string{name}
	}
	list, _ := a.wishes(names) // what is wrong with one is said elsewhere
	for _, w := range list {
		if !w.foreign() {
			continue
		}
		for _, p := range a.stale(w) {
			res.problem(p)
		}
	}
}
