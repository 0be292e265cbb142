package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"postcert/verify/problem"
)

// viewNow is the time in the texts of these tests.
var viewNow = time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)

// viewOf is a certificate with so many listeners that is as it should be.
func viewOf(name string, listeners int, left time.Duration) *certView {
	l := life{viewNow.Add(left - 90*aDay), viewNow.Add(left)}
	v := &certView{
		name: name, instance: "/etc/postfix", names: []string{name, "smtp.example.com"}, issuer: "Let's Encrypt R11", generation: 3, life: l,
		last: eventView{viewNow.Add(-30 * aDay), "installed and proven after a rehearsal; proven again 2026-11-20 04:12"},
		next: eventView{viewNow.Add(29 * aDay), "next order: renewal, when the CA would like it"},
	}
	for i, x := range [][2]string{{"smtp/inet", "192.0.2.1:25"}, {"smtp/inet", "[2001:db8::1]:25"}, {"submission/inet", "192.0.2.1:587"},
		{"submission/inet", "[2001:db8::1]:587"}, {"submissions/inet", "192.0.2.1:465"}, {"submissions/inet", "[2001:db8::1]:465"}} {
		if i < listeners {
			v.listeners = append(v.listeners, listenerView{service: x[0], address: x[1], names: name + " +1", issuer: v.issuer, life: l, verdict: "yes", level: l.level(viewNow)})
		}
	}
	return v
}

func with(v *certView, f func(*certView)) *certView { f(v); return v }

// scenes are what a person meets at 3 a.m.
func scenes() map[string][]*certView {
	var twelve []*certView
	for i := range 12 {
		twelve = append(twelve, viewOf(fmt.Sprintf("mx%d.example.com", i+1), 1, time.Duration(80-i)*aDay))
	}
	twelve[7] = with(viewOf("mx8.example.com", 1, 8*aDay), func(v *certView) {
		v.problems = problem.List{problem.Warn("expires_soon", problem.At{}, "the installed certificate expires on 2026-11-29 03:00:00: 8 days left of its life of 90 days")}
	})
	return map[string][]*certView{
		"good":   {viewOf("mail.example.com", 6, 59*aDay)},
		"twelve": twelve,
		"stopped": {with(viewOf("mail.example.com", 0, 59*aDay), func(v *certView) {
			v.notAsked = "Postfix is not running"
			v.problems = problem.List{problem.New("not_running", problem.At{}, "Postfix is not running (/etc/postfix): it serves nobody")}
		})},
		"failed": {with(viewOf("mail.example.com", 2, 20*aDay), func(v *certView) {
			v.problems = problem.List{problem.New("wanted_not_installed", problem.At{}, "the certificate wanted since 2026-11-21 02:10:00 (0123456789abcdef…) is not the installed one: submissions/inet on 192.0.2.1:465 does not present the certificate")}
			v.last = eventView{viewNow.Add(-50 * time.Minute), "rolled back: submissions/inet on 192.0.2.1:465 does not present the certificate"}
			v.next = eventView{viewNow.Add(10 * time.Minute), "next deploy, where the daemon or a timer runs"}
		})},
		"expired": {with(viewOf("mail.example.com", 2, -2*aDay), func(v *certView) {
			v.problems = problem.List{problem.New("cert_expired", problem.At{}, "the installed certificate expired on 2026-11-19, 2 days ago: clients that look at it turn away")}
		})},
		"differs": {with(viewOf("mail.example.com", 6, 59*aDay), func(v *certView) {
			for i := range v.listeners[:5] {
				l := &v.listeners[i]
				l.verdict, l.level = "NO: generation 2", levelCritical
				v.problems = append(v.problems, problem.New("served_differs", problem.At{}, "%s on %s: presents generation 2, not the installed one (until 2026-12-20)", l.service, l.address))
			}
			v.listeners[5] = listenerView{service: "submissions/inet", address: "[2001:db8::1]:465", verdict: "not known", level: levelCritical}
			v.problems = append(v.problems, problem.New("served_differs", problem.At{}, "submissions/inet on [2001:db8::1]:465: connection refused"))
		})},
		"mixed": {viewOf("good.example.com", 1, 10*aDay), with(viewOf("bad.example.com", 1, 80*aDay), func(v *certView) {
			v.problems = problem.List{problem.New("transaction_open", problem.At{}, "a change was interrupted and is not settled")}
		})},
		"never": {{name: "mail.example.com", instance: "/etc/postfix", last: eventView{viewNow, "rolled back"}, next: eventView{words: "nothing by itself"},
			problems: problem.List{problem.New("wanted_not_installed", problem.At{}, "the certificate mail.example.com, wanted since 2026-11-21 02:10:00, is not installed")}}},
	}
}

// sentence is a line that is one; the others are of a table.
var sentence = regexp.MustCompile(`^  (ERROR|warning|last|next|served|    +do:) `)

// The text that a person reads, as files of testdata/golden/status: short, aligned,
// what is wrong first.
func TestStatusTexts(t *testing.T) {
	for name, views := range scenes() {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{text: newText(&out, false)}
			a.showStatus(views, viewNow)
			path := filepath.Join("..", "..", "testdata", "golden", "status", name+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("%s: %s\n%s", path, firstDifference(string(want), out.String()), &out)
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Error("colour, and this is no terminal")
			}
			for line := range strings.Lines(out.String()) { // of a table
				if n := utf8.RuneCountInString(line); n > 132 && !sentence.MatchString(line) {
					t.Errorf("a line of %d characters: %s", n, line)
				}
			}
		})
	}
}

// On a terminal the same text has colours, and the columns stay where they are.
func TestStatusColours(t *testing.T) {
	var plain, coloured bytes.Buffer
	(&app{text: &text{w: &plain}}).showStatus(scenes()["differs"], viewNow)
	(&app{text: &text{w: &coloured, colour: true}}).showStatus(scenes()["differs"], viewNow)
	stripped := coloured.String()
	for _, code := range []string{"0", green, red, yellow, faint, bold} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+code+"m", "")
	}
	if stripped != plain.String() || !strings.Contains(coloured.String(), "\x1b["+red+"m") {
		t.Errorf("without its colours it is\n%s\nwant\n%s", stripped, &plain)
	}
}
