package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postcert/deploy"
	"postcert/deploy/postfix"
	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// levelParameter is the level of TLS that mail is sent with (postconf(5)).
const levelParameter = "smtp_tls_security_level"

// outboundLevels are the levels that outbound sets, and what each means for mail.
var outboundLevels = []struct{ level, means string }{
	{"may", "mail is encrypted where the receiving server offers STARTTLS, and sent in clear where it does not, or where the handshake fails; no certificate is asked about"},
	{"encrypt", "mail to servers without STARTTLS will stay in the queue, and come back to its senders after maximal_queue_lifetime; no certificate is verified"},
	{"dane", "where a domain publishes TLSA records with DNSSEC, its servers must match them, or mail for it stays in the queue; all others as with may"},
	{"dane-only", "mail to servers without usable TLSA records, that is to most, will stay in the queue"},
	{"verify", "mail stays in the queue unless the server's certificate is trusted and covers the MX host's name; who can forge DNS can name another host"},
	{"secure", "mail stays in the queue unless the server's certificate is trusted and covers the recipient's domain, or a name below it; most servers of others have one for the MX host's name only"},
}

func levelMeans(level string) string {
	for _, l := range outboundLevels {
		if l.level == level {
			return l.means
		}
	}
	switch level {
	case "none", "":
		return "mail is sent in clear, to servers with STARTTLS too"
	case "fingerprint":
		return "mail stays in the queue unless the server's certificate is the one that match= names"
	}
	return ""
}

// mandatory tells a level at which mail waits rather than going in clear.
func mandatory(level string) bool {
	return !slices.Contains([]string{"", "none", "may", "dane"}, level)
}

const outboundHelp = `outbound sets smtp_tls_security_level: how mail is encrypted that this host sends.

  may        encrypt where it is offered, else send in clear: for the Internet
  encrypt    servers without STARTTLS get no mail; certificates are not verified
  dane       as may, but domains that publish TLSA records must match them
  dane-only  only servers that match their TLSA records get mail
  verify     the certificate must be trusted and cover the MX host's name
  secure     the certificate must be trusted and cover the recipient's domain
  default    take the parameter out of main.cf: what Postfix does by itself

A level that cannot work is refused: verify and secure without trust anchors that
the SMTP client can read, dane without a resolver that validates DNSSEC. The diff,
what it means for mail, and what waits in the queue for TLS now are shown first.
It is a change like any other: rehearsed, reloaded, proven on every listener, asked
for in Postfix, or undone. --for DOMAIN sets an entry of the policy table instead:
see policy.

EXIT STATUS
` + statusTable

func (a *app) outboundCommand() *cobra.Command {
	var f policyFlags
	var domain string
	cmd := &cobra.Command{
		Use:   "outbound may|encrypt|dane|dane-only|verify|secure|default",
		Short: "set how mail that is sent is encrypted", Long: outboundHelp,
		Example: "  postcert outbound may --dry-run\n  postcert outbound secure --for example.com",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			if domain != "" {
				return a.policySet(ctx, &f, domain, args, res)
			}
			if args[0] != "default" && !slices.ContainsFunc(outboundLevels, func(l struct{ level, means string }) bool { return l.level == args[0] }) {
				return usagef("%q is no level; there are may, encrypt, dane, dane-only, verify, secure and default", args[0])
			}
			return a.outbound(ctx, args[0], res)
		}),
	}
	cmd.Flags().StringVar(&domain, "for", "", "only for this next hop: `DOMAIN`, .parent or [host]:port")
	f.register(cmd)
	a.dryRunFlag(cmd, dryChange)
	return cmd
}

// outboundJSON is what outbound says besides the plan.
type outboundJSON struct {
	Parameter   string            `json:"parameter"`
	Before      string            `json:"before"`
	Level       string            `json:"level"`
	Consequence string            `json:"consequence"`
	Waiting     []postfix.Waiting `json:"waiting"` // recipients whose mail waits for TLS reasons now
}

func (a *app) outbound(ctx context.Context, level string, res *result) error {
	res.headline = untouched
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	return a.transact(ctx, s, func(ctx context.Context) (deploy.Change, error) {
		snap, err := s.engine.MTA.Snapshot(ctx)
		if err != nil {
			return deploy.Change{}, err
		}
		c := deploy.Change{Reason: "outbound " + level}
		before := ""
		if snap.Set[levelParameter] {
			before = snap.Effective("", levelParameter)
		}
		after := level
		if level == "default" {
			if after = ""; snap.Set[levelParameter] {
				c.Edits = []cf.Edit{snap.Edit("", levelParameter, nil)}
			}
		} else if before != level {
			c.Edits = []cf.Edit{snap.Edit("", levelParameter, &level)}
		}
		waits := a.tlsWaiting(ctx, s)
		a.outboundWords(before, after, waits)
		res.add("outbound", outboundJSON{levelParameter, before, after, levelMeans(after), waits})
		list := append(a.outboundConflicts(snap, after), a.levelFits(ctx, snap, after, "")...)
		res.problems = append(res.problems, list.Warnings()...)
		a.undoBy = "postcert outbound " + orText(before, "default")
		return a.change(s, c), list.Err()
	}, res)
}

func (a *app) outboundWords(before, level string, waits []postfix.Waiting) {
	a.text.printf("  %s: %s -> %s\n", levelParameter, orText(before, "(not set)"), orText(level, "(not set)"))
	a.text.printf("  this means: %s.\n", levelMeans(level))
	a.showWaiting(waits)
}

// maxWaiting bounds how much of the queue is looked at, in recipients; shownWaiting
// how much is printed.
const (
	maxWaiting   = 100_000
	shownWaiting = 10
)

// tlsWaiting are the recipients whose mail waits for reasons of TLS. A queue that
// cannot be listed hinders nothing.
func (a *app) tlsWaiting(ctx context.Context, s *site) []postfix.Waiting {
	list, err := s.instance.Queue(ctx, maxWaiting)
	if err != nil {
		a.log.Warn("listing the queue", "err", err)
	}
	return emptyNotNull(slices.DeleteFunc(list, func(w postfix.Waiting) bool { return !aboutTLS(w.Reason) }))
}

// aboutTLS tells a delay of smtp(8) that TLS is the reason of.
func aboutTLS(reason string) bool {
	for _, word := range []string{"TLS", "ertificate", "SSL"} {
		if strings.Contains(reason, word) {
			return true
		}
	}
	return false
}

func (a *app) showWaiting(waits []postfix.Waiting) {
	if len(waits) == 0 {
		a.text.printf("  no mail waits in the queue because of TLS.\n")
		return
	}
	a.text.printf("  %d waiting in the queue because of TLS now:\n", len(waits))
	tb := &table{head: []string{"queue id", "recipient", "reason"}}
	for _, w := range waits[:min(len(waits), shownWaiting)] {
		tb.add(plain, w.QueueID, w.Recipient, shorten(w.Reason, 90))
	}
	a.text.table(tb)
	if n := len(waits) - shownWaiting; n > 0 {
		a.text.printf("  and %d more: postqueue -p\n", n)
	}
}

// outboundConflicts are settings that say something else than the level: the
// parameters of before it, and services with one of their own.
func (a *app) outboundConflicts(s cf.Snapshot, level string) problem.List {
	var out problem.List
	for _, name := range []string{"smtp_use_tls", "smtp_enforce_tls", "smtp_tls_enforce_peername"} {
		if s.Set[name] && level != "" {
			out = append(out, problem.Warn("deprecated_ignored", where(s, "", name), "%s = %s has no effect beside %s, and goes from a later Postfix", name, s.Effective("", name), levelParameter))
		}
	}
	if s.Effective("", "smtp_tls_per_site") != "" && s.Effective("", policyParameter) == "" {
		out = append(out, problem.Warn("per_site_overrides", where(s, "", "smtp_tls_per_site"), "smtp_tls_per_site = %s goes on to give the sites that it lists levels of their own", s.Effective("", "smtp_tls_per_site")))
	}
	for _, c := range clients(s) {
		if own := s.Effective(c.ID(), levelParameter); overrides(c, levelParameter) && own != level {
			out = append(out, problem.Warn("level_overridden", where(s, c.ID(), levelParameter), "%s has a level of its own in master.cf: %s = %s; it stays", c.ID(), levelParameter, own))
		}
	}
	if !mandatory(level) {
		return out
	}
	if hop := s.Effective("", "relayhost"); hop != "" {
		a.text.printf("  mail goes out through relayhost %s: what is said here is about that server.\n", hop)
		return out
	}
	return append(out, problem.Warn("outbound_holds_mail", where(s, "", levelParameter), "this host delivers to servers of others, and %s holds back all mail to those that do not fit it: %s", level, levelMeans(level)))
}

// where is the place at which a parameter is set for a service.
func where(s cf.Snapshot, service, parameter string) problem.At {
	at := problem.At{Parameter: parameter, Service: service}
	at.File, at.Line = s.Source(service, parameter)
	return at
}

// clients are the services that send mail by SMTP.
func clients(s cf.Snapshot) []cf.Service {
	var out []cf.Service
	for _, svc := range s.Services {
		if svc.Command == "smtp" && svc.Type == "unix" && !s.Disabled(svc.ID()) {
			out = append(out, svc)
		}
	}
	return out
}

func overrides(s cf.Service, parameter string) bool {
	return slices.ContainsFunc(s.Overrides, func(o cf.Override) bool { return o.Name == parameter })
}
