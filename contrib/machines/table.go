package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// verdict is what a cell of the table says.
type verdict string

const (
	passed verdict = "ok"
	failed verdict = "FAIL"
	cannot verdict = "-"
)

// cell is one scenario on one release, done.
type cell struct {
	scenario string // its ID
	release  *Release
	verdict  verdict
	reason   string // of a failure, or why the release cannot
	took     time.Duration
	cpu      time.Duration // of its machines
	figures  []string      // what it has measured
}

// table is the result of a run.
type table struct {
	scenarios []Scenario
	releases  []*Release
	cells     []cell
	date      time.Time
	took      time.Duration
	cpu       time.Duration // of this program, and of all in the machines
}

// figures are those of all cells, in the order of the table.
func (t table) figures() []string {
	var out []string
	for _, sc := range t.scenarios {
		for _, r := range t.releases {
			for _, c := range t.cells {
				if c.scenario == sc.ID && c.release == r {
					for _, text := range c.figures {
						out = append(out, fmt.Sprintf("%s: %s", r, text))
					}
				}
			}
		}
	}
	return out
}

// markdown prints the table, the reasons and the figures below it, and the versions.
func (t table) markdown(w io.Writer) {
	var notes []string
	fmt.Fprintf(w, "| scenario |%s\n|---|%s\n", t.columns(func(r *Release) string { return r.String() }), strings.Repeat("---|", len(t.releases)))
	for _, sc := range t.scenarios {
		fmt.Fprintf(w, "| %s %s |%s\n", sc.ID, escaped(sc.Title), t.columns(func(r *Release) string {
			i := slices.IndexFunc(t.cells, func(c cell) bool { return c.scenario == sc.ID && c.release == r })
			if i < 0 {
				return "not run"
			}
			c := t.cells[i]
			if c.verdict != cannot {
				return string(c.verdict)
			}
			n := slices.Index(notes, c.reason)
			if n < 0 {
				n, notes = len(notes), append(notes, c.reason)
			}
			return fmt.Sprintf("- (%d)", n+1)
		}))
	}
	fmt.Fprintln(w)
	for i, note := range notes {
		fmt.Fprintf(w, "%d. %s\n", i+1, note)
	}
	if len(notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, text := range t.figures() {
		fmt.Fprintf(w, "- %s\n", text)
	}
	if len(t.figures()) > 0 {
		fmt.Fprintln(w)
	}
	for _, v := range []struct {
		name string
		of   func(*Release) Version
	}{
		{"Postfix", func(r *Release) Version { return r.Postfix }},
		{"OpenSSL", func(r *Release) Version { return r.OpenSSL }},
		{"systemd", func(r *Release) Version { return r.Systemd }},
		{"certbot", func(r *Release) Version { return r.Certbot }},
		{"Dovecot", func(r *Release) Version { return r.Dovecot }},
	} {
		if v.name == "Postfix" {
			fmt.Fprintf(w, "| version of |%s\n|---|%s\n", t.columns(func(r *Release) string { return r.String() }), strings.Repeat("---|", len(t.releases)))
		}
		fmt.Fprintf(w, "| %s |%s\n", v.name, t.columns(func(r *Release) string { return string(v.of(r)) }))
	}
	ok, bad, not := t.tally()
	fmt.Fprintf(w, "\nRun of %s: %d ok, %d failed, %d not possible on their release, in %.0f s (%.0f s of processor time).\n",
		t.date.UTC().Format("2006-01-02 15:04 UTC"), ok, bad, not, t.took.Seconds(), t.cpu.Seconds())
}

func (t table) columns(of func(*Release) string) string {
	var b strings.Builder
	for _, r := range t.releases {
		b.WriteString(" " + of(r) + " |")
	}
	return b.String()
}

// tally counts the cells; one that was not run has failed.
func (t table) tally() (ok, bad, not int) {
	for _, c := range t.cells {
		switch c.verdict {
		case passed:
			ok++
		case cannot:
			not++
		}
	}
	return ok, len(t.scenarios)*len(t.releases) - ok - not, not
}

func escaped(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
