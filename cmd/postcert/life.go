package main

import (
	"fmt"
	"strings"
	"time"
)

// life is how long a certificate lives.
type life struct{ from, until time.Time }

// level is how bad something is, in the order of the plugin convention.
type level int

const (
	levelOK level = iota
	levelWarning
	levelUnknown
	levelCritical
)

func (l level) String() string {
	return []string{"ok", "warning", "unknown", "critical"}[l]
}

func (l level) colour() string { return []string{green, yellow, yellow, red}[l] }

// The alarms are fractions of a lifetime, because a day is nothing to a certificate
// of a year and much to one of a week. A renewal is due with a third of the life
// left, or half of a short one; at a fifth several attempts have failed, and at a
// tenth a person has to do something. Of long lives, which people renew by hand,
// a fifth would be an alarm for months: there is an upper bound.
const (
	warnFraction, critFraction = 5, 10
	warnMost, critMost         = 30 * 24 * time.Hour, 15 * 24 * time.Hour
)

// alarms are how much is left of a life when it becomes a warning, and when it
// becomes critical.
func (l life) alarms() (warning, critical time.Duration) {
	whole := max(l.until.Sub(l.from), 0)
	return min(whole/warnFraction, warnMost), min(whole/critFraction, critMost)
}

// level is how short the time is. At an alarm's very instant it is raised.
func (l life) level(now time.Time) level {
	warning, critical := l.alarms()
	left := l.until.Sub(now)
	switch {
	case left <= critical || now.Before(l.from):
		return levelCritical
	case left <= warning:
		return levelWarning
	}
	return levelOK
}

// left is what is left, as people say it.
func (l life) left(now time.Time) string {
	switch {
	case l.until.IsZero():
		return ""
	case now.Before(l.from):
		return "not valid yet"
	case now.After(l.until):
		return "EXPIRED " + span(now.Sub(l.until)) + " ago"
	}
	return span(l.until.Sub(now)) + " left"
}

// span is a duration in the unit that fits: 45 days, 36 hours, 5 minutes.
func span(d time.Duration) string {
	switch {
	case d >= 72*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return fmt.Sprintf("%d s", max(int(d.Seconds()), 0))
}

// bar draws what is left of a life.
func (l life) bar(now time.Time, width int) string {
	left := float64(l.until.Sub(now)) / float64(max(l.until.Sub(l.from), 1))
	n := int(left*float64(width) + 0.5)
	if left > 0 {
		n = max(n, 1) // an empty one has expired
	}
	n = min(max(n, 0), width)
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}

// when is an instant and how far it is away.
func when(t, now time.Time) string {
	text := t.UTC().Format("2006-01-02 15:04") + " UTC"
	switch d := t.Sub(now); {
	case d > time.Second:
		return text + " (in " + span(d) + ")"
	case d < -time.Second:
		return text + " (" + span(-d) + " ago)"
	}
	return text + " (now)"
}
