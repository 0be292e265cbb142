package postfix

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"postcert/deploy/program"
)

// ErrNotRunning says that there is no master to reload. Nothing was done; a
// configuration that was changed will be read when Postfix is started.
var ErrNotRunning = errors.New("postfix: the mail system is not running")

// ErrMasterGone says that the master which ran before a reload does not run
// any more. The caller undoes its change and calls Restart.
var ErrMasterGone = errors.New("postfix: master ended at the reload")

// ErrNotVisible says that a master runs, but not where we can see or signal
// it: postcert must run in Postfix's container.
var ErrNotVisible = errors.New("postfix: master runs in another container or namespace")

// CommandError is a Postfix command that failed, with what it logged: most
// commands say nothing on standard error if that is not a terminal.
type CommandError struct {
	Err error
	Log []string // lines of this instance's log since the command began
}

func (e *CommandError) Error() string {
	if len(e.Log) == 0 {
		return e.Err.Error()
	}
	return e.Err.Error() + ": " + strings.Join(e.Log, "; ")
}

func (e *CommandError) Unwrap() error { return e.Err }

const (
	// checkTime bounds postfix check: it looks at every file of the queue.
	checkTime = 60 * time.Second
	// reloadTime bounds postfix reload, which looks at the active queue.
	reloadTime = 60 * time.Second
	// startTime bounds postfix start and systemctl restart: both check first.
	startTime = 3 * time.Minute
)

// Check runs "postfix check" on the instance as it is and returns its
// warnings. The error is a *CommandError if it failed, or says that it did not
// end within 60 s. It is not read-only: it creates missing queue directories,
// and Debian's copies files into the chroot.
//
// Most warnings are in the mail log alone. With a Log that takes none at info
// level nobody would see them, and journalctl(1) is slow, so it is not read.
func (i Instance) Check(ctx context.Context) (warnings []string, err error) {
	begin := time.Now()
	r, err := i.script(ctx, checkTime, "check")
	if err != nil {
		return nil, err
	}
	var said []string
	if i.Log == nil || i.Log.Enabled(ctx, slog.LevelInfo) {
		said = i.saidSince(ctx, begin)
	}
	return warningsIn(string(r.Stderr), said), nil
}

// Status runs "postfix status": nil if this instance's mail system runs, else
// a *CommandError. Master tells more.
func (i Instance) Status(ctx context.Context) error {
	_, err := i.script(ctx, reloadTime, "status")
	return err
}

// script runs postfix -c DIR command. If it fails, its log is in the error.
func (i Instance) script(ctx context.Context, limit time.Duration, command string) (program.Result, error) {
	begin := time.Now()
	r, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postfix"), Args: []string{"-c", i.ConfigDirectory, command},
		Timeout: limit,
	})
	if err != nil {
		return r, &CommandError{Err: err, Log: i.saidSince(ctx, begin)}
	}
	return r, nil
}

// warningsIn are the different warnings, from the word "warning:", in the order
// they came. The scripts run postconf a dozen times, and each says the same.
func warningsIn(stderr string, said []string) []string {
	var out []string
	for _, line := range slices.Concat(strings.Split(stderr, "\n"), said) {
		if _, text, ok := strings.Cut(line, "warning: "); ok && !slices.Contains(out, "warning: "+text) {
			out = append(out, "warning: "+text)
		}
	}
	return out
}

// saidSince is what administrative programs of this instance logged since t:
// the text alone, so that two runs can be compared.
func (i Instance) saidSince(ctx context.Context, t time.Time) []string {
	lines, err := i.LogSince(context.WithoutCancel(ctx), t)
	if err != nil {
		return nil // a log that cannot be read explains nothing
	}
	var out []string
	for _, l := range lines {
		switch l.Program {
		case "postfix", "postfix-script", "post-install", "postsuper", "postlog", "master", "postconf", "postmulti":
			out = append(out, l.Text)
		}
	}
	return out
}

// Reload runs "postfix -c DIR reload" and returns when the master has read its
// configuration. Errors: ErrNotRunning and ErrNotVisible before anything was
// done, ErrMasterGone, or a *CommandError.
//
// nil means that the same master lives on and waits for events again, and that
// the smtpd(8) processes of before that had no client are gone. Those that have
// one go when it does; and a listener may have its own opinion of the
// configuration: ask the listeners.
func (i Instance) Reload(ctx context.Context) error {
	queue, before, err := i.reachable(ctx)
	if err != nil {
		return err
	}
	begin, servers := time.Now(), serversOf(before.PID)
	_, err = i.script(ctx, reloadTime, "reload")
	if waitErr := awaitReload(ctx, queue, before.PID); errors.Is(waitErr, ErrMasterGone) {
		return errors.Join(fmt.Errorf("%w: %s", waitErr, strings.Join(i.saidSince(ctx, begin), "; ")), err)
	} else if err == nil {
		err = waitErr
	}
	if err == nil {
		awaitIdle(ctx, before.PID, servers)
	}
	return err
}

// Refresh does the heart of a reload without the help of any program: it sends
// SIGHUP to the master, as postfix-script does, and returns when the master has
// read its configuration. It is for an undo on a host whose postfix(1) is
// missing, broken, or does not end: what it leaves out, a look at the active
// queue, is nothing that an undo needs. Errors are those of Reload.
func (i Instance) Refresh(ctx context.Context) error {
	queue, before, err := i.reachable(ctx)
	if err != nil {
		return err
	}
	if err := syscall.Kill(before.PID, syscall.SIGHUP); err != nil {
		return fmt.Errorf("telling master, process %d, to reload: %w", before.PID, err)
	}
	return awaitReload(ctx, queue, before.PID)
}

// reachable is the master that runs and can be signalled, and its queue
// directory.
func (i Instance) reachable(ctx context.Context) (queue string, m Master, err error) {
	if queue, err = i.queueDirectory(ctx); err != nil {
		return "", m, err
	}
	m, err = masterIn(queue)
	switch {
	case err != nil:
		return queue, m, err
	case !m.Running:
		return queue, m, ErrNotRunning
	case !m.Visible():
		return queue, m, ErrNotVisible
	}
	return queue, m, nil
}

// TableTypes are the types of lookup table that this Postfix was built with or
// finds plug-ins for, as postconf -m lists them.
func (i Instance) TableTypes(ctx context.Context) ([]string, error) {
	out, err := i.postconf(ctx, i.ConfigDirectory, "-m")
	if err != nil {
		return nil, i.broken(err)
	}
	return strings.Fields(string(out)), nil
}
