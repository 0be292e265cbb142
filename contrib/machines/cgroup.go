package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hierarchies are the directories of the cgroup hierarchies in which systemd
// keeps its units: the unified one, that of version 1 named systemd, or both.
func hierarchies() []string {
	if unifiedHost() {
		return []string{"/sys/fs/cgroup"}
	}
	var out []string
	for _, d := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(d, "cgroup.procs")); err == nil {
			out = append(out, d)
		}
	}
	return out
}

// unifiedHost tells whether the host has cgroups of version 2 only.
func unifiedHost() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// ownCgroup is the group of this process in a hierarchy.
func ownCgroup(hierarchy string) string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return hierarchy
	}
	return groupIn(string(data), hierarchy)
}

// groupIn reads /proc/PID/cgroup (cgroups(7)): the directory of a process's group
// in hierarchy.
func groupIn(text, hierarchy string) string {
	for line := range strings.SplitSeq(text, "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		named := parts[1] == "name=systemd"
		if (filepath.Base(hierarchy) == "systemd") == named && (named || parts[0] == "0") {
			return filepath.Join(hierarchy, parts[2])
		}
	}
	return hierarchy
}

// within is a command that runs inside cgroups, which exist.
func within(groups []string, name string, args ...string) *exec.Cmd {
	script := `while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"`
	words := append([]string{"-c", script, "sh"}, groups...)
	return exec.Command("/bin/sh", append(append(words, "--", name), args...)...)
}

// makeCgroups makes a group named name below parents.
func makeCgroups(parents []string, name string) ([]string, error) {
	var out []string
	for _, p := range parents {
		d := filepath.Join(p, name)
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("making a cgroup: %w", err)
		}
		out = append(out, d)
	}
	return out, nil
}

// cpuTime is the processor time that the processes of the groups have used so far
// (cgroups(7), cpu.stat); 0 where no group of version 2 says it.
func cpuTime(groups []string) time.Duration {
	for _, g := range groups {
		data, err := os.ReadFile(filepath.Join(g, "cpu.stat"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if value, found := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); found {
				n, _ := strconv.ParseInt(value, 10, 64)
				return time.Duration(n) * time.Microsecond
			}
		}
	}
	return 0
}

// removeCgroups removes groups that have no process, with those below them.
func removeCgroups(groups []string) error {
	var errs []error
	for _, g := range groups {
		var dirs []string
		err := filepath.WalkDir(g, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			err = errors.Join(err, os.Remove(d))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
