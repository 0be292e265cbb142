// Package program runs one external program: postconf(1), postfix(1),
// openssl(1), systemctl(1).
//
// It is the only place that starts processes, so the rules that keep a root
// tool safe are here once. A program is named by an absolute path and is never
// searched for; its arguments are a list and never meet a shell; it gets a
// fixed environment and nothing of ours; its output is bounded; and it runs in
// a process group of its own that ends, whole, when its time is over. Callers
// get the output also when the program failed, because a Postfix command's
// words on standard error are the diagnosis.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DefaultTimeout bounds a program whose Command names no time limit.
const DefaultTimeout = 30 * time.Second

// DefaultOutput is how many bytes of each output stream are kept.
const DefaultOutput = 1 << 20

// Environment is what every program is started with. LC_ALL keeps messages
// parseable; PATH is for the programs that are shell scripts themselves, such
// as postfix-script.
var Environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/"}

// NoAuthorities keeps openssl s_client(1) from reading all certification authorities
// of the host before it connects: 25 of the 30 ms that a handshake takes. It is for
// whoever compares what is presented, and believes nobody (openssl-env(7)).
var NoAuthorities = []string{"SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/dev/null"}

// Command is one run of one program.
type Command struct {
	Path    string        // absolute
	Args    []string      // without the program's name
	Env     []string      // added to Environment, NAME=value
	Dir     string        // working directory; "" is /
	Stdin   io.Reader     // nil is an empty input
	Timeout time.Duration // 0 is DefaultTimeout
	Output  int           // bytes kept of each stream; 0 is DefaultOutput

	// Stdout gets standard output as it comes, all of it; Result.Stdout is empty
	// then. It is for a program that says more than should be kept, such as
	// journalctl(1). A Write must take everything and return no error.
	Stdout io.Writer

	// Grace is for a program that has something to put in order: when its time is
	// over it gets SIGTERM, and SIGKILL only after this long. 0 is SIGKILL at once.
	Grace time.Duration
}

// Result is what a program said. It is filled also when Run returns an error.
type Result struct {
	Stdout    []byte
	Stderr    []byte
	Status    int  // exit status; -1 if it did not exit by itself
	Truncated bool // one of the streams was longer than Command.Output
	Took      time.Duration
}

// Error says how a program failed: it could not be started, ended with a
// status other than 0, did not end in time, or, by the judgement of its caller,
// said what it does not say.
type Error struct {
	Path    string
	Args    []string
	Status  int           // exit status; -1 if it did not exit by itself, 0 if its output is what is wrong
	Stderr  string        // its words, shortened
	Timeout time.Duration // not 0: it was ended after this time
	Err     error
}

func (e *Error) Error() string {
	name := strings.Join(append([]string{filepath.Base(e.Path)}, e.Args...), " ")
	switch {
	case e.Timeout > 0:
		return fmt.Sprintf("%s: no answer within %s", name, e.Timeout)
	case errors.As(e.Err, new(*fs.PathError)):
		return fmt.Sprintf("%s: %s cannot be started: %v", name, e.Path, errors.Unwrap(e.Err))
	case e.Status <= 0:
		return fmt.Sprintf("%s: %v", name, e.Err)
	case e.Stderr != "":
		return fmt.Sprintf("%s: status %d: %s", name, e.Status, e.Stderr)
	}
	return fmt.Sprintf("%s: status %d", name, e.Status)
}

func (e *Error) Unwrap() error { return e.Err }

// Run runs c and waits for its end. The error, if any, is an *Error; the
// context's own error is behind it when ctx ended first.
func Run(ctx context.Context, c Command) (Result, error) {
	if !filepath.IsAbs(c.Path) {
		return Result{Status: -1}, &Error{Path: c.Path, Args: c.Args, Status: -1, Err: errors.New("not an absolute path")}
	}
	limit := c.Timeout
	if limit <= 0 {
		limit = DefaultTimeout
	}
	runCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	keep := c.Output
	if keep <= 0 {
		keep = DefaultOutput
	}
	stdout, stderr := &bounded{max: keep}, &bounded{max: keep}
	cmd := command(runCtx, c)
	start := time.Now()
	var out io.Writer = stdout
	if c.Stdout != nil {
		out = c.Stdout
	}
	err := cmd.start(out, stderr)
	if err == nil {
		err = cmd.wait()
	}
	res := Result{
		Stdout: stdout.kept.Bytes(), Stderr: stderr.kept.Bytes(), Status: -1,
		Truncated: stdout.cut || stderr.cut, Took: time.Since(start),
	}
	if cmd.ProcessState != nil {
		res.Status = cmd.ProcessState.ExitCode()
	}
	if err == nil {
		return res, nil
	}
	e := &Error{Path: c.Path, Args: c.Args, Status: res.Status, Stderr: brief(res.Stderr), Err: err}
	switch {
	case ctx.Err() != nil:
		e.Err = ctx.Err()
	case runCtx.Err() != nil:
		e.Timeout = limit
	}
	return res, e
}

// process is a command with the pipes of its output.
type process struct {
	*exec.Cmd
	streams []*stream
}

func command(ctx context.Context, c Command) *process {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(append([]string{}, Environment...), c.Env...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdin = c.Stdin
	// postfix(1) is a shell script with children: end them all, not the first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild that keeps our input open must not keep us waiting.
	cmd.WaitDelay = 2 * time.Second
	if c.Grace > 0 {
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = c.Grace
	}
	return &process{Cmd: cmd}
}

func (p *process) start(stdout, stderr io.Writer) error {
	var ends [2]*os.File
	for i, to := range []io.Writer{stdout, stderr} {
		s, w, err := newStream(to)
		if err != nil {
			p.drop(ends[:])
			return err
		}
		p.streams, ends[i] = append(p.streams, s), w
	}
	p.Stdout, p.Stderr = ends[0], ends[1]
	if err := p.Cmd.Start(); err != nil {
		p.drop(ends[:])
		return err
	}
	for i, s := range p.streams {
		ends[i].Close() // the program has its own
		go s.copy()
	}
	return nil
}

// drop closes the pipes of a program that was not started.
func (p *process) drop(ends []*os.File) {
	for _, s := range p.streams {
		s.from.Close()
	}
	for _, f := range ends {
		if f != nil {
			f.Close()
		}
	}
}

// wait waits for the program, and for no process that it left in the background
// with its output, as "postfix reload" leaves a postsuper(1) that looks at the
// whole queue. What the program itself has said is in the pipes when it ends.
func (p *process) wait() error {
	err := p.Cmd.Wait()
	for _, s := range p.streams {
		err = errors.Join(err, s.end())
	}
	return err
}

// brief is the end of what a program said, in one line: the last lines are
// the ones that tell why.
func brief(b []byte) string {
	s := strings.TrimSpace(string(b))
	const max = 600
	if len(s) > max {
		s = "..." + s[len(s)-max:]
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// bounded keeps the first max bytes and accepts, and drops, the rest, so that
// a program that talks without end neither blocks nor fills our memory.
type bounded struct {
	kept bytes.Buffer // not embedded: its ReadFrom would be used, and keep all
	max  int
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.kept.Len(); room < len(p) {
		b.cut = true
		b.kept.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return b.kept.Write(p)
}
