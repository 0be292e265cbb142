package delivery

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"postcert/verify/maillog"
)

// Status is how a delivery ended, in Postfix's words.
type Status string

// The statuses that Postfix logs (bounce(8), defer(8), sent(3)).
const (
	Sent     Status = "sent"
	Deferred Status = "deferred" // it stays in the queue and is tried again
	Bounced  Status = "bounced"  // its sender is told
	Expired  Status = "expired"  // bounced, after it was deferred for too long
)

// Delivery is one attempt for one recipient, as one line of the log tells it.
type Delivery struct {
	QueueID   string
	Recipient string
	Original  string // orig_to, "" if Postfix did not rewrite it
	Relay     string // next hop: name[address]:port, "local", "virtual", "none", ...
	Agent     string // delivery agent that logged it: smtp, lmtp, local, virtual, pipe, ...
	Tag       string // by which it logs: syslog_name and agent
	Policy    string // tls= of Postfix 3.11 and newer, "" of older ones
	DSN       string // enhanced status code (RFC 3463)
	Status    Status
	Text      string // what the next hop answered, or why not
	Time      time.Time

	// Summary is the line about TLS that belongs to the delivery, nil if none does.
	Summary *maillog.Event
	// About are the other lines about TLS that the same process logged for the mail.
	About  []*maillog.Event
	Reason *maillog.Event // what is known about the text, nil if nothing is
}

// Over is how a mail went to its next hop. The values are part of the JSON contract.
type Over string

// The ways.
const (
	OverTLS     Over = "tls"
	InClear     Over = "clear"
	Locally     Over = "local"   // this host's own mailbox, program or socket
	OverUnknown Over = "unknown" // it is not logged: smtp_tls_loglevel = 0
)

// Over is how the mail went to the next hop. logged tells whether the service logs
// sessions with TLS (smtp_tls_loglevel, lmtp_tls_loglevel, of 1 or more).
func (d *Delivery) Over(logged bool) Over {
	if d.Agent != "smtp" && d.Agent != "lmtp" || socket(d.Relay) {
		return Locally
	}
	if d.Policy != "" && !strings.HasSuffix(d.Policy, "?") {
		level, _, _ := strings.Cut(d.Policy, "/") // what follows is of another feature
		_, final, degraded := strings.Cut(strings.TrimPrefix(level, "!"), ":")
		if !degraded {
			final = level
		}
		if final == "none" {
			return InClear
		}
		return OverTLS
	}
	switch {
	case d.Summary != nil:
		return OverTLS
	case logged:
		return InClear
	}
	return OverUnknown
}

// socket tells a next hop that is a UNIX socket: "host[private/dovecot-lmtp]".
func socket(relay string) bool {
	_, inner, ok := strings.Cut(relay, "[")
	return ok && strings.Contains(inner, "/") && strings.HasSuffix(inner, "]")
}

// Trust is the first word of the line about TLS: Anonymous, Untrusted, Trusted or
// Verified; "" without the line.
func (d *Delivery) Trust() string {
	if d.Summary == nil {
		return ""
	}
	word, _, _ := strings.Cut(d.Summary.Line.Text, " ")
	return word
}

// process is one process of Postfix, by what it calls itself.
type process struct {
	tag string
	pid int
}

// session is what a process logged about its present next hop.
type session struct {
	summary *maillog.Event
	about   []*maillog.Event
	mail    string // whose deliveries the summary belongs to; "" until there is one
}

// queued is the mail under one of its queue ids.
type queued struct {
	id         string
	recipients int // 0 until qmgr(8) has taken it
	deliveries []*Delivery
	removed    bool
	notice     string // queue id of the notice to the sender, "" if there is none
	held       string // why it is on hold
}

// Tracker follows a mail through a log. Lines come in the order in which they were
// logged.
type Tracker struct {
	id       string // Message-ID, with brackets
	mails    []*queued
	sessions map[process]*session
	early    map[string]string // what cleanup(8) said of mails whose Message-ID it had not seen yet, by queue id
	rejected string
}

// NewTracker follows the mail with this Message-ID.
func NewTracker(messageID string) *Tracker {
	return &Tracker{id: messageID, sessions: map[process]*session{}, early: map[string]string{}}
}

// Add takes a line.
func (t *Tracker) Add(l maillog.Line) {
	id, message := l.QueueID(), l.Message()
	if id == "" {
		t.addSession(l)
		return
	}
	// cleanup(8) logs it once for each queue id, and before qmgr(8) gets the mail.
	if l.Program == "cleanup" && message == "message-id="+t.id && t.find(id) == nil {
		q := &queued{id: id}
		t.mails = append(t.mails, q)
		t.cleaned(q, t.early[id])
		clear(t.early)
	}
	d, ok := parseDelivery(l)
	if ok {
		t.belongs(l, d)
	}
	q := t.find(id)
	if q == nil {
		if l.Program == "cleanup" && len(t.early) < maxEarly {
			t.early[id] = message
		}
		return
	}
	switch {
	case ok:
		q.add(d)
	case message == "removed":
		q.removed = true
	case l.Program == "qmgr" && strings.Contains(message, ", nrcpt="):
		_, n, _ := strings.Cut(message, ", nrcpt=")
		n, _, _ = strings.Cut(n, " ")
		q.recipients, _ = strconv.Atoi(n)
	case strings.Contains(message, "sender non-delivery notification: "):
		_, q.notice, _ = strings.Cut(message, "notification: ")
	case l.Program == "cleanup":
		t.cleaned(q, message)
	default:
		t.aboutMail(l, id)
	}
}

// maxEarly bounds of how many mails of others a line is kept.
const maxEarly = 1000

// cleaned heeds what cleanup(8) says of a mail: header_checks(5) and milters may put it
// on hold, or throw it away.
func (t *Tracker) cleaned(q *queued, message string) {
	switch what, _, _ := strings.Cut(strings.TrimPrefix(message, "milter-"), ": "); what {
	case "hold":
		q.held = message
	case "reject", "discard":
		t.rejected = message
	}
}

func (t *Tracker) find(id string) *queued {
	i := slices.IndexFunc(t.mails, func(q *queued) bool { return q.id == id })
	if i < 0 {
		return nil
	}
	return t.mails[i]
}

// addSession keeps what a client says about TLS with its next hop.
func (t *Tracker) addSession(l maillog.Line) {
	if l.Program != "smtp" && l.Program != "lmtp" {
		return
	}
	e, ok := maillog.Recognise(l)
	if !ok {
		return
	}
	s := t.session(l)
	if strings.Contains(l.Text, " TLS connection ") && strings.Contains(l.Text, " with cipher ") {
		*s = session{summary: &e, about: s.about}
		return
	}
	s.about = append(s.about, &e)
}

// aboutMail keeps what a client says about TLS under the queue id of a mail.
func (t *Tracker) aboutMail(l maillog.Line, id string) {
	if l.Program != "smtp" && l.Program != "lmtp" {
		return
	}
	if e, ok := maillog.Recognise(l); ok {
		s := t.session(l)
		s.about = append(s.about, &e)
	}
}

func (t *Tracker) session(l maillog.Line) *session {
	p := process{l.Tag, l.PID}
	if t.sessions[p] == nil {
		t.sessions[p] = &session{}
	}
	return t.sessions[p]
}

// belongs gives a delivery what its process logged about TLS. A summary belongs to
// the deliveries of one mail: a process that goes on with a session for another one
// logs a new summary ("reused").
func (t *Tracker) belongs(l maillog.Line, d *Delivery) {
	s := t.sessions[process{l.Tag, l.PID}]
	if s == nil {
		return
	}
	if s.mail != "" && s.mail != d.QueueID {
		delete(t.sessions, process{l.Tag, l.PID})
		return
	}
	s.mail = d.QueueID
	if s.summary != nil && s.summary.Field("peer") == d.Relay {
		d.Summary = s.summary
	}
	d.About = s.about
}

func (q *queued) add(d *Delivery) {
	same := func(o *Delivery) bool { return o.Recipient == d.Recipient && o.Original == d.Original }
	// A later attempt for a recipient says more than the one before.
	q.deliveries = append(slices.DeleteFunc(q.deliveries, same), d)
}

// parseDelivery reads "to=<...>, [orig_to=<...>, ]relay=..., ..., status=sent (...)".
func parseDelivery(l maillog.Line) (*Delivery, bool) {
	rest, ok := strings.CutPrefix(l.Message(), "to=<")
	if !ok {
		return nil, false
	}
	d := &Delivery{QueueID: l.QueueID(), Agent: l.Program, Tag: l.Tag, Time: l.Time}
	head, rest, ok := strings.Cut(rest, ">, relay=")
	if !ok {
		return d, false
	}
	d.Recipient, d.Original, _ = strings.Cut(head, ">, orig_to=<")
	fields, result, ok := strings.Cut(rest, ", status=")
	if !ok {
		return d, false
	}
	for i, f := range strings.Split(fields, ", ") {
		name, value, _ := strings.Cut(f, "=")
		switch {
		case i == 0:
			d.Relay = f
		case name == "tls":
			d.Policy = value
		case name == "dsn":
			d.DSN = value
		}
	}
	status, text, _ := strings.Cut(result, " ")
	d.Status, d.Text = Status(status), strings.TrimSuffix(strings.TrimPrefix(text, "("), ")")
	if d.Status == Sent {
		return d, true
	}
	e, known := maillog.Recognise(l)
	if !known {
		e, known = maillog.Recognise(maillog.Line{Program: l.Program, Tag: l.Tag, Text: d.Text})
	}
	if known {
		d.Reason = &e
	}
	return d, true
}

// Mail is the mail under one queue id, for those who ask where it is.
type Mail struct {
	QueueID    string
	Recipients int // 0: not known
	Deliveries []*Delivery
	Removed    bool   // Postfix has it no more
	Notice     string // queue id of the notice to its sender, "" if there is none
	Held       string // in Postfix's words, "" if it is not on hold
	PassedOn   string // queue id under which it came back: from a content filter, or forwarded
}

// Mails are the queue ids that the mail had, in their order.
func (t *Tracker) Mails() []Mail {
	out := make([]Mail, 0, len(t.mails))
	for i, q := range t.mails {
		out = append(out, Mail{q.id, q.recipients, slices.Clone(q.deliveries), q.removed, q.notice, q.held, t.passedOn(i)})
	}
	return out
}

// Rejected is why cleanup(8) threw the mail away, "" if it did not.
func (t *Tracker) Rejected() string { return t.rejected }

// passedOn is the later queue id that a delivery of mail i led to.
func (t *Tracker) passedOn(i int) string {
	for _, d := range t.mails[i].deliveries {
		if next := t.next(i, d); next != "" {
			return next
		}
	}
	return ""
}

// next is the later queue id that a delivery led to: it is named in the answer
// ("queued as ID", "forwarded as ID"); or the answer names none, and the mail went to
// a program or to this host itself, and came back.
func (t *Tracker) next(i int, d *Delivery) string {
	if d.Status != Sent {
		return ""
	}
	for _, q := range t.mails[i+1:] {
		if strings.Contains(d.Text, " as "+q.id) {
			return q.id
		}
	}
	here := d.Agent == "pipe" || strings.Contains(d.Relay, "[127.") || strings.Contains(d.Relay, "[::1]")
	if here && i+1 < len(t.mails) && !strings.Contains(d.Text, " as ") {
		return t.mails[i+1].id
	}
	return ""
}

// Ends are the deliveries at which the mail has come to an end, for now: those that
// only took it back to this Postfix are left out.
func (t *Tracker) Ends() []*Delivery {
	var out []*Delivery
	for i, q := range t.mails {
		for _, d := range q.deliveries {
			if t.next(i, d) == "" {
				out = append(out, d)
			}
		}
	}
	return out
}

// Done tells whether there is nothing to wait for: each queue id is gone, or was
// tried for all its recipients.
func (t *Tracker) Done() bool {
	if t.rejected != "" {
		return true
	}
	for _, q := range t.mails {
		if !q.removed && q.held == "" && (q.recipients == 0 || len(q.deliveries) < q.recipients) {
			return false
		}
	}
	return len(t.mails) > 0
}
