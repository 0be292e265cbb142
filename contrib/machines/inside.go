package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// commandLimit bounds a command in a machine that is not given another limit.
const commandLimit = 3 * time.Minute

// Result is what a command in a machine said, and its exit status: 128 and the
// signal's number for one that a signal ended, 124 for one over its time.
type Result struct {
	Status         int
	Stdout, Stderr string
}

// Sh runs a shell command in the machine and returns its standard output without
// the last newline. Another status than 0 fails the scenario.
func (m *Machine) Sh(command string) string {
	m.s.Helper()
	r := m.Try(command)
	if r.Status != 0 {
		m.s.Fatalf("exit status %d, want 0: %s", r.Status, command)
	}
	return strings.TrimRight(r.Stdout, "\n")
}

// Try runs a shell command in the machine, whatever its status.
func (m *Machine) Try(command string) Result { m.s.Helper(); return m.TryFor(commandLimit, command) }

// TryFor is Try with another limit than 3 minutes.
func (m *Machine) TryFor(limit time.Duration, command string) Result {
	m.s.Helper()
	r, err := m.enter(limit, nil, "sh", "-c", command)
	m.s.transcribe(m, command, r, err)
	if err != nil {
		m.s.Fatalf("%s: %v", command, err)
	}
	return r
}

// Write makes a file in the machine, with its directories. The content is not
// shown in the transcript.
func (m *Machine) Write(path, content string, mode os.FileMode) {
	m.s.Helper()
	script := `umask 077; mkdir -p -m 755 "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"`
	r, err := m.enter(commandLimit, []byte(content), "sh", "-c", script, "sh", path, fmt.Sprintf("%04o", mode.Perm()))
	m.s.note("%s: wrote %s, %d bytes", m.Name, path, len(content))
	if err != nil || r.Status != 0 {
		m.s.Fatalf("writing %s: status %d %v: %s", path, r.Status, err, r.Stderr)
	}
}

// Read is the content of a file in the machine.
func (m *Machine) Read(path string) string {
	m.s.Helper()
	r, err := m.enter(commandLimit, nil, "cat", "--", path)
	if err != nil || r.Status != 0 {
		m.s.Fatalf("reading %s: status %d %v: %s", path, r.Status, err, r.Stderr)
	}
	return r.Stdout
}

// Report is what postcert --json says.
type Report struct {
	Result   `json:"-"`
	Schema   string    `json:"schema"`
	Command  string    `json:"command"`
	OK       bool      `json:"ok"`
	Exit     int       `json:"exit"`
	Problems []Problem `json:"problems"`
	// All is the whole object.
	All map[string]any `json:"-"`

	m    *Machine
	line string
}

// Problem is one entry of problems.
type Problem struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy"`
}

// Postcert runs postcert in the machine with --json and returns what it says.
func (m *Machine) Postcert(args ...string) *Report {
	m.s.Helper()
	line := "postcert " + quoted(args) + " --json"
	r := &Report{Result: m.Try(line), m: m, line: line}
	for _, into := range []any{r, &r.All} {
		if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
			m.s.Fatalf("%s: status %d, and no JSON on standard output: %v", line, r.Status, err)
		}
	}
	if r.Exit != r.Result.Status {
		m.s.Fatalf("%s: exit status %d, its JSON says %d", line, r.Result.Status, r.Exit)
	}
	return r
}

// Want fails the scenario if the exit status is another one.
func (r *Report) Want(status int) *Report {
	r.m.s.Helper()
	if r.Result.Status != status {
		r.m.s.Fatalf("exit status %d, want %d: %s", r.Result.Status, status, r.line)
	}
	return r
}

// WantProblem fails the scenario if there is no problem with the id.
func (r *Report) WantProblem(id string) *Report {
	r.m.s.Helper()
	for _, p := range r.Problems {
		if p.ID == id {
			return r
		}
	}
	r.m.s.Fatalf("no problem %q: %s", id, r.line)
	return r
}

// Get is a member of the JSON object, "transaction.rehearsed"; an element of an
// array is its number, "certificates.0.name". nil if there is none.
func (r *Report) Get(path string) any {
	var v any = r.All
	for name := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[name]
		case []any:
			n, err := strconv.Atoi(name)
			if err != nil || n < 0 || n >= len(in) {
				return nil
			}
			v = in[n]
		default:
			return nil
		}
	}
	return v
}

// quoted is words for a shell.
func quoted(words []string) string {
	var out []string
	for _, w := range words {
		if w == "" || strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@%+") != "" {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// Job is a command that runs in a machine while the scenario goes on.
type Job struct {
	m    *Machine
	line string
	done chan struct{}
	r    Result
	err  error
}

// Go starts a shell command in the machine and does not wait for it.
func (m *Machine) Go(command string) *Job {
	m.s.Helper()
	m.s.note("%s: in the background: %s", m.Name, command)
	j := &Job{m: m, line: command, done: make(chan struct{})}
	go func() {
		defer close(j.done)
		j.r, j.err = m.enter(10*time.Minute, nil, "sh", "-c", command)
	}()
	return j
}

// Wait waits for the command's end, for 10 minutes at most.
func (j *Job) Wait() Result {
	j.m.s.Helper()
	<-j.done
	j.m.s.transcribe(j.m, j.line+" (in the background)", j.r, j.err)
	return j.r
}

// enter runs a program in all namespaces of the machine, in a cgroup beside its
// units, with the environment of a root shell.
func (m *Machine) enter(limit time.Duration, stdin []byte, name string, args ...string) (Result, error) {
	if !m.running() || m.leader == 0 {
		return Result{Status: 1}, fmt.Errorf("%s is not running", m.Name)
	}
	groups, err := m.shellCgroups()
	if err != nil {
		return Result{Status: 1}, err
	}
	words := []string{"--target", strconv.Itoa(m.leader), "--all", "--wdns=/root", "env", "-i",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", name}
	return run(m.s.ctx, limit, stdin, within(groups, "nsenter", append(words, args...)...))
}

// shellCgroups are where commands run: as a login would, in none of the groups
// of systemd's units, but below the same root.
func (m *Machine) shellCgroups() ([]string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(m.leader) + "/cgroup")
	if err != nil {
		return nil, err
	}
	var parents []string
	for _, h := range hierarchies() {
		parents = append(parents, strings.TrimSuffix(groupIn(string(data), h), "/init.scope"))
	}
	return makeCgroups(parents, "shell")
}

// run runs a command of the host. Output goes through files: a daemon that the
// command leaves behind holds a pipe open, and nobody would see its end.
func run(ctx context.Context, limit time.Duration, stdin []byte, cmd *exec.Cmd) (Result, error) {
	dir, err := os.MkdirTemp("", "command-")
	if err != nil {
		return Result{Status: 1}, err
	}
	defer os.RemoveAll(dir)
	var files [2]*os.File
	for i := range files {
		if files[i], err = os.Create(filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return Result{Status: 1}, err
		}
		defer files[i].Close()
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	cmd.Stdin = nil
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return Result{Status: 1}, err
	}
	err = waitOrKill(ctx, limit, cmd)
	r := Result{Status: cmd.ProcessState.ExitCode()}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		r.Status = 128 + int(ws.Signal())
	}
	for i, into := range []*string{&r.Stdout, &r.Stderr} {
		data, e := os.ReadFile(files[i].Name())
		err = errors.Join(err, e)
		*into = string(data)
	}
	return r, err
}

// waitOrKill waits for the end of a command and of its process group's leader;
// over its time the whole group is killed.
func waitOrKill(ctx context.Context, limit time.Duration, cmd *exec.Cmd) error {
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its state says it
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var err error
	select {
	case <-done:
		return nil
	case <-timer.C:
		err = fmt.Errorf("not ended after %s", limit)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended meanwhile
	<-done
	return err
}
