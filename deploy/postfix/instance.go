package postfix

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/program"
	"postcert/verify/problem"
)

// Instance is one Postfix instance. Find fills it; a test or a caller that
// knows may set ConfigDirectory alone, which is enough for every method.
type Instance struct {
	// Name is what postmulti -i takes: multi_instance_name, or "-" for the
	// primary instance, or "" for one that was named by its directory.
	Name string
	// ConfigDirectory is where main.cf and master.cf are; absolute.
	ConfigDirectory string
	// CommandDirectory is where postconf(1) and postfix(1) are; "" is
	// /usr/sbin.
	CommandDirectory string
	// QueueDirectory is queue_directory, where the master's pid file is. Find
	// fills it, so that a master can be found, and told to reload, by one whose
	// postconf broke meanwhile; with "" postconf is asked. A Postfix that runs
	// keeps the one that it was started with.
	QueueDirectory string
	// RuntimeDirectory is where Candidate works, below a directory that only
	// root reads; "" is /run/postcert.
	RuntimeDirectory string
	// Log receives commands and how long they took, at debug level; nil is
	// silence.
	Log *slog.Logger
}

const (
	defaultCommandDirectory = "/usr/sbin"
	defaultRuntimeDirectory = "/run/postcert"
)

// MainPath and MasterPath are the two files, as Postfix names them.
func (i Instance) MainPath() string   { return filepath.Join(i.ConfigDirectory, "main.cf") }
func (i Instance) MasterPath() string { return filepath.Join(i.ConfigDirectory, "master.cf") }

// String is how people call the instance.
func (i Instance) String() string {
	if i.Name == "" || i.Name == "-" {
		return i.ConfigDirectory
	}
	return i.Name + " (" + i.ConfigDirectory + ")"
}

func (i Instance) commandDirectory() string {
	if i.CommandDirectory == "" {
		return defaultCommandDirectory
	}
	return i.CommandDirectory
}

func (i Instance) runtimeDirectory() string {
	if i.RuntimeDirectory == "" {
		return defaultRuntimeDirectory
	}
	return i.RuntimeDirectory
}

// maxOutput bounds what one postconf prints; a large installation's is 100 kB.
const maxOutput = 8 << 20

// postconfTime bounds one postconf; 2 s of it may be a hot main.cf.
const postconfTime = 20 * time.Second

// postconf runs postconf -c dir args and returns its standard output. An error
// is a *program.Error with Postfix's words.
func (i Instance) postconf(ctx context.Context, dir string, args ...string) ([]byte, error) {
	r, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postconf"), Args: append([]string{"-c", dir}, args...),
		Timeout: postconfTime, Output: maxOutput,
	})
	if err == nil && r.Truncated {
		return nil, i.nonsense(dir, args, "it printed more than %d MiB", maxOutput>>20)
	}
	return r.Stdout, err
}

// nonsense is a postconf that ended well and printed what postconf does not
// print. What is missing in it must not be taken for an empty value: without
// a queue directory a Postfix that runs would look like one that does not.
func (i Instance) nonsense(dir string, args []string, format string, more ...any) error {
	return &program.Error{
		Path: filepath.Join(i.commandDirectory(), "postconf"), Args: append([]string{"-c", dir}, args...),
		Err: fmt.Errorf(format, more...),
	}
}

func (i Instance) queueDirectory(ctx context.Context) (string, error) {
	if i.QueueDirectory != "" {
		return i.QueueDirectory, nil
	}
	return i.value(ctx, "queue_directory")
}

// value is one parameter's value in main.cf or by default, expanded.
func (i Instance) value(ctx context.Context, name string) (string, error) {
	v, err := i.values(ctx, name)
	return v[name], err
}

// values are expanded parameter values, all of those that are named.
func (i Instance) values(ctx context.Context, names ...string) (map[string]string, error) {
	out, err := i.postconf(ctx, i.ConfigDirectory, append([]string{"-x"}, names...)...)
	if err != nil {
		return nil, i.broken(err)
	}
	v := map[string]string{}
	for line := range strings.Lines(string(out)) {
		// "name =" when the value is empty
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ="); ok {
			v[name] = strings.TrimPrefix(value, " ")
		}
	}
	for _, name := range names {
		if _, ok := v[name]; !ok {
			return nil, i.nonsense(i.ConfigDirectory, append([]string{"-x"}, names...), "it did not print %s", name)
		}
	}
	return v, nil
}

func (i Instance) run(ctx context.Context, c program.Command) (program.Result, error) {
	r, err := program.Run(ctx, c)
	if i.Log != nil {
		i.Log.Debug("command", "path", c.Path, "args", c.Args, "status", r.Status, "took", r.Took)
	}
	return r, err
}

// broken says that Postfix cannot read this configuration as it stands, in its
// own words. Any other error is returned as it is.
func (i Instance) broken(err error) error {
	return i.judged("config_broken", i.ConfigDirectory, err)
}

// missing is the error of a host, or directory, without Postfix.
func missing(at problem.At, format string, args ...any) error {
	return problem.New("postfix_missing", at, format, args...)
}

// isFile tells whether path is a regular file, perhaps behind a link.
func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}
