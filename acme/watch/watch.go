// Package watch tells that files which another program replaces may have changed.
//
// An event of the kernel is a hint and nothing more: programs replace links, files
// and whole directories in many ways and several steps, events are merged, come for
// what nobody cares about, and are lost when a queue is full, on network file
// systems, and behind mounts of single files. So a [Watcher] watches directories,
// never files: every directory on the way to a file in which an entry could be
// exchanged, through all symbolic links. It waits until events have ceased for a
// moment, follows all paths again, since they may lead elsewhere now, and gives one
// hint. It does the same every few minutes without any event, and more often where
// the kernel has no watches left to give. Who gets a hint compares contents
// (package lineage); a hint too many costs one look.
package watch

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"postcert/acme/lineage"
	"postcert/verify/keypair"
)

// How long a Watcher waits, where its fields do not say otherwise.
const (
	Quiet   = time.Second      // without events, before the hint
	Longest = 5 * time.Second  // from the first event to the hint, if they do not cease
	Rescan  = 5 * time.Minute  // between two looks without an event
	Poll    = 30 * time.Second // the same where not all directories can be watched
)

// Watcher watches sources. Make it with [New], and let one goroutine Run it.
type Watcher struct {
	Quiet, Longest, Rescan, Poll time.Duration
	Log                          *slog.Logger
	Open                         func() (Notifier, error) // inotify; tests have another

	hints chan struct{}
	kick  chan struct{} // there are other sources
	event chan struct{} // something happened

	mu      sync.Mutex
	sources []keypair.Source
	names   map[string]bool // of entries and directories on the way to the sources

	// Of Run's goroutine.
	notes   Notifier
	watched map[string]identity // directories
	sums    []string            // of the looks at the last hint
	polling bool
}

// Notifier is what is used of fsnotify.
type Notifier struct {
	Add, Remove func(path string) error
	Close       func() error // closes both channels
	Events      <-chan fsnotify.Event
	Errors      <-chan error
}

// identity tells a directory from another one that has taken its place.
type identity struct{ dev, ino uint64 }

// New is a Watcher of nothing yet.
func New(log *slog.Logger) *Watcher {
	return &Watcher{
		Quiet: Quiet, Longest: Longest, Rescan: Rescan, Poll: Poll, Log: log,
		hints: make(chan struct{}, 1), kick: make(chan struct{}, 1), event: make(chan struct{}, 1),
		Open: inotify,
	}
}

func inotify() (Notifier, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return Notifier{}, err
	}
	return Notifier{Add: w.Add, Remove: w.Remove, Close: w.Close, Events: w.Events, Errors: w.Errors}, nil
}

// Hints tells that a source may have changed since the last hint. Hints that
// nobody has taken become one.
func (w *Watcher) Hints() <-chan struct{} { return w.hints }

// Watch makes these the sources that are watched, instead of the former ones. It
// may be called at any time, also before Run, and costs nothing if they are the
// same.
func (w *Watcher) Watch(sources []keypair.Source) {
	w.mu.Lock()
	same := slices.Equal(w.sources, sources)
	w.sources = slices.Clone(sources)
	w.mu.Unlock()
	if !same {
		signal(w.kick)
	}
}

// signal leaves a word in a channel of one place; one that is there is enough.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends, and leaves nothing open.
func (w *Watcher) Run(ctx context.Context) {
	defer w.drop()
	settle := time.NewTimer(0) // the first look, for which no event comes
	defer settle.Stop()
	var began time.Time // of the events that have not led to a hint yet
	for ctx.Err() == nil {
		rescan := time.NewTimer(w.interval())
		select {
		case <-ctx.Done():
		case <-w.event:
			now := time.Now()
			if began.IsZero() {
				began = now
			}
			settle.Reset(min(w.Quiet, max(began.Add(w.Longest).Sub(now), 0)))
		case <-settle.C:
			w.scan(!began.IsZero())
			began = time.Time{}
		case <-w.kick:
			w.scan(false)
		case <-rescan.C:
			w.scan(false)
		}
		rescan.Stop()
	}
}

func (w *Watcher) interval() time.Duration {
	if w.polling {
		return min(w.Poll, w.Rescan)
	}
	return w.Rescan
}

// scan follows the paths of all sources, watches every directory on the way, and
// gives a hint if there was an event, or if something is not as it was at the last
// hint.
func (w *Watcher) scan(event bool) {
	w.mu.Lock()
	sources := w.sources
	w.mu.Unlock()
	var unopened error
	if w.notes.Add == nil && len(sources) > 0 {
		unopened = w.begin()
	}
	sums, err := w.follow(sources)
	w.say(errors.Join(unopened, err))
	if event || !slices.Equal(sums, w.sums) {
		w.sums = sums
		signal(w.hints)
	}
}

// begin opens a new notifier.
func (w *Watcher) begin() error {
	notes, err := w.Open()
	if err != nil {
		return err
	}
	w.notes, w.watched = notes, map[string]identity{}
	go w.pump(notes)
	return nil
}

// drop closes the notifier.
func (w *Watcher) drop() {
	if w.notes.Close != nil {
		_ = w.notes.Close()
	}
	w.notes, w.watched = Notifier{}, nil
}

// follow makes exactly the directories on the way to the sources watched, and
// returns the sums of the looks. Each directory is watched before its entries are
// looked at, so that nothing happens in between unseen.
func (w *Watcher) follow(sources []keypair.Source) (sums []string, err error) {
	for range 2 {
		here, names := map[string]bool{}, map[string]bool{}
		sums, err = nil, nil
		for _, src := range sources {
			l := lineage.LookAt(src, func(dir, name string) {
				names[name], names[filepath.Base(dir)] = true, true
				w.expect(name, filepath.Base(dir))
				if !here[dir] {
					here[dir] = true
					err = errors.Join(err, w.add(dir))
				}
			})
			sums = append(sums, l.Sum)
		}
		w.mu.Lock()
		w.names = names
		w.mu.Unlock()
		if !w.forget(here) {
			break
		}
		// One directory under two paths, as a mount makes it, has one watch: if
		// that was taken off with the one path, the other needs it still.
	}
	return sums, err
}

// expect makes events about names count from now on.
func (w *Watcher) expect(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.names == nil {
		w.names = map[string]bool{}
	}
	for _, name := range names {
		w.names[name] = true
	}
}

// add watches a directory. Watching one again does nothing.
func (w *Watcher) add(dir string) error {
	if w.notes.Add == nil {
		return nil // said when it was opened
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil // gone meanwhile: the directory above tells when it is back
	}
	var id identity
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id = identity{uint64(st.Dev), st.Ino}
	}
	if old, known := w.watched[dir]; known && old != id {
		_ = w.notes.Remove(dir) // of what was there before
	}
	delete(w.watched, dir)
	err = w.notes.Add(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil
	case err != nil:
		return &fs.PathError{Op: "watching", Path: dir, Err: err}
	}
	w.watched[dir] = id
	return nil
}

// forget takes the watches off all directories but these, and tells whether there
// were any.
func (w *Watcher) forget(but map[string]bool) bool {
	gone := false
	for _, dir := range slices.Collect(maps.Keys(w.watched)) {
		if !but[dir] {
			_ = w.notes.Remove(dir)
			delete(w.watched, dir)
			gone = true
		}
	}
	return gone
}

// say tells once that we poll, and why, and once that we do no more.
func (w *Watcher) say(err error) {
	if w.polling == (err != nil) {
		return
	}
	w.polling = err != nil
	if w.polling {
		w.Log.Warn("the kernel gives no more watches: the files of other clients are looked at from time to time instead", "every", w.Poll, "err", first(err))
	} else {
		w.Log.Info("the files of other clients are watched again")
	}
}

// first is the first of joined errors: they are all the same.
func first(err error) error {
	if j, ok := err.(interface{ Unwrap() []error }); ok && len(j.Unwrap()) > 0 {
		return first(j.Unwrap()[0])
	}
	return err
}

// pump takes what the notifier says until it is closed. It is a goroutine of its
// own and calls nothing of the notifier: fsnotify holds a lock while it reports some
// errors, and would wait for us while we wait for it.
func (w *Watcher) pump(n Notifier) {
	for n.Events != nil || n.Errors != nil {
		select {
		case e, open := <-n.Events:
			if !open {
				n.Events = nil
			} else if w.concerns(e) {
				signal(w.event)
			}
		case err, open := <-n.Errors:
			if !open {
				n.Errors = nil
			} else if err != nil { // events were lost, or a watch
				w.Log.Debug("watching", "err", err)
				signal(w.event)
			}
		}
	}
}

// concerns tells whether an event may be about a source. It asks for the last
// name only, as a mount gives one directory two paths.
func (w *Watcher) concerns(e fsnotify.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names[filepath.Base(e.Name)]
}
