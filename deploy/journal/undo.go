package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"postcert/deploy/atomicfile"
)

// Conflict is a path that somebody else changed after us.
type Conflict struct {
	Path     string
	Now      string // kind, attributes and digest of what stands there
	Resolved bool   // the Resolver took ours out of it
	Err      error  // why it was left alone; nil if it was resolved
}

// errForeign is the reason where no Resolver was asked.
var errForeign = errors.New("changed by another program since")

// ErrNotEmpty is the reason why a directory that we made stays.
var ErrNotEmpty = errors.New("other files are in it")

// Undo puts everything back, last write first. Each path is looked at: what is
// as it was before is left, what is as we made it is put back with content,
// mode, owner, extended attributes and modification time, and what is neither
// is a [Conflict]. It ends at the first error, because what was written later
// may need what was written before it: a main.cf that could not be put back, on
// a full disk, names the certificate that would go next. So each state in which
// it ends is one that the writes passed through. It can be called again at any time,
// by any process.
//
// When it returns without an error, what it says is on disk. The journal stays
// open until [Tx.Close].
func (tx *Tx) Undo() ([]Conflict, error) {
	return tx.undoEach(func(Write) bool { return true })
}

// Restore is the part of an [Tx.Undo] that puts back what was there. What was made
// where nothing was stays: a process that has not seen what is restored may read it
// still. made tells whether there is any of that; Undo removes it.
func (tx *Tx) Restore() (conflicts []Conflict, made bool, err error) {
	conflicts, err = tx.undoEach(func(w Write) bool {
		is := w.Before.Kind == atomicfile.Absent
		made = made || is
		return !is
	})
	return conflicts, made, err
}

// undoEach puts back the writes that chosen says, last write first.
func (tx *Tx) undoEach(chosen func(Write) bool) ([]Conflict, error) {
	var conflicts []Conflict
	for _, w := range slices.Backward(tx.rec.Writes) {
		if !chosen(w) {
			continue
		}
		conflict, err := tx.undo(w)
		if err != nil {
			return conflicts, fmt.Errorf("undoing: %w", err)
		}
		if conflict != nil {
			conflicts = append(conflicts, *conflict)
		}
	}
	return conflicts, nil
}

func (tx *Tx) undo(w Write) (*Conflict, error) {
	// What a killed run left beside it may hold a key, or keep a directory that
	// we made from being empty.
	if _, err := atomicfile.Sweep(tx.j.FS, filepath.Dir(w.Path), atomicfile.Ever); err != nil {
		return nil, err
	}
	now, err := Capture(tx.j.FS, w.Path)
	var refused *atomicfile.RefusedError
	if errors.As(err, &refused) {
		// Somebody put a device or a hard link there: not ours.
		return &Conflict{Path: w.Path, Now: string(refused.Reason), Err: err}, nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case now.Same(w.Before), now.SameContent(w.Before) && !now.SameContent(w.After):
		// It may be so in memory only, after a kill between a rename and its
		// fsync. Only what is on disk is undone.
		return nil, atomicfile.SyncParent(tx.j.FS, w.Path)
	case now.SameContent(w.After):
		return tx.putBack(w, now)
	}
	return tx.resolve(w, now)
}

// putBack undoes a write that is still ours.
func (tx *Tx) putBack(w Write, now State) (*Conflict, error) {
	switch {
	case w.Before.Kind == atomicfile.Directory:
		return nil, nil // it was there: not ours to remove
	case w.After.Kind == atomicfile.Directory:
		return tx.removeDirectory(w)
	}
	want := w.Before
	if want.Ref != "" {
		var err error
		if want, err = tx.j.load(want); err != nil {
			return nil, fmt.Errorf("%s: %w", w.Path, err)
		}
	}
	return nil, tx.j.put(w.Path, now, want)
}

// removeDirectory removes a directory that we made, if it is empty now.
func (tx *Tx) removeDirectory(w Write) (*Conflict, error) {
	names, err := tx.j.FS.ReadDir(w.Path)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		return &Conflict{Path: w.Path, Now: string(atomicfile.Directory), Err: ErrNotEmpty}, nil
	}
	return nil, atomicfile.Put(tx.j.FS, w.Path, State{Kind: atomicfile.Absent})
}

// resolve asks the Resolver what to do with a file that is neither as it was
// nor as we made it.
func (tx *Tx) resolve(w Write, now State) (*Conflict, error) {
	c := &Conflict{Path: w.Path, Now: now.String(), Err: errForeign}
	mergeable := w.Before.Kind == atomicfile.File && w.Before.Ref == "" &&
		w.After.Kind == atomicfile.File && w.After.Ref == "" &&
		(now.Kind == atomicfile.File || now.Kind == atomicfile.Absent)
	if tx.j.Resolve == nil || !mergeable {
		return c, nil
	}
	merged, err := tx.j.Resolve(w.Path, w.Before.Data, w.After.Data, now.Data)
	if err != nil {
		c.Err = err
		return c, nil
	}
	want := atomicfile.NewFile(merged, now.Attr)
	if now.Kind == atomicfile.Absent {
		want.Attr = w.Before.Attr
	} else {
		want.MTime = w.Before.MTime // the content is new: not their time, nor now
	}
	if !want.SameContent(now) {
		if err := tx.j.put(w.Path, now, want); err != nil {
			return c, err
		}
	} else if err := atomicfile.SyncParent(tx.j.FS, w.Path); err != nil {
		return c, err
	}
	c.Resolved, c.Err = true, nil
	return c, nil
}
