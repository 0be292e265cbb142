package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"postcert/acme/watch"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/daemon"
	"postcert/cmd/postcert/internal/metrics"
	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// Limits of the processes that the daemon starts.
const (
	// childLimit is more than an order with a slow DNS and the deploy after it take.
	childLimit = time.Hour
	// childGrace is for the undo of a deploy, with its proof; systemd waits 90 s for
	// us in turn (TimeoutStopSec).
	childGrace = 80 * time.Second
	// childOutput bounds what is kept of a child's words, in bytes.
	childOutput = 256 << 10
)

func (a *app) daemonCommand() *cobra.Command {
	return &cobra.Command{
		Use: "daemon", Short: "renew and deploy each certificate at its time, for years", Long: daemonHelp, Example: daemonExample,
		Args:        usageArgs(cobra.NoArgs),
		Annotations: map[string]string{unattended: "yes"},
		RunE: a.runE(func(ctx context.Context, _ []string, res *result) error {
			return a.daemon(ctx, res)
		}),
	}
}

// keeper is the running daemon. It reads what is due, starts processes of this
// same program, and reads their JSON: a private key never comes near it.
type keeper struct {
	exe string
	log *slog.Logger

	watch   *watch.Watcher
	metrics listener

	mu   sync.Mutex
	app  *app   // with the configuration in force
	conf string // the copy of that configuration that the processes read
}

func (a *app) daemon(ctx context.Context, res *result) error {
	hangup := a.hangups()
	a.keyless, a.looks = true, newLooks()
	manager := daemon.NewManager(a.env)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	s := &keeper{exe: exe, app: a, log: slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: a.daemonLevel(), ReplaceAttr: dropTime}))}
	if err := s.adopt(a.conf); err != nil {
		return err
	}
	if _, err := a.manager(); err != nil {
		return err
	}
	file := a.conf.File
	if !a.conf.Found {
		file = "none"
	}
	s.log.Info("started", "version", versionString(), "config", file, "state", a.conf.StateDir)
	manager.Ready()
	s.watch = watch.New(s.log)
	defer s.watching(ctx)()
	s.report("recover", s.child(ctx, "recover"))
	(&daemon.Loop{
		Tasks: s.due, Run: s.run, Reload: s.reload, Hangup: hangup, Hints: s.watch.Hints(), Tell: manager, Now: a.now, Log: s.log, Watchdog: manager.Watchdog(),
	}).Live(ctx)
	s.metrics.close()
	s.log.Info("ended", "why", context.Cause(ctx))
	res.headline = "ended: nothing is left running. What is due is on disk, and is done at the next start."
	return nil // asked for, and clean
}

// watching watches the files of other clients until ctx ends. The function returned
// waits for that, but not for a file system that does not answer.
func (s *keeper) watching(ctx context.Context) (wait func()) {
	ended := make(chan struct{})
	go func() {
		s.watch.Run(ctx)
		close(ended)
	}()
	return func() {
		select {
		case <-ended:
		case <-time.After(lookLimit):
		}
	}
}

func (a *app) daemonLevel() slog.Level {
	switch {
	case a.flags.quiet:
		return slog.LevelWarn
	case a.flags.verbose > 0:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// adopt puts a configuration in force: for the daemon, and, as a copy, for the
// processes that it starts. The file itself may be edited at any time; until the
// next SIGHUP it has no effect.
func (s *keeper) adopt(c config.Config) error {
	dir := filepath.Join(c.RuntimeDir, "daemon")
	if err := atomicfile.MkdirAll(atomicfile.OS, dir); err != nil {
		return err
	}
	if err := atomicfile.Private(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, "postcert.yaml")
	if err := atomicfile.Write(atomicfile.OS, path, c.Raw(), atomicfile.Attr{Mode: 0o600}); err != nil {
		return fmt.Errorf("keeping the configuration in force: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.app
	next.conf = c
	s.app, s.conf = &next, path
	s.metrics.follow(c.Metrics.Listen, s.snapshot, s.log)
	return nil
}

// snapshot is for a scrape.
func (s *keeper) snapshot() metrics.Snapshot {
	a, _ := s.inForce()
	return a.snapshot()
}

// inForce are the configuration and its copy.
func (s *keeper) inForce() (*app, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.app, s.conf
}

func (s *keeper) due(now time.Time) ([]daemon.Task, error) {
	a, _ := s.inForce()
	tasks, sources, err := a.due(now)
	s.watch.Watch(sources)
	return tasks, err
}

// reload reads the configuration again. One with a mistake changes nothing.
func (s *keeper) reload() {
	a, _ := s.inForce()
	c, found := config.Load(a.configSource())
	if err := found.Err(); err != nil {
		for _, p := range remedied(found.Errors()) {
			s.log.Error(p.Message, "id", p.ID, "file", p.At.File, "line", p.At.Line, "do", p.Remedy)
		}
		s.log.Error("the new configuration is refused; the former one stays in force", "file", c.File)
		return
	}
	if c.StateDir != a.conf.StateDir || c.RuntimeDir != a.conf.RuntimeDir {
		s.log.Error("another state_dir or runtime_dir needs a restart; the former configuration stays in force", "file", c.File)
		return
	}
	if err := s.adopt(c); err != nil {
		s.log.Error("the new configuration cannot be kept; the former one stays in force", "err", err)
		return
	}
	s.log.Info("the configuration was read again", "file", c.File)
}

// run does what is due about one certificate.
func (s *keeper) run(ctx context.Context, t daemon.Task) {
	s.log.Info("begin", "name", t.Name, "why", t.Why)
	out := s.child(ctx, "renew", t.Name, "--scheduled", "--interval", "0s")
	if ctx.Err() != nil {
		return
	}
	s.report(t.Name, out)
}

// childResult is what a process said: its status, and the part of its JSON that is
// told on.
type childResult struct {
	status   int
	err      error
	problems []problem.Problem
	passes   []childPass
	took     time.Duration
}

// childPass is what is told on of a passJSON.
type childPass struct {
	Action  string   `json:"action"`
	Next    nextJSON `json:"next"`
	Deploys []struct {
		Transaction *struct {
			Outcome deploy.Outcome `json:"outcome"`
		} `json:"transaction"`
		Next *time.Time `json:"next_attempt"`
	} `json:"deploys"`
}

// child runs one command of this program. Arguments and environment hold nothing
// secret: names, directories, the configuration's path.
func (s *keeper) child(ctx context.Context, args ...string) childResult {
	a, conf := s.inForce()
	args = append(args, "--json", "--config", conf, "--state-dir", a.conf.StateDir, "--runtime-dir", a.conf.RuntimeDir)
	if a.conf.Instance != "" {
		args = append(args, "--instance", a.conf.Instance)
	}
	for _, file := range a.flags.trust {
		args = append(args, "--trust", file)
	}
	r, err := program.Run(ctx, program.Command{Path: s.exe, Args: args, Env: a.childEnvironment(), Timeout: childLimit, Grace: childGrace, Output: childOutput})
	out := childResult{status: r.Status, took: r.Took}
	var said struct {
		Problems     []problem.Problem `json:"problems"`
		Certificates []childPass       `json:"certificates"`
	}
	if jerr := json.Unmarshal(r.Stdout, &said); jerr != nil || r.Status < 0 {
		out.err = errors.Join(err, jerr)
	}
	out.problems, out.passes = said.Problems, said.Certificates
	return out
}

// childEnvironment are the variables that are layers of the configuration.
func (a *app) childEnvironment() []string {
	var out []string
	for _, s := range config.Scalars() {
		if v := a.env[s.Variable]; v != "" && s.Key != "config" {
			out = append(out, s.Variable+"="+v)
		}
	}
	return append(out, a.seams.childEnv...)
}

// report writes to the log how a process ended: one line for each problem, one for
// the whole, with what happens next.
func (s *keeper) report(name string, r childResult) {
	for _, p := range r.problems {
		level := slog.LevelError
		if p.Severity == problem.Warning {
			level = slog.LevelWarn
		}
		s.log.Log(context.Background(), level, p.Message, "name", name, "id", p.ID, "do", p.Remedy)
	}
	if r.err != nil {
		s.log.Error("the process ended without an answer", "name", name, "status", r.status, "err", r.err)
		return
	}
	args := []any{"name", name, "status", r.status, "took", r.took.Round(time.Millisecond)}
	for _, v := range r.passes {
		args = append(args, "order", v.Action)
		for _, d := range v.Deploys {
			if d.Transaction != nil {
				args = append(args, "deploy", string(d.Transaction.Outcome))
			}
			if d.Next != nil {
				args = append(args, "deploy_again", d.Next.Format(time.RFC3339))
			}
		}
		if v.Next.Attempt != nil {
			args = append(args, "next_order", v.Next.Attempt.Format(time.RFC3339), "why", strings.TrimSpace(v.Next.Reason+" "+v.Next.Held))
		}
	}
	level := slog.LevelInfo
	if r.status != statusOK {
		level = slog.LevelError
	}
	s.log.Log(context.Background(), level, "end", args...)
}
