// Command machines runs scenarios on real Debian machines, 11 to 14, with their
// own systemd, Postfix, certbot and Dovecot, and prints a table: scenario x
// release.
//
//	sh contrib/machines/test.sh [RELEASE...]     all of it, from nothing; as root
//	go run ./contrib/machines -deb FILE -tools DIR [-run REGEXP] [RELEASE...]
//
// A machine is a tree of packages made by mmdebstrap, once, under an overlay in
// memory, booted by systemd-nspawn(1) with a network of its own that has loopback
// only. It is up in two seconds. A scenario is a function:
//
//	func init() {
//		register(Scenario{ID: "S01", Title: "a renewal is served on 25, 587 and 465", Run: renewed})
//	}
//
//	func renewed(s *S) {
//		m := s.Boot(Ready)                            // serves m.First
//		next := s.Pair()                              // of the CA that m trusts
//		live := m.Lineage("mail.example.org", next)   // as certbot writes it
//		m.Postcert("install-cert", live).Want(0)
//		m.Serves(next)                                // by the host's openssl
//	}
//
// Whatever a machine is asked to do fails the scenario if it does not work; the
// transcript of the scenario and the end of the machine's journal are printed
// then, and the other scenarios go on.
//
// All of it runs in namespaces of mounts, processes and network that are this
// program's own: when it ends, by whatever means, so does every machine, and no
// mount is left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"postcert/deploy/postfix/postfixtest"
)

// options are the flags.
type options struct {
	run, trees, output, tools string
	keep, verbose, list       bool
	quiet                     bool // the failures and the table
	parallel                  int
	group                     string // of the run's cgroups
}

func main() {
	if err := start(os.Args[1:]); err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "machines:", err)
		}
		os.Exit(1)
	}
}

// errFailed is the end of a run whose table has said the rest.
var errFailed = errors.New("a scenario failed")

// groupEnv tells the process in the namespaces the name of the run's cgroups.
const groupEnv = "POSTCERT_MACHINES_GROUP"

func parse(args []string, output io.Writer) (options, []string, error) {
	var o options
	fs := flag.NewFlagSet("machines", flag.ContinueOnError)
	fs.SetOutput(output)
	fs.StringVar(&o.run, "run", "", "only scenarios whose ID or title matches the regular expression")
	fs.StringVar(&o.trees, "trees", "", "directory of the trees, kept for the next run (default below the user's cache directory)")
	fs.StringVar(&o.output, "o", "", "write the table to this file as well, as Markdown")
	fs.StringVar(&o.tools, "tools", "", "directory with postcert.deb and the programs for the machines, which see it as "+toolsDir)
	fs.BoolVar(&o.keep, "keep", false, "keep the machines of a failed scenario until Enter is pressed")
	fs.BoolVar(&o.verbose, "v", false, "print all transcripts as they grow")
	fs.BoolVar(&o.quiet, "q", false, "print the failures and the table only")
	fs.BoolVar(&o.list, "list", false, "list the scenarios and end")
	// A scenario waits for three quarters of its time.
	fs.IntVar(&o.parallel, "parallel", 4*runtime.NumCPU(), "scenarios at the same time")
	if err := fs.Parse(args); err != nil {
		return o, nil, err
	}
	if o.parallel < 1 {
		return o, nil, errors.New("-parallel: at least 1")
	}
	if o.trees == "" {
		cache, err := os.UserCacheDir()
		if err != nil { // no HOME, as in a container
			cache = os.TempDir()
		}
		o.trees = filepath.Join(cache, "postcert-machines")
	}
	var err error
	o.trees, err = filepath.Abs(o.trees)
	o.group = os.Getenv(groupEnv)
	return o, fs.Args(), err
}

func start(args []string) error {
	o, words, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	releases, err := chosen(words)
	if err != nil {
		return err
	}
	scenarios, err := selected(registered, o.run)
	if err != nil {
		return err
	}
	if len(scenarios) == 0 {
		return fmt.Errorf("no scenario matches %q", o.run)
	}
	if o.list {
		for _, sc := range scenarios {
			fmt.Printf("%-6s %s\n", sc.ID, sc.Title)
		}
		return nil
	}
	if postfixtest.Isolated() {
		return inside(o, releases, scenarios)
	}
	return outside(o, releases)
}

// outside makes what needs the host's network, then runs this program again in
// namespaces of its own. The first process in them comes here as well.
func outside(o options, releases []*Release) error {
	if o.group == "" {
		if err := prepare(o, releases); err != nil {
			return err
		}
	}
	// It ends this process with the status of inside.
	postfixtest.Isolate(func() int {
		fmt.Fprintln(os.Stderr, "machines: this host gives no namespaces")
		return 1
	})
	return nil
}

// prepare makes the trees, and the name of the run's cgroups.
func prepare(o options, releases []*Release) error {
	if os.Getuid() != 0 {
		return errors.New("to be run as root: it makes file systems and boots machines")
	}
	if _, err := os.Stat(filepath.Join(o.tools, "postcert.deb")); err != nil {
		return fmt.Errorf("-tools: %w (contrib/machines/test.sh makes the directory)", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := forest{dir: o.trees, say: func(format string, args ...any) {
		if !o.quiet {
			fmt.Printf(format+"\n", args...)
		}
	}}
	if err := f.grow(ctx, releases); err != nil {
		return err
	}
	sweepCgroups()
	return os.Setenv(groupEnv, groupPrefix+strconv.Itoa(os.Getpid()))
}

// groupPrefix begins the names of the cgroups of a run; the process id follows.
const groupPrefix = "postcert-machines-"

// sweepCgroups removes the groups of runs that were killed. The processes of
// such a run have ended with it.
func sweepCgroups() {
	for _, h := range hierarchies() {
		groups, err := filepath.Glob(filepath.Join(ownCgroup(h), groupPrefix+"*"))
		if err != nil {
			continue
		}
		for _, g := range groups {
			pid := strings.TrimPrefix(filepath.Base(g), groupPrefix)
			if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
				_ = removeCgroups([]string{g}) // the next run tries again
			}
		}
	}
}

func sweepGroup(group string) {
	for _, h := range hierarchies() {
		_ = removeCgroups([]string{filepath.Join(ownCgroup(h), group)}) // the next run tries again
	}
}

// inside runs the scenarios, in the namespaces.
func inside(o options, releases []*Release, scenarios []Scenario) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer sweepGroup(o.group)
	// In memory that nobody else sees, and that ends with us.
	if err := os.Setenv("TMPDIR", "/run"); err != nil {
		return err
	}
	var w *world
	// What a scenario is for certtest, the whole run is for the CA.
	s := &S{world: &world{scratch: "/run", ctx: ctx}, ctx: ctx, title: "machines"}
	s.goexit(func() { w = newWorld(ctx, s, o, releases) })
	if s.Failed() {
		return errors.New(s.reason)
	}
	t := w.runAll(scenarios, o.parallel)
	if err := t.report(o.output); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: what is not in the table was not run")
	}
	if _, bad, _ := t.tally(); bad > 0 {
		if o.keep {
			fmt.Printf("the machines of failed scenarios run until Enter is pressed; enter one by: nsenter -a -t PID\n")
			_, _ = fmt.Fscanln(os.Stdin) // an empty line is an error, and the wish
		}
		return errFailed
	}
	return nil
}
