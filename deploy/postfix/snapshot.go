package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"postcert/deploy/postfix/cf"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// looks is how often a Snapshot looks for a moment in which nobody edits. An edit
// makes main.cf hot, so that the next look takes 2 s, in which there may be another.
const looks = 10

// Snapshot reads the configuration as it stands. Both files are read once,
// through one descriptor each, before and after postconf is asked, so that
// what is returned is of one moment. If somebody keeps editing it gives up
// with cf.ErrChanged.
//
// A configuration that Postfix itself cannot read is a problem.Problem with
// the id config_broken, Postfix's words, and the file and line they name.
func (i Instance) Snapshot(ctx context.Context) (cf.Snapshot, error) {
	var err error
	for range looks {
		var s cf.Snapshot
		s, err = i.snapshotOnce(ctx)
		var changed *ChangedError
		if !errors.As(err, &changed) && !errors.Is(err, cf.ErrChanged) {
			return s, err
		}
		if ctx.Err() != nil {
			return cf.Snapshot{}, ctx.Err()
		}
	}
	return cf.Snapshot{}, fmt.Errorf("reading the configuration in %s: %w", i.ConfigDirectory, err)
}

func (i Instance) snapshotOnce(ctx context.Context) (cf.Snapshot, error) {
	main, master, err := i.files()
	if err != nil {
		return cf.Snapshot{}, err
	}
	out, err := i.outputs(ctx, i.ConfigDirectory)
	again, againMaster, readErr := i.files()
	switch {
	case readErr != nil:
		return cf.Snapshot{}, readErr
	case !bytes.Equal(main.Data, again.Data):
		return cf.Snapshot{}, &ChangedError{Path: main.Path}
	case !bytes.Equal(master.Data, againMaster.Data):
		return cf.Snapshot{}, &ChangedError{Path: master.Path}
	case err != nil:
		return cf.Snapshot{}, i.broken(err)
	}
	s, err := cf.Parse(i.ConfigDirectory, main, master, out)
	var bad *cf.ParseError
	if errors.As(err, &bad) {
		// Postfix reads what we don't: a NUL byte, for one.
		err = problem.New("config_broken", problem.At{File: bad.File, Line: bad.Line}, "%s", bad.Text)
	}
	return s, err
}

// versionForm is what mail_version looks like: 3.7.11, 3.12-20260101.
var versionForm = regexp.MustCompile(`^[0-9]+\.[0-9]+[-.0-9A-Za-z]*$`)

// Unchanged tells whether a Snapshot would be equal to s. What postconf says of
// the same bytes is the same as long as it is the same postconf, so it is asked
// for its version alone.
func (i Instance) Unchanged(ctx context.Context, s cf.Snapshot) (bool, error) {
	version, err := i.postconf(ctx, i.ConfigDirectory, "-h", "mail_version")
	if err != nil {
		return false, i.broken(err)
	}
	said := strings.TrimSpace(string(version))
	if !versionForm.MatchString(said) {
		return false, i.nonsense(i.ConfigDirectory, []string{"-h", "mail_version"}, "it did not print a version")
	}
	main, master, err := i.files()
	if err != nil {
		return false, err
	}
	return s.IsOf(said, main.Data, master.Data), nil
}

func (i Instance) files() (main, master cf.File, err error) {
	for _, f := range []struct {
		path string
		to   *cf.File
	}{{i.MainPath(), &main}, {i.MasterPath(), &master}} {
		data, _, err := readRegular(f.path)
		if err != nil {
			return main, master, fmt.Errorf("reading the configuration: %w", err)
		}
		*f.to = cf.File{Path: f.path, Data: data}
	}
	return main, master, nil
}

// outputs asks postconf in dir everything that a Snapshot is made of, at once:
// a hot main.cf makes each of them wait.
func (i Instance) outputs(ctx context.Context, dir string) (cf.Outputs, error) {
	var out cf.Outputs
	asked := []struct {
		args []string
		to   *[]byte
	}{
		{nil, &out.All}, {[]string{"-n"}, &out.Set}, {[]string{"-x"}, &out.Expanded},
		{[]string{"-M"}, &out.Services}, {[]string{"-P"}, &out.Overrides},
	}
	errs := make([]error, len(asked)+1)
	var wg sync.WaitGroup
	wg.Go(func() { errs[len(asked)] = i.judgeMain(ctx, dir) })
	for n, a := range asked {
		wg.Go(func() { *a.to, errs[n] = i.postconf(ctx, dir, a.args...) })
	}
	wg.Wait()
	// The first one, in a fixed order: the others say the same.
	for _, err := range errs {
		if err != nil {
			return out, err
		}
	}
	for _, a := range asked {
		all := a.to == &out.All || a.to == &out.Expanded
		if all && !bytes.Contains(*a.to, []byte("mail_version = ")) {
			return out, i.nonsense(dir, a.args, "it did not print mail_version")
		}
	}
	return out, nil
}

// judgeMain lets Postfix say what it thinks of the values in main.cf, which
// postconf does not look at: at a size that is no number, or an owner who does
// not exist, every daemon ends as soon as it has read it, and a reload ends
// master(8). postmap(1) reads main.cf as they do, and this query opens no file.
func (i Instance) judgeMain(ctx context.Context, dir string) error {
	_, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postmap"), Args: []string{"-c", dir, "-q", "x", "static:x"},
		Timeout: postconfTime,
	})
	return err
}

// Host is what listeners depend on beyond the configuration: this host's own
// addresses, names and port names.
func Host(ctx context.Context) cf.Host {
	var h cf.Host
	// An error leaves the addresses unknown, which cf.Host allows.
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				h.Interfaces = append(h.Interfaces, p.Addr().Unmap().WithZone("").String())
			}
		}
	}
	slices.Sort(h.Interfaces)
	h.Resolve = func(name string) []string {
		addrs, err := net.DefaultResolver.LookupHost(ctx, name)
		if err != nil {
			return nil
		}
		return addrs
	}
	h.Services = func(name string) int {
		port, err := net.DefaultResolver.LookupPort(ctx, "tcp", name)
		if err != nil {
			return 0
		}
		return port
	}
	return h
}
