package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/verify/certtest"
)

// Scenario is one row of the table. Run fails by [S.Fatalf], by what it calls on
// a machine, or by a panic; it says by [S.NotHere] what a release cannot do.
type Scenario struct {
	ID    string // S01, as in the list of scenarios; unique
	Title string // what is shown, in a few words
	Limit time.Duration
	Long  bool // waits for a minute or more: it begins before the others
	Alone bool // measures time: it runs after the others, and nothing of this run beside it
	Run   func(s *S)
}

// scenarioLimit is for a scenario without a Limit of its own.
const scenarioLimit = 10 * time.Minute

var registered []Scenario

// register is called by the init functions of the files scenarios_*.go.
func register(scenarios ...Scenario) { registered = append(registered, scenarios...) }

// selected are the registered scenarios whose ID or title matches, by ID.
func selected(all []Scenario, pattern string) ([]Scenario, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []Scenario
	for _, sc := range all {
		if sc.ID == "" || sc.Title == "" || sc.Run == nil || seen[sc.ID] {
			return nil, fmt.Errorf("scenario %q: without an ID, a title or a function, or twice", sc.ID)
		}
		seen[sc.ID] = true
		if re.MatchString(sc.ID) || re.MatchString(sc.Title) {
			out = append(out, sc)
		}
	}
	slices.SortFunc(out, func(a, b Scenario) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// S is one scenario on one release: a cell of the table. It is a testing.TB as
// far as test help of this module wants one, so certtest's functions take it.
// Its machines end with it.
type S struct {
	testing.TB
	Release *Release

	world *world
	ctx   context.Context
	title string

	mu       sync.Mutex
	text     strings.Builder // the transcript
	ended    int             // its length when the scenario was over
	machines []*Machine
	cleanup  []func()
	verdict  verdict
	reason   string
	cpu      time.Duration // of the machines that have ended
	figures  []string      // printed below the table
}

// Pair is a certificate with its chain and its key.
type Pair = certtest.Pair

// CA is the intermediate authority of this run. Its root is trusted in a Ready
// machine. Pairs for a scenario come from it: s.CA().Leaf(s, certtest.Leaf{...}).
func (s *S) CA() *certtest.CA { return s.world.ca }

// Pair is a new good pair of the run's CA, for mail.example.org without names.
func (s *S) Pair(names ...string) *Pair {
	return s.CA().Leaf(s, certtest.Leaf{Names: names})
}

// NotHere ends the scenario: this release cannot do it. The reason stands below
// the table.
func (s *S) NotHere(reason string) { s.end(cannot, reason) }

// Other is another release of the run, for scenarios that move between two. If
// the run is without it, the scenario ends by [S.NotHere].
func (s *S) Other(suite string) *Release {
	s.Helper()
	for _, r := range s.world.releases {
		if r.Suite == suite {
			return r
		}
	}
	s.NotHere("this run has no " + suite)
	return nil
}

// WaitFor asks until f answers yes, and fails the scenario after the bound.
func (s *S) WaitFor(what string, bound time.Duration, f func() bool) {
	s.Helper()
	end := time.Now().Add(bound)
	for pause := 20 * time.Millisecond; !f(); pause = min(2*pause, time.Second) {
		if err := s.ctx.Err(); err != nil {
			s.Fatalf("waiting for %s: %v", what, context.Cause(s.ctx))
		}
		if time.Now().After(end) {
			s.Fatalf("waited %s for %s", bound, what)
		}
		time.Sleep(pause)
	}
}

// Step puts a heading into the transcript.
func (s *S) Step(format string, args ...any) { s.note("== "+format, args...) }

// figure is what the scenario has measured: it is printed below the table.
func (s *S) figure(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.note("%s", text)
	s.figures = append(s.figures, text)
}

// busy tells whether programs of this host have waited for a processor for more
// than a third of the last ten seconds (/proc/pressure/cpu): what is measured then
// says little. A kernel that does not tell is not busy.
func busy() bool {
	data, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return false
	}
	return pressure(string(data)) > 33
}

// pressure is the share, in per cent, of the last ten seconds in which a task
// waited; text is of Linux's accounting/psi.rst.
func pressure(text string) float64 {
	var share float64
	if _, err := fmt.Sscanf(text, "some avg10=%f", &share); err != nil {
		return 0
	}
	return share
}

// median is the middle one, of an odd number.
func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func (s *S) Helper()                           {}
func (s *S) Name() string                      { return s.title }
func (s *S) Context() context.Context          { return s.ctx }
func (s *S) Log(args ...any)                   { s.note("%s", fmt.Sprint(args...)) }
func (s *S) Logf(format string, args ...any)   { s.note(format, args...) }
func (s *S) Fatal(args ...any)                 { s.end(failed, fmt.Sprint(args...)) }
func (s *S) Fatalf(format string, args ...any) { s.end(failed, fmt.Sprintf(format, args...)) }
func (s *S) Fail()                             { s.judge(failed, "failed") }
func (s *S) FailNow()                          { s.end(failed, "failed") }
func (s *S) Error(args ...any)                 { s.judge(failed, fmt.Sprint(args...)) }
func (s *S) Errorf(format string, args ...any) { s.judge(failed, fmt.Sprintf(format, args...)) }
func (s *S) Skipf(format string, args ...any)  { s.NotHere(fmt.Sprintf(format, args...)) }
func (s *S) Failed() bool                      { s.mu.Lock(); defer s.mu.Unlock(); return s.verdict == failed }

// Cleanup calls f after the scenario, before its machines end.
func (s *S) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanup = append(s.cleanup, f)
}

// TempDir is a directory of the host, removed after the scenario.
func (s *S) TempDir() string {
	dir, err := os.MkdirTemp(s.world.scratch, "scenario-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = os.RemoveAll(dir) }) // in memory that ends with us
	return dir
}

// judge keeps the first failure; a failure outweighs everything.
func (s *S) judge(v verdict, reason string) {
	if v == failed {
		_, file, line, _ := runtime.Caller(caller())
		reason = fmt.Sprintf("%s (%s:%d)", reason, base(file), line)
	}
	s.mu.Lock()
	if s.verdict != failed {
		s.verdict, s.reason = v, reason
	}
	s.mu.Unlock()
	s.note("%s: %s", v, reason)
}

func (s *S) end(v verdict, reason string) { s.judge(v, reason); runtime.Goexit() }

// caller is how far up from judge the first function of a scenario's file is.
func caller() int {
	for i := 2; i < 30; i++ {
		_, file, _, ok := runtime.Caller(i)
		if !ok {
			break
		}
		if strings.HasPrefix(base(file), "scenarios_") {
			return i - 1
		}
	}
	return 2
}

func base(path string) string { return path[strings.LastIndex(path, "/")+1:] }

func (s *S) add(m *Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines = append(s.machines, m)
}

// note puts a line into the transcript.
func (s *S) note(format string, args ...any) { s.write(fmt.Sprintf(format, args...) + "\n") }

// transcribe puts a command into the transcript.
func (s *S) transcribe(m *Machine, command string, r Result, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s $ %s\n", m.Name, command)
	for _, out := range []string{r.Stdout, r.Stderr} {
		if out != "" {
			b.WriteString(strings.TrimRight(abridged(out), "\n") + "\n")
		}
	}
	if r.Status != 0 {
		fmt.Fprintf(&b, "(exit status %d)\n", r.Status)
	}
	if err != nil {
		fmt.Fprintf(&b, "(%v)\n", err)
	}
	s.write(b.String())
}

var privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)

func (s *S) write(text string) {
	text = privateKey.ReplaceAllString(text, "[a private key]")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.WriteString(text)
	if s.world.verbose {
		_, _ = io.WriteString(os.Stderr, text)
	}
}

// abridged leaves out the middle of a long output.
func abridged(text string) string {
	const most = 3000
	if len(text) <= most {
		return text
	}
	return text[:most/2] + fmt.Sprintf("\n[%d bytes]\n", len(text)-most) + text[len(text)-most/2:]
}
