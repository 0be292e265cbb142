// Package journal changes several paths as one: all of them, or none.
//
// A deploy touches a key file, main.cf, perhaps master.cf and some tables. The
// kernel renames one name at a time, so between the first and the last there
// are states that nobody planned, and a kill, a power cut or a failed proof
// must lead back from each. The rule is old: before the first change, write
// down on disk how to undo all of them.
//
//	tx, err := j.Begin(writes, note)    // the undo is on disk when it returns
//	err = tx.Apply(0)                   // the writes, in order, each durable
//	err = tx.Mark("applied")            // where we are, for whoever finds this
//	...                                 // reload, prove
//	conflicts, err := tx.Undo()         // only if something was wrong
//	err = tx.Close("deployed", detail)  // the record of the change; the journal ends
//
// A run that was killed leaves the journal open, and the next one begins with
// [Journal.Open]: nil if nothing is open, else the transaction, whose phase
// and note tell whether to undo it or only to close it. Undo can itself be
// killed, at any point and repeatedly; it looks at what stands at each path
// and not at what it thinks it did. The removal of the one file open.json is
// the commit: while it exists the old state can come back, and after it the
// transaction is history.
//
// Undo puts back what is still ours. A file that somebody else changed in the
// meantime is a [Conflict]: the Resolve hook may merge, otherwise it is left
// as it is and reported. A private key is never written into the journal; see
// [Write].
//
// The package knows nothing of Postfix and nothing of certificates.
package journal

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"postcert/deploy/atomicfile"
)

// State is what stands at one path.
type State = atomicfile.State

// Capture reads what stands at path; see [atomicfile.Capture].
func Capture(fsys atomicfile.FS, path string) (State, error) { return atomicfile.Capture(fsys, path) }

// Write is one planned change: what stands at Path now and what shall.
//
// A state that holds a private key carries Ref, the path of a file of a
// generation with the same bytes, and Data is then not written to the journal;
// Begin reads Ref and refuses one whose content is not what SHA256 says. The
// file must outlive the transaction. A directory can only be made, not
// changed: Before is absent, or the same as After.
type Write struct {
	Path   string `json:"path"` // absolute and clean
	Before State  `json:"before"`
	After  State  `json:"after"`
}

// Replacer changes the file at path from want to data, for files that have a
// locking protocol of their own, such as main.cf and its main.cf.tmp. It
// compares before it writes, is atomic, and is durable when it returns. It
// sets the attributes of data, the modification time too.
type Replacer func(path string, want, data State) error

// Resolver merges when a file was changed by somebody else: before and after
// are what we found and what we wrote, now is what stands there, nil if
// nothing does. It returns what shall stand there, equal to now if nothing of
// ours is left in it, so that a second call changes nothing; or an error to
// have the file left alone. Of a private key it is told no bytes: such a file
// is always left alone.
type Resolver func(path string, before, after, now []byte) ([]byte, error)

// Journal is where transactions are written down. At most one is open. The
// caller holds the host's lock during all calls.
type Journal struct {
	FS  atomicfile.FS
	Dir string // absolute; made (mode 0700) when needed; nothing else is in it
	// History is the directory of the records of closed transactions, made
	// when needed; "" keeps none.
	History string
	Replace map[string]Replacer // by path; others by atomicfile
	Resolve Resolver            // nil: conflicts are reported only
	Now     func() time.Time    // nil is time.Now
}

// ErrOpen says that an earlier transaction has not been undone or closed.
var ErrOpen = errors.New("journal: a transaction is open")

// ErrKeyBytes says that a private key was about to be written to the journal.
var ErrKeyBytes = errors.New("journal: a private key may not be written to the journal")

// ErrReopened says that a transaction of an earlier process can only be
// undone, marked or closed. What it had decided to write was decided on a host
// that may be another one now.
var ErrReopened = errors.New("journal: a transaction of an earlier run can't be continued")

// ChangedError says that a path is not what the plan was made for.
type ChangedError struct {
	Path      string
	Want, Now string // kind, attributes and digest
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s was changed by another program: %s, expected %s", e.Path, e.Now, e.Want)
}

// UnrecordedError says that a transaction is closed, and that the history had
// no room for its record.
type UnrecordedError struct{ Err error }

func (e *UnrecordedError) Error() string { return e.Err.Error() }
func (e *UnrecordedError) Unwrap() error { return e.Err }

// record is open.json, and phase the file beside it.
type record struct {
	Format int             `json:"format"`
	ID     string          `json:"id"`
	Begun  time.Time       `json:"begun"`
	Note   json.RawMessage `json:"note,omitempty"`
	Writes []Write         `json:"writes"`
}

type phase struct {
	ID    string `json:"id"`
	Phase string `json:"phase"`
}

const (
	openName  = "open.json"
	phaseName = "phase.json"
	maxRecord = 256 << 20
	format    = 1
)

// Tx is an open transaction.
type Tx struct {
	j     Journal
	rec   record
	phase string
	// reopened: found on disk; the bytes of After may be missing.
	reopened bool
}

func (j Journal) now() time.Time {
	if j.Now != nil {
		return j.Now()
	}
	return time.Now()
}

func (j Journal) openPath() string  { return filepath.Join(j.Dir, openName) }
func (j Journal) phasePath() string { return filepath.Join(j.Dir, phaseName) }

// Begin writes the undo of writes to disk and returns the transaction; nothing
// else has been changed then. note is the caller's own and comes back from
// [Tx.Note], also in another process.
//
// Errors: [ErrOpen]; [ErrKeyBytes]; *[ChangedError] if a path is not in its
// Before state any more; what atomicfile says.
func (j Journal) Begin(writes []Write, note json.RawMessage) (*Tx, error) {
	if err := atomicfile.MkdirAll(j.FS, j.Dir); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	// A run that was killed may have made the directories and not forced them to
	// disk. A journal in one that a power cut takes away would undo nothing.
	for _, dir := range []string{j.Dir, filepath.Dir(j.Dir)} {
		if err := atomicfile.SyncParent(j.FS, dir); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	if _, err := j.FS.Lstat(j.openPath()); err == nil {
		return nil, ErrOpen
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var id [12]byte
	rand.Read(id[:]) // never fails, crypto/rand
	rec := record{Format: format, ID: hex.EncodeToString(id[:]), Begun: j.now().UTC(), Note: note}
	for _, w := range writes {
		w, err := j.prepare(w)
		if err != nil {
			return nil, err
		}
		rec.Writes = append(rec.Writes, w)
	}
	if err := distinct(rec.Writes); err != nil {
		return nil, err
	}
	data, err := encode(rec)
	if err != nil {
		return nil, err
	}
	if _, err := atomicfile.Sweep(j.FS, j.Dir, atomicfile.Ever); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := atomicfile.Write(j.FS, j.openPath(), data, j.private()); err != nil {
		// It may be in place: only the fsync of the directory may have failed.
		// Nothing has been changed yet, so it may as well go.
		_ = j.FS.Remove(j.openPath()) // Open would find it otherwise, and undo nothing
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &Tx{j: j, rec: rec}, nil
}

// private are the attributes of our own files.
func (j Journal) private() atomicfile.Attr {
	a := atomicfile.Attr{Mode: 0o600}
	if info, err := j.FS.Lstat(j.Dir); err == nil {
		a.UID, a.GID = info.UID, info.GID
	}
	return a
}

// Open returns the transaction that an earlier run left open, or nil. It may
// be undone, marked and closed.
func (j Journal) Open() (*Tx, error) {
	// What an earlier process saw, and we see, need not be on disk if it was
	// killed. From here on it is: a journal that we do not find does not come
	// back after a power cut.
	err := j.FS.SyncDir(j.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	data, err := atomicfile.ReadFile(j.FS, j.openPath(), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	tx := &Tx{j: j, reopened: true}
	if err := decode(data, &tx.rec); err != nil {
		return nil, fmt.Errorf("journal: %s: %w", j.openPath(), err)
	}
	if tx.phase, err = j.readPhase(tx.rec.ID); err != nil {
		return nil, err
	}
	return tx, nil
}

// readPhase returns "" for a phase that belongs to an earlier transaction.
func (j Journal) readPhase(id string) (string, error) {
	data, err := atomicfile.ReadFile(j.FS, j.phasePath(), 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("journal: %w", err)
	}
	var p phase
	if err := json.Unmarshal(data, &p); err != nil {
		return "", fmt.Errorf("journal: %s: %w", j.phasePath(), err)
	}
	if p.ID != id {
		return "", nil
	}
	return p.Phase, nil
}

// ID is the name of the transaction, unique on this host.
func (tx *Tx) ID() string { return tx.rec.ID }

// Begun is when it began, in UTC.
func (tx *Tx) Begun() time.Time { return tx.rec.Begun }

// Note is what Begin was given.
func (tx *Tx) Note() json.RawMessage { return tx.rec.Note }

// Paths are the paths it changes, in order.
func (tx *Tx) Paths() []string {
	var paths []string
	for _, w := range tx.rec.Writes {
		paths = append(paths, w.Path)
	}
	return paths
}

// Phase is the last one that was marked, "" if none was.
func (tx *Tx) Phase() string { return tx.phase }

// Mark records on disk how far the caller is. The words are the caller's.
func (tx *Tx) Mark(name string) error {
	data, err := json.Marshal(phase{ID: tx.rec.ID, Phase: name})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := atomicfile.Write(tx.j.FS, tx.j.phasePath(), data, tx.j.private()); err != nil {
		return fmt.Errorf("journal: marking %q: %w", name, err)
	}
	tx.phase = name
	return nil
}

// Apply makes write i, and does nothing if it is made already: it is on disk when
// Apply returns. After an error the caller undoes. It refuses with a *[ChangedError] where somebody else changed the path since Begin.
func (tx *Tx) Apply(i int) error {
	if tx.reopened {
		return ErrReopened
	}
	w := tx.rec.Writes[i]
	now, err := Capture(tx.j.FS, w.Path)
	if err != nil {
		return err
	}
	switch {
	case now.Same(w.After) && sameTime(now, w.After):
		return atomicfile.SyncParent(tx.j.FS, w.Path)
	case !now.Same(w.Before):
		return &ChangedError{Path: w.Path, Want: w.Before.String(), Now: now.String()}
	}
	return tx.j.put(w.Path, now, w.After)
}

func sameTime(now, want State) bool { return want.MTime.IsZero() || now.MTime.Equal(want.MTime) }

// put changes a path from now to want by the way that it needs.
func (j Journal) put(path string, now, want State) error {
	if replacer := j.Replace[path]; replacer != nil && want.Kind == atomicfile.File {
		return replacer(path, now, want)
	}
	return atomicfile.Put(j.FS, path, want)
}

// Close ends the transaction: the record goes to the history, then the open
// journal goes. What was changed is then final. result is a word for people and
// programs ("deployed", "undone"); detail is any JSON, and carries no secret.
//
// A kill before the last step leaves the transaction open, and the record is
// written again, with what became of it then. Without room for a record it is
// closed all the same, and an *[UnrecordedError] says so.
func (tx *Tx) Close(result string, detail json.RawMessage) error {
	unrecorded := tx.j.remember(tx.entry(result, detail))
	if unrecorded != nil && !noRoom(unrecorded) {
		return unrecorded
	}
	if err := atomicfile.Put(tx.j.FS, tx.j.openPath(), State{Kind: atomicfile.Absent}); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	// From here on the phase belongs to nothing; that it goes is tidiness.
	if err := tx.j.FS.Remove(tx.j.phasePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: %w", err)
	}
	if unrecorded != nil {
		return &UnrecordedError{Err: unrecorded}
	}
	return nil
}

// noRoom tells whether a disk or a quota is full: nobody knows until when, so
// nothing that is settled may wait for it.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Sweep removes what killed runs left of transactions that are closed or never
// began: temporary files, a phase that belongs to nothing. It does nothing
// while a transaction is open.
func (j Journal) Sweep() error {
	if _, err := j.FS.Lstat(j.openPath()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, dir := range []string{j.Dir, j.History} {
		_, err := atomicfile.Sweep(j.FS, dir, atomicfile.Ever)
		errs = append(errs, err)
	}
	if err := j.FS.Remove(j.phasePath()); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}
