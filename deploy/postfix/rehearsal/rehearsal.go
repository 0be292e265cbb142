package rehearsal

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"postcert/verify/probe"
)

// The time limits of a Stage that names none.
const (
	DefaultTimeout = 5 * time.Second
	DefaultLife    = 60 * time.Second
)

// Service is a listener of the candidate.
type Service struct {
	// ID is service/type as postconf -M takes it, such as submission/inet. The
	// private service has the same name.
	ID string

	// Parameters are effective values in the service's context, expanded.
	// Those that do not concern TLS are ignored; one that is missing has the
	// value it has in Candidate.Parameters. For a postscreen listener the
	// tlsproxy_* values are those in the context of the tlsproxy service.
	Parameters map[string]string

	Implicit   bool     // TLS starts at once: smtpd_tls_wrappermode = yes
	Postscreen bool     // the listener is postscreen(8)
	SNI        []string // names to ask for; "" sends none; an empty list is {""}
	KeyTypes   []string // probe.RSA, probe.ECDSA, "" for whichever the server prefers; an empty list is {""}

	// Want is the DER of the chain that must be presented, leaf first. With
	// nil, what is presented is recorded and not judged, unless AnyChain says
	// that the handshake must be good.
	Want     [][]byte
	AnyChain bool

	// SASL are the smtpd_sasl_* parameters with which the service offers AUTH,
	// nil if that is not asked. A path in them is absolute: it leads to
	// production's socket, of which a session asks for the mechanisms only.
	SASL map[string]string
}

// Candidate is a configuration that production does not have yet.
type Candidate struct {
	Version         string // mail_version; "" if not known
	DaemonDirectory string // daemon_directory

	// Parameters are the expanded values of main.cf, defaults included, as
	// postconf -x prints them.
	Parameters map[string]string
	Services   []Service

	// Substitute has for a path that production will read the file that has
	// its future content now. A path is replaced where it stands as a whole
	// in a value: alone, in a list, or after the type of a lookup table. A text
	// table (texthash:) should not look younger than 2 s: until it is that old,
	// each daemon that opens it waits.
	Substitute map[string]string

	// Expect, if set, is asked instead of Service.Want, for services with more
	// than one certificate.
	Expect func(service Service, sni, keyType string) [][]byte `json:"-"`
}

// Stage is where rehearsals take place. It needs root.
type Stage struct {
	// RuntimeDir is a directory of root's that no one else can write, on a
	// short path: a socket's path below it must not exceed 107 bytes.
	RuntimeDir string

	Timeout time.Duration // for each handshake; 0 is DefaultTimeout
	Life    time.Duration // nothing of a rehearsal lives longer; 0 is DefaultLife; at least 3 s
	OpenSSL string        // absolute path of openssl(1), for probe.Endpoint; "" if there is none

	// Handshake is probe.Handshake if nil.
	Handshake func(context.Context, probe.Endpoint) probe.Result
	Log       *slog.Logger // nil discards
}

// Served is one question put to the private Postfix, and the answer.
type Served struct {
	Service string // Service.ID
	SNI     string
	KeyType string
	Result  probe.Result
	Judged  bool          // a chain was expected
	Verdict probe.Verdict // only if Judged
	Reason  probe.Reason  // that of Verdict, otherwise that of Result

	// Before and Inside are the lines of the replies to EHLO before TLS and
	// inside it, of a service with SASL: the latter of the second of two
	// sessions. Inside is nil if it was not answered.
	Before, Inside []string

	tag string // of the private service that answered
}

func (s Served) String() string {
	b := s.Service
	if s.SNI != "" {
		b += " for " + s.SNI
	}
	if s.KeyType != "" {
		b += " (" + s.KeyType + ")"
	}
	b += ": " + string(s.Reason)
	if s.Result.Detail != "" {
		b += ": " + s.Result.Detail
	}
	return b
}

// Report is what a rehearsal has seen. It is filled as far as the rehearsal
// came, also beside an error.
type Report struct {
	Served []Served      // in the order of the services, their names and key types
	Log    []string      // what the private Postfix logged, oldest first
	Took   time.Duration // all in all, the end of the private Postfix included
}

// RefusedError says that this host's Postfix does not serve the candidate.
type RefusedError struct {
	Served []Served // where something else was seen
	Log    []string // the lines that tell why; may be empty
}

func (e *RefusedError) Error() string {
	var b strings.Builder
	b.WriteString("the rehearsal refuses the candidate")
	for i, s := range e.Served {
		b.WriteString([]string{": ", "; "}[min(i, 1)] + s.String())
	}
	if len(e.Log) > 0 {
		b.WriteString("; Postfix logged: " + strings.Join(e.Log, "; "))
	}
	return b.String()
}

// NotRunError says that there was no rehearsal, for a reason that is not the
// candidate's: it proves nothing for or against it.
type NotRunError struct {
	Why string
	Log []string // the warnings and errors of the private Postfix, if it came so far
	Err error    // behind it, if any
}

func (e *NotRunError) Error() string {
	s := "no rehearsal: " + e.Why
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if len(e.Log) > 0 {
		s += "; Postfix logged: " + strings.Join(e.Log, "; ")
	}
	return s
}

func (e *NotRunError) Unwrap() error { return e.Err }

// Rehearse lets a private Postfix serve c. The error is a *RefusedError or a
// *NotRunError; with nil every expected chain was presented. Before it starts
// it sweeps what earlier rehearsals left.
func (s Stage) Rehearse(ctx context.Context, c Candidate) (Report, error) {
	start := time.Now()
	s = s.withDefaults()
	report, err := s.rehearse(ctx, c)
	report.Took = time.Since(start)
	if err != nil {
		s.Log.Info("rehearsal", "took", report.Took, "err", err)
	} else {
		s.Log.Info("rehearsal", "took", report.Took, "served", len(report.Served))
	}
	return report, err
}

func (s Stage) withDefaults() Stage {
	if s.Timeout <= 0 {
		s.Timeout = DefaultTimeout
	}
	if s.Life <= 0 {
		s.Life = DefaultLife
	}
	if s.Handshake == nil {
		s.Handshake = probe.Handshake
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	return s
}

func (s Stage) rehearse(ctx context.Context, c Candidate) (report Report, err error) {
	groups, err := plan(c)
	if err != nil {
		return report, &NotRunError{Why: "the configuration cannot be made", Err: err}
	}
	// The first of them: our own time must be over before the master's is.
	ctx, cancel := context.WithTimeout(ctx, masterLife(s.Life))
	defer cancel()
	if err := s.Sweep(ctx); err != nil {
		s.Log.Warn("sweeping earlier rehearsals", "err", err)
	}
	r, err := s.open(ctx)
	if err != nil {
		return report, &NotRunError{Why: "no private directory", Err: err}
	}
	defer func() {
		if cerr := r.close(); cerr != nil {
			s.Log.Warn("ending a rehearsal", "err", cerr)
		}
	}()
	if err := r.furnish(c, groups); err != nil {
		return report, &NotRunError{Why: "preparing the private Postfix", Err: err}
	}
	if err := r.start(ctx, c.DaemonDirectory, masterLife(s.Life)); err != nil {
		log := r.log.settled(func(l []line) bool { return len(complaints(l)) > 0 })
		report.Log = text(log)
		return report, r.roomless(startError(err, log))
	}
	report.Served = s.ask(ctx, c, r, groups)
	log := r.log.settled(func(l []line) bool { return explained(report.Served, l) })
	report.Log = text(log)
	if err := ctx.Err(); err != nil {
		return report, &NotRunError{Why: "it was ended", Log: complaints(log), Err: err}
	}
	return report, r.roomless(judge(report.Served, log))
}

// startError tells a master that did not come up because of the candidate from
// one that did not for another reason.
func startError(err error, log []line) error {
	if lines := blamed(log); len(lines) > 0 {
		return &RefusedError{Log: lines}
	}
	return &NotRunError{Why: "the private Postfix did not come up", Log: complaints(log), Err: err}
}

// masterLife is how long the master may live, so that with the daemons, which
// leave when they notice its end or have waited smtpd_timeout for a client,
// nothing is there after life.
func masterLife(life time.Duration) time.Duration {
	return max(life-childGrace, time.Second)
}

// childGrace is more than the smtpd_timeout of the made configuration.
const childGrace = (smtpdTimeout + 2) * time.Second
