package postfix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// Options say which instances Find looks for, and how.
type Options struct {
	// Instance is a name as postmulti -i takes it ("-" is the primary), or an
	// absolute configuration directory, or "": those with TLS listeners.
	Instance string
	// CommandDirectory is where postconf(1) is; "" is /usr/sbin.
	CommandDirectory string
	// RuntimeDirectory and Log are handed to the instances.
	RuntimeDirectory string
	Log              *slog.Logger
}

// Find lists the instances that are meant. Nothing named, it is the enabled
// ones with a listener that offers TLS; if no instance has one, the enabled
// ones.
//
// Errors are a problem.List or problem.Problem with one of these ids:
//   - instance_ambiguous: several, and none was named. The list has them all,
//     for those who treat all.
//   - instance_unknown: the one named is not there, or its directory is stale.
//   - postfix_missing: no postconf(1), or no main.cf.
//   - config_broken: Postfix cannot read main.cf or master.cf, in its words. Of
//     several instances those that it can read are listed with the error: they
//     can be asked, but which are meant is not known.
//
// Secondary instances that postmulti would stumble over (a directory of
// multi_instance_directories without main.cf) are passed over unless named.
func Find(ctx context.Context, o Options) ([]Instance, error) {
	base := Instance{CommandDirectory: o.CommandDirectory, RuntimeDirectory: o.RuntimeDirectory, Log: o.Log}
	postconf := filepath.Join(base.commandDirectory(), "postconf")
	if !isFile(postconf) {
		return nil, missing(problem.At{File: postconf}, "there is no %s: Postfix is not installed, or its commands are elsewhere", postconf)
	}
	if strings.HasPrefix(o.Instance, "/") {
		i := base
		i.ConfigDirectory = filepath.Clean(o.Instance)
		return one(i.adopt(ctx))
	}
	all, err := base.all(ctx)
	if err != nil {
		return nil, err
	}
	if o.Instance != "" {
		return named(ctx, all, o.Instance)
	}
	return choose(ctx, all)
}

// adopt looks at an instance that was named by its directory.
func (i Instance) adopt(ctx context.Context) (Instance, error) {
	for _, path := range []string{i.MainPath(), i.MasterPath()} {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return i, problem.New("instance_unknown", problem.At{File: path}, "%s is no configuration directory of Postfix: there is no %s", i.ConfigDirectory, path)
		} else if err != nil {
			return i, fmt.Errorf("looking at the instance: %w", err)
		}
	}
	v, err := i.values(ctx, "command_directory", "queue_directory", "multi_instance_name")
	if err != nil {
		return i, err
	}
	if i.CommandDirectory == "" {
		i.CommandDirectory = v["command_directory"]
	}
	if i.Name == "" {
		i.Name = v["multi_instance_name"]
	}
	i.QueueDirectory = v["queue_directory"]
	return i, nil
}

// known is an instance as postmulti -l would list it.
type known struct {
	Instance
	enabled bool
	err     error // why it cannot be used
}

// all is the primary instance and those of multi_instance_directories. It asks
// postconf instead of postmulti -l, which ends at the first stale directory.
func (i Instance) all(ctx context.Context) ([]known, error) {
	dir, err := i.defaultDirectory(ctx)
	if err != nil {
		return nil, err
	}
	primary := i
	primary.ConfigDirectory, primary.Name = dir, "-"
	if _, err := os.Stat(primary.MainPath()); errors.Is(err, fs.ErrNotExist) {
		return nil, missing(problem.At{File: primary.MainPath()}, "there is no %s: Postfix is not configured", primary.MainPath())
	}
	v, err := primary.values(ctx, "multi_instance_directories", "multi_instance_enable", "multi_instance_name", "command_directory", "queue_directory")
	if err != nil {
		return nil, err
	}
	if primary.CommandDirectory == "" {
		primary.CommandDirectory = v["command_directory"]
	}
	if v["multi_instance_name"] != "" {
		primary.Name = v["multi_instance_name"]
	}
	primary.QueueDirectory = v["queue_directory"]
	dirs := strings.FieldsFunc(v["multi_instance_directories"], func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
	// postmulti(1): without secondary instances multi_instance_enable of the
	// primary one is not looked at.
	out := []known{{Instance: primary, enabled: len(dirs) == 0 || v["multi_instance_enable"] == "yes"}}
	for _, d := range dirs {
		k := known{Instance: primary}
		k.ConfigDirectory, k.Name = filepath.Clean(d), ""
		if k.Instance, k.err = k.adopt(ctx); k.err == nil {
			var enable string
			enable, k.err = k.value(ctx, "multi_instance_enable")
			k.enabled = enable == "yes"
		}
		out = append(out, k)
	}
	return out, nil
}

// defaultDirectory is the configuration directory of the primary instance: the
// built-in default, which can be asked for while main.cf is broken.
func (i Instance) defaultDirectory(ctx context.Context) (string, error) {
	r, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postconf"), Args: []string{"-dh", "config_directory"}, Timeout: postconfTime,
	})
	var e *program.Error
	if errors.As(err, &e) && place(e.Stderr).File != "" {
		return "", i.broken(err) // it reads master.cf even for a default value
	}
	if err != nil {
		return "", fmt.Errorf("asking for the configuration directory: %w", err)
	}
	return strings.TrimSpace(string(r.Stdout)), nil
}

func named(ctx context.Context, all []known, name string) ([]Instance, error) {
	for _, k := range all {
		if k.Name == name || (name == "-" && k.Instance == all[0].Instance) {
			return one(k.Instance, k.err)
		}
	}
	// A stale directory has no name any more, but its last part usually is one.
	for _, k := range all {
		if k.err != nil && filepath.Base(k.ConfigDirectory) == name {
			return nil, k.err
		}
	}
	return nil, problem.New("instance_unknown", problem.At{}, "there is no Postfix instance %q; there are: %s", name, list(all))
}

// choose takes the enabled instances with TLS listeners.
func choose(ctx context.Context, all []known) ([]Instance, error) {
	var enabled, offering []Instance
	var broken problem.List // not known whether they are meant
	for _, k := range all {
		if list := problem.From(k.err); list.Has("config_broken") {
			broken = append(broken, list...)
		}
		if k.err != nil || !k.enabled {
			continue
		}
		enabled = append(enabled, k.Instance)
	}
	if len(enabled) == 1 && len(broken) == 0 {
		return enabled, nil // that it offers no TLS is for its plan to say
	}
	for _, i := range enabled {
		s, err := i.Snapshot(ctx)
		if list := problem.From(err); list.Has("config_broken") {
			broken = append(broken, list...)
			continue
		} else if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(s.Listeners(Host(ctx)), func(l cf.Listener) bool { return l.TLS }) {
			offering = append(offering, i)
		}
	}
	if len(broken) > 0 {
		return offering, broken.Err()
	}
	if len(offering) == 0 {
		offering = enabled
	}
	switch len(offering) {
	case 0:
		return nil, problem.New("instance_unknown", problem.At{}, "no Postfix instance is enabled; there are: %s", list(all))
	case 1:
		return offering, nil
	}
	var names []string
	for _, i := range offering {
		names = append(names, i.String())
	}
	return offering, problem.New("instance_ambiguous", problem.At{}, "several Postfix instances are meant, and none is named: %s", strings.Join(names, ", "))
}

func list(all []known) string {
	var out []string
	for _, k := range all {
		s := k.String()
		switch {
		case k.err != nil:
			s += ": stale"
		case !k.enabled:
			s += ": disabled"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func one(i Instance, err error) ([]Instance, error) {
	if err != nil {
		return nil, err
	}
	return []Instance{i}, nil
}
