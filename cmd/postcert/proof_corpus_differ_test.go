package main

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// plannedEdit is one edit as the JSON of install-cert tells it.
type plannedEdit struct {
	Service, Parameter string
	Old, New           *string
}

// hunk is a place where two files differ: physical lines with their line ends.
type hunk struct {
	at             int // index of the first line, before
	removed, added []string
}

// hunks compares two files line by line, by their longest common subsequence.
// It knows nothing of Postfix.
func hunks(before, after []byte) []hunk {
	a, b := physical(before), physical(after)
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	x, y := a[start:], b[start:]
	for len(x) > 0 && len(y) > 0 && x[len(x)-1] == y[len(y)-1] {
		x, y = x[:len(x)-1], y[:len(y)-1]
	}
	common := make([][]int, len(x)+1)
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []hunk
	same := true
	place := func(i int) *hunk {
		if same {
			out, same = append(out, hunk{at: start + i}), false
		}
		return &out[len(out)-1]
	}
	for i, j := 0, 0; i < len(x) || j < len(y); {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			i, j, same = i+1, j+1, true
		case i < len(x) && (j == len(y) || common[i+1][j] >= common[i][j+1]):
			h := place(i)
			h.removed, i = append(h.removed, x[i]), i+1
		default:
			h := place(i)
			h.added, j = append(h.added, y[j]), j+1
		}
	}
	return out
}

// physical are the lines of a file, each with its line end.
func physical(data []byte) []string {
	var out []string
	for line := range bytes.Lines(data) {
		out = append(out, string(line))
	}
	return out
}

// remark tells whether a line is blank or a comment.
func remark(line string) bool {
	body := strings.TrimSpace(line)
	return body == "" || body[0] == '#'
}

// remarks are the blank and comment lines of a file.
func remarks(data []byte) []string {
	return slices.DeleteFunc(physical(data), func(l string) bool { return !remark(l) })
}

// part is a logical line of main.cf or an entry of master.cf: what it is about,
// and its physical lines, without the remarks between them.
type part struct {
	about string
	lines []string
}

// parts reads a file as postconf(5) and master(5) say: a line that begins with
// white space goes on with what came before.
func parts(data []byte, about func(first string) string) []part {
	var out []part
	for _, l := range physical(data) {
		switch {
		case remark(l):
		case l[0] != ' ' && l[0] != '\t':
			out = append(out, part{about(l), []string{l}})
		case len(out) > 0:
			p := &out[len(out)-1]
			p.lines = append(p.lines, l)
		}
	}
	return out
}

func parameterOf(first string) string { return regexp.MustCompile(`^[^ \t\r\n=]+`).FindString(first) }

func serviceOf(first string) string {
	f := strings.Fields(first)
	return f[0] + "/" + f[1]
}

// carriers are the parameters that an install may set, whatever it plans.
var carriers = regexp.MustCompile(`^(smtpd|tlsproxy)_tls_((d|ec)?cert_file|(d|ec)?key_file|chain_files)$`)

// judgeEdits holds the plan itself against what an install may do at all.
func judgeEdits(t *testing.T, edits []plannedEdit, enable bool) {
	t.Helper()
	for _, e := range edits {
		if !carriers.MatchString(e.Parameter) && !(enable && e.Parameter == "smtpd_tls_security_level") {
			t.Errorf("the plan edits %s", e.Parameter)
		}
		if e.New == nil {
			t.Errorf("the plan removes %s", e.Parameter)
		}
	}
}

// eol is the line end of a line, with the blanks before it.
func eol(line string) string { return line[len(strings.TrimRight(line, " \t\r\n")):] }

// judgeMain holds what became of main.cf against the plan.
func judgeMain(t *testing.T, before, after []byte, edits []plannedEdit) {
	t.Helper()
	edited := map[string]plannedEdit{}
	for _, e := range edits {
		if e.Service == "" {
			edited[e.Parameter] = e
		}
	}
	judgeFrame(t, "main.cf", before, after)
	a, b := parts(before, parameterOf), parts(after, parameterOf)
	others := func(all []part) []string {
		var out []string
		for _, p := range all {
			if _, ok := edited[p.about]; !ok {
				out = append(out, p.lines...)
			}
		}
		return out
	}
	if x, y := others(a), others(b); !slices.Equal(unended(x), unended(y)) {
		t.Errorf("main.cf: lines of other parameters differ:\n%q\n%q", x, y)
	}
	for name, e := range edited {
		of := func(all []part) []part {
			return slices.DeleteFunc(slices.Clone(all), func(p part) bool { return p.about != name })
		}
		judgeSetting(t, e, of(a), of(b))
		if e.Old == nil {
			judgePlace(t, name, a, b)
		}
	}
	for _, h := range hunks(before, after) {
		for _, l := range append(slices.Clone(h.removed), h.added...) {
			if remark(l) {
				t.Errorf("main.cf, line %d: a remark differs: %q", h.at+1, l)
			}
		}
	}
}

// unended are lines without their line ends: a last line that had none may have
// got one because another line follows.
func unended(lines []string) []string {
	out := slices.Clone(lines)
	for i := range out {
		out[i] = strings.TrimRight(out[i], "\r\n")
	}
	return out
}

// judgeFrame is what must stay of any file: the remarks, the line ends, whether
// the last line has one.
func judgeFrame(t *testing.T, name string, before, after []byte) {
	t.Helper()
	if a, b := remarks(before), remarks(after); !slices.Equal(unended(a), unended(b)) {
		t.Errorf("%s: the remarks differ: %q, were %q", name, b, a)
	}
	if bytes.HasSuffix(before, []byte("\n")) != bytes.HasSuffix(after, []byte("\n")) && len(before) > 0 {
		t.Errorf("%s: the newline at the end came or went", name)
	}
	crlf := func(data []byte) (with, without int) {
		with = bytes.Count(data, []byte("\r\n"))
		return with, bytes.Count(data, []byte("\n")) - with
	}
	with, without := crlf(before)
	nowWith, nowWithout := crlf(after)
	if with == 0 && nowWith > 0 || without == 0 && with > 0 && nowWithout > 0 {
		t.Errorf("%s: %d lines end with CR LF and %d with LF, were %d and %d", name, nowWith, nowWithout, with, without)
	}
}

// judgeSetting looks at the settings of one edited parameter: all but the last,
// which is in effect, are as they were; the last says what is planned, on no
// more lines, with the name, the equals sign and the blanks as they were.
func judgeSetting(t *testing.T, e plannedEdit, before, after []part) {
	t.Helper()
	if e.Old == nil && len(before) > 0 || e.Old != nil && len(before) == 0 {
		t.Errorf("%s: the plan says it was %v, and it stands there %d times", e.Parameter, e.Old, len(before))
		return
	}
	want := len(before)
	if e.Old == nil {
		want++
	}
	if len(after) != want {
		t.Errorf("%s is set %d times, want %d", e.Parameter, len(after), want)
		return
	}
	last := after[len(after)-1]
	for i := range len(after) - 1 {
		if !slices.Equal(before[i].lines, after[i].lines) {
			t.Errorf("%s: an earlier setting differs: %q, was %q", e.Parameter, after[i].lines, before[i].lines)
		}
	}
	if e.New == nil {
		return
	}
	// A value that stood on a line of its own is replaced there.
	if n := len(last.lines); n > 1 && (len(before) == 0 || n > len(before[len(before)-1].lines)) {
		t.Errorf("%s stands on %d lines: %q", e.Parameter, n, last.lines)
		return
	}
	text := strings.Join(last.lines, "")
	if got := strings.TrimSpace(text[strings.IndexByte(text, '=')+1:]); got != *e.New {
		t.Errorf("%s is %q, planned is %q", e.Parameter, got, *e.New)
	}
	if len(before) == 0 || len(before[len(before)-1].lines) > 1 {
		return
	}
	line := last.lines[0]
	old := before[len(before)-1].lines[0]
	head := regexp.MustCompile(`^[^=]*=[ \t]*`)
	if strings.TrimSpace(old[strings.IndexByte(old, '=')+1:]) == "" {
		return
	}
	if got, want := head.FindString(line)+"|"+eol(line), head.FindString(old)+"|"+eol(old); got != want {
		t.Errorf("%s: name and blanks are %q, were %q", e.Parameter, got, want)
	}
}

// judgePlace looks where a new parameter stands: behind its closest relative
// by the words of the name, two at least; without one, at the end.
func judgePlace(t *testing.T, name string, before, after []part) {
	t.Helper()
	alike := func(other string) int {
		a, b := strings.Split(name, "_"), strings.Split(other, "_")
		n := 0
		for n < len(a) && n < len(b) && a[n] == b[n] {
			n++
		}
		return n
	}
	best := 0
	for _, p := range before {
		best = max(best, alike(p.about))
	}
	i := slices.IndexFunc(after, func(p part) bool { return p.about == name })
	switch {
	case i < 0:
	case best < 2:
		for _, p := range after[i:] {
			if slices.ContainsFunc(before, func(q part) bool { return q.about == p.about }) {
				t.Errorf("%s has no relative, and stands before %s", name, p.about)
			}
		}
	case i == 0 || alike(after[i-1].about) < best:
		t.Errorf("%s does not stand behind its closest relative", name)
	}
}

// judgeMaster holds what became of master.cf against the plan: the entries with
// the planned options taken out are the same words, and the others the same
// bytes.
func judgeMaster(t *testing.T, before, after []byte, edits []plannedEdit) {
	t.Helper()
	edited := map[string]map[string]plannedEdit{}
	for _, e := range edits {
		if e.Service != "" {
			if edited[e.Service] == nil {
				edited[e.Service] = map[string]plannedEdit{}
			}
			edited[e.Service][e.Parameter] = e
		}
	}
	if len(edited) == 0 {
		if !bytes.Equal(before, after) {
			t.Errorf("master.cf differs, and no edit of it is planned: %s", diffWords(hunks(before, after)))
		}
		return
	}
	judgeFrame(t, "master.cf", before, after)
	a, b := parts(before, serviceOf), parts(after, serviceOf)
	if len(a) != len(b) {
		t.Errorf("master.cf has %d entries, had %d", len(b), len(a))
		return
	}
	for i := range a {
		own := edited[a[i].about]
		if own == nil {
			if !slices.Equal(unended(a[i].lines), unended(b[i].lines)) {
				t.Errorf("entry %s: %q, was %q", a[i].about, b[i].lines, a[i].lines)
			}
			continue
		}
		x, _ := optionsOf(a[i], own)
		y, set := optionsOf(b[i], own)
		if !slices.Equal(x, y) {
			t.Errorf("entry %s: beside the plan %q, was %q", a[i].about, y, x)
		}
		for name, e := range own {
			if e.New == nil || set[name] != *e.New {
				t.Errorf("entry %s: %s is %q, planned is %v", a[i].about, name, set[name], e.New)
			}
		}
	}
}

// optionsOf are the words of an entry but for the options named, and what those
// are set to.
func optionsOf(p part, names map[string]plannedEdit) (rest []string, set map[string]string) {
	set = map[string]string{}
	option := regexp.MustCompile(`^-o[ \t]*(?:\{[ \t]*([a-z_0-9]+)[ \t]*=[ \t]*(.*?)[ \t]*\}|([a-z_0-9]+)=([^ \t]*))`)
	text := strings.Join(strings.Fields(strings.Join(p.lines, " ")), " ")
	for text != "" {
		word, _, _ := strings.Cut(text, " ")
		if m := option.FindStringSubmatch(text); m != nil {
			word = m[0]
			name, value := m[1]+m[3], m[2]+m[4]
			if _, ok := names[name]; ok {
				set[name] = value
				text = strings.TrimSpace(text[len(word):])
				continue
			}
		}
		rest = append(rest, word)
		text = strings.TrimSpace(text[len(word):])
	}
	return rest, set
}

// diffWords is a diff for people.
func diffWords(hs []hunk) string {
	var b strings.Builder
	for _, h := range hs {
		fmt.Fprintf(&b, "line %d: -%q +%q\n", h.at+1, h.removed, h.added)
	}
	return b.String()
}
