// Command load keeps a mail server busy with SMTP sessions and tells whether
// every one of them was served as it should have been.
//
// It answers the question that a renewal raises on a busy host: did anybody
// notice? Start it, change the certificate meanwhile, as often as you like, and
// read what it says at the end:
//
//	load -to postmaster@mail.example.com -for 2m -maillog /var/log/mail.log
//
// A fixed number of sessions (-parallel) is open all the time. Most are short:
// connect, STARTTLS or TLS from the first byte, or no TLS at all; then a mail,
// or MAIL and RCPT that are taken back by RSET. Some (-long) last for the time
// of -hold and so live through reloads, which must not end them: one sends NOOP
// now and then, one sends a mail line by line, one has not begun TLS yet and
// does so at its end, in a process of Postfix that may have read the certificate
// long ago. Without -to no mail and no recipient is sent, only NOOP.
//
// Each session is a failure if it could not connect, if TLS did not come about,
// if the connection was lost before our QUIT was answered, or if a reply was not
// the one that RFC 5321 has for success; a reply 454, "TLS not available due to
// temporary reason" (RFC 3207 section 4), is counted by itself, since that is
// what Postfix says when it could not read its certificate. With -leaves each
// leaf certificate that is presented must be one of the file's; the file is read
// again whenever another one is seen, so that a deploy can add to it before it
// begins:
//
//	openssl x509 -in cert.pem -noout -fingerprint -sha256 >> leaves
//
// With -maillog every message that the server accepted must show up in the log as
// sent, and the time from dialling to the greeting is told apart for the second
// after each reload. Expect it to rise there, whoever asks for the reload: until a
// smtpd ends that took a connection in the moment of the reload, the master
// believes it to be idle and starts no other for that service. -sessions writes
// what happened to each session as a line of JSON.
//
// Load is for servers of your own. It is bounded by its flags and by nothing
// else: the server must allow as many clients as -parallel says, from one address
// (postconf(5): default_process_limit, smtpd_client_connection_count_limit,
// smtpd_client_event_limit_exceptions). Certificates are recorded, not judged:
// what is presented is the question, not whether a client would trust it.
//
// EXIT STATUS
//
//	0  every session was served as it should be
//	1  at least one was not, or a mail was lost; the report names the first ones
//	2  the command line is wrong, or a file cannot be read or written
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	well, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(2)
	case !well:
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	plain, starttls, implicit addresses
	name, from, to            string

	parallel, long int
	during         time.Duration // how long new sessions begin
	hold           time.Duration // how long a long session lasts
	think          time.Duration // between two commands of a short session, on average
	patience       time.Duration // for one reply
	settle         time.Duration // for the last mail to be delivered

	leaves, maillog, sessions string
	json                      bool
}

// addresses is a flag that can be given several times. The first time replaces
// the default.
type addresses struct {
	list  []string
	given bool
}

func (a *addresses) String() string { return strings.Join(a.list, ",") }

// Set adds a host:port; "" empties the list.
func (a *addresses) Set(text string) error {
	if !a.given {
		a.list, a.given = nil, true
	}
	if text != "" {
		a.list = append(a.list, text)
	}
	return nil
}

// Bounds of the flags, against slips of the hand.
const (
	maxParallel = 1000
	maxDuring   = 24 * time.Hour
	minThink    = time.Millisecond
)

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{
		plain:    addresses{list: []string{"127.0.0.1:25"}},
		starttls: addresses{list: []string{"127.0.0.1:25", "127.0.0.1:587"}},
		implicit: addresses{list: []string{"127.0.0.1:465"}},
	}
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Var(&o.plain, "plain", "`host:port` of sessions without TLS (repeatable; empty for none)")
	flags.Var(&o.starttls, "starttls", "`host:port` of sessions with STARTTLS (repeatable; empty for none)")
	flags.Var(&o.implicit, "implicit", "`host:port` of sessions with TLS from the first byte (repeatable; empty for none)")
	flags.StringVar(&o.name, "name", "", "server `name` to send in the TLS handshake (default none)")
	flags.StringVar(&o.from, "from", "", "sender `address` (default the null sender <>)")
	flags.StringVar(&o.to, "to", "", "recipient `address`; without one nothing but NOOP is sent")
	flags.IntVar(&o.parallel, "parallel", 50, "how many sessions are open at a time")
	flags.IntVar(&o.long, "long", 10, "how many of them are long")
	flags.DurationVar(&o.during, "for", time.Minute, "how long to begin new sessions; SIGTERM ends it earlier")
	flags.DurationVar(&o.hold, "hold", 30*time.Second, "how long a long session lasts, at most")
	flags.DurationVar(&o.think, "think", 50*time.Millisecond, "pause between the commands of a short session, on average")
	flags.DurationVar(&o.patience, "patience", time.Minute, "how long to wait for a reply")
	flags.DurationVar(&o.settle, "settle", 20*time.Second, "how long to wait, at the end, for the last mail in the log")
	flags.StringVar(&o.leaves, "leaves", "", "`file` with the SHA-256 fingerprints of the leaf certificates that may be presented")
	flags.StringVar(&o.maillog, "maillog", "", "Postfix's log `file`, to learn of reloads and of what became of the mail")
	flags.StringVar(&o.sessions, "sessions", "", "`file` to write each session to, as a line of JSON")
	flags.BoolVar(&o.json, "json", false, "report as JSON")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case len(o.plain.list)+len(o.starttls.list)+len(o.implicit.list) == 0:
		return o, errors.New("no address is left to connect to")
	case o.parallel < 1 || o.parallel > maxParallel || o.long < 0 || o.long > o.parallel:
		return o, fmt.Errorf("-parallel must be 1 to %d, and -long at most that", maxParallel)
	case o.during <= 0 || o.during > maxDuring || o.hold <= 0 || o.hold > maxDuring:
		return o, fmt.Errorf("-for and -hold must be positive and at most %v", maxDuring)
	case o.think < minThink || o.patience <= 0:
		return o, fmt.Errorf("-think must be at least %v, and -patience positive", minThink)
	case strings.ContainsAny(o.from+o.to, "\r\n<>"):
		return o, errors.New("-from and -to are addresses without < and >")
	}
	return o, nil
}

// run is main with its surroundings as arguments. It tells whether all is well.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (well bool, err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return false, err
	}
	t := newTally(o.leaves)
	if o.sessions != "" {
		file, err := os.OpenFile(o.sessions, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return false, err
		}
		defer file.Close()
		t.sessions = file
	}
	log := &mailLog{}
	if o.maillog != "" {
		if log, err = openMailLog(o.maillog); err != nil {
			return false, err
		}
		defer log.close()
	}
	ctx, cancel := context.WithTimeout(ctx, o.during)
	defer cancel()
	begin := time.Now()
	keepBusy(ctx, o, t)
	took := time.Since(begin)
	log.settle(t.accepted(), o.settle)
	r := t.report(took, log)
	if err := t.failure(); err != nil {
		return false, err
	}
	if o.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return r.Well, enc.Encode(r)
	}
	r.print(stdout)
	return r.Well, nil
}
