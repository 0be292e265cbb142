// Package notify tells people what went wrong with a certificate, and that it is
// right again.
//
// It is on by default because nobody else tells: an ACME client ignores how its
// deploy hook ended, port 25 falls back to plain text without a bounce, and the
// first person to notice an expired certificate is a correspondent. It is quiet
// on success for the same reason: a mail that comes every week is not read when
// it matters.
//
// What is said is a pure function, [decide]: of what is so now ([Condition]), of
// what was told to whom and when ([Memory], on disk), and of the time. An event is
// told once, once more each day while it lasts, and is closed by one message when
// it is over. Each place that is told ([Target]) has a memory of its own, so that
// one which fails is tried again without the others hearing it twice.
//
// A message is claimed on disk before it is sent. So neither a daemon that is
// started again and again, nor a thousand passes that fail, nor two processes at
// once, nor one that is killed in the middle of sending can flood anybody. What
// can, at most, is bounded again by [maxADay] for each target.
//
// Telling never holds up what it is about: the caller has deployed, recorded and
// decided on its exit status before, all targets are told at the same time, and
// the whole ends within [Limit].
package notify

import (
	"context"
	"time"
)

// Event is what went wrong.
type Event string

const (
	Failure    Event = "failure"    // a certificate could not be obtained or deployed
	Rollback   Event = "rollback"   // a deploy was undone; what was served before is served
	Incomplete Event = "incomplete" // an undo could not be completed or proven
	Expiry     Event = "expiry"     // a certificate in use expires soon, or has expired
	Drift      Event = "drift"      // what is served is not what was deployed, without our doing
)

// Recovery is no event of its own but the end of one.
const Recovery = "recovery"

// group are the events of which one follows another without anything being right
// again in between.
func (e Event) group() string {
	switch e {
	case Failure, Rollback, Incomplete:
		return "deploy"
	}
	return string(e)
}

// Condition is one thing that is wrong now, in words for a person.
type Condition struct {
	Event    Event
	ID       string // of the problem, as in JSON
	Headline string // a few words that say everything, without the name
	What     string // what happened
	State    string // what is served now
	Do       string // what to do next
	Since    time.Time

	// Grace is how long it may last before it is told: an order that fails at
	// noon usually succeeds at one.
	Grace time.Duration
	// Once: nothing tries it again, as with a file that was refused on a command
	// line, so it is not repeated before somebody did, at Tried.
	Once  bool
	Tried time.Time
}

// Subject is what is known of one certificate on one instance.
type Subject struct {
	Instance   string // configuration directory; "" for an order, which belongs to none
	Name       string
	Conditions []Condition
	Unknown    []Event // what nobody looked at this time: it stays as it was
}

// Phase says where in the life of an event a message stands.
type Phase string

const (
	Begins Phase = "begins"
	Lasts  Phase = "lasts"
	Ends   Phase = "ends"
)

// Item is one thing to be said.
type Item struct {
	Phase    Phase     `json:"phase"`
	Event    Event     `json:"event"`
	Instance string    `json:"instance"`
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	Headline string    `json:"headline"`
	What     string    `json:"what"`
	State    string    `json:"state"`
	Do       string    `json:"do"`
	Since    time.Time `json:"since"`
}

// Notice is one message: all that one pass has to say to one target.
type Notice struct {
	Schema string    `json:"schema"`
	Host   string    `json:"host"`
	Time   time.Time `json:"time"`
	Items  []Item    `json:"items"`
	Held   bool      `json:"held"` // it is the last one for a while; see maxADay
}

// Target is one place that is told.
type Target interface {
	// ID is its name in our memory, stable from run to run and no secret.
	ID() string
	// Wants tells whether it is to hear of an event, or of Recovery.
	Wants(what string) bool
	// Send says it. The error must be fit for a log: no URL, no token.
	Send(ctx context.Context, n Notice) error
}

// Limits of one target and of all together. They are told at the same time.
const (
	sendLimit = 10 * time.Second
	Limit     = 12 * time.Second
)
