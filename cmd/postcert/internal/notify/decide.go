package notify

import (
	"maps"
	"slices"
	"time"
)

// How often something is said.
const (
	repeatAfter = 23 * time.Hour // a daily timer may be an hour early
	day         = 24 * time.Hour
	maxOpenings = 2 // a day, of one event of one certificate, for something that comes and goes
)

// retryGaps are the waits after 1, 2, ... attempts to say something that failed.
// The first one is made up for at the next pass. An attempt that timed out may
// have been heard.
var retryGaps = []time.Duration{0, 5 * time.Minute, time.Hour, 6 * time.Hour}

func retryGap(tries int) time.Duration { return retryGaps[min(max(tries, 1), len(retryGaps))-1] }

// claimFor is how long nobody else says what one process is about to say. It is
// also the wait after one that was killed while it did.
const claimFor = 2 * time.Minute

// Memory is what was told of one certificate on one instance, on disk.
type Memory struct {
	Version  int                       `json:"version"`
	Instance string                    `json:"instance"`
	Name     string                    `json:"name"`
	Since    map[Event]time.Time       `json:"since"` // what is wrong, and when that was seen first
	Told     map[string]map[Event]Told `json:"told"`  // by target
}

// Told is what one target knows of one event.
type Told struct {
	Open   bool        `json:"open"`            // it was told that it began, and not that it ended
	Said   bool        `json:"said"`            // in a message: a person at a terminal has seen it without
	Last   time.Time   `json:"last,omitzero"`   // when it was told last
	Opened []time.Time `json:"opened"`          // when it was told that it began, in the last day
	Tries  int         `json:"tries,omitempty"` // to say what is not said yet
	Next   time.Time   `json:"next,omitzero"`   // not before
}

// due tells whether at is not in the future, or so far that the clock was put back
// since it was written.
func due(at, now time.Time, longest time.Duration) bool {
	return !at.After(now) || at.Sub(now) > longest
}

// since folds into a memory what is wrong now: an event keeps the time at which it
// was seen first.
func (m Memory) since(s Subject, now time.Time) map[Event]time.Time {
	next := map[Event]time.Time{}
	for _, e := range s.Unknown {
		if at, ok := m.Since[e]; ok {
			next[e] = at
		}
	}
	for _, c := range s.Conditions {
		at, ok := m.Since[c.Event]
		if !ok || at.After(now) {
			at = now
		}
		if !c.Since.IsZero() && c.Since.Before(at) {
			at = c.Since
		}
		next[c.Event] = at.UTC()
	}
	return next
}

// decide says what one target is to be told of one subject now, and what it knows
// once it was told. since is of the memory, folded.
func decide(s Subject, since map[Event]time.Time, told map[Event]Told, wants func(string) bool, now time.Time) ([]Item, map[Event]Told) {
	next := recent(told, now)
	var items []Item
	groups := map[string]bool{} // those in which something is wrong, or nobody knows
	for _, e := range s.Unknown {
		groups[e.group()] = true
	}
	for _, c := range s.Conditions {
		groups[c.Event.group()] = true
		t := next[c.Event]
		phase, ok := t.phase(c, since[c.Event], now)
		if !ok || !wants(c.Event.word()) {
			continue
		}
		if phase == Begins {
			t.Opened = append(slices.Clone(t.Opened), now.UTC())
		}
		next[c.Event] = t.said(now)
		items = append(items, Item{
			Phase: phase, Event: c.Event, Instance: s.Instance, Name: s.Name, ID: c.ID, Headline: c.Headline, What: c.What, State: c.State, Do: c.Do, Since: since[c.Event],
		})
	}
	over := map[string]bool{}
	for _, e := range slices.Sorted(maps.Keys(next)) {
		t := next[e]
		if !t.Open || groups[e.group()] {
			continue
		}
		if !t.Said || !wants(Recovery) {
			next[e] = t.closed(now)
			continue
		}
		if !due(t.Next, now, day) {
			continue
		}
		next[e] = t.closed(now)
		if !over[e.group()] { // a rollback that became a failure ends once
			over[e.group()] = true
			items = append(items, Item{Phase: Ends, Event: e, Instance: s.Instance, Name: s.Name, Since: first(t.Opened, now)})
		}
	}
	return items, next
}

// word is what the configuration calls an event.
func (e Event) word() string {
	if e == Incomplete {
		return string(Rollback)
	}
	return string(e)
}

// phase tells whether something that is wrong is to be told now, and as what.
func (t Told) phase(c Condition, since, now time.Time) (Phase, bool) {
	switch {
	case now.Sub(since) < c.Grace, !due(t.Next, now, day):
		return "", false
	case !t.Open:
		return Begins, len(t.Opened) < maxOpenings
	}
	again := t.Last.After(now) || now.Sub(t.Last) >= repeatAfter
	return Lasts, again && (!c.Once || c.Tried.After(t.Last))
}

func (t Told) said(now time.Time) Told {
	return Told{Open: true, Said: true, Last: now.UTC(), Opened: t.Opened}
}

// closed keeps only how often it began.
func (t Told) closed(now time.Time) Told { return Told{Last: now.UTC(), Opened: t.Opened} }

// recent is what is still of interest: what is open, and what began within a day.
func recent(told map[Event]Told, now time.Time) map[Event]Told {
	next := map[Event]Told{}
	for e, t := range told {
		t.Opened = slices.DeleteFunc(slices.Clone(t.Opened), func(at time.Time) bool { return now.Sub(at) >= day || at.After(now) })
		if t.Open || len(t.Opened) > 0 || t.Tries > 0 && now.Sub(t.Next) < day {
			next[e] = t
		}
	}
	return next
}

// claimed is what a target knows while it is being told, and failed when that did
// not work: what it knew before, and when to try again.
func claimed(before, after map[Event]Told, items []Item, now time.Time) map[Event]Told {
	return waiting(before, after, items, func(t Told) Told {
		t.Tries++
		t.Next = now.UTC().Add(max(claimFor, retryGap(t.Tries)))
		return t
	})
}

func failed(claimed, after map[Event]Told, items []Item, now time.Time) map[Event]Told {
	return waiting(claimed, after, items, func(t Told) Told {
		t.Next = now.UTC().Add(retryGap(t.Tries))
		return t
	})
}

// waiting is after, but for the events of items, which are as they were before and
// wait.
func waiting(before, after map[Event]Told, items []Item, wait func(Told) Told) map[Event]Told {
	next := maps.Clone(after)
	for _, i := range items {
		for e := range after {
			ended := i.Phase == Ends && e.group() == i.Event.group() && before[e].Open && !after[e].Open
			if i.Phase != Ends && e == i.Event || ended {
				next[e] = wait(before[e])
			}
		}
	}
	return next
}

// seen is what a target knows of what a person at a terminal has just been shown:
// it is not told now, but tomorrow, if it lasts.
func seen(after map[Event]Told, items []Item) (map[Event]Told, []Item) {
	next := maps.Clone(after)
	var left []Item
	for _, i := range items {
		if i.Phase != Begins {
			left = append(left, i)
			continue
		}
		t := next[i.Event]
		t.Said, t.Opened = false, nil
		next[i.Event] = t
	}
	return next, left
}

func first(times []time.Time, or time.Time) time.Time {
	if len(times) == 0 {
		return or.UTC()
	}
	return times[0]
}
