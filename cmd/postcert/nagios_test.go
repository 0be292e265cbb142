package main

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"postcert/verify/problem"
)

// plugin is what a monitor understands of a plugin's output, read by the words of
// the Monitoring Plugins Development Guidelines and by nothing of ours.
type plugin struct {
	word, message string
	perf          map[string]metric
}

type metric struct {
	value          float64
	warn, crit     string
	minimum, limit string
}

// guideline reads one line of output by sections 2.1, 2.5 (ranges) and 2.6
// (performance data) of the guidelines.
func guideline(t *testing.T, out string) plugin {
	t.Helper()
	if !strings.HasSuffix(out, "\n") || strings.Count(out, "\n") != 1 || len(out) > 4096 {
		t.Fatalf("not one line of up to 4 KB: %d bytes, %q", len(out), out)
	}
	if i := strings.IndexFunc(strings.TrimSuffix(out, "\n"), unicode.IsControl); i >= 0 {
		t.Errorf("a control character at %d: %q", i, out[max(0, i-20):i+1])
	}
	text, perf, has := strings.Cut(strings.TrimSuffix(out, "\n"), "|")
	m := regexp.MustCompile(`^([A-Z]+) (OK|WARNING|CRITICAL|UNKNOWN) - (\S.*?) ?$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("not SERVICE STATUS - message: %q", text)
	}
	p := plugin{word: m[2], message: m[3], perf: map[string]metric{}}
	if !has {
		return p
	}
	// 'label'=value[UOM];[warn];[crit];[min];[max], separated by blanks. Two single
	// quotes in a label are one; it holds no equals sign.
	item := regexp.MustCompile(`^\s*(?:'((?:[^'=]|'')+)'|([^\s'=]+))=(-?[0-9.]+)(us|ms|s|%|[KMGT]?B|c)?(?:;([^; ]*))?(?:;([^; ]*))?(?:;([^; ]*))?(?:;([^; ]*))?(?:\s+|$)`)
	for rest := perf; strings.TrimSpace(rest) != ""; {
		m := item.FindStringSubmatch(rest)
		if m == nil {
			t.Fatalf("not performance data: %q", rest)
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		label := strings.ReplaceAll(m[1]+m[2], "''", "'")
		if _, twice := p.perf[label]; twice {
			t.Errorf("the label %q is there twice", label)
		}
		p.perf[label] = metric{value, m[5], m[6], m[7], m[8]}
		rest = rest[len(m[0]):]
	}
	return p
}

// alerts tells whether a value raises a range of section 2.5: "10:" is raised below
// 10, "~:10" above 10, "10" below 0 and above 10.
func alerts(t *testing.T, spec string, v float64) bool {
	t.Helper()
	if inside, ok := strings.CutPrefix(spec, "@"); ok {
		return !alerts(t, inside, v)
	}
	start, end, colon := strings.Cut(spec, ":")
	low, high := 0.0, math.Inf(1)
	parse := func(s string, to *float64) {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatalf("the range %q: %v", spec, err)
		}
		*to = x
	}
	switch {
	case !colon:
		parse(start, &high)
	case start == "~":
		low = math.Inf(-1)
	case start != "":
		parse(start, &low)
	}
	if colon && end != "" {
		parse(end, &high)
	}
	return v < low || v > high
}

// resultOf is a result as the command status makes it.
func resultOf(views []*certView) (*result, error) {
	res := &result{command: "status", views: views, headline: "ok: as it should be"}
	var err error
	for _, v := range views {
		res.problems = append(res.problems, v.problems...)
		if !v.agrees() {
			err = errNo
		}
	}
	return res, err
}

// Each scene as a monitor understands it: the word, and performance data whose
// ranges raise the same alarm as the word says.
func TestNagios(t *testing.T) {
	want := map[string]level{"good": levelOK, "twelve": levelCritical, "stopped": levelCritical, "failed": levelCritical,
		"expired": levelCritical, "mixed": levelCritical, "differs": levelCritical, "never": levelCritical}
	for name, views := range scenes() {
		res, err := resultOf(views)
		line, got := nagiosLine(res, err, viewNow)
		p := guideline(t, line+"\n")
		if got != want[name] || p.word != strings.ToUpper(want[name].String()) {
			t.Errorf("%s: %v, %s; want %v", name, got, line, want[name])
		}
		certs := 0
		for _, v := range views {
			if v.life.until.IsZero() {
				continue
			}
			certs++
			m, ok := p.perf[v.name]
			left := v.life.until.Sub(viewNow).Hours() / 24
			if !ok || math.Abs(m.value-left) > 0.01 || m.limit != "90.00" {
				t.Errorf("%s: %s: %+v, want %v days", name, v.name, m, left)
			}
			if l := v.life.level(viewNow); alerts(t, m.crit, m.value) != (l == levelCritical) || alerts(t, m.warn, m.value) != (l >= levelWarning) {
				t.Errorf("%s: %s: %+v raises another alarm than %v", name, v.name, m, l)
			}
		}
		if len(p.perf) < certs {
			t.Errorf("%s: %d items for %d certificates", name, len(p.perf), certs)
		}
	}
}

// The word by what is left, at each alarm, for short and long lives; the ranges
// raise the same alarm.
func TestNagiosAlarms(t *testing.T) {
	for _, whole := range []time.Duration{160 * time.Hour, 45 * aDay, 64 * aDay, 90 * aDay, 397 * aDay} {
		warning, critical := life{viewNow, viewNow.Add(whole)}.alarms()
		for _, tt := range []struct {
			left time.Duration
			want level
		}{{whole, levelOK}, {warning + time.Hour, levelOK}, {warning - time.Hour, levelWarning}, {critical + time.Hour, levelWarning}, {critical - time.Hour, levelCritical}, {-time.Hour, levelCritical}} {
			v := &certView{name: "m", life: life{viewNow.Add(tt.left - whole), viewNow.Add(tt.left)}}
			line, got := nagiosLine(&result{views: []*certView{v}, headline: "ok"}, nil, viewNow)
			m := guideline(t, line+"\n").perf["m"]
			if got != tt.want || alerts(t, m.warn, m.value) != (tt.want >= levelWarning) || alerts(t, m.crit, m.value) != (tt.want == levelCritical) {
				t.Errorf("%v, %v left: %v (%s), want %v", whole, tt.left, got, line, tt.want)
			}
		}
	}
}

// Whatever certificates, servers and errors say, it is one line that a monitor can
// read, and the message can't be taken for performance data.
func TestNagiosHostile(t *testing.T) {
	for _, evil := range []string{"a|b=1", "a\nb", "x'y", "x=y", "\x00\x1b[31m", "\xff\xfe", strings.Repeat("long ", 3000), "a\u2028b", "''", "é|ü"} {
		v := viewOf("m "+evil, 6, 50*aDay)
		v.listeners[0].address = "/run/" + evil
		v.problems = problem.List{problem.New("failed", problem.At{}, "before %s after", evil)}
		res, err := resultOf([]*certView{v})
		line, got := nagiosLine(res, err, viewNow)
		p := guideline(t, line+"\n")
		if got != levelCritical || !strings.Contains(p.message, "before") {
			t.Errorf("%.20q: %v, %+v", evil, got, p)
		}
		line, got = nagiosLine(&result{}, errors.New(evil+"."), viewNow)
		if guideline(t, line+"\n"); got != levelUnknown {
			t.Errorf("%.20q as an error: %v", evil, got)
		}
	}
	var many []*certView
	for i := range 40 {
		many = append(many, viewOf(fmt.Sprintf("a-rather-long-name-%d.example.com", i), 6, 50*aDay))
	}
	res, err := resultOf(many)
	line, _ := nagiosLine(res, err, viewNow)
	if p := guideline(t, line+"\n"); len(p.perf) != 40 || strings.HasPrefix(p.message, "...") {
		t.Errorf("%d items for 40 certificates", len(p.perf))
	}
}

// What can't be found out is UNKNOWN: the command line, the configuration.
func TestNagiosUnknown(t *testing.T) {
	for _, args := range [][]string{
		{"status", "--nagios", "--nonsense"}, {"status", "--nonsense", "--nagios"}, {"status", "--nagios", "a", "b"}, {"status", "--nagios", "--json"},
		{"status", "--nagios", "--config", "/nonexistent/postcert.yaml"}, {"status", "--nagios", "--timeout", "x"},
	} {
		a := within(t, args...).want(3)
		if p := guideline(t, a.stdout); p.word != "UNKNOWN" {
			t.Errorf("%v: %s", args, a.stdout)
		}
	}
	within(t, "version", "--nagios").want(2)
}
