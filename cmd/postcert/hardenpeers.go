package main

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"postcert/deploy/postfix"
	"postcert/deploy/postfix/cf"
	"postcert/verify/maillog"
)

const (
	peerDays   = 30               // of the log that are read
	peerLimit  = 20 * time.Second // that reading it may take
	maxPeers   = 10_000           // different ones that are kept
	shownPeers = 20
)

// peer is a client in the log that the change would turn away.
type peer struct {
	Service string    `json:"service"`
	Peer    string    `json:"peer"` // name[address]
	Did     string    `json:"did"`  // what it did, such as "TLSv1 with AES128-SHA"
	Why     string    `json:"why"`
	Count   int       `json:"count"`
	Last    time.Time `json:"last"`
}

// peerLog is what was read of the log.
type peerLog struct {
	Source   string  `json:"source"` // "" if there was none to read
	Days     int     `json:"days"`
	Sessions int     `json:"sessions"` // with TLS, in which mail or a password came
	Note     string  `json:"note"`     // why it says less than it could
	Peers    []*peer `json:"peers"`
}

var (
	peerTLS  = regexp.MustCompile(`TLS connection established from (\S+?)(?: to \S+)?: (\S+) with cipher (\S+)`)
	peerLeft = regexp.MustCompile(`^disconnect from (\S+) (.*)$`)
)

// peerQuestion judges lines of the log by the configuration that is to come.
type peerQuestion struct {
	tags     map[string][]string // services by the tag they log with
	services map[string]allowance
	before   cf.Snapshot
	after    cf.Snapshot
	found    map[string]*peer
	open     map[string][]string // of a process: the session with TLS that has not ended yet
	sessions int
}

// pastPeers are the clients in the log that could not do any more what they did. A
// log explains, and decides nothing: what stands in the way of reading it is said.
func pastPeers(ctx context.Context, i postfix.Instance, before, after cf.Snapshot, services map[string]allowance, now time.Time) peerLog {
	q := &peerQuestion{tags: servicesByTag(before), services: services, before: before, after: after, found: map[string]*peer{}, open: map[string][]string{}}
	ctx, cancel := context.WithTimeout(ctx, peerLimit)
	defer cancel()
	r, err := i.ReadLog(ctx, now.AddDate(0, 0, -peerDays), q.add)
	out := peerLog{Source: r.Source, Days: peerDays, Sessions: q.sessions, Peers: []*peer{}}
	switch {
	case err != nil:
		out.Note = fmt.Sprintf("the log could not be read to its end: %v", err)
	case q.sessions == 0:
		out.Note = "no client has sent mail or a password with TLS in it; with smtpd_tls_loglevel = 0 they are not logged"
	}
	for _, p := range q.found {
		out.Peers = append(out.Peers, p)
	}
	slices.SortFunc(out.Peers, func(x, y *peer) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Peer, y.Peer), cmp.Compare(x.Did, y.Did), cmp.Compare(x.Service, y.Service))
	})
	return out
}

// add looks at one line. A session counts if mail or a password came in it: who only
// looks, as scanners do and we ourselves, loses nothing.
func (q *peerQuestion) add(l maillog.Line) {
	if l.Program != "smtpd" {
		return
	}
	process := fmt.Sprint(l.Tag, l.PID)
	if m := peerTLS.FindStringSubmatch(l.Text); m != nil {
		q.open[process] = m[1:]
		return
	}
	m := peerLeft.FindStringSubmatch(l.Text)
	if m == nil {
		return
	}
	tls := q.open[process]
	delete(q.open, process)
	said := " " + m[2]
	if !did(said, "mail") && !did(said, "auth") {
		return
	}
	if tls != nil {
		q.sessions++
	}
	for _, id := range q.tags[l.Tag] {
		if a, ok := q.services[id]; ok && tls != nil {
			q.session(l, id, a, tls)
		} else if tls == nil {
			q.plaintext(l, id, m[1], said)
		}
	}
}

// did tells whether a command succeeded in a session: "auth=0/1" is one that failed.
func did(said, word string) bool {
	i := strings.Index(said, " "+word+"=")
	return i >= 0 && said[i+len(word)+2] != '0'
}

// session is one with TLS: its version or its cipher may be refused.
func (q *peerQuestion) session(l maillog.Line, id string, a allowance, tls []string) {
	who, protocol, suite := tls[0], tls[1], tls[2]
	did := protocol + " with " + suite
	switch {
	case !slices.Contains(a.protocols, protocol):
		q.note(l, id, who, did, protocol+" will be refused")
	case protocol != "TLSv1.3" && !slices.Contains(a.suites, suite):
		q.note(l, id, who, did, suite+" will be refused, and it must know another cipher")
	}
}

// plaintext is a session that has ended, with what was said in it: "ehlo=1 auth=1
// mail=1 ...". Without starttls, all of it was in clear.
func (q *peerQuestion) plaintext(l maillog.Line, id, who, said string) {
	if strings.Contains(said, " starttls=") || strings.EqualFold(q.before.Effective(id, "smtpd_tls_wrappermode"), "yes") {
		return
	}
	switch {
	case did(said, "auth") && authInClear(q.before, id) && !authInClear(q.after, id):
		q.note(l, id, who, "AUTH without TLS", "AUTH will be offered inside TLS only")
	case did(said, "mail") && !insists(q.before, id) && insists(q.after, id):
		q.note(l, id, who, "mail without TLS", "TLS will be required")
	}
}

// insists tells that a service takes nothing without TLS.
func insists(s cf.Snapshot, id string) bool {
	level := strings.ToLower(s.Effective(id, "smtpd_tls_security_level"))
	return strings.EqualFold(s.Effective(id, "smtpd_tls_wrappermode"), "yes") || level != "" && level != "none" && level != "may"
}

// authInClear tells that a service takes passwords without TLS.
func authInClear(s cf.Snapshot, id string) bool {
	return strings.EqualFold(s.Effective(id, "smtpd_sasl_auth_enable"), "yes") && !insists(s, id) &&
		!strings.EqualFold(s.Effective(id, "smtpd_tls_auth_only"), "yes")
}

func (q *peerQuestion) note(l maillog.Line, id, who, did, why string) {
	key := id + " " + who + " " + did
	p := q.found[key]
	if p == nil {
		if len(q.found) == maxPeers {
			return
		}
		p = &peer{Service: id, Peer: who, Did: did, Why: why}
		q.found[key] = p
	}
	p.Count++
	if l.Time.After(p.Last) {
		p.Last = l.Time.UTC()
	}
}

// showPeers prints who would have been turned away.
func (a *app) showPeers(p peerLog) {
	where := orText(p.Source, "no log")
	if p.Note != "" {
		where += "; " + p.Note
	}
	if len(p.Peers) == 0 {
		a.text.printf("  no client in the log of the last %d days would have been turned away (%s; %d sessions with TLS).\n", p.Days, where, p.Sessions)
		return
	}
	a.text.printf("  %d in the log of the last %d days would have been turned away (%s):\n", len(p.Peers), p.Days, where)
	tb := &table{head: []string{"client", "service", "did", "times", "last", "why not"}}
	for _, x := range p.Peers[:min(len(p.Peers), shownPeers)] {
		tb.add(yellow, x.Peer, x.Service, x.Did, fmt.Sprint(x.Count), x.Last.Format(time.DateOnly), x.Why)
	}
	a.text.table(tb)
	if n := len(p.Peers) - shownPeers; n > 0 {
		a.text.printf("  and %d more: --json has all\n", n)
	}
}
