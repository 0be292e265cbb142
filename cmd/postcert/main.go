// Command postcert installs TLS certificates for Postfix and proves, by real
// handshakes on every listener, that they are served; or puts everything back,
// proven again. See DESIGN in the README and "postcert help".
//
// This package talks to people: commands and flags (one file a command), text
// and JSON (text.go, json.go), and, in advise.go alone, the exit status and the
// remedy for each problem. What it talks about is decided in the packages acme,
// verify and deploy.
package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
)

func main() {
	env := takeEnvironment()
	protect()
	a := &app{env: env, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	ctx, stop := signalContext(context.Background(), a)
	status := run(ctx, a, commandLine(os.Args, env))
	stop()
	os.Exit(status)
}

// takeEnvironment copies the environment into a value and clears it: what is
// below reads what it is given, and neither GODEBUG, SSL_CERT_FILE, PATH nor a
// variable that nobody thought of changes a verdict or a child process.
func takeEnvironment() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	os.Clearenv()
	os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	return env
}

// protect keeps the private key that passes through this process out of files
// that others can read, core dumps and debuggers. The calls cannot fail in a
// way that should stop a renewal. The working directory stays the caller's:
// paths on the command line are relative to it.
//
// A reader that is gone ends neither this process, in the middle of a
// transaction, nor the programs it runs, which inherit that. It matters when we
// are killed: "postfix check" runs on, each postconf that warns would die of the
// pipe that nobody reads, and post-install(1) would take its empty answers for
// parameters that somebody changed, and write them all to main.cf.
func protect() {
	signal.Ignore(syscall.SIGPIPE)
	syscall.Umask(0o077)
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	const dumpable = 4 // PR_SET_DUMPABLE, prctl(2)
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, dumpable, 0, 0)
}

// signalError is the cause of a context that a signal ended.
type signalError struct{ signal os.Signal }

func (e signalError) Error() string { return "ended by signal: " + e.signal.String() }

// signalContext ends with a signalError at the first SIGINT, SIGTERM or SIGHUP.
// Later ones are ignored, so that a second Ctrl-C cannot stop an undo. A command
// that asked for hang-ups gets them instead.
func signalContext(parent context.Context, a *app) (context.Context, func()) {
	a.hangup = new(atomic.Pointer[chan struct{}])
	ctx, cancel := context.WithCancelCause(parent)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range c {
			if s == syscall.SIGHUP && a.hangUp() {
				continue
			}
			cancel(signalError{s})
		}
	}()
	return ctx, func() { signal.Stop(c); close(c); cancel(nil) }
}

// hangups is for a command that lives on when it is hung up, and reads its
// configuration again. Several in a row may become one.
func (a *app) hangups() <-chan struct{} {
	c := make(chan struct{}, 1)
	if a.hangup != nil {
		a.hangup.Store(&c)
	}
	return c
}

// hangUp tells whether somebody takes a hang-up.
func (a *app) hangUp() bool {
	c := a.hangup.Load()
	if c == nil {
		return false
	}
	select {
	case *c <- struct{}{}:
	default:
	}
	return true
}
