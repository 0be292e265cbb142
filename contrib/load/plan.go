package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// mode is when TLS begins.
type mode string

const (
	plain    mode = "plain"
	starttls mode = "starttls"
	implicit mode = "implicit"
)

// act is what a session does once it has been greeted.
type act string

const (
	noop act = "noop" // says NOOP
	rcpt act = "rcpt" // names a recipient and takes it back
	send act = "mail" // sends a mail
	hold act = "hold" // says NOOP for a long time, then sends a mail
	slow act = "slow" // sends a mail for a long time
	late act = "late" // says NOOP for a long time before STARTTLS
)

// plan is one kind of session.
type plan struct {
	mode    mode
	act     act
	address string
}

// kind is its name in the report.
func (p plan) kind() string { return string(p.mode) + "/" + string(p.act) }

// plans lists what the short sessions do and what the long ones do.
func plans(o options) (short, long []plan) {
	brief, lasting := []act{noop}, []act{hold}
	if o.to != "" {
		brief, lasting = []act{send, rcpt}, []act{hold, slow}
	}
	for _, m := range []struct {
		mode mode
		at   []string
	}{{starttls, o.starttls.list}, {implicit, o.implicit.list}, {plain, o.plain.list}} {
		for _, address := range m.at {
			for _, a := range brief {
				short = append(short, plan{m.mode, a, address})
			}
			for _, a := range lasting {
				long = append(long, plan{m.mode, a, address})
			}
			if m.mode == starttls {
				long = append(long, plan{m.mode, late, address})
			}
		}
	}
	return short, long
}

// keepBusy keeps sessions open until ctx ends, and returns when the last one is
// over.
func keepBusy(ctx context.Context, o options, t *tally) {
	short, long := plans(o)
	var workers sync.WaitGroup
	for i := range o.parallel {
		todo := short
		if i < o.long {
			todo = long
		}
		workers.Go(func() {
			wait(ctx, rand.N(2*o.think)) // not all at once
			for n := i; ctx.Err() == nil; n++ {
				t.add(o.session(ctx, t, todo[n%len(todo)]))
			}
		})
	}
	workers.Wait()
}

// session runs one session to its end.
func (o options) session(ctx context.Context, t *tally, p plan) Record {
	rec := Record{Kind: p.kind(), Address: p.address, Begin: time.Now(), Result: OK}
	c := &client{options: o, rec: &rec}
	t.opened(1)
	err := c.open(p)
	if err == nil {
		err = c.converse(ctx, p)
	}
	if err == nil {
		c.pause()
		// The failure, if there is one, is in the record.
		_ = c.command("QUIT", 221)
	}
	if c.conn != nil {
		c.conn.Close()
	}
	rec.End = time.Now()
	t.opened(-1)
	if rec.Result == Refused {
		wait(ctx, time.Second) // a server that is down is not asked again at once
	}
	return rec
}

// converse is what happens between EHLO and QUIT.
func (c *client) converse(ctx context.Context, p plan) error {
	// Not all long sessions are to end together.
	until := c.rec.Begin.Add(c.options.hold/2 + rand.N(c.options.hold/2+1))
	c.pause()
	if p.act == late {
		if err := c.hold(ctx, until); err != nil {
			return err
		}
	}
	if p.mode == starttls {
		if err := c.startTLS(); err != nil {
			return err
		}
		c.pause()
	}
	switch p.act {
	case noop:
		return c.command("NOOP", 250)
	case send:
		return c.mail(func() bool { return true })
	case slow:
		return c.mail(func() bool {
			wait(ctx, min(max(c.options.hold/300, 20*time.Millisecond), time.Until(until)))
			return ctx.Err() != nil || !time.Now().Before(until)
		})
	case hold:
		if err := c.hold(ctx, until); err != nil || c.to == "" {
			return err
		}
		return c.mail(func() bool { return true })
	}
	if c.to == "" {
		return nil
	}
	if err := c.envelope(); err != nil {
		return err
	}
	c.pause()
	return c.command("RSET", 250)
}
