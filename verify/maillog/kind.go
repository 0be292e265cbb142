package maillog

import (
	"slices"
	"strings"
	"sync"
)

// Effect is what a line says about mail and TLS at the time it was written. The
// values are part of the JSON contract.
type Effect string

// The effects, the worst first.
const (
	MailStopped Effect = "mail_stopped" // a service, or all of Postfix, answers nobody
	TLSOff      Effect = "tls_off"      // this Postfix gives TLS to nobody, or under a name to nobody
	MailDelayed Effect = "mail_delayed" // mail to a destination waits in the queue
	Weaker      Effect = "weaker"       // it works with less than was asked for, or a setting is not heeded
	PeerFailed  Effect = "peer_failed"  // one client or server could not be talked to; others can
	None        Effect = "none"         // as it should be
)

var effects = []Effect{MailStopped, TLSOff, MailDelayed, Weaker, PeerFailed, None}

// Rank orders effects: 0 is the worst.
func (e Effect) Rank() int { return slices.Index(effects, e) }

// Kind is a message that Postfix logs or says, with what it means.
type Kind struct {
	ID       string   // stable: "cert_unusable"
	Patterns []string // the spellings; see pattern
	Programs []string // the row is for lines of these programs only; none: for all, and for those that name no program
	Effect   Effect
	Means    string // what happened
	Now      string // what state mail and TLS are in because of it
	Do       string // what to do next
	Source   string // where that can be read: postconf(5) parameter, RFC section, README
	Versions string // in whose source, or log, the words were seen
}

// clients are the programs that send mail. What both sides can say is taken for a
// server's, unless the line is one of these programs'.
var clients = []string{"smtp", "lmtp", "posttls-finger"}

// all are the versions whose sources were read: 3.5.27, 3.7.11, 3.10.13, 3.11.6. A row
// may have spellings that only some of them use.
const all = "3.5-3.11"

// Kinds is the table. What stands first is looked for first.
var Kinds = sync.OnceValue(func() []Kind {
	return slices.Concat(clientKinds, loadKinds, serverKinds, alertKinds(), libraryKinds, sessionKinds, replyKinds, masterKinds, lastKinds)
})

// Event is a line that is known.
type Event struct {
	Line   Line
	Kind   Kind
	Fields map[string]string // what stood in the places of the pattern; see Field
}

// Field is what a line said: "peer" (name[address] or name[address]:port),
// "protocol", "cipher", "trust", "sni", "file", "reason", ... It is "" for what the
// line did not say.
func (e Event) Field(name string) string { return e.Fields[name] }

// Recognise looks a line up in the table.
func Recognise(l Line) (Event, bool) {
	message := l.Message()
	for i, patterns := range compiled() {
		k := Kinds()[i]
		if len(k.Programs) > 0 && !slices.Contains(k.Programs, l.Program) {
			continue
		}
		for _, p := range patterns {
			if fields, ok := p.match(message); ok {
				return Event{Line: l, Kind: k, Fields: fields}, true
			}
		}
	}
	return Event{}, false
}

// mentions are words that a message about TLS has.
var mentions = []string{"TLS", "SSL", "certificate", "cipher", "private key", "TLSA", "DANE"}

// AboutTLS tells whether a message that is not in the table may be about TLS.
func AboutTLS(l Line) bool {
	return slices.ContainsFunc(mentions, func(w string) bool { return strings.Contains(l.Text, w) })
}

// Summary is the event in a few words: who, with whom, what.
func (e Event) Summary() string {
	var b strings.Builder
	b.WriteString(strings.ReplaceAll(e.Kind.ID, "_", " "))
	for _, name := range []string{"peer", "protocol", "cipher", "sni", "file", "service", "reason"} {
		if v := e.Fields[name]; v != "" {
			b.WriteString(", " + name + " " + v)
		}
	}
	return b.String()
}
