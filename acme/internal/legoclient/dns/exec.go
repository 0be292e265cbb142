package dns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/program"
)

// KeyAuthorization is the variable of the environment in which the program of the
// provider exec finds the key authorization whose digest VALUE is. It is no
// secret. contrib/dns needs it, as lego's providers compute the digest themselves.
const KeyAuthorization = "POSTCERT_KEY_AUTHORIZATION"

var execDefinition = &definition{
	name: "exec", lego: []string{"EXEC_"},
	ttl: 120, propagation: time.Minute, interval: 2 * time.Second,
	fields: []Field{
		{Name: "program", Meaning: "absolute path; run as: program [arguments] present|cleanup FQDN VALUE", Required: true, Lego: []string{"EXEC_PATH"}},
		{Name: "arguments", Meaning: "what comes before present or cleanup, separated by white space"},
		{Name: "mode", Meaning: "empty; lego's RAW is refused", Lego: []string{"EXEC_MODE"}},
		{Name: "sequence_interval", Meaning: "lego's pause between names: has no effect", Lego: []string{"EXEC_SEQUENCE_INTERVAL"}},
	},
	build: func(s *setting) (backend, error) {
		if s.values["mode"] != "" {
			return nil, errors.New("mode: RAW is not supported: the program is told the name and the value to write")
		}
		e := &execProgram{path: s.values["program"], arguments: strings.Fields(s.values["arguments"]), timeout: s.timeout}
		return e, e.trusted()
	},
}

// execProgram runs a program of the operator, in the form of lego's exec provider
// (https://go-acme.github.io/lego/dns/exec/), but with a time limit, a fixed
// environment, and output that is bounded and read to its end.
type execProgram struct {
	path      string
	arguments []string
	timeout   time.Duration
}

// trusted refuses a program that somebody else than root, or the user that runs,
// can change or replace.
func (e *execProgram) trusted() error {
	if !filepath.IsAbs(e.path) || filepath.Clean(e.path) != e.path {
		return faulty(Configuration, "program: not an absolute path in its shortest form")
	}
	info, err := statFile(e.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return faulty(Configuration, "program: "+e.path+" does not exist")
	case err != nil:
		return &fault{kind: Configuration, err: fmt.Errorf("program: %w", err)}
	case !info.Mode().IsRegular():
		return faulty(Configuration, "program: "+e.path+" is no regular file")
	case info.Mode().Perm()&0o111 == 0:
		return faulty(Configuration, "program: "+e.path+" is not executable")
	}
	if err := atomicfile.Private(e.path); err != nil {
		return &fault{kind: Configuration, err: fmt.Errorf("program: %w", err)}
	}
	return nil
}

func (e *execProgram) present(ctx context.Context, r record) error { return e.run(ctx, "present", r) }
func (e *execProgram) cleanUp(ctx context.Context, r record) error { return e.run(ctx, "cleanup", r) }

// check looks at the program again: it is asked for nothing that it may not know.
func (e *execProgram) check(context.Context, record) error { return e.trusted() }

func (e *execProgram) run(ctx context.Context, op string, r record) error {
	if err := e.trusted(); err != nil { // it may have been replaced since
		return err
	}
	c := program.Command{
		Path:    e.path,
		Args:    append(append([]string{}, e.arguments...), op, r.fqdn, r.value()),
		Env:     []string{KeyAuthorization + "=" + r.keyAuth},
		Timeout: e.timeout,
		Output:  1 << 20,
	}
	result, err := program.Run(ctx, c)
	var failure *program.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &failure):
		return err
	case failure.Timeout > 0:
		return &fault{kind: Unavailable, err: fmt.Errorf("%s %s: no end within %s%s", e.path, op, failure.Timeout, lastWords(result))}
	case failure.Status < 0:
		return fmt.Errorf("%s %s: %w%s", e.path, op, failure.Err, lastWords(result))
	}
	return fmt.Errorf("%s %s: exit status %d%s", e.path, op, failure.Status, lastWords(result))
}

// lastWords are the last three lines of what the program said, of its standard
// error if it said anything there.
func lastWords(r program.Result) string {
	said := strings.TrimSpace(string(r.Stderr))
	if said == "" {
		said = strings.TrimSpace(string(r.Stdout))
	}
	if said == "" {
		return ""
	}
	lines := strings.Split(said, "\n")
	lines = lines[max(0, len(lines)-3):]
	for i, line := range lines {
		line = strings.TrimSpace(strings.ToValidUTF8(line, "?"))
		if len(line) > 160 {
			line = "..." + strings.ToValidUTF8(line[len(line)-160:], "")
		}
		lines[i] = line
	}
	return ": " + strings.Join(lines, "; ")
}
