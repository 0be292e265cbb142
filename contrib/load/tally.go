package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// tally counts sessions as they end.
type tally struct {
	mu       sync.Mutex
	sessions io.Writer // each is written to it as a line of JSON; may be nil
	failed   error     // the first failure to write it, or to read the leaves

	open, peak int
	total      time.Duration // of all sessions together
	count      int
	kinds      map[string]int
	results    map[Result]int
	temporary  int
	leaves     map[string]int
	connects   []greeted
	queued     []string
	faults     []Record // the first ones

	allowed     map[string]bool
	allowedFile string // "" allows all
	foreign     int
}

// greeted is how long one session waited for its greeting.
type greeted struct {
	at time.Time
	ms float64
}

// maxFaults is how many failed sessions are told in full.
const maxFaults = 20

func newTally(leaves string) *tally {
	return &tally{
		kinds: map[string]int{}, results: map[Result]int{}, leaves: map[string]int{},
		allowed: map[string]bool{}, allowedFile: leaves,
	}
}

// opened counts sessions that are open now.
func (t *tally) opened(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open += n
	t.peak = max(t.peak, t.open)
}

// add counts a session that is over.
func (t *tally) add(r Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	t.kinds[r.Kind]++
	t.results[r.Result]++
	t.total += r.End.Sub(r.Begin)
	if r.temporary() {
		t.temporary++
	}
	if r.Connect > 0 {
		t.connects = append(t.connects, greeted{r.Begin, r.Connect})
	}
	t.queued = append(t.queued, r.Queued...)
	foreign := false
	if r.Leaf != "" {
		t.leaves[r.Leaf]++
		if foreign = !t.allows(r.Leaf); foreign {
			t.foreign++
		}
	}
	if (r.Result != OK || foreign) && len(t.faults) < maxFaults {
		t.faults = append(t.faults, r)
	}
	if t.sessions != nil {
		line, err := json.Marshal(r)
		if err == nil {
			_, err = t.sessions.Write(append(line, '\n'))
		}
		t.remember(err)
	}
}

func (t *tally) remember(err error) {
	if t.failed == nil {
		t.failed = err
	}
}

// failure is why the report cannot be relied on.
func (t *tally) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// accepted are the queue ids of all mails that the server took.
func (t *tally) accepted() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.queued
}

// allows tells whether a leaf may be presented. A leaf that is not known yet is
// looked for in the file once more.
func (t *tally) allows(leaf string) bool {
	if t.allowedFile == "" || t.allowed[leaf] {
		return true
	}
	file, err := os.Open(t.allowedFile)
	if err != nil {
		t.remember(fmt.Errorf("reading the leaves that are allowed: %w", err))
		return false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		t.allowed[fingerprint(lines.Text())] = true
	}
	t.remember(errors.Join(lines.Err()))
	return t.allowed[leaf]
}

// fingerprint reads one line of the file: hex digits, or what openssl prints,
// "sha256 Fingerprint=AB:CD...".
func fingerprint(line string) string {
	if _, after, found := strings.Cut(line, "="); found {
		line = after
	}
	return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(line), ":", ""))
}
