package maillog

import (
	"path"
	"strconv"
	"strings"
	"time"
)

// Line is one line of a mail log. What a line did not say is empty.
type Line struct {
	Time    time.Time // to the second where the log has no more
	Host    string
	Tag     string // syslog_name and program: "postfix/submission/smtpd"
	Program string // the last part of Tag: "smtpd"
	PID     int
	Text    string // what follows the tag: "warning: ..."
}

func (l Line) String() string { return l.Tag + ": " + l.Text }

// Service is what the tag says between the name of the instance and the program:
// "submission" of "postfix/submission/smtpd", as Postfix's own master.cf sets it
// with -o syslog_name=postfix/$service_name. It is "" where the tag says nothing,
// as on port 25.
func (l Line) Service() string {
	first := strings.IndexByte(l.Tag, '/')
	last := strings.LastIndexByte(l.Tag, '/')
	if first == last {
		return ""
	}
	return l.Tag[first+1 : last]
}

// severities are the words that msg(3) puts before a message; an informational
// one has none.
var severities = []string{"warning", "error", "fatal", "panic"}

// Severity is "warning", "error", "fatal", "panic", or "" for information.
func (l Line) Severity() string {
	for _, s := range severities {
		if strings.HasPrefix(l.Text, s+": ") {
			return s
		}
	}
	return ""
}

// QueueID is the queue id that the message begins with, "" if it has none.
func (l Line) QueueID() string {
	id, _ := cutQueueID(strings.TrimPrefix(l.Text, l.Severity()+": "))
	return id
}

// Message is the text without severity and queue id.
func (l Line) Message() string {
	text := l.Text
	if s := l.Severity(); s != "" {
		text = text[len(s)+2:]
	}
	_, text = cutQueueID(text)
	return text
}

// cutQueueID takes a queue id from the beginning of a message. A short one is 6 or
// more hexadecimal digits in capitals, a long one (postconf(5)
// enable_long_queue_ids) 10 or more digits and consonants that begin with the time,
// so with a digit. NOQUEUE stands for a message that has none yet.
func cutQueueID(text string) (id, rest string) {
	id, rest, ok := strings.Cut(text, ": ")
	if !ok {
		return "", text
	}
	if id == "NOQUEUE" {
		return "", rest
	}
	if len(id) < 6 || len(id) > 40 || !strings.ContainsAny(id, "0123456789") {
		return "", text
	}
	short := strings.Trim(id, "0123456789ABCDEF") == ""
	long := len(id) >= 10 && id[0] >= '0' && id[0] <= '9' &&
		strings.Trim(id, "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz") == ""
	if !short && !long {
		return "", text
	}
	return id, rest
}

// Parse reads a line of a log, or the part of one that somebody copied, or a reply
// of an SMTP server. What has no head is all Text. now gives the year and the zone
// to times that have none.
func Parse(text string, now time.Time) Line {
	text = strings.TrimRight(text, "\r\n")
	if l, ok := ParseLine(text, now); ok {
		return l
	}
	text = strings.TrimSpace(text)
	// "postfix/smtpd[12]: ...", without time and host.
	tag, rest, ok := strings.Cut(text, ": ")
	if name, pid, isTag := cutPID(tag); ok && isTag && (pid != 0 || strings.HasPrefix(tag, "postfix")) {
		return Line{Tag: name, Program: path.Base(name), PID: pid, Text: rest}
	}
	return Line{Text: text}
}

// ParseLine reads a line of syslog's traditional form, "Nov 20 21:00:00 HOST
// TAG[PID]: TEXT", in local time, and of its newer one, which begins with an RFC
// 3339 time. It tells whether the line is one of those.
func ParseLine(line string, now time.Time) (Line, bool) {
	when, rest, ok := cutTime(line, now)
	if !ok {
		return Line{}, false
	}
	host, rest, ok := strings.Cut(rest, " ")
	tag, text, ok2 := strings.Cut(rest, ": ")
	if !ok || !ok2 {
		return Line{}, false
	}
	name, pid, _ := cutPID(tag)
	return Line{Time: when, Host: host, Tag: name, Program: path.Base(name), PID: pid, Text: text}, true
}

// cutPID takes "[PID]" off a tag. It tells whether the rest can be one.
func cutPID(tag string) (name string, pid int, ok bool) {
	name, number, found := strings.Cut(tag, "[")
	if found {
		pid, _ = strconv.Atoi(strings.TrimSuffix(number, "]"))
	}
	return name, pid, name != "" && !strings.ContainsAny(name, " \t\"'")
}

func cutTime(line string, now time.Time) (when time.Time, rest string, ok bool) {
	const stamp = "Jan _2 15:04:05"
	if len(line) > len(stamp) && line[len(stamp)] == ' ' {
		if t, err := time.ParseInLocation(stamp, line[:len(stamp)], now.Location()); err == nil {
			return withYear(t, now), line[len(stamp)+1:], true
		}
	}
	first, rest, ok := strings.Cut(line, " ")
	t, err := time.Parse(time.RFC3339Nano, first)
	return t, rest, ok && err == nil
}

// withYear gives a time without a year the one that makes it the latest that is
// not in the future, but for a clock's jitter.
func withYear(t, now time.Time) time.Time {
	in := func(year int) time.Time {
		return time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
	}
	if this := in(now.Year()); !this.After(now.Add(24 * time.Hour)) {
		return this
	}
	return in(now.Year() - 1)
}
