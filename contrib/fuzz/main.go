// Fuzz gives each fuzz target of the packages its time.
//
//	go run ./contrib/fuzz [-time 60s] [-jobs 2] [-run REGEXP] [packages...]
//
// go test -fuzz takes one target at a time and builds its package again for
// each; this builds each package once, with the same instrumentation, and runs
// several targets side by side, each with one worker. It prints one line per
// target: how often it was executed, and how many inputs it found that reach
// something new. What it finds in this way stays in go's cache and is where the
// next run begins.
//
// An input that fails is a finding: its output is printed, the input is written
// to testdata/fuzz of its package, as go test does, and the exit status is 1. It
// becomes a row of the table that seeds the target, and a fix.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// target is one fuzz target.
type target struct {
	pkg  string // import path
	dir  string
	name string
}

// harness are targets that ask something of go test itself, not of a parser: a
// second is enough.
var harness = map[string]time.Duration{"FuzzWorkers": time.Second}

func main() {
	each := flag.Duration("time", time.Minute, "time for each target")
	jobs := flag.Int("jobs", 2, "targets at a time")
	only := flag.String("run", "", "only targets whose PACKAGE.NAME matches")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err == nil {
		err = run(os.Stdout, flag.Args(), pattern, *each, max(*jobs, 1))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, packages []string, only *regexp.Regexp, each time.Duration, jobs int) error {
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	all, err := find(packages, only)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("no fuzz target")
	}
	work, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	binaries, err := build(work, all)
	if err != nil {
		return err
	}
	cache, err := command("", "go", "env", "GOCACHE")
	if err != nil {
		return err
	}
	f := fuzzing{out: out, binaries: binaries, cache: filepath.Join(strings.TrimSpace(string(cache)), "fuzz"), each: each}
	f.all(all, jobs)
	fmt.Fprintf(out, "%d targets, %d findings\n", len(all), f.findings)
	if f.findings > 0 {
		return fmt.Errorf("%d of %d targets failed", f.findings, len(all))
	}
	return nil
}

var declaration = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// find lists the targets of the packages, by their source.
func find(packages []string, only *regexp.Regexp) ([]target, error) {
	data, err := command("", "go", append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, packages...)...)
	if err != nil {
		return nil, err
	}
	var all []target
	for dec := json.NewDecoder(bytes.NewReader(data)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		for _, name := range append(p.TestGoFiles, p.XTestGoFiles...) {
			source, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return nil, err
			}
			for _, m := range declaration.FindAllSubmatch(source, -1) {
				if t := (target{p.ImportPath, p.Dir, string(m[1])}); only.MatchString(t.pkg + "." + t.name) {
					all = append(all, t)
				}
			}
		}
	}
}

// build makes the instrumented test binary of each package, by import path.
func build(work string, all []target) (map[string]string, error) {
	out := map[string]string{}
	for _, t := range all {
		if out[t.pkg] != "" {
			continue
		}
		path := filepath.Join(work, fmt.Sprintf("%d.test", len(out)))
		if _, err := command(t.dir, "go", "test", "-c", "-vet=off", "-fuzz=^"+t.name+"$", "-o", path, "."); err != nil {
			return nil, err
		}
		out[t.pkg] = path
	}
	return out, nil
}

type fuzzing struct {
	out      io.Writer
	binaries map[string]string
	cache    string
	each     time.Duration

	mu       sync.Mutex
	findings int
}

// all runs the targets, some at a time.
func (f *fuzzing) all(all []target, jobs int) {
	next := make(chan target)
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			for t := range next {
				f.one(t)
			}
		})
	}
	for _, t := range all {
		next <- t
	}
	close(next)
	wg.Wait()
}

func (f *fuzzing) one(t target) {
	each := f.each
	if d, ok := harness[t.name]; ok {
		each = d
	}
	begin := time.Now()
	output, err := command(t.dir, f.binaries[t.pkg], "-test.run=^$", "-test.fuzz=^"+t.name+"$", "-test.fuzztime="+each.String(),
		"-test.fuzzminimizetime=5s", "-test.parallel=1", "-test.timeout="+(each+5*time.Minute).String(),
		"-test.fuzzcachedir="+filepath.Join(f.cache, t.pkg))
	took := time.Since(begin).Round(time.Second)
	f.mu.Lock()
	defer f.mu.Unlock()
	word := "ok"
	if err != nil && !onlyTimeOver(string(output)) {
		word = "FAIL"
		f.findings++
	}
	fmt.Fprintf(f.out, "%-5s %-40s %4.0f s  %s\n", word, strings.TrimPrefix(t.pkg, "postcert/")+" "+t.name, took.Seconds(), progress(string(output)))
	if word == "FAIL" {
		fmt.Fprintf(f.out, "%s%v\n", output, err)
	}
}

var progressLine = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+) \(total: (\d+)\)`)

var baselineLine = regexp.MustCompile(`baseline coverage: (\d+/\d+) completed`)

// progress is what the last line of progress says.
func progress(output string) string {
	all := progressLine.FindAllStringSubmatch(output, -1)
	if all == nil {
		// A slow machine, or many inputs of earlier runs: those were executed.
		if known := baselineLine.FindAllStringSubmatch(output, -1); known != nil {
			return known[len(known)-1][1] + " known inputs, none beyond them"
		}
		return "not executed"
	}
	m := all[len(all)-1]
	return fmt.Sprintf("%9s executions, %4s new inputs of %s", m[1], m[2], m[3])
}

// onlyTimeOver tells a finding from a race in testing: when the time is over
// while an input is being executed, go may report the end of the time as a
// failure (https://go.dev/issue/75804). There is no failing input then, no panic
// and no line of source.
func onlyTimeOver(output string) bool {
	_, verdict, failed := strings.Cut(output, "--- FAIL: ")
	if !failed || strings.Contains(output, "Failing input") || strings.Contains(output, "panic") || strings.Contains(verdict, ".go:") {
		return false
	}
	lines := strings.Split(strings.TrimSpace(verdict), "\n")
	return len(lines) > 1 && strings.TrimSpace(lines[1]) == "context deadline exceeded"
}

// command runs a program in dir and returns what it prints. Of go that is its
// standard output, and what else it printed is in the error; of a test binary
// all of it, in order.
func command(dir, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if name != "go" {
		return cmd.CombinedOutput()
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("go %s: %w: %s%s", strings.Join(args, " "), err, out, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, err
}
