// Command bench measures what a renewal with postcert costs, as ratios to what
// the same costs by hand, in one run on one machine.
//
//	go run ./contrib/bench            the table, in about two minutes; as root
//	go run ./contrib/bench -check     and status 1 if a bound is missed
//	go run ./contrib/bench -ahead     on a machine that does other work, too
//	go run ./contrib/bench -renewals 500
//
// Everything happens in namespaces of its own, on two private Postfix instances
// that are as Debian installs them, with submission and submissions: one that
// postcert renews, one that is renewed by hand. Their files are on the disk
// that holds the temporary directory, as a host's are on a disk, so that the
// fsync(2) calls of a transaction cost what they cost; -memory puts them into
// memory.
//
// The contestants take turns, round after round, so that a machine that is busy
// for a while slows all of them. Each is given a new certificate before its
// turn, and is asked by openssl after it whether that certificate is served.
//
//	postcert  install-cert: verify, rehearse, install, reload, prove 25/587/465
//	by hand   cp, postconf -e, postfix check, postfix reload, openssl s_client x 3
//	no pause  the same, with main.cf set back in time after postconf -e: programs
//	          that read a main.cf of the last 2 s wait until it has cooled down
//	floor     what cannot be left out: postfix check beside a rehearsal, postfix
//	          reload, a bare handshake for each listener
//	tls       postfix tls deploy-server-cert, postfix reload; it proves nothing
//
// With -acme the contest is another one, between ACME clients on one CA, Pebble
// without its pauses and nonce errors, over loopback:
//
//	go run ./contrib/bench -acme                     in about ten minutes
//	go run ./contrib/bench -acme -certificates 10 -check
//
//	postcert  obtain --no-deploy; and once all of the certificates in one process
//	lego      Debian's, lego run
//	certbot   Debian's, certbot certonly --standalone
//	floor     the messages of an order alone, by a client inside this process
//
// Each orders the same number of certificates of one name by http-01, with a P-256
// key and a process for each, and openssl judges every one of them. Wall time is
// what somebody waits, the pauses of a client between its questions to the CA
// included; processor time is what the machine does meanwhile. Afterwards a daemon
// orders its certificates and lives through the wakes of a day; see [day].
//
// With -hook it is the deploy hook, as certbot calls it: for the certificate that
// is served already, for another's, for a renewed one, and for one that a listener
// contradicts, so that it is undone; beside what certbot's own start costs.
//
//	go run ./contrib/bench -hook -check              in about a minute
//
// With -scan it is what audit, probe and harden say about listeners, beside sslscan
// and testssl.sh of Debian, on one Postfix with six listeners: a good one, and five
// that are expired, lack the intermediate, have another name, allow TLS 1.0, or speak
// TLS 1.2 alone. Each is timed on the good one, as a whole process; then each says
// what it thinks of all six, and openssl s_client judges every verdict:
//
//	go run ./contrib/bench -scan -check              in about three minutes
//
// They are not after the same thing. sslscan and testssl.sh look from outside and
// know every suite; audit reads the configuration, and names the line to change.
// testssl.sh calls anonymous suites on a mail server critical, and audit does not:
// Postfix has them on for clients that do not ask for a certificate (TLS_README,
// smtpd_tls_exclude_ciphers), and who asks for one never offers them.
//
// An idle host has not touched its configuration for an hour. On a hot one
// main.cf and master.cf were written just before each turn, so that Postfix's
// own commands pause for all contestants, postcert included.
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
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

func main() {
	if launched(os.Args) {
		return
	}
	postfixtest.Isolate(func() int { return run(os.Args[1:], os.Stdout, os.Stderr) })
}

// settings are the flags.
type settings struct {
	postcert string  // binary; "" builds one
	rounds   int     // of idle contests
	hot      int     // rounds of hot contests
	renewals int     // for the percentiles
	slack    float64 // what bounds are multiplied by
	memory   bool    // files in memory
	ahead    bool    // of all other processes
	without  string  // contestant that is left out
	check    bool
	json     bool

	hook         bool // the deploy hook in place of the contest
	contradicted int  // deploys of it that fail, each of which takes as long as its proof may
	acme         bool // the contest of the ACME clients in place of the others
	scan         bool // the scanners in place of the contest
	slow         int  // turns of testssl.sh in it
	certificates int  // that everybody orders in it
	daily, ticks int  // certificates and wakes of the daemon in it
}

// result is what a contest leaves.
type result interface {
	print(w io.Writer) error
	missed() []string
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.postcert, "postcert", "", "measure this static `FILE` instead of building one")
	f.IntVar(&s.rounds, "rounds", 9, "rounds on an idle host; at least 7")
	f.IntVar(&s.hot, "hot", 7, "rounds on a host whose configuration was just edited; 0 leaves them out")
	f.IntVar(&s.renewals, "renewals", 0, "also this many renewals in a row, for percentiles")
	f.Float64Var(&s.slack, "slack", 1, "multiply the bounds by this: a shared machine is noisy")
	f.BoolVar(&s.memory, "memory", false, "keep all files in memory: what fsync costs is left out")
	f.BoolVar(&s.ahead, "ahead", false, "run ahead of all other processes (SCHED_RR, sched(7)), so that what else the machine does hardly counts")
	f.BoolVar(&s.check, "check", false, "exit with status 1 if a bound is missed")
	f.BoolVar(&s.json, "json", false, "one JSON object in place of the table")
	f.BoolVar(&s.hook, "hook", false, "instead: what the deploy hook costs the client that calls it")
	f.BoolVar(&s.scan, "scan", false, "instead: what audit, probe and harden say, and how soon, beside sslscan and testssl.sh")
	f.BoolVar(&s.acme, "acme", false, "instead: order certificates beside lego and certbot, and keep a daemon for a day")
	f.IntVar(&s.certificates, "certificates", 50, "with -acme: how many each orders")
	s.daily, s.ticks, s.contradicted, s.slow = dayCertificates, minutesADay, 1, 3
	err := f.Parse(args)
	switch {
	case err != nil:
	case f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.hook && s.acme, s.scan && s.acme, s.scan && s.hook:
		err = errors.New("-hook, -scan and -acme exclude each other")
	case s.certificates < 2:
		err = errors.New("-certificates: fewer than 2 say nothing")
	case s.rounds < 7:
		err = errors.New("-rounds: fewer than 7 say nothing")
	}
	return s, err
}

func run(args []string, stdout, stderr io.Writer) (status int) {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rep, err := outsideTests(ctx, func(t testing.TB) result {
		if s.acme {
			return measureACME(ctx, t, s, true, stderr)
		}
		if s.hook {
			return measureHook(ctx, t, s, stderr)
		}
		if s.scan {
			return measureScan(ctx, t, s, stderr)
		}
		return measure(ctx, t, s, stderr)
	})
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	if s.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(rep)
	} else {
		err = rep.print(stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	if s.check && len(rep.missed()) > 0 {
		return 1
	}
	return 0
}

// prepare makes the machine ready as s wants it, and is the program to measure.
func prepare(t testing.TB, s settings, progress io.Writer) (binary string) {
	t.Helper()
	binary = s.postcert
	if binary == "" {
		fmt.Fprintln(progress, "building postcert")
		binary = build(t)
	}
	if s.ahead {
		goAhead(t)
	}
	onDisk(t, s.memory)
	return binary
}

// measure does all that s asks for. What it is at goes to progress.
func measure(ctx context.Context, t testing.TB, s settings, progress io.Writer) report {
	rep := report{Slack: s.slack}
	binary := prepare(t, s, progress)
	h := newHost(t, binary)
	h.without = s.without
	rep.Sync = syncCost(t, h.ours.Dir)
	rep.Idle = h.contest(ctx, "idle", s.rounds, progress)
	if s.hot > 0 {
		rep.Hot = h.contest(ctx, "hot", s.hot, progress)
	}
	fmt.Fprintln(progress, "memory, start, size")
	rep.Footprint = h.footprint()
	if s.renewals > 0 {
		rep.Renewals = h.renewals(ctx, s.renewals, progress)
	}
	rep.Bounds = rep.bounds()
	return rep
}
