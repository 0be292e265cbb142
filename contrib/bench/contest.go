package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// series are the durations of one contestant, in the order they were measured.
type series []time.Duration

func (s series) sorted() series {
	c := slices.Clone(s)
	slices.Sort(c)
	return c
}

// quantile is the smallest value that at least the fraction q does not exceed.
func (s series) quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	c := s.sorted()
	n := int(q*float64(len(c))+0.999999) - 1
	return c[min(max(n, 0), len(c)-1)]
}

func (s series) median() time.Duration { return s.quantile(0.5) }

// contestant is one way to renew a certificate.
type contestant struct {
	key, title string
	on         *instance
	run        func(ctx context.Context, l lineage)
	proves     bool // what it installed is served afterwards
}

func (h *host) contestants() []contestant {
	return []contestant{
		{"postcert", "postcert install-cert", h.ours, func(ctx context.Context, l lineage) { h.postcert(ctx, l, false) }, true},
		{"by_hand", "(a) the runbook by hand", h.hand, func(ctx context.Context, l lineage) { h.runbook(ctx, l, false) }, true},
		{"no_pause", "(b) without Postfix's pause", h.hand, func(ctx context.Context, l lineage) { h.runbook(ctx, l, true) }, true},
		{"floor", "(c) the floor", h.ours, func(ctx context.Context, _ lineage) { h.floor(ctx) }, false},
		{"postfix_tls", "(d) postfix tls, reload", h.hand, h.postfixTLS, true},
	}
}

// contest are the rounds of one temperature. In each every contestant has one
// turn.
type contest struct {
	Rounds int               `json:"rounds"`
	Series map[string]series `json:"nanoseconds"`
}

func (h *host) contest(ctx context.Context, temperature string, rounds int, progress io.Writer) *contest {
	h.t.Helper()
	c := &contest{Rounds: rounds, Series: map[string]series{}}
	all := slices.DeleteFunc(h.contestants(), func(c contestant) bool { return h.without == c.key })
	for round := -1; round < rounds; round++ { // the first one warms the caches
		fmt.Fprintf(progress, "\r%s: round %d of %d ", temperature, max(round+1, 0), rounds)
		// Nobody always follows the same one.
		for n := range all {
			who := all[(n+max(round, 0))%len(all)]
			took := h.turn(ctx, who, temperature == "hot")
			if round >= 0 {
				c.Series[who.key] = append(c.Series[who.key], took)
			}
		}
	}
	fmt.Fprintln(progress)
	return c
}

// calm is how long nothing happens before a turn: what the one before left in
// the background, such as postsuper of a reload, has ended.
const calm = 100 * time.Millisecond

// turn measures one renewal.
func (h *host) turn(ctx context.Context, who contestant, hot bool) time.Duration {
	h.t.Helper()
	if err := ctx.Err(); err != nil {
		h.t.Fatal(err)
	}
	l := h.renewal()
	if who.on == h.hand { // postfix tls uses other parameters than the runbook
		h.hand.SetMain(h.hand.first)
	}
	time.Sleep(calm)
	h.age(who.on, time.Hour)
	if hot {
		h.age(who.on, 0)
	}
	begin := time.Now()
	who.run(ctx, l)
	took := time.Since(begin)
	h.age(who.on, time.Hour)
	if who.proves {
		h.serves(who.on, l)
	}
	return took
}

// The programs of the runbook.
const (
	postfixCommand = "/usr/sbin/postfix"
	postconf       = "/usr/sbin/postconf"
	openssl        = "/usr/bin/openssl"
)

// runbook is what runbooks tell an administrator to do after a renewal. With
// cool she also sets main.cf back in time, which no runbook tells her.
func (h *host) runbook(ctx context.Context, l lineage, cool bool) {
	h.t.Helper()
	config := h.hand.ConfigDir
	h.program(ctx, "", "/bin/cp", l.Fullchain, config+"/fullchain.pem")
	h.program(ctx, "", "/bin/cp", l.Key, config+"/privkey.pem")
	h.program(ctx, "", postconf, "-c", config, "-e",
		"smtpd_tls_cert_file="+config+"/fullchain.pem", "smtpd_tls_key_file="+config+"/privkey.pem")
	if cool {
		h.program(ctx, "", "/bin/touch", "-d", "-10 seconds", config+"/main.cf", config+"/master.cf")
	}
	h.program(ctx, "", postfixCommand, "-c", config, "check")
	h.program(ctx, "", postfixCommand, "-c", config, "reload")
	for _, at := range listeners {
		args := []string{"s_client", "-connect", h.hand.address + ":" + at.port}
		if at.mode == postfixtest.StartTLS {
			args = append(args, "-starttls", "smtp")
		}
		h.program(ctx, "Q\n", openssl, args...)
	}
}

// postfixTLS is Postfix's own way, which has no check and no proof.
func (h *host) postfixTLS(ctx context.Context, l lineage) {
	h.t.Helper()
	h.program(ctx, "", postfixCommand, "-c", h.hand.ConfigDir, "tls", "deploy-server-cert", l.Fullchain, l.Key)
	h.program(ctx, "", postfixCommand, "-c", h.hand.ConfigDir, "reload")
}

// renewals are many in a row, for the percentiles.
func (h *host) renewals(ctx context.Context, n int, progress io.Writer) series {
	h.t.Helper()
	var out series
	ours := h.contestants()[0]
	for i := range n {
		fmt.Fprintf(progress, "\rrenewal %d of %d ", i+1, n)
		out = append(out, h.turn(ctx, ours, false))
	}
	fmt.Fprintln(progress)
	return out
}
