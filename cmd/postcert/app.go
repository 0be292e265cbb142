package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/verify/problem"
)

// app is one invocation: what it was given, and what its flags say.
type app struct {
	env    map[string]string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	seams  seams

	flags     globalFlags
	conf      config.Config
	text      *text
	log       *slog.Logger
	planWords func()       // printed behind the diff of a plan; nil: nothing
	undoBy    string       // the command that takes back a change that is about no certificate
	from      *status.From // where the pair of this command was read from; nil if that is not to be remembered

	ca      *acme.Manager                  // see manager
	past    []status.Update                // the whole history, nil if it is read each time: see readPast
	passed  []passed                       // the passes that this process made
	touched []status.Key                   // what this process wrote a record of
	keyless bool                           // this process must not read a private key: the daemon
	looks   *looks                         // at other clients' files, for one that must not wait; nil: looked at directly
	hangup  *atomic.Pointer[chan struct{}] // see hangups; nil: never
}

// seams are the two places at which tests interrupt a transaction: its
// progress, and its file operations. The zero value is what a release runs.
type seams struct {
	progress func(deploy.Event)
	fs       atomicfile.FS
	mta      func(deploy.MTA) deploy.MTA
	deadline time.Duration // of the proof; 0 is the engine's own
	settle   time.Duration // for another client's files; 0 is settleWait
	hook     time.Duration // that a hook has; 0 is hookLimit
	now      func() time.Time
	childEnv []string // of the processes that the daemon starts
}

// now is the time of day: for what certificates and people call a time. What
// waits asks the monotonic clock instead, which nobody can set.
func (a *app) now() time.Time {
	if a.seams.now != nil {
		return a.seams.now()
	}
	return time.Now()
}

// globalFlags are the switches that all commands have.
type globalFlags struct {
	config   string
	instance string
	stateDir string
	runDir   string
	dryRun   bool
	json     bool
	trust    []string
	quiet    bool
	verbose  int
	timeout  time.Duration
	nagios   bool              // of status
	acme     map[string]string // flags that are scalars of the configuration, by key
}

// run executes one command line and returns the exit status. Whatever happens,
// the result is said once: as text, or as one JSON object on standard output.
func run(ctx context.Context, a *app, args []string) int {
	root := a.rootCommand()
	root.SetArgs(certbotSpelling(args))
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	strictCompletion(root)
	cmd, err := root.ExecuteContextC(ctx)
	var done *result
	if errors.As(err, &done) {
		return done.status
	}
	if err == nil {
		return statusOK
	}
	// Only errors in the command line itself arrive here: --json may stand
	// behind the one at which the parser gave up.
	a.flags.json = a.flags.json || asksForJSON(args)
	res := a.newResult(commandName(cmd))
	if res.command == "status" && (a.flags.nagios || slices.Contains(args, "--nagios")) {
		return a.sayNagios(res, usageError{err}).status
	}
	return a.say(res, usageError{err}).status
}

// strictCompletion refuses a shell that is unknown: cobra's own command answers
// it with its help, and success. Output must be set: the command keeps it.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args = usageArgs(cobra.NoArgs)
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

func asksForJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "postcert",
		Short:         "install TLS certificates for Postfix, proven on every listener or rolled back",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.config, "config", "", "configuration `FILE` (default /etc/postcert/postcert.yaml, if it exists)")
	f.StringVar(&a.flags.instance, "instance", "", "Postfix instance: a `NAME` of postmulti -l or a configuration directory")
	f.StringVar(&a.flags.stateDir, "state-dir", "", "where generations, journal and history are kept (default /var/lib/postcert)")
	f.StringVar(&a.flags.runDir, "runtime-dir", "", "where rehearsals run (default /run/postcert)")
	f.BoolVar(&a.flags.json, "json", false, "one JSON object on standard output instead of text")
	f.StringArrayVar(&a.flags.trust, "trust", nil, "PEM `FILE` with an extra trust anchor (repeatable)")
	f.BoolVarP(&a.flags.quiet, "quiet", "q", false, "print only what went wrong")
	f.CountVarP(&a.flags.verbose, "verbose", "v", "say more; twice: log what is run")
	f.DurationVar(&a.flags.timeout, "timeout", 0, "end the command after this time, e.g. 90s; an undo is not cut short")
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(a.commands()...)
	root.SetHelpTemplate(helpTemplate)
	return root
}

// action is the body of a command. It fills in the result; its error is turned
// into problems, remedies and the exit status by say.
type action func(ctx context.Context, args []string, res *result) error

// runE wraps an action with what all commands share: configuration, time
// limit, and saying the result.
func (a *app) runE(f action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if a.flags.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, a.flags.timeout, timeoutError{a.flags.timeout})
			defer cancel()
		}
		res := a.newResult(commandName(cmd))
		err := a.begin(cmd)
		if err == nil {
			err = f(ctx, args, res)
		} else if cmd.Annotations[unattended] != "" {
			a.tellUnusable(ctx, res, err)
		}
		if a.flags.nagios {
			return a.sayNagios(res, withCause(ctx, err))
		}
		return a.say(res, withCause(ctx, err))
	}
}

type timeoutError struct{ limit time.Duration }

func (e timeoutError) Error() string { return fmt.Sprintf("not done within %s (--timeout)", e.limit) }

// withCause makes the reason for which the context ended part of the error.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && ctx.Err() != nil {
		return errors.Join(err, cause)
	}
	return err
}

func commandName(cmd *cobra.Command) string {
	name := cmd.Name()
	for p := cmd.Parent(); p != nil && p.HasParent(); p = p.Parent() {
		name = p.Name() + " " + name
	}
	return name
}

// begin reads the configuration and sets up output.
func (a *app) begin(cmd *cobra.Command) error {
	a.text = newText(a.stdout, a.flags.quiet || a.flags.json || a.flags.nagios)
	level := slog.LevelWarn
	if a.flags.verbose > 1 {
		level = slog.LevelDebug
	}
	a.log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: dropTime}))
	if cmd.Annotations["config"] == "none" {
		return nil
	}
	conf, found := config.Load(a.configSource())
	a.conf = conf
	return found.Err()
}

func dropTime(groups []string, at slog.Attr) slog.Attr {
	if len(groups) == 0 && at.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return at
}

// isTerminal tells whether w is a terminal, for colour.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && st.Mode()&os.ModeDevice != 0
}

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func refuse(id string, at problem.At, format string, args ...any) error {
	return problem.List{problem.New(id, at, format, args...)}
}
