// Command testsummary reads the output of `go test -json` and prints what a
// person, and CI, want to read: one line per package as go test prints it, the
// output of each test that failed, each test that was skipped, and as the last
// line
//
//	812 passed, 0 failed, 0 skipped
//
// It ends with status 1 if a test or a package failed, if the input is cut off
// or empty, and, with -noskip, if a test was skipped: a skipped test proves
// nothing, and in CI everything that a test needs is there.
//
// With -figures REGEXP the lines that match it are printed from tests that passed,
// too: what a test has measured is its result.
//
// With -slowest N the N tests that took longest follow, with their seconds: what
// to look at when a stage takes too long. Tests that run beside each other share
// the machine, so these need not add up to the time of the stage.
//
//	go test -json ./... | testsummary -noskip -figures '^R[0-9]+: '
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	noskip := flag.Bool("noskip", false, "fail if a test was skipped")
	slowest := flag.Int("slowest", 0, "print that many of the tests that took longest")
	pattern := flag.String("figures", "", "print the log lines of passed tests that match this regular expression")
	flag.Parse()
	var figures *regexp.Regexp
	if *pattern != "" {
		var err error
		if figures, err = regexp.Compile(*pattern); err != nil {
			fmt.Fprintln(os.Stderr, "testsummary: -figures:", err)
			os.Exit(2)
		}
	}
	r := &results{out: os.Stdout, figures: figures, slowest: *slowest}
	if !r.summarize(os.Stdin, *noskip) {
		os.Exit(1)
	}
}

// event is one line of `go test -json` (go doc test2json), and of the build
// output that go test mixes in (go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string // "" is the package itself
	Output     string
	Elapsed    float64 // seconds
}

// results is what has been read so far.
type results struct {
	out                     io.Writer
	figures                 *regexp.Regexp // nil: none are printed
	slowest                 int            // how many of them are printed
	times                   []timing       // of the tests that have ended
	passed, failed, skipped int
	packages                int                            // that have ended
	broken                  int                            // of these, that failed
	running                 map[string]map[string][]string // package, test: output
	build                   map[string][]string            // package: the compiler's output
}

// timing is how long a test took, with its parts.
type timing struct {
	name    string
	seconds float64
}

// summarize reads events from in until its end. It tells whether all is well.
func (r *results) summarize(in io.Reader, noskip bool) bool {
	r.running, r.build = map[string]map[string][]string{}, map[string][]string{}
	out := r.out
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var e event
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil {
			fmt.Fprintf(out, "%s\n", scanner.Bytes()) // go's own words, such as a download
			continue
		}
		r.add(e)
	}
	well := r.failed == 0 && r.broken == 0
	if err := scanner.Err(); err != nil {
		fmt.Fprintln(out, "testsummary:", err)
		well = false
	}
	for _, name := range sortedKeys(r.running) {
		fmt.Fprintf(out, "FAIL\t%s\t(no result)\n", name)
		well = false
	}
	if r.packages == 0 {
		fmt.Fprintln(out, "testsummary: no package was tested")
		well = false
	}
	if noskip && r.skipped > 0 {
		fmt.Fprintln(out, "testsummary: tests were skipped, and none may be")
		well = false
	}
	r.printSlowest()
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return well
}

func (r *results) add(e event) {
	switch e.Action {
	case "build-output":
		r.build[e.ImportPath] = append(r.build[e.ImportPath], e.Output)
		return
	case "build-fail":
		fmt.Fprint(r.out, strings.Join(r.build[e.ImportPath], ""))
		return
	}
	tests := r.running[e.Package]
	if tests == nil {
		tests = map[string][]string{}
		r.running[e.Package] = tests
	}
	switch {
	case e.Action == "output":
		tests[e.Test] = append(tests[e.Test], e.Output)
	case e.Action != "pass" && e.Action != "fail" && e.Action != "skip":
	case e.Test == "":
		r.packageEnd(e, tests)
	default:
		r.testEnd(e, tests)
	}
}

// testEnd counts a test, or a part of one, and prints what is worth reading.
func (r *results) testEnd(e event, tests map[string][]string) {
	switch e.Action {
	case "pass":
		r.passed++
		r.printFigures(tests[e.Test])
	case "fail":
		r.failed++
		fmt.Fprint(r.out, strings.Join(tests[e.Test], ""))
	case "skip":
		r.skipped++
		fmt.Fprint(r.out, strings.Join(tests[e.Test], ""))
	}
	delete(tests, e.Test)
	if r.slowest > 0 && !strings.Contains(e.Test, "/") {
		r.times = append(r.times, timing{e.Test, e.Elapsed})
	}
}

// printSlowest prints the tests that took longest, the longest first.
func (r *results) printSlowest() {
	slices.SortStableFunc(r.times, func(a, b timing) int { return cmp.Compare(b.seconds, a.seconds) })
	for _, t := range r.times[:min(r.slowest, len(r.times))] {
		fmt.Fprintf(r.out, "      %6.1f s  %s\n", t.seconds, t.name)
	}
}

// logged is how t.Log begins a line: the file and the line of the call.
var logged = regexp.MustCompile(`^\s*[^\s:]+\.go:\d+: `)

// printFigures prints those lines of a test's output that are wanted, without
// the place where they were logged.
func (r *results) printFigures(lines []string) {
	if r.figures == nil {
		return
	}
	for _, line := range lines {
		text := strings.TrimSpace(logged.ReplaceAllString(line, ""))
		if r.figures.MatchString(text) {
			fmt.Fprintf(r.out, "      %s\n", text)
		}
	}
}

// packageEnd prints the line of a package. What a failed package printed outside
// of its tests comes with it: a crash, a race, os.Exit in TestMain.
func (r *results) packageEnd(e event, tests map[string][]string) {
	r.packages++
	if e.Action == "fail" {
		r.broken++
		for _, name := range sortedKeys(tests) {
			fmt.Fprint(r.out, strings.Join(tests[name], ""))
		}
	} else {
		lines := tests[""]
		if n := len(lines); n > 0 { // "ok  \tpackage\ttime" or "?   \tpackage\t[no test files]"
			fmt.Fprint(r.out, lines[n-1])
		}
	}
	delete(r.running, e.Package)
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
