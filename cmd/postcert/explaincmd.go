package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/cmd/postcert/internal/config"
	"postcert/deploy/postfix"
	"postcert/verify/maillog"
)

const explainHelp = `explain says in words what Postfix means by a line in its log, or a reply of an
SMTP server, about TLS: what happened, whether mail or TLS is affected now, what
to do, and where that can be read. Give the line as it is, with its time and host
or without; or "-" for lines on standard input. What is not in the table of known
lines is called unknown; nothing is guessed, and the exit status is 8.

--log reads the mail log of the instance (maillog_file, syslog's file, or the
journal) or the FILE that is named, and what logrotate has moved away of it, since
the last deploy or since another time, and counts what is known, by service, the
worst first; each kind of line is explained once. The exit status is 8 if TLS was off, or a service answered nobody,
at some time since then. A log can be rotated, filtered or late: it explains, and
proves nothing. That a certificate is served is proved by "postcert probe".

EXIT STATUS
` + statusTable

const explainExample = `  postcert explain 'SSL_accept error from unknown[192.0.2.7]: lost connection'
  postcert explain 454 4.7.0 TLS not available due to local problem
  postcert explain --log
  postcert explain --log --since 2h
  postcert explain --log /var/log/mail.log --since 2026-11-20
  journalctl -u 'postfix*' | postcert explain -`

func (a *app) explainCommand() *cobra.Command {
	var log bool
	var since string
	cmd := &cobra.Command{
		Use: "explain LINE | - | --log [FILE]", Short: "say in words what a line of Postfix's log about TLS means", Long: explainHelp, Example: explainExample,
		// A line can be explained with a configuration that is broken.
		Annotations: map[string]string{"config": "none"},
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			at, err := a.parseSince(since)
			switch {
			case err != nil:
				return err
			case log && len(args) > 1:
				return usagef("--log takes one FILE, not %d", len(args))
			case log:
				return a.explainLog(ctx, args, at, res)
			case since != "":
				return usagef("--since is for --log")
			case len(args) == 0:
				return usagef("name a line, - for standard input, or --log")
			case len(args) == 1 && args[0] == "-":
				return a.explainInput(ctx, res)
			}
			return a.explainLine(strings.Join(args, " "), res)
		}),
	}
	fs := cmd.Flags()
	fs.BoolVar(&log, "log", false, "read the mail log, or the FILE that is named")
	fs.StringVar(&since, "since", "", "with --log: since this `TIME`: 2h (ago), 2026-11-20, \"2026-11-20 21:00:00\", RFC 3339, deploy, all (default: deploy; with FILE: all)")
	return cmd
}

// since is from when a log is read.
type since struct {
	words string    // as it was given: "" is the default, "deploy" and "all" are themselves
	at    time.Time // of any other
}

func (a *app) parseSince(s string) (since, error) {
	switch s {
	case "", "deploy", "all":
		return since{words: s}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return since{s, a.now().Add(-d)}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return since{s, t}, nil
		}
	}
	return since{}, usagef("--since %q: write a duration such as 2h, a time such as 2026-11-20 or \"2026-11-20 21:00:00\", deploy or all", s)
}

// kindJSON is one kind of line, explained.
type kindJSON struct {
	ID       string         `json:"id"`
	Effect   maillog.Effect `json:"effect"`
	Means    string         `json:"means"`
	Now      string         `json:"now"`
	Do       string         `json:"do"`
	Source   string         `json:"source"`
	Versions string         `json:"versions"`
}

func kindOf(k maillog.Kind) kindJSON {
	return kindJSON{k.ID, k.Effect, k.Means, k.Now, k.Do, k.Source, k.Versions}
}

// lineJSON is one line, as it was understood.
type lineJSON struct {
	Text     string            `json:"text"`
	Known    bool              `json:"known"`
	Kind     string            `json:"kind"` // "" if it is not known
	Time     *time.Time        `json:"time,omitempty"`
	Host     string            `json:"host"`
	Service  string            `json:"service"` // as the tag says it
	Program  string            `json:"program"`
	PID      int               `json:"pid"`
	Severity string            `json:"severity"`
	QueueID  string            `json:"queue_id"`
	Fields   map[string]string `json:"fields"` // peer, protocol, cipher, ...
}

func lineOf(text string, l maillog.Line, e maillog.Event, known bool) lineJSON {
	j := lineJSON{
		Text: text, Known: known, Kind: e.Kind.ID, Host: l.Host, Service: l.Service(), Program: l.Program,
		PID: l.PID, Severity: l.Severity(), QueueID: l.QueueID(), Fields: map[string]string{},
	}
	if !l.Time.IsZero() {
		at := l.Time.UTC()
		j.Time = &at
	}
	for name, v := range e.Fields {
		j.Fields[name] = v
	}
	return j
}

func (a *app) explainLine(text string, res *result) error {
	l := maillog.Parse(text, a.now())
	if strings.TrimSpace(l.Text) == "" {
		return usagef("the line is empty")
	}
	e, known := maillog.Recognise(l)
	res.add("line", lineOf(text, l, e, known))
	if !known {
		res.add("kinds", []kindJSON{})
		res.headline = fmt.Sprintf("This line is not known, so nothing is said about it. postcert knows %d kinds of lines about TLS.", len(maillog.Kinds()))
		return errNo
	}
	res.add("kinds", []kindJSON{kindOf(e.Kind)})
	a.sayKind(e.Kind)
	return nil
}

// explainInput explains standard input: one line as such, several as a log.
func (a *app) explainInput(ctx context.Context, res *result) error {
	count, first := newLogTally("standard input"), ""
	now := a.now()
	err := postfix.EachLine(ctx, a.stdin, func(text string) error {
		if strings.TrimSpace(text) == "" {
			return nil
		}
		if count.lines == 0 {
			first = text
		}
		count.add(maillog.Parse(text, now))
		return nil
	})
	switch {
	case err != nil:
		return err
	case count.lines == 0:
		return usagef("standard input is empty")
	case count.lines == 1:
		return a.explainLine(first, res)
	}
	a.sayTallies([]*logTally{count}, res)
	if count.known == 0 {
		res.headline = "None of these lines is known, so nothing is said about them."
		return errNo
	}
	return nil
}

// explainLog reads the log of each instance, or one file.
func (a *app) explainLog(ctx context.Context, args []string, from since, res *result) error {
	conf, found := config.Load(a.configSource())
	a.conf = conf
	if err := found.Err(); err != nil {
		return err
	}
	var all []*logTally
	var err error
	if len(args) == 1 {
		all, err = a.tallyFile(ctx, args[0], from)
	} else {
		all, err = a.tallyInstances(ctx, from, res)
	}
	if err != nil {
		return err
	}
	a.sayTallies(all, res)
	if slices.ContainsFunc(all, (*logTally).bad) {
		res.headline = "In that time TLS was off, or a service answered nobody: see the last time of each. What is served now: postcert probe."
		return errNo
	}
	res.headline = "Nothing in it says that TLS was off here. What is served now: postcert probe."
	return nil
}
