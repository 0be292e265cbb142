package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/deploy/postfix"
	"postcert/deploy/postfix/cf"
	"postcert/deploy/program"
	"postcert/verify/delivery"
	"postcert/verify/problem"
)

const sendTestHelp = `send-test sends one mail and follows it through the log of the instance, to its
delivery: also when a content filter hands it back, or an alias has several
recipients. It shows the line about TLS with the next hop and says what it means,
the answer of the next hop, or why the mail waits or was returned. Where the
mailbox is on this host and can be read, the Received headers are shown.

The mail has a Message-ID and a Subject of its own. It is handed to sendmail(1), as
programs on this host do; or, with --via submission, to port 587 or 465, as mail
programs do. There it is TLS first: without it nothing is sent, least of all the
password. The password is read from the terminal, or from a file with one line.

The exit status is 0 if the mail went to its next hop over TLS, or into a mailbox of
this host; 8 if it went in clear, waits, was returned, or if that is not known when
the time is over: --timeout, or 60 s. Whether a certificate was verified does not
matter here: it is said, and "postcert policy test" says what would be asked for.

No setting is changed. What waits in the queue stays there, and the command that
takes it out is said.

EXIT STATUS
` + statusTable

const sendTestExample = `  postcert send-test --to user@example.com
  postcert send-test --to user@example.com --via submission --user me@example.net
  postcert send-test --to root --via submission --user me --password-file /root/me.password
  postcert send-test --to user@example.com --timeout 5m --json`

// sendTestFlags are its flags.
type sendTestFlags struct {
	to, from, via, user, passwordFile string
}

func (a *app) sendTestCommand() *cobra.Command {
	var f sendTestFlags
	cmd := &cobra.Command{
		Use: "send-test --to ADDRESS", Short: "send a mail, and say how it was delivered", Long: sendTestHelp, Example: sendTestExample, Args: usageArgs(cobra.NoArgs),
		RunE: a.runE(func(ctx context.Context, _ []string, res *result) error { return a.sendTest(ctx, f, res) }),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.to, "to", "", "recipient: an `ADDRESS`, or a local name")
	fs.StringVar(&f.from, "from", "", "sender: an `ADDRESS`, to which a mail that cannot be delivered is returned (default: the user if it is one, else postmaster)")
	fs.StringVar(&f.via, "via", "queue", "`WAY`: queue or submission")
	fs.StringVar(&f.user, "user", "", "with --via submission: log in as this `NAME`")
	fs.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the password in its first line; - is standard input (default: ask on the terminal)")
	return cmd
}

// trial is one run of send-test.
type trial struct {
	site    *site
	snap    cf.Snapshot
	mail    delivery.Message
	door    *door // of --via submission, nil for the queue
	begin   time.Time
	tracker *delivery.Tracker
	out     *sendTestJSON
}

func (a *app) sendTest(ctx context.Context, f sendTestFlags, res *result) error {
	if err := f.check(); err != nil {
		return err
	}
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	t := &trial{site: s, begin: a.now()}
	if t.snap, err = s.engine.MTA.Snapshot(ctx); err != nil {
		return err
	}
	if m, err := s.engine.MTA.Master(ctx); err != nil {
		return err
	} else if !m.Running {
		return refuse("not_running", problem.At{File: s.instance.ConfigDirectory}, "Postfix is not running (%s): nothing was sent", s.instance.ConfigDirectory)
	}
	if err := t.address(f); err != nil {
		return err
	}
	if f.via == "submission" {
		if t.door, err = a.doorOf(ctx, t, f); err != nil {
			return err
		}
	}
	log, err := s.instance.FollowLog(ctx)
	if err != nil {
		return err
	}
	defer log.Close()
	t.tracker = delivery.NewTracker(t.mail.ID())
	t.out = newSendTestJSON(t, f)
	res.add("mail", t.out)
	if err := a.handIn(ctx, t); err != nil {
		return err
	}
	err = t.follow(ctx, log)
	// What is known is said also when the time is over.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	t.out.Log = log.Source()
	a.judgeTrial(end, t, res)
	if err != nil {
		return err
	}
	if !t.out.delivered() {
		return errNo
	}
	return nil
}

// check refuses what makes no sense, before anything is asked.
func (f sendTestFlags) check() error {
	switch {
	case f.to == "":
		return usagef("--to names the recipient")
	case f.via != "queue" && f.via != "submission":
		return usagef("--via %q: use queue or submission", f.via)
	case f.via == "queue" && (f.user != "" || f.passwordFile != ""):
		return usagef("--user and --password-file are for --via submission")
	case f.user == "" && f.passwordFile != "":
		return usagef("--password-file needs --user")
	}
	return nil
}

// address makes the mail. A name without a domain gets the one that Postfix would
// give it.
func (t *trial) address(f sendTestFlags) error {
	from := f.from
	if from == "" && strings.Contains(f.user, "@") {
		from = f.user
	}
	if from == "" {
		from = "postmaster"
	}
	host := t.snap.Effective("", "myhostname")
	t.mail = delivery.Message{Mark: delivery.NewMark(), Host: host, Time: t.begin}
	for _, one := range []struct {
		flag, text string
		to         *delivery.Address
	}{{"--to", f.to, &t.mail.To}, {"--from", from, &t.mail.From}} {
		addr, err := delivery.ParseAddress(one.text)
		if err != nil {
			return usagef("%s %q is no address: %v", one.flag, one.text, err)
		}
		if addr.Domain == "" {
			addr.Domain = origin(t.snap, host)
		}
		if addr.UTF8() && t.snap.Effective("", "smtputf8_enable") != "yes" {
			return refuse("smtputf8_off", where(t.snap, "", "smtputf8_enable"), "%s has other letters than ASCII, and smtputf8_enable = %s", addr, t.snap.Effective("", "smtputf8_enable"))
		}
		*one.to = addr
	}
	return nil
}

// origin is the domain of names without one (postconf(5) myorigin): a file has it in
// its first line, as /etc/mailname of Debian.
func origin(s cf.Snapshot, host string) string {
	v := s.Effective("", "myorigin")
	if !strings.HasPrefix(v, "/") {
		return orText(v, host)
	}
	data, err := os.ReadFile(v)
	if err != nil {
		return host
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return orText(strings.TrimSpace(line), host)
}

// handIn gives the mail to Postfix.
func (a *app) handIn(ctx context.Context, t *trial) error {
	a.text.printf("  mail         %s\n  from, to     %s, %s\n", t.mail.ID(), t.mail.From, t.mail.To)
	if t.door != nil {
		return a.submit(ctx, t)
	}
	path := orText(t.snap.Effective("", "sendmail_path"), "/usr/sbin/sendmail")
	// Behind "--", and without -t: nothing in an address or in the mail is an option or
	// another recipient.
	args := []string{"-C", t.site.instance.ConfigDirectory, "-i", "-f", t.mail.From.String(), "--", t.mail.To.String()}
	if _, err := program.Run(ctx, program.Command{Path: path, Args: args, Stdin: bytes.NewReader(t.mail.Bytes())}); err != nil {
		return fmt.Errorf("handing the mail to sendmail: %w", err)
	}
	a.text.printf("  handed in    by %s\n", path)
	return nil
}

const (
	// followTime is how long a mail is followed if --timeout does not say.
	followTime = 60 * time.Second
	// settleTime is how long the log is read on after the mail has come to an end: a
	// filter may hand it back a moment later.
	settleTime = 700 * time.Millisecond
)

// follow reads the log until the mail has come to an end, or the time is over. That
// the time is over is no error: what happened until then is the answer.
func (t *trial) follow(ctx context.Context, log *postfix.LogFollower) error {
	limit := time.Now().Add(followTime)
	if end, ok := ctx.Deadline(); ok {
		limit = end
	}
	var done time.Time // since when there is nothing to wait for
	for {
		lines, err := log.Lines(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		for _, l := range lines {
			t.tracker.Add(l)
		}
		now := time.Now()
		switch {
		case !t.tracker.Done():
			done = time.Time{}
		case done.IsZero():
			done = now
		case now.Sub(done) >= settleTime:
			return nil
		}
		if !now.Before(limit) {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			var over timeoutError
			if err := context.Cause(ctx); !errors.As(err, &over) {
				return err
			}
			limit = time.Now() // once more, for what came meanwhile
		}
	}
}

// postsuper is the command that takes mail out of the queue.
func (t *trial) postsuper(ids []string) string {
	args := []string{"postsuper"}
	if dir := filepath.Clean(t.site.instance.ConfigDirectory); dir != "/etc/postfix" {
		args = append(args, "-c", dir)
	}
	for _, id := range ids {
		args = append(args, "-d", id)
	}
	return strings.Join(args, " ")
}
