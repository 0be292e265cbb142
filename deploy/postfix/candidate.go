package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// candidatePrefix begins the names of Candidate's directories.
const candidatePrefix = "candidate-"

// Candidate asks Postfix what main and master would mean in place of main.cf
// and master.cf, and changes nothing. postconf reads them in a private copy of
// the configuration directory; in what it says, the copy's path is replaced by
// the instance's own, so that $config_directory means in the result what it
// will mean in production.
//
// A configuration that Postfix cannot read is a problem.Problem with the id
// candidate_rejected, Postfix's words, and file and line. postconf judges form
// alone: master(8) can still refuse a host name or an address that is in use.
func (i Instance) Candidate(ctx context.Context, main, master []byte) (cf.Snapshot, error) {
	c, err := i.newCopy()
	if err != nil {
		return cf.Snapshot{}, fmt.Errorf("making a copy of the configuration: %w", err)
	}
	defer c.remove()
	err = errors.Join(c.write("main.cf", main), c.write("master.cf", master), c.linkRest(i.ConfigDirectory))
	if err != nil {
		return cf.Snapshot{}, fmt.Errorf("making a copy of the configuration: %w", err)
	}
	out, err := i.outputs(ctx, c.dir)
	if err != nil {
		return cf.Snapshot{}, i.judged("candidate_rejected", c.dir, err)
	}
	for _, b := range []*[]byte{&out.All, &out.Set, &out.Expanded, &out.Services, &out.Overrides} {
		*b = bytes.ReplaceAll(*b, []byte(c.dir), []byte(i.ConfigDirectory))
	}
	return cf.Parse(i.ConfigDirectory, cf.File{Path: i.MainPath(), Data: main}, cf.File{Path: i.MasterPath(), Data: master}, out)
}

// privateCopy is a directory only root can enter. It is locked while it is in
// use; one that is not locked was left by a run that was killed.
type privateCopy struct {
	dir  string
	lock *os.File
}

func (i Instance) newCopy() (*privateCopy, error) {
	parent := i.runtimeDirectory()
	// Twice: mkdir(2) would follow whoever can write above it, and somebody may
	// have made it before us in a directory like /tmp.
	for range 2 {
		if err := atomicfile.Private(parent); err != nil {
			return nil, problem.New("directory_untrusted", problem.At{File: parent}, "%v", err)
		}
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return nil, err
		}
	}
	sweepCopies(parent)
	dir, err := os.MkdirTemp(parent, candidatePrefix) // mode 0700
	if err != nil {
		return nil, err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		lock.Close()
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &privateCopy{dir: dir, lock: lock}, nil
}

// sweepCopies removes what killed runs left. It is best effort: only root can
// enter a copy, and the next run tries again.
func sweepCopies(parent string) {
	dirs, err := filepath.Glob(filepath.Join(parent, candidatePrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		// One that is a moment old may not have got its lock yet.
		fi, err := f.Stat()
		old := err == nil && time.Since(fi.ModTime()) > time.Minute
		if old && syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		f.Close()
	}
}

func (c *privateCopy) remove() {
	_ = os.RemoveAll(c.dir) // or sweepCopies of the next run
	c.lock.Close()
}

// write writes a file that is not "hot": postconf would wait for 2 s.
func (c *privateCopy) write(name string, data []byte) error {
	path := filepath.Join(c.dir, name)
	past := time.Now().Add(-time.Minute)
	return errors.Join(os.WriteFile(path, data, 0o600), os.Chtimes(path, past, past))
}

// linkRest lets $config_directory/FILE of a value lead to FILE also for the
// judge: postconf opens the files of mysql:, ldap: and similar tables.
func (c *privateCopy) linkRest(from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); name != "main.cf" && name != "master.cf" && !strings.HasSuffix(name, ".tmp") {
			if err := os.Symlink(filepath.Join(from, name), filepath.Join(c.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
