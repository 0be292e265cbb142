package notify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxADay is how many messages one target gets in a day, of all certificates
// together. A hundred certificates that fail one after the other fill a mailbox
// otherwise; the mail log takes them all.
const maxADay = 20

// Teller tells.
type Teller struct {
	Targets []Target
	Store   Store
	Host    string // of what is told; see Describe
	Now     func() time.Time

	// Seen: the person who gave the command sees the result on a terminal. What
	// begins is written down as known, and told again only if it lasts. The mail
	// log is told at once.
	Seen bool

	// Describe is asked for Host only when there is something to say, because it
	// costs a postconf(1); nil leaves Host.
	Describe func(ctx context.Context) string
}

// message is what one target is to be told.
type message struct {
	target Target
	notice Notice
	parts  []part
}

// part is what a message has of one subject, and what the target knows of it while
// it is told and once it was.
type part struct {
	subject int
	items   []Item
	claimed map[Event]Told
	after   map[Event]Told
}

// unlimited is a target that takes any number of messages and is told also what a
// person has just seen.
type unlimited interface{ unlimited() }

// Tell says what is to be said of the subjects. The errors are of targets that
// could not be told, each of which is tried again at a later call, and of the
// memory. It takes at most Limit, whatever happens.
func (t Teller) Tell(ctx context.Context, subjects []Subject) []error {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	now := t.Now()
	messages, err := t.claim(ctx, subjects, now)
	if len(messages) == 0 && err != nil {
		err = errors.Join(err, t.unclaimed(ctx, subjects, now))
	}
	if len(messages) == 0 {
		return wrapped(err)
	}
	wrong := wrapped(err)
	if t.Describe != nil {
		t.Host = t.Describe(ctx)
	}
	errs := make([]error, len(messages))
	var wg sync.WaitGroup
	for i, m := range messages {
		m.notice.Schema, m.notice.Host, m.notice.Time = "postcert/v1", t.Host, now.UTC().Truncate(time.Second)
		wg.Go(func() { errs[i] = send(ctx, m) })
	}
	wg.Wait()
	// What was told is told, also if the time is over.
	err = t.settle(context.WithoutCancel(ctx), subjects, messages, errs, now)
	return slices.DeleteFunc(append(append(errs, wrong...), wrapped(err)...), func(err error) bool { return err == nil })
}

func wrapped(err error) []error {
	if err == nil {
		return nil
	}
	return []error{fmt.Errorf("what was told cannot be remembered, so only the mail log is told: %w", err)}
}

// unclaimed tells the mail log what is wrong while nothing can be written down,
// because the disk is full for example: that may be why it is wrong. A line for
// each pass is no flood.
func (t Teller) unclaimed(ctx context.Context, subjects []Subject, now time.Time) error {
	n := Notice{Time: now}
	for _, s := range subjects {
		for _, c := range s.Conditions {
			if c.Grace == 0 {
				n.Items = append(n.Items, Item{Phase: Begins, Event: c.Event, Instance: s.Instance, Name: s.Name, ID: c.ID, Headline: c.Headline, What: c.What, Since: now})
			}
		}
	}
	var wrong []error
	for _, target := range t.Targets {
		if _, ok := target.(unlimited); ok && len(n.Items) > 0 {
			wrong = append(wrong, send(ctx, message{target: target, notice: n}))
		}
	}
	return errors.Join(wrong...)
}

// send gives up on a target that does not: what hangs ends with the process.
func send(ctx context.Context, m message) error {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.target.Send(ctx, m.notice) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// A target that ends by ctx does so now, and has the better words.
	select {
	case err := <-done:
		return err
	case <-time.After(500 * time.Millisecond):
		return fmt.Errorf("%s: no answer within %s", m.target.ID(), sendLimit)
	}
}

// claim decides what is to be said, and writes down that this process says it.
func (t Teller) claim(ctx context.Context, subjects []Subject, now time.Time) ([]message, error) {
	if len(subjects) == 0 || t.nothingNew(subjects) {
		return nil, nil
	}
	l, err := t.Store.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	ledger, err := t.Store.readSent(now)
	if err != nil {
		return nil, err
	}
	messages := make([]message, len(t.Targets))
	for i, target := range t.Targets {
		messages[i].target = target
	}
	var wrong []error
	for n, s := range subjects {
		if err := t.consider(n, s, messages, ledger, now); err != nil {
			wrong = append(wrong, err)
		}
	}
	messages = slices.DeleteFunc(messages, func(m message) bool { return len(m.notice.Items) == 0 })
	if len(messages) == 0 {
		return nil, errors.Join(wrong...)
	}
	for i, m := range messages {
		if _, ok := m.target.(unlimited); !ok {
			ledger.Targets[m.target.ID()] = append(ledger.Targets[m.target.ID()], now.UTC())
			messages[i].notice.Held = len(ledger.Targets[m.target.ID()]) >= maxADay
		}
	}
	return messages, errors.Join(append(wrong, writeJSON(t.Store.sentPath(), ledger))...)
}

// nothingNew is the good case, in which nothing is wrong and nothing was: it costs
// one look for a file for each certificate, and writes nothing.
func (t Teller) nothingNew(subjects []Subject) bool {
	for _, s := range subjects {
		if len(s.Conditions) > 0 {
			return false
		}
		m, err := t.Store.read(s.Instance, s.Name)
		if err != nil || len(m.Since) > 0 || len(m.Told) > 0 {
			return false
		}
	}
	return true
}

// consider adds to the messages what is to be said of one subject.
func (t Teller) consider(n int, s Subject, messages []message, ledger sent, now time.Time) error {
	m, err := t.Store.read(s.Instance, s.Name)
	if err != nil {
		return err
	}
	since := m.since(s, now)
	next := Memory{Version: memoryVersion, Instance: s.Instance, Name: s.Name, Since: since, Told: map[string]map[Event]Told{}}
	var parts = make([]part, len(messages))
	for i, target := range t.Targets {
		id := target.ID()
		_, free := target.(unlimited)
		if !free && len(ledger.Targets[id]) >= maxADay {
			next.Told[id] = m.Told[id]
			continue
		}
		items, after := decide(s, since, m.Told[id], target.Wants, now)
		if t.Seen && !free {
			after, items = seen(after, items)
		}
		c := claimed(m.Told[id], after, items, now)
		next.Told[id] = c
		parts[i] = part{subject: n, items: items, claimed: c, after: after}
	}
	if err := t.Store.keep(m, next); err != nil {
		return err // what cannot be claimed is not said: it would be said again and again
	}
	for i, p := range parts {
		if len(p.items) > 0 {
			messages[i].parts = append(messages[i].parts, p)
			messages[i].notice.Items = append(messages[i].notice.Items, p.items...)
		}
	}
	return nil
}

// settle writes down who was told.
func (t Teller) settle(ctx context.Context, subjects []Subject, messages []message, errs []error, now time.Time) error {
	l, err := t.Store.lock(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	outcome := map[int]map[string]map[Event]Told{} // by subject and target
	for i, m := range messages {
		for _, p := range m.parts {
			if outcome[p.subject] == nil {
				outcome[p.subject] = map[string]map[Event]Told{}
			}
			told := p.after
			if errs[i] != nil {
				told = failed(p.claimed, p.after, p.items, now)
			}
			outcome[p.subject][m.target.ID()] = told
		}
	}
	var wrong []error
	for n, told := range outcome {
		m, err := t.Store.read(subjects[n].Instance, subjects[n].Name)
		if err == nil {
			if m.Told == nil {
				m.Told = map[string]map[Event]Told{}
			}
			maps.Copy(m.Told, told)
			err = t.Store.write(m)
		}
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}
