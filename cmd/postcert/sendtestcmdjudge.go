package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/delivery"
	"postcert/verify/maillog"
	"postcert/verify/problem"
)

// Outcomes of a mail, and of each delivery: the best first. Of several, that of the
// mail is the worst.
const (
	overTLS   = "delivered_tls"
	locally   = "delivered_locally"
	inClearly = "delivered_in_clear"
	overWhat  = "delivered_unknown" // whether over TLS is not logged
	discarded = "discarded"
	waitsFor  = "deferred"
	onHold    = "held"
	stillIn   = "queued" // when the time was over
	returned  = "bounced"
	notKnown  = "unknown"
)

var outcomes = []string{overTLS, locally, inClearly, overWhat, stillIn, onHold, waitsFor, discarded, returned, notKnown}

// sendTestJSON is what send-test found out about its mail.
type sendTestJSON struct {
	MessageID  string              `json:"message_id"`
	Subject    string              `json:"subject"`
	From       string              `json:"from"`
	To         string              `json:"to"`
	Via        string              `json:"via"` // queue or submission
	Submission *submissionJSON     `json:"submission,omitempty"`
	Log        string              `json:"log"`     // a path, "journal", or "" if nothing was read
	Outcome    string              `json:"outcome"` // the worst of all deliveries
	QueueIDs   []string            `json:"queue_ids"`
	InQueue    []string            `json:"in_queue"` // queue ids that Postfix still has
	Notices    []string            `json:"notices"`  // queue ids of notices to the sender
	Deliveries []deliveryJSON      `json:"deliveries"`
	Mailbox    string              `json:"mailbox"`  // file in which it was found, ""
	Received   []delivery.Received `json:"received"` // of the mail as it lies there, the latest first
	Clause     string              `json:"clause"`   // what is to be said about its Received clause of smtpd(8)
	deliveries []*delivery.Delivery
}

type submissionJSON struct {
	Service string `json:"service"`
	Address string `json:"address"`
	User    string `json:"user"`
	delivery.Submitted
}

type deliveryJSON struct {
	QueueID   string          `json:"queue_id"`
	Recipient string          `json:"recipient"`
	Original  string          `json:"original"` // before aliases, "" if it is the same
	Agent     string          `json:"agent"`
	Relay     string          `json:"relay"`
	Status    delivery.Status `json:"status"`
	DSN       string          `json:"dsn"`
	Text      string          `json:"text"`
	Outcome   string          `json:"outcome"`
	Trust     string          `json:"trust"` // Anonymous, Untrusted, Trusted, Verified; ""
	Protocol  string          `json:"protocol"`
	Cipher    string          `json:"cipher"`
	Policy    string          `json:"policy"`  // tls= in the log of Postfix 3.11 and newer
	Summary   string          `json:"summary"` // the line about TLS
	Kinds     []kindJSON      `json:"kinds"`   // what the lines mean
}

func newSendTestJSON(t *trial, f sendTestFlags) *sendTestJSON {
	return &sendTestJSON{
		MessageID: t.mail.ID(), Subject: t.mail.Subject(), From: t.mail.From.String(), To: t.mail.To.String(), Via: f.via, Outcome: notKnown,
		QueueIDs: []string{}, InQueue: []string{}, Notices: []string{}, Deliveries: []deliveryJSON{}, Received: []delivery.Received{},
	}
}

// delivered tells whether the mail went as it should.
func (j *sendTestJSON) delivered() bool { return j.Outcome == overTLS || j.Outcome == locally }

// judgeTrial makes the answer of what the log told.
func (a *app) judgeTrial(ctx context.Context, t *trial, res *result) {
	t.collect()
	a.sayMail(t)
	for i := range t.out.Deliveries {
		a.sayDelivery(t.out.Deliveries[i], t.out.deliveries[i])
		if t.out.Deliveries[i].Outcome == overWhat {
			res.problem(problem.Warn("session_not_logged", where(t.snap, "", "smtp_tls_loglevel"),
				"whether the mail to %s went over TLS is not in the log: %s logs no sessions", t.out.Deliveries[i].Recipient, t.out.deliveries[i].Tag))
		}
	}
	if slices.ContainsFunc(t.out.Deliveries, func(d deliveryJSON) bool { return d.Outcome == locally }) {
		a.lookIntoMailbox(ctx, t)
	} else if t.out.Outcome == overTLS || t.out.Outcome == inClearly || t.out.Outcome == overWhat {
		t.out.Clause = "the mailbox is elsewhere: there the headers of the mail with the subject \"" + t.out.Subject + "\" have the Received clause of the server that took it"
	}
	if t.out.Clause != "" {
		a.text.printf("%s\n", wrapped("  received  ", "            ", t.out.Clause))
	}
	res.headline = t.headline()
}

// collect puts what the log told into words that are stable.
func (t *trial) collect() {
	j := t.out
	var all []string
	for _, m := range t.tracker.Mails() {
		j.QueueIDs = append(j.QueueIDs, m.QueueID)
		if m.Notice != "" {
			j.Notices = append(j.Notices, m.Notice)
		}
		if m.Removed {
			continue
		}
		j.InQueue = append(j.InQueue, m.QueueID)
		switch {
		case m.Held != "":
			all = append(all, onHold)
		case m.Recipients == 0 || len(m.Deliveries) < m.Recipients:
			all = append(all, stillIn)
		}
	}
	if t.tracker.Rejected() != "" {
		all = append(all, discarded)
		j.InQueue = []string{}
	}
	j.deliveries = t.tracker.Ends()
	for _, d := range j.deliveries {
		v := t.view(d)
		j.Deliveries = append(j.Deliveries, v)
		all = append(all, v.Outcome)
	}
	for _, o := range all {
		if j.Outcome == notKnown || slices.Index(outcomes, o) > slices.Index(outcomes, j.Outcome) {
			j.Outcome = o
		}
	}
}

// view is one delivery for people.
func (t *trial) view(d *delivery.Delivery) deliveryJSON {
	v := deliveryJSON{
		QueueID: d.QueueID, Recipient: d.Recipient, Original: d.Original, Agent: d.Agent, Relay: d.Relay, Status: d.Status, DSN: d.DSN, Text: d.Text,
		Trust: d.Trust(), Policy: d.Policy, Outcome: t.outcomeOf(d), Kinds: []kindJSON{},
	}
	add := func(k maillog.Kind) {
		if !slices.ContainsFunc(v.Kinds, func(have kindJSON) bool { return have.ID == k.ID }) {
			v.Kinds = append(v.Kinds, kindOf(k))
		}
	}
	if d.Summary != nil {
		v.Summary, v.Protocol, v.Cipher = d.Summary.Line.Text, d.Summary.Field("protocol"), d.Summary.Field("cipher")
		add(d.Summary.Kind)
	}
	if d.Reason != nil {
		add(d.Reason.Kind)
	}
	if d.Status != delivery.Sent || v.Outcome == inClearly {
		for _, e := range d.About {
			add(e.Kind)
		}
	}
	return v
}

func (t *trial) outcomeOf(d *delivery.Delivery) string {
	switch d.Status {
	case delivery.Sent:
	case delivery.Deferred:
		return waitsFor
	case delivery.Bounced, delivery.Expired:
		return returned
	default:
		return notKnown
	}
	switch d.Over(logsSessions(t.snap, d)) {
	case delivery.OverTLS:
		return overTLS
	case delivery.InClear:
		return inClearly
	case delivery.OverUnknown:
		return overWhat
	}
	if d.Agent == "discard" {
		return discarded
	}
	return locally
}

// logsSessions tells whether the service that made a delivery logs its sessions with
// TLS: all that log by the same tag must.
func logsSessions(s cf.Snapshot, d *delivery.Delivery) bool {
	for _, svc := range s.Services {
		if path.Base(svc.Command) != d.Agent || s.Effective(svc.ID(), "syslog_name")+"/"+d.Agent != d.Tag {
			continue
		}
		if n, err := strconv.Atoi(s.Effective(svc.ID(), d.Agent+"_tls_loglevel")); err != nil || n < 1 {
			return false
		}
	}
	return true
}

func (a *app) sayMail(t *trial) {
	j := t.out
	if len(j.QueueIDs) == 0 {
		return
	}
	words := strings.Join(j.QueueIDs, ", then ")
	if j.Log != "" {
		words += ", in " + j.Log
	}
	a.text.printf("  queue id     %s\n", words)
}

// deliveryWords are what a delivery is called, and its colour.
var deliveryWords = map[string]struct{ words, colour string }{
	overTLS:   {"sent over TLS", green},
	locally:   {"delivered on this host", green},
	inClearly: {"sent in clear", yellow},
	overWhat:  {"sent; whether over TLS is not logged", yellow},
	discarded: {"thrown away", red},
	waitsFor:  {"deferred: it stays in the queue and is tried again", red},
	returned:  {"bounced: it was returned to its sender", red},
	notKnown:  {"not known", red},
}

// sayDelivery prints a delivery, and explains it.
func (a *app) sayDelivery(v deliveryJSON, d *delivery.Delivery) {
	o := deliveryWords[v.Outcome]
	to := v.Recipient
	if v.Original != "" {
		to = v.Original + ", that is " + v.Recipient
	}
	a.text.printf("\n  %s: %s\n", a.text.paint(bold, to), a.text.paint(o.colour, o.words))
	rows := [][2]string{{"next hop", v.Relay}, {"answer", v.Text}, {"log", v.Summary}}
	for _, row := range rows {
		if row[1] != "" && row[1] != "none" {
			a.text.printf("    %-9s %s\n", row[0], row[1]) // as it is in the log
		}
	}
	if v.Outcome == inClearly && len(v.Kinds) == 0 {
		a.text.printf("%s\n", wrapped("    means     ", strings.Repeat(" ", 14), "no session with TLS was logged for it: the server offers no STARTTLS, or the level here is none. postcert policy test DOMAIN shows which"))
	}
	for _, k := range v.Kinds {
		a.text.printf("%s\n", wrapped("    means     ", strings.Repeat(" ", 14), k.Means+" Now: "+k.Now))
		if v.Outcome != overTLS {
			a.text.printf("%s\n", wrapped("    do        ", strings.Repeat(" ", 14), k.Do))
		}
	}
}

// headline is what happened, what state the mail is in, and what to do.
func (t *trial) headline() string {
	j := t.out
	queue := ""
	if len(j.InQueue) > 0 {
		queue = " It is in the queue; to take it out: " + t.postsuper(j.InQueue)
	}
	trust := ""
	for _, d := range j.Deliveries {
		if d.Trust != "" && !strings.Contains(trust, d.Trust) {
			trust += prefixed(", ", d.Trust)
		}
	}
	switch j.Outcome {
	case overTLS:
		return fmt.Sprintf("yes: the mail was delivered over TLS%s.", trust)
	case locally:
		return "yes: the mail was delivered on this host."
	case inClearly:
		return "no: the mail was delivered in clear." + queue
	case overWhat:
		return "no: the mail was delivered, and whether over TLS is not known."
	case waitsFor:
		return "no: the mail waits." + queue
	case returned:
		return fmt.Sprintf("no: the mail was returned%s.", prefixed(" to "+j.From+" as ", strings.Join(j.Notices, ", ")))
	case discarded:
		return "no: the mail was thrown away" + prefixed(": ", t.tracker.Rejected()) + "."
	case onHold:
		return "no: the mail is on hold." + queue
	case stillIn:
		return "not known within the time: the mail is still under way." + queue
	}
	return "not known within the time: the log of the instance does not have the mail. Look for it: postqueue -p"
}
