package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/journal"
	"postcert/deploy/postfix/cf"
)

// coolDown is how far in the past the modification time of an edited main.cf
// lies. Postfix re-reads a main.cf that is younger than 2 s until it is not
// ("pausing to let F cool down"), which would stall each new connection.
const coolDown = 3 * time.Second

// gitignore keeps keys out of a version-controlled /etc (etckeeper).
const gitignore = "*\n"

// journalFor is the journal as this engine uses it: main.cf and master.cf are
// replaced under Postfix's own lock, and what others changed in them since is
// kept by undoing only our parameters.
func (e *Engine) journalFor(ctx context.Context, edits []cf.Edit) journal.Journal {
	j := journal.Journal{FS: e.FS, Dir: e.journalDir(), History: e.historyDir(), Replace: map[string]journal.Replacer{}, Now: e.Now}
	for _, name := range []string{"main.cf", "master.cf"} {
		j.Replace[realPath(filepath.Join(e.Instance, name))] = func(path string, want, data journal.State) error {
			return e.MTA.Replace(ctx, path, want.Data, data.Data, data.MTime)
		}
	}
	j.Resolve = func(path string, _, _, now []byte) ([]byte, error) { return withoutOurs(path, now, edits) }
	return j
}

// withoutOurs takes our edits out of a file that somebody else changed after
// us. An edit whose value is no longer ours is theirs now and is left.
func withoutOurs(path string, now []byte, edits []cf.Edit) ([]byte, error) {
	master := filepath.Base(path) == "master.cf"
	if !master && filepath.Base(path) != "main.cf" {
		return nil, errForeignFile
	}
	for i := len(edits) - 1; i >= 0; i-- {
		ed := edits[i].Inverse()
		if (ed.Service != "") != master {
			continue
		}
		var out []byte
		var err error
		if master {
			_, out, err = cf.Apply(nil, now, []cf.Edit{ed})
		} else {
			out, _, err = cf.Apply(now, nil, []cf.Edit{ed})
		}
		var conflict *cf.ConflictError
		if errors.As(err, &conflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		now = out
	}
	return now, nil
}

// errForeignFile is why what somebody changed after us is left alone: which bytes of
// it are ours is known of main.cf and master.cf only.
var errForeignFile = errors.New("changed by another program since")

// realPath follows symbolic links, because a main.cf that is one stays one:
// the file behind it is replaced.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// writes are all changes of the plan on disk, in an order in which every state
// in between is serveable: the directory, the pair, the configuration.
func (r *run) planWrites() ([]journal.Write, error) {
	var out []journal.Write
	add := func(path string, after func(before journal.State) journal.State) error {
		before, err := journal.Capture(r.FS, path)
		if err != nil {
			return err
		}
		out = append(out, journal.Write{Path: path, Before: before, After: after(before)})
		return nil
	}
	if err := r.directoryWrites(&out); err != nil {
		return nil, err
	}
	// The copies come last of the files: a daemon that reads them by itself gets
	// what Postfix has.
	for _, f := range slices.Concat(r.plan.Files, r.plan.Copies()) {
		w, err := r.certificateWrite(f)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	for _, f := range r.plan.Change.Files {
		out = append(out, journal.Write{Path: f.Path, Before: f.Before, After: f.After})
	}
	mtime := r.now().Add(-coolDown)
	type edited struct {
		file cf.File
		data []byte
	}
	files := []edited{{r.plan.Before.Main, r.plan.Main}, {r.plan.Before.Master, r.plan.Master}}
	if r.masterFirst {
		slices.Reverse(files)
	}
	for _, c := range files {
		if string(c.data) == string(c.file.Data) {
			continue
		}
		err := add(realPath(c.file.Path), func(before journal.State) journal.State {
			after := atomicfile.NewFile(c.data, before.Attr)
			after.MTime = mtime
			return after
		})
		if err != nil {
			return nil, err
		}
		// An edit made since the plan was compared would be what the commit expects to
		// find, and what it writes does not have it.
		if !bytes.Equal(out[len(out)-1].Before.Data, c.file.Data) {
			return nil, &StaleError{Instance: r.plan.Instance}
		}
	}
	return out, nil
}

// directoryWrites make <config_directory>/tls, readable by root and Postfix
// only, where it does not exist yet.
func (r *run) directoryWrites(out *[]journal.Write) error {
	if len(r.plan.Files) == 0 {
		return nil
	}
	dir := filepath.Join(r.plan.Instance, Directory)
	before, err := journal.Capture(r.FS, dir)
	if err != nil || before.Kind != atomicfile.Absent {
		if err == nil && before.Kind != atomicfile.Directory {
			err = fmt.Errorf("%s is a %s, not a directory", dir, before.Kind)
		}
		return err
	}
	gid, err := groupOf(r.plan.Before.Effective("", "mail_owner"))
	if err != nil {
		return err
	}
	attr := atomicfile.Attr{Mode: 0o750, GID: gid}
	ignore := atomicfile.Attr{Mode: 0o644}
	*out = append(*out,
		journal.Write{Path: dir, Before: before, After: journal.State{Kind: atomicfile.Directory, Attr: attr}},
		journal.Write{Path: filepath.Join(dir, ".gitignore"), Before: journal.State{Kind: atomicfile.Absent}, After: atomicfile.NewFile([]byte(gitignore), ignore)})
	return nil
}

// groupOf is the group id of Postfix's own account.
func groupOf(owner string) (uint32, error) {
	u, err := user.Lookup(owner)
	if err != nil {
		return 0, fmt.Errorf("mail_owner: %w", err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(gid), err
}

// certificateWrite is the change of one file of the certificate. Key bytes are
// not for the journal, so both states refer to a generation that holds them.
func (r *run) certificateWrite(f PlannedFile) (journal.Write, error) {
	before, err := journal.Capture(r.FS, f.Path)
	if err != nil {
		return journal.Write{}, err
	}
	if before.Kind == atomicfile.File && f.Part != PartFullchain {
		if before.Ref, err = r.keep(before); err != nil {
			return journal.Write{}, err
		}
	}
	data := f.Part.of(r.plan.Pair)
	after := atomicfile.NewFile(data, atomicfile.Attr{Mode: 0o600})
	if f.Part != PartFullchain {
		if after.Ref, err = r.keep(after); err != nil {
			return journal.Write{}, err
		}
	} else {
		after.Attr.Mode = 0o644
	}
	if f.Attr != nil {
		after.Attr = *f.Attr
	}
	return journal.Write{Path: f.Path, Before: before, After: after}, nil
}

// keep returns a file in the store that holds the same bytes as s: the
// generation they came from, or a copy made for this transaction.
func (r *run) keep(s journal.State) (string, error) {
	gens, err := r.Store.List(r.plan.Instance, r.plan.Name)
	if err != nil {
		return "", err
	}
	for _, g := range gens {
		if holds(g.Postfix(), s.Data) {
			return g.Postfix(), nil
		}
	}
	path := filepath.Join(r.journalKeys(), atomicfile.Digest(s.Data)+".pem")
	if err := atomicfile.MkdirAll(r.FS, filepath.Dir(path)); err != nil {
		return "", err
	}
	return path, atomicfile.Write(r.FS, path, s.Data, atomicfile.Attr{Mode: 0o600})
}

// journalKeys holds what an open transaction must be able to put back and no
// generation has: a file that was not ours under our name, a key by itself.
func (e *Engine) journalKeys() string { return filepath.Join(e.StateDir, "generations", ".open") }

// dropKeys removes them once the transaction is closed, so that a power cut does
// not bring them back.
func (e *Engine) dropKeys() {
	dir := e.journalKeys()
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return
	}
	err := os.RemoveAll(dir)
	if err == nil {
		err = atomicfile.SyncParent(e.FS, dir)
	}
	if err != nil {
		e.logger().Warn("removing keys of a closed transaction", "err", err)
	}
}

// openJournal writes the undo to disk. It is the last step that touches
// nothing of production.
func (r *run) openJournal(ctx context.Context) error {
	writes, err := r.planWrites()
	if err != nil {
		return err
	}
	n, err := json.Marshal(r.plan.note(r.report.Generation, r.began))
	if err != nil {
		return err
	}
	r.writes = writes
	r.tx, err = r.journalFor(context.WithoutCancel(ctx), r.plan.Edits).Begin(writes, n)
	return err
}
