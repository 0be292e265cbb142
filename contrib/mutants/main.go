// Mutants breaks the product on purpose, one promise at a time, and fails unless
// a test notices.
//
//	go run ./contrib/mutants [-jobs 2] [-v] [NAME...]
//
// A test that has never been seen to fail proves little. Each file
// testdata/mutants/NAME.patch is a mistake that a careless author would make: it
// says in words what it breaks, and which test must fail:
//
//	What: a file is renamed into place before its content is on disk
//	Package: deploy/journal
//	Test: TestEveryCrashLeadsToOldOrNew
//	Says: a reader finds
//
//	--- a/deploy/atomicfile/atomicfile.go
//	+++ b/deploy/atomicfile/atomicfile.go
//	@@ ...
//
// Says is optional: words that the failing test must print, so that it fails for
// this reason and no other. Test may name a subtest, TestX/name. With -v the
// output of the failing tests is printed.
//
// The patch is applied to copies, and the test binary is built with them by
// go build -overlay; the source tree is never touched. A mutant is caught if the
// test passes without it and fails with it. That the mutant does not compile,
// that it panics, or that the test does not end in time, does not count. A
// mutant that survives is a hole in the tests, and a patch that does not apply
// any more has lost its place: both fail the run.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

func main() {
	jobs := flag.Int("jobs", 2, "mutants at a time")
	verbose := flag.Bool("v", false, "print what the failing tests say")
	flag.Parse()
	if err := run(os.Stdout, flag.Args(), max(*jobs, 1), *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, names []string, jobs int, verbose bool) error {
	root, err := root()
	if err != nil {
		return err
	}
	all, err := load(filepath.Join(root, "testdata", "mutants"), names)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	h := &hunt{root: root, work: work, out: out, verbose: verbose, once: map[string]func() error{}}
	begin := time.Now()
	h.all(all, jobs)
	fmt.Fprintf(out, "%d mutants, %d caught, %d not (%.0f s)\n", len(all), len(all)-h.alive, h.alive, time.Since(begin).Seconds())
	if h.alive > 0 {
		return fmt.Errorf("%d of %d mutants were not caught", h.alive, len(all))
	}
	return nil
}

// root is the top of the module.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod here or above")
		}
	}
}

// hunt runs mutants against the tests.
type hunt struct {
	root, work string
	out        io.Writer
	verbose    bool

	mu    sync.Mutex // for what follows
	alive int
	once  map[string]func() error // by package: its sound binary; by package and test: it passes
}

// all runs the mutants, some at a time: first those of the largest package,
// whose tests take longest.
func (h *hunt) all(all []mutant, jobs int) {
	slices.SortStableFunc(all, func(a, b mutant) int { return weight(a) - weight(b) })
	next := make(chan mutant)
	var wg sync.WaitGroup
	for range jobs {
		wg.Go(func() {
			for m := range next {
				h.one(m)
			}
		})
	}
	for _, m := range all {
		next <- m
	}
	close(next)
	wg.Wait()
}

func weight(m mutant) int {
	return slices.Index([]string{"cmd/postcert", "deploy/postfix/rehearsal", "deploy/postfix"}, m.pkg) & 7 // -1 comes last
}

func (h *hunt) one(m mutant) {
	begin := time.Now()
	said, err := h.catch(m)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		fmt.Fprintf(h.out, "caught    %-28s by %s %s (%.1f s)\n", m.name, m.pkg, m.test, time.Since(begin).Seconds())
		if h.verbose {
			fmt.Fprintf(h.out, "%s\n", tail(said, 2000))
		}
		return
	}
	h.alive++
	fmt.Fprintf(h.out, "NOT CAUGHT %s: %s\n%v\n", m.name, m.what, err)
}

// catch returns nil if the test named by m passes, and fails with m; and what
// it said then.
func (h *hunt) catch(m mutant) ([]byte, error) {
	dir := filepath.Join(h.work, m.name)
	overlay, err := m.apply(h.root, dir)
	if err != nil {
		return nil, fmt.Errorf("the patch does not apply: %w", err)
	}
	if err := h.passes(m); err != nil {
		return nil, fmt.Errorf("without the mutant: %w", err)
	}
	binary := filepath.Join(dir, "mutant.test")
	if err := h.build(m.pkg, binary, "-overlay", overlay); err != nil {
		return nil, err
	}
	defer os.Remove(binary)
	output, err := h.test(m, binary)
	if err == nil {
		return nil, fmt.Errorf("%s passes with the mutant", m.test)
	}
	return output, m.judge(output)
}

// passes runs the test of m without a mutant, once for all who name it; and once
// more, which is said, if it fails: that a machine was busy for a moment says nothing
// about a mutant, and go test of the tree has no second chance.
func (h *hunt) passes(m mutant) error {
	binary := filepath.Join(h.work, fmt.Sprintf("%x.test", m.pkg))
	build := h.onlyOnce(m.pkg, func() error { return h.build(m.pkg, binary) })
	return h.onlyOnce(m.pkg+" "+m.test, func() error {
		if err := build(); err != nil {
			return err
		}
		output, err := h.test(m, binary)
		if err != nil {
			h.mu.Lock()
			fmt.Fprintf(h.out, "repeated  %s %s, which failed without a mutant: %v\n%s\n", m.pkg, m.test, err, tail(output, 2000))
			h.mu.Unlock()
			output, err = h.test(m, binary)
		}
		switch {
		case err != nil:
			return fmt.Errorf("%s fails: %w\n%s", m.test, err, output)
		case !ran(output, "PASS", m.test):
			return fmt.Errorf("there is no test %s in %s", m.test, m.pkg)
		}
		return nil
	})()
}

// onlyOnce is what was first asked for under this key; who calls it later, or
// meanwhile, gets the same answer.
func (h *hunt) onlyOnce(key string, do func() error) func() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.once[key] == nil {
		h.once[key] = sync.OnceValue(do)
	}
	return h.once[key]
}
