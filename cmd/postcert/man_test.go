package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"postcert/cmd/postcert/internal/config"
	"postcert/deploy/postfix/postfixtest"
)

const manDirectory = "../../contrib/man"

// TestManPages holds the manual pages against the texts that they are made of:
// the help of the commands and their flags, the documentation of the
// configuration's types, contrib/postcert.yaml.example. Each must be in the page,
// and the committed page must be what these say now:
//
//	go test ./cmd/postcert -run TestManPages -update
func TestManPages(t *testing.T) {
	for name, page := range map[string]string{"postcert.1": commandPage(t), "postcert.yaml.5": configPage(t)} {
		path := filepath.Join(manDirectory, name)
		if *update {
			if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		committed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(committed) != page {
			t.Errorf("%s is not what the program says now; write it again with: go test ./cmd/postcert -run TestManPages -update", path)
		}
	}
}

// TestManPagesAreClean asks two formatters: mandoc's own judgement, and groff's
// warnings as man-db collects them. Neither may have any.
func TestManPagesAreClean(t *testing.T) {
	postfixtest.Need(t, "mandoc")
	postfixtest.Need(t, "groff")
	for _, name := range []string{"postcert.1", "postcert.yaml.5"} {
		path := filepath.Join(manDirectory, name)
		for _, args := range [][]string{{"mandoc", "-Tlint", "-Wall", path}, {"groff", "-man", "-ww", "-z", "-Tutf8", path}} {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	}
}

// TestManPageHasEverything reads the page as a person does, formatted, and asks
// for each command, flag, exit status and variable.
func TestManPageHasEverything(t *testing.T) {
	postfixtest.Need(t, "mandoc")
	page := formatted(t, "postcert.1")
	root := documented()
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			if !strings.Contains(page, strings.Join(strings.Fields(sub.UseLine()), " ")) {
				t.Errorf("postcert(1) has no %q", sub.UseLine())
			}
			visit(sub)
		}
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(page, "--"+f.Name) {
				t.Errorf("postcert(1) has no flag --%s of %s", f.Name, cmd.CommandPath())
			}
		})
	}
	visit(root)
	for line := range strings.Lines(statusTable) {
		if !strings.Contains(page, strings.Join(strings.Fields(line), " ")) {
			t.Errorf("postcert(1) has no line %q", line)
		}
	}
	for _, s := range config.Scalars() {
		if !strings.Contains(page, s.Variable) {
			t.Errorf("postcert(1) has no %s", s.Variable)
		}
	}
}

// formatted is a page as text, with all white space as one blank.
func formatted(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("mandoc", "-Tascii", "-Owidth=1000", filepath.Join(manDirectory, name)).Output()
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(".\b").ReplaceAllString(string(out), "")
	return strings.Join(strings.Fields(text), " ")
}

// roff writes a page in the macros of man(7).
type roff struct {
	strings.Builder
	fresh bool // a heading was written last: no macro for a paragraph is wanted
}

// newPage begins a page. Date and version are those of the newest release.
func newPage(t *testing.T, title, section, name string) *roff {
	t.Helper()
	changelog, err := os.ReadFile("../../contrib/package/changelog")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`^postcert \(([^)]+)\)`).FindSubmatch(changelog)
	signed := regexp.MustCompile(`(?m)^ -- .*>  (.+)$`).FindSubmatch(changelog)
	if version == nil || signed == nil {
		t.Fatal("contrib/package/changelog does not begin with an entry")
	}
	date, err := time.Parse(time.RFC1123Z, string(signed[1]))
	if err != nil {
		t.Fatal(err)
	}
	p := &roff{}
	p.WriteString(".\\\" Made of the help and of the documentation in the source by: go test ./cmd/postcert -run TestManPages -update\n")
	p.line(".TH %s %s %s \"postcert %s\"", title, section, date.UTC().Format(time.DateOnly), version[1])
	p.heading("SH", "NAME")
	p.WriteString(filled(name))
	return p
}

func (p *roff) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *roff) heading(macro, text string) {
	p.line(".%s %s", macro, roffText(text))
	p.fresh = true
}

// item is a term and what it means.
func (p *roff) item(term, text string) {
	p.line(".TP\n%s", term)
	p.WriteString(filled(text))
	p.fresh = false
}

// text writes a text of the help: paragraphs, and lines that are indented, as they
// are.
func (p *roff) text(text string) {
	for block := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		var words, shown []string
		flush := func() {
			p.paragraph(words)
			p.shown(shown)
			words, shown = nil, nil
		}
		for line := range strings.SplitSeq(strings.Trim(block, "\n"), "\n") {
			indented := strings.HasPrefix(line, "  ")
			if indented && len(words) > 0 || !indented && len(shown) > 0 {
				flush()
			}
			if indented {
				shown = append(shown, line[2:])
			} else if line != "" {
				words = append(words, line)
			}
		}
		flush()
	}
}

func (p *roff) paragraph(lines []string) {
	if len(lines) == 0 {
		return
	}
	if !p.fresh {
		p.line(".PP")
	}
	p.WriteString(filled(strings.Join(lines, " ")))
	p.fresh = false
}

// shown are lines that are not to be filled.
func (p *roff) shown(lines []string) {
	if len(lines) == 0 {
		return
	}
	if !p.fresh {
		p.line(".PP")
	}
	p.line(".RS 2\n.EX\n%s\n.EE\n.RE", roffText(strings.Join(lines, "\n")))
	p.fresh = false
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", `\(ga`, `~`, `\(ti`, `^`, `\(ha`)

// filled is prose in lines of at most 80 bytes, as mandoc wants its input.
func filled(text string) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(roffText(line+" "+word)) > 78 {
			lines = append(lines, line)
			line = word
		} else {
			line = strings.TrimSpace(line + " " + word)
		}
	}
	return roffText(strings.Join(append(lines, line), "\n")) + "\n"
}

// roffText is text in which no character is special, nor a line's first one.
func roffText(text string) string {
	lines := strings.Split(roffEscapes.Replace(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

func inBold(text string) string   { return `\fB` + roffText(text) + `\fR` }
func inItalic(text string) string { return `\fI` + roffText(text) + `\fR` }
