package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// forest is the directory that holds a tree for each release, made by
// mmdebstrap and never changed afterwards: a machine is an overlay above one.
type forest struct {
	dir string
	say func(format string, args ...any)
}

func (f forest) path(r *Release) string  { return filepath.Join(f.dir, r.Suite) }
func (f forest) stamp(r *Release) string { return f.path(r) + ".made-of" }

// grow makes the trees that are missing, or made of another list of packages,
// side by side.
func (f forest) grow(ctx context.Context, releases []*Release) error {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	errs := make([]error, len(releases))
	var wg sync.WaitGroup
	for i, r := range releases {
		wg.Go(func() {
			if err := f.one(ctx, r); err != nil {
				errs[i] = fmt.Errorf("making the tree of %s: %w", r.Suite, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// one makes a tree, beside no other run of this program that would.
func (f forest) one(ctx context.Context, r *Release) error {
	lock, err := os.OpenFile(f.path(r)+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	made, err := os.ReadFile(f.stamp(r))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	recipe := recipe(r)
	if string(made) == recipe {
		return nil
	}
	begin := time.Now()
	f.say("making the tree of %s", r)
	fresh := f.path(r) + ".new"
	for _, old := range []string{f.stamp(r), f.path(r), fresh} {
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	if err := bootstrap(ctx, r, fresh); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(fresh, f.path(r)); err != nil {
		return err
	}
	f.say("made the tree of %s in %.0f s", r, time.Since(begin).Seconds())
	return os.WriteFile(f.stamp(r), []byte(recipe), 0o644)
}

// recipe is what a tree is made of: another one is another tree.
func recipe(r *Release) string {
	sum := sha256.Sum256([]byte(r.Suite + " " + strings.Join(packages, " ")))
	return hex.EncodeToString(sum[:]) + "\n"
}

// bootstrap runs mmdebstrap with the sources and apt options of this host.
func bootstrap(ctx context.Context, r *Release, dir string) error {
	sources, options, err := hostApt(r.Suite)
	if err != nil {
		return err
	}
	file := dir + ".sources"
	if err := os.WriteFile(file, []byte(sources), 0o644); err != nil {
		return err
	}
	defer os.Remove(file)
	args := []string{"--quiet", "--mode=root", "--variant=minbase", "--include=" + strings.Join(packages, ",")}
	for _, o := range options {
		args = append(args, "--aptopt="+o)
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, r.Suite, dir, file)...)
	// What it mounts in the tree, /sys among it, nobody else sees: who removes the tree
	// of a run that was killed removes nothing of the host.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	// It removes what it has mounted when it is asked to end.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, tail(string(out), 40))
	}
	return nil
}

// hostApt is where this host's apt gets Debian from, rewritten for suite, and the
// files of options that say how.
func hostApt(suite string) (sources string, options []string, err error) {
	codename, err := hostCodename()
	if err != nil {
		return "", nil, err
	}
	files := map[string]string{}
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return "", nil, err
		}
		for _, p := range paths {
			data, err := os.ReadFile(p)
			if err != nil {
				return "", nil, err
			}
			files[p] = string(data)
		}
	}
	if sources, err = rewriteSources(files, codename, suite); err != nil {
		return "", nil, err
	}
	paths, err := filepath.Glob("/etc/apt/apt.conf.d/*")
	if err != nil {
		return "", nil, err
	}
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil && wantsAptOptions(string(data)) {
			options = append(options, p)
		}
	}
	return sources, options, nil
}

// hostCodename is the suite of this host (os-release(5)).
func hostCodename() (string, error) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if value, found := strings.CutPrefix(line, "VERSION_CODENAME="); found {
			return strings.Trim(value, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release names no VERSION_CODENAME: the trees are made on a Debian host")
}
