package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/notify"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy/generation"
	"postcert/deploy/postfix"
	"postcert/verify/problem"
)

// passed is the end of a pass over a certificate.
type passed struct {
	wish    wish
	ordered bool // a certificate was obtained or renewed
	err     error
}

// touch remembers that a record was written: at its end the command looks there for
// what is to be told.
func (a *app) touch(instance, name string) {
	if key := (status.Key{Instance: instance, Name: name}); !slices.Contains(a.touched, key) {
		a.touched = append(a.touched, key)
	}
}

// telling makes a command tell people, when it has done all else, what they must
// know. It never changes how the command ended: a target that cannot be told is a
// warning, and tried again by the next pass.
func (a *app) telling(f action) action {
	return func(ctx context.Context, args []string, res *result) error {
		err := f(ctx, args, res)
		a.tell(ctx, args, res, err)
		return err
	}
}

// unattended annotates the commands that run where nobody reads what they say: as
// hooks, from timers, as services.
const unattended = "unattended"

// configName is under which a configuration that cannot be used is told of.
const configName = commandPrefix + "configuration"

// tellUnusable tells that a command did nothing because its configuration cannot be
// used: nothing is renewed, deployed or looked after any more. What of it can be
// used says whom to tell, else it is postmaster. It is over when a command can read
// it again.
func (a *app) tellUnusable(ctx context.Context, res *result, err error) {
	broken := a.conf
	defer func() { a.conf = broken }()
	conf, bad := config.WithoutFile(a.configSource())
	if bad.Err() != nil || a.flags.dryRun {
		return // what a person typed
	}
	if filepath.IsAbs(broken.StateDir) && a.flags.stateDir == "" {
		conf.StateDir = broken.StateDir
	}
	names := func(word string) bool {
		return slices.ContainsFunc(problem.From(err), func(p problem.Problem) bool { return strings.Contains(p.Message, word) })
	}
	if !names(": notify") {
		conf.Notify = broken.Notify
	}
	conf.Instances = broken.Instances
	a.conf = conf
	if conf.Notify.None {
		return
	}
	_, problems := advise(err)
	a.send(ctx, res, []notify.Subject{ofConfig(broken.File, problems)})
}

// tell decides from the records, and from how the command ended, whether something
// is to be said, and says it. It takes notify.Limit at most, also when a signal
// ended the command: that an undo is incomplete must be heard.
func (a *app) tell(ctx context.Context, args []string, res *result, err error) {
	if a.flags.dryRun || a.keyless {
		return
	}
	defer func(begin time.Time) { a.log.Debug("telling", "took", time.Since(begin)) }(time.Now())
	st, problems := advise(withCause(ctx, err))
	st = worse(res.status, st)
	a.measure(res, st, problems)
	if a.conf.Notify.None {
		return
	}
	reader := *a // of a history to which nothing is added any more
	subjects := reader.subjects(args, res, st, append(slices.Clone(res.problems), problems...))
	if path, err := a.notifyPath("", configName); err == nil && exists(path) {
		subjects = append(subjects, notify.Subject{Name: configName}) // it was told, and could be read
	}
	if len(subjects) > 0 {
		a.send(ctx, res, subjects)
	}
}

// send tells all targets what is new about these subjects.
func (a *app) send(ctx context.Context, res *result, subjects []notify.Subject) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notify.Limit+time.Second)
	defer cancel()
	out := sync.OnceValue(func() notify.Postfix { return a.mailOut(ctx, subjects) })
	t := notify.Teller{
		Targets: a.targetsToTell(out), Now: a.now, Seen: isTerminal(a.stderr),
		Store:    notify.Store{Dir: a.notifyDir(), Path: a.notifyPath},
		Describe: func(context.Context) string { return out().Hostname },
	}
	for _, err := range t.Tell(ctx, subjects) {
		res.problem(problem.Warn("notify_failed", problem.At{}, "not told: %v", err))
	}
}

func (a *app) notifyDir() string { return filepath.Join(a.conf.StateDir, "notify") }

// notifyPath is where is kept what was told: of a certificate on an instance; of an
// order, which belongs to no instance; of a command that failed before it came to
// a certificate. A key of an instance does not begin with a dot.
func (a *app) notifyPath(instance, name string) (string, error) {
	if command, ok := strings.CutPrefix(name, commandPrefix); ok && instance == "" {
		return filepath.Join(a.notifyDir(), ".commands", command+".json"), nil
	}
	key := ".orders"
	if instance != "" {
		var err error
		if key, err = generation.InstanceKey(instance); err != nil {
			return "", err
		}
	}
	return filepath.Join(a.notifyDir(), key, generation.FileName(name)+".json"), generation.ValidName(name)
}

// targetsToTell are the mail log, which costs nobody anything, and those of the
// configuration, or postmaster.
func (a *app) targetsToTell(out func() notify.Postfix) []notify.Target {
	all := []notify.Target{notify.MailLog{Postfix: out}}
	if len(a.conf.Notify.Targets) == 0 {
		return append(all, notify.Mail{Postfix: out, To: "postmaster"})
	}
	for _, t := range a.conf.Notify.Targets {
		on := func(what string) bool { return slices.Contains(t.On, config.Event(what)) }
		switch {
		case t.URLFile != "":
			all = append(all, notify.Service{URLFile: t.URLFile, On: on})
		case len(t.Exec) > 0:
			all = append(all, notify.Exec{Argv: t.Exec, On: on})
		default:
			all = append(all, notify.Mail{Postfix: out, To: t.Mail, On: on})
		}
	}
	return all
}

// mailOut is the Postfix by which people are told: that which it is about, or the
// one that this run is about. It is asked only when there is something to say. A
// Postfix that cannot read its own configuration answers nothing: then the usual
// paths are tried, and the result is told.
func (a *app) mailOut(ctx context.Context, subjects []notify.Subject) notify.Postfix {
	dir := a.conf.Instance
	if len(a.conf.Instances) > 0 && dir == "" {
		dir = a.conf.Instances[0].ConfigDirectory
	}
	for _, s := range slices.Backward(subjects) {
		if s.Instance != "" {
			dir = s.Instance
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	found, err := postfix.Find(ctx, postfix.Options{
		Instance: dir, CommandDirectory: a.conf.CommandDirectory, RuntimeDirectory: a.conf.RuntimeDir, Log: a.log,
	})
	i := postfix.Instance{CommandDirectory: a.conf.CommandDirectory, RuntimeDirectory: a.conf.RuntimeDir, Log: a.log}
	if filepath.IsAbs(dir) {
		i.ConfigDirectory = dir
	}
	if err == nil && len(found) > 0 {
		i = found[0]
	}
	p := notify.Postfix{ConfigDirectory: i.ConfigDirectory, CommandDirectory: a.conf.CommandDirectory}
	if i.ConfigDirectory == "" {
		return p
	}
	out, err := i.MailOut(ctx)
	if err != nil {
		a.log.Debug("asking Postfix how to tell by it", "err", err)
	}
	p.SendmailPath, p.MaillogFile, p.Hostname = out.SendmailPath, out.MaillogFile, out.Hostname
	return p
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
