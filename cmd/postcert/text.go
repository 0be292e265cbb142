package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"postcert/deploy"
)

// text prints for people: short lines, aligned columns, colour only on a
// terminal. A quiet one prints nothing but what is said with Always.
type text struct {
	w      io.Writer
	quiet  bool
	colour bool
}

func newText(w io.Writer, quiet bool) *text { return &text{w: w, quiet: quiet, colour: isTerminal(w)} }

// Colours of the verdicts; by the terminal's own palette.
const (
	plain  = ""
	green  = "32"
	red    = "31"
	yellow = "33"
	faint  = "2"
	bold   = "1"
)

func (t *text) paint(colour, s string) string {
	if !t.colour || colour == plain || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (t *text) printf(format string, args ...any) {
	if !t.quiet {
		fmt.Fprintf(t.w, format, args...)
	}
}

// step prints one line for an ended step: mark, name, what was done, time.
func (t *text) step(e deploy.Event) {
	if e.Begin || t.quiet {
		return
	}
	mark, colour := "ok", green
	if e.Err != nil {
		mark, colour = "no", red
	}
	t.printf("  %s  %-9s %-34s %s\n", t.paint(colour, mark), e.Step, shorten(e.Detail, 34), t.paint(faint, shortTime(e.Took)))
}

// shortTime renders a duration as people read it: 0.14 s, 21 s.
func shortTime(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	default:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
}

func shorten(s string, max int) string {
	if utf8.RuneCountInString(s) <= max {
		return s
	}
	return string([]rune(s)[:max-1]) + "…"
}

// table prints rows under a heading, columns as wide as their longest cell.
// Each row may name a colour for its last cell.
type table struct {
	head    []string
	rows    [][]string
	colours []string
}

func (tb *table) add(colour string, cells ...string) {
	tb.rows = append(tb.rows, cells)
	tb.colours = append(tb.colours, colour)
}

func (t *text) table(tb *table) {
	if t.quiet || len(tb.rows) == 0 {
		return
	}
	width := make([]int, len(tb.head))
	for _, row := range append([][]string{tb.head}, tb.rows...) {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	t.row(tb.head, width, faint, true)
	for i, row := range tb.rows {
		t.row(row, width, tb.colours[i], false)
	}
}

func (t *text) row(cells []string, width []int, colour string, all bool) {
	var b strings.Builder
	b.WriteString("  ")
	for i, c := range cells {
		pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
		if all || i == len(cells)-1 {
			c = t.paint(colour, c)
		}
		b.WriteString(c)
		if i < len(cells)-1 {
			b.WriteString(pad + "  ")
		}
	}
	t.printf("%s\n", strings.TrimRight(b.String(), " "))
}

// diff prints a unified diff with its added and removed lines in colour.
func (t *text) diff(d string) {
	for line := range strings.Lines(d) {
		line = strings.TrimRight(line, "\n")
		colour := plain
		switch {
		case strings.HasPrefix(line, "+++"), strings.HasPrefix(line, "---"):
			colour = bold
		case strings.HasPrefix(line, "+"):
			colour = green
		case strings.HasPrefix(line, "-"):
			colour = red
		case strings.HasPrefix(line, "@@"):
			colour = faint
		}
		t.printf("  %s\n", t.paint(colour, line))
	}
}
