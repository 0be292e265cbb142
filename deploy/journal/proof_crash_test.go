package journal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"postcert/deploy/atomicfile"
	"postcert/deploy/atomicfile/crashfs"
)

// lives are the changes whose crash states are enumerated, each after those
// that made the host what it is. Recovery follows from each state of each, and
// is cut itself.
var lives = []struct {
	name   string
	before []lifeChange
	change lifeChange
}{
	{"first install", nil, lifeChange{number: 1}},
	{"renewal", []lifeChange{{number: 1}}, lifeChange{number: 2}},
	{"renewal that prunes", []lifeChange{{number: 1}, {number: 2}}, lifeChange{number: 3}},
	{"config change", []lifeChange{{number: 1}}, lifeChange{number: 2, pairs: true}},
	{"two files, both named anew", []lifeChange{{number: 1, pairs: true}}, lifeChange{number: 2, pairs: true}},
	{"rollback", []lifeChange{{number: 1}, {number: 2}}, lifeChange{number: 1, back: 1}},
	{"release", []lifeChange{{number: 1}}, lifeChange{}},
	{"undone first install", nil, lifeChange{number: 1, fails: true}},
	{"undone renewal", []lifeChange{{number: 1}}, lifeChange{number: 2, fails: true}},
	{"undone config change", []lifeChange{{number: 1}}, lifeChange{number: 2, pairs: true, fails: true}},
}

// lifeWorld is the host when the change begins, all of it on disk.
func lifeWorld(t *testing.T, before []lifeChange) *crashfs.FS {
	t.Helper()
	f := crashfs.New()
	f.Canonical = numberIDs
	key, chain := lifePair(0)
	for _, dir := range []string{lifeInst, "/etc/ssl", "/var/lib"} {
		if err := atomicfile.MkdirAll(f, dir); err != nil {
			t.Fatal(err)
		}
	}
	put(t, f, lifeFirst, string(append(key, chain...)), atomicfile.Attr{Mode: 0o600, MTime: long})
	put(t, f, lifeMain, lifeReleased, atomicfile.Attr{Mode: 0o644, MTime: long})
	f.SyncAll()
	for _, c := range before {
		if err := (lifeEngine{f}).apply(c); err != nil {
			t.Fatal(err)
		}
	}
	f.SyncAll()
	return f
}

var transactionID = regexp.MustCompile(`\b[0-9a-f]{24}\b`)

// numberIDs puts numbers in place of the random names of transactions: what
// counts is which are the same.
func numberIDs(b []byte) []byte {
	numbers := map[string]int{}
	return transactionID.ReplaceAllFunc(b, func(id []byte) []byte {
		n, ok := numbers[string(id)]
		if !ok {
			n = len(numbers)
			numbers[string(id)] = n
		}
		return fmt.Appendf(nil, "transaction %d", n)
	})
}

// lifeExplorer visits the states that kills and power cuts of a change lead to,
// of the recovery from each, of the recovery from that, and so on; and where
// again is set, those of the same change after a recovery.
type lifeExplorer struct {
	model    crashfs.Model
	wrap     func(*crashfs.FS) atomicfile.FS
	change   lifeChange
	old, new string
	config   map[string]string // below /etc before the change
	attempts int
	limit    int
	seen     map[string]bool
	judged   map[string]bool // ends that were looked at
	tried    map[string]bool // recovered hosts from which the change was tried again
	todo     []lifeMoment
	cuts     int
}

type lifeMoment struct {
	fs    *crashfs.FS
	after string // how it came about
	again bool   // of a second attempt: there is no third
}

func lifeTree(f *crashfs.FS) map[string]string {
	tree := f.Tree("/etc")
	if s, ok := tree[lifeTLS+"/.gitignore"]; ok { // whose time nobody chose
		tree[lifeTLS+"/.gitignore"] = s[:strings.Index(s, "]")+1] + s[strings.LastIndex(s, " "):]
	}
	return tree
}

// run runs do, noting every state after every operation.
func (e *lifeExplorer) run(f *crashfs.FS, what string, again bool, do func(lifeEngine) error) error {
	var bad error
	f.After = func(op crashfs.Op) {
		if bad != nil || e.seen[f.Digest()] {
			return
		}
		bad = e.push(lifeMoment{f.Clone(), what + ", killed after " + op.String(), again})
		for c := range f.Crashes(e.model) {
			e.cuts++
			if bad == nil {
				bad = e.push(lifeMoment{c, what + ", cut after " + op.String(), again})
			}
		}
	}
	err := do(lifeEngine{e.wrap(f)})
	f.After = nil
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return errors.Join(bad, err)
}

// push notes a state, in which a reader must find one pair.
func (e *lifeExplorer) push(s lifeMoment) error {
	key := s.fs.Digest()
	if e.seen[key] {
		return nil
	}
	e.seen[key] = true
	e.todo = append(e.todo, s)
	if got := lifeServed(s.fs); got != e.old && got != e.new {
		return fmt.Errorf("%s: %q is served, neither %s nor %s:\n%s", s.after, got, e.old, e.new, show(s.fs.Tree("/etc")))
	}
	return nil
}

// ended looks at a host on which a run has ended, and at what a power cut then
// leaves of it.
func (e *lifeExplorer) ended(f *crashfs.FS) error {
	key := f.Digest()
	if e.judged[key] {
		return nil // most recoveries end in one of a few states
	}
	e.judged[key] = true
	served, tree := lifeServed(f), lifeTree(f)
	if served == e.old && !maps.Equal(tree, e.config) {
		return fmt.Errorf("%s is served, and the configuration is not as it was:\n%s", served, show(tree))
	}
	if err := lifeTidy(f); err != nil {
		return err
	}
	for c := range f.Crashes(e.model) {
		e.cuts++
		if got := lifeServed(c); got != served {
			return fmt.Errorf("%s was served at the end, and %q after a power cut", served, got)
		}
		if got := lifeTree(c); !maps.Equal(withoutObsolete(got), withoutObsolete(tree)) {
			return fmt.Errorf("a power cut after the end changed the tree:\n%s\nto\n%s", show(tree), show(got))
		}
		if tx, err := (lifeEngine{c}).journal().Open(); err != nil || tx != nil {
			return fmt.Errorf("a power cut after the end brought the journal back: %v, %v", tx, err)
		}
		if err := lifeSound(c, served); err != nil {
			return fmt.Errorf("after a power cut after the end: %w", err)
		}
	}
	return nil
}

// withoutObsolete leaves out files that main.cf does not name any more. A run that
// is killed while it removes them leaves some, and the next change removes them.
func withoutObsolete(tree map[string]string) map[string]string {
	out := maps.Clone(tree)
	maps.DeleteFunc(out, func(path, _ string) bool {
		return strings.HasPrefix(path, lifeTLS+"/pair-") && !strings.Contains(tree[lifeMain], path)
	})
	return out
}

// lifeTidy says what a run that ended has left behind.
func lifeTidy(f *crashfs.FS) error {
	var walk func(dir string) error
	walk = func(dir string) error {
		names, err := f.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			path := dir + "/" + name
			if atomicfile.IsTemp(path) || name == "staged" || name == ".open" || name == phaseName || name == openName {
				return fmt.Errorf("left behind: %s", path)
			}
			if info, err := f.Lstat(path); err == nil && info.Kind == atomicfile.Directory {
				if err := walk(path); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return errors.Join(walk("/etc"), walk("/var/lib"))
}

// lifeSound looks at the store: each generation is whole, and what is served is
// one of them, unless it is what was there before all.
func lifeSound(f *crashfs.FS, served string) error {
	s := lifeEngine{f}.store()
	all, err := s.List(lifeInst, lifeName)
	if err != nil {
		return err
	}
	found := served == "pair 0"
	for _, g := range all {
		data, err := s.ReadPostfix(g)
		if err != nil {
			return err
		}
		found = found || strings.Contains(string(data), "chain "+strings.TrimPrefix(served, "pair ")+"\n")
	}
	if _, err := s.GetZero(lifeInst, lifeName); err != nil && served != "pair 0" {
		return err
	}
	if !found {
		return fmt.Errorf("%s is served, and is no generation", served)
	}
	return nil
}

// explore returns the first violation.
func (e *lifeExplorer) explore(t *testing.T, before []lifeChange) error {
	t.Helper()
	f := lifeWorld(t, before)
	f.Limit = e.limit
	e.old, e.config, e.seen = lifeServed(f), lifeTree(f), map[string]bool{}
	e.tried, e.judged = map[string]bool{}, map[string]bool{}
	e.new = fmt.Sprint("pair ", e.change.number)
	if err := e.run(f, "the change", false, func(l lifeEngine) error { return l.apply(e.change) }); err != nil {
		return err
	}
	if want := map[bool]string{false: e.new, true: e.old}[e.change.fails]; lifeServed(f) != want {
		return fmt.Errorf("%s is served in the end, want %s", lifeServed(f), want)
	}
	if err := e.ended(f); err != nil {
		return err
	}
	for len(e.todo) > 0 {
		s := e.todo[0]
		e.todo = e.todo[1:]
		f := s.fs
		if err := e.run(f, s.after+"; the recovery", s.again, lifeEngine.settle); err != nil {
			return err
		}
		if err := e.ended(f); err != nil {
			return fmt.Errorf("%s; the recovery: %w", s.after, err)
		}
		if lifeServed(f) != e.old || e.tried[f.Digest()] {
			continue
		}
		e.tried[f.Digest()] = true
		if err := e.again(f, s); err != nil {
			return err
		}
		if len(e.seen) > maxStates {
			return errors.New("more states than a program that syncs can have")
		}
	}
	return nil
}

// lifeForm is the short form of the proof and, with POSTCERT_LONG, the long one:
// the models, from how many recovered hosts the states of a second attempt are
// visited too, and how many remainders of one power cut.
func lifeForm() (models []crashfs.Model, attempts, limit int) {
	if os.Getenv("POSTCERT_LONG") != "" {
		return []crashfs.Model{crashfs.Ordered, crashfs.Weak}, 3, 100
	}
	return []crashfs.Model{crashfs.Weak}, 0, 12
}

// again is the next attempt. The states of it are visited too, but not of a
// third one.
func (e *lifeExplorer) again(f *crashfs.FS, s lifeMoment) error {
	c := e.change
	do := func(l lifeEngine) error { return l.apply(c) }
	var err error
	if s.again || len(e.tried) > e.attempts {
		err = do(lifeEngine{e.wrap(f)})
	} else {
		err = e.run(f, s.after+"; the next attempt", true, do)
	}
	if err == nil {
		err = e.ended(f)
	}
	if err != nil {
		return fmt.Errorf("%s; the next attempt: %w", s.after, err)
	}
	return nil
}

// R2, without disks: for each kind of change all states are visited that a
// power cut or a kill can leave, in two models of what a file system loses.
func TestProofCrashStates(t *testing.T) {
	models, attempts, limit := lifeForm()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // the states are most of the memory, and stay
	var line []string
	total, cuts := 0, 0
	for _, life := range lives {
		for _, model := range models {
			e := &lifeExplorer{model: model, wrap: asIs, change: life.change, attempts: attempts, limit: limit}
			if err := e.explore(t, life.before); err != nil {
				t.Errorf("%s, %s: %v", life.name, model, err)
			}
			total, cuts = total+len(e.seen), cuts+e.cuts
			line = append(line, fmt.Sprintf("%s (%s) %d", life.name, model, len(e.seen)))
		}
	}
	if t.Failed() {
		return
	}
	t.Logf("R2: %d crash states, %d power cuts, 0 mixed, 0 lost; states of each: %s", total, cuts, strings.Join(line, ", "))
}

// What a careless program forgets is found.
func TestProofCrashStatesFindCarelessness(t *testing.T) {
	for _, c := range []struct {
		name string
		wrap func(*crashfs.FS) atomicfile.FS
	}{
		{"files are not synced", func(f *crashfs.FS) atomicfile.FS {
			return broken{FS: f, sync: func(string) bool { return false }}
		}},
		{"directories are not synced", func(f *crashfs.FS) atomicfile.FS {
			return broken{FS: f, syncDir: func(string) error { return nil }}
		}},
		{"what was there before is not synced", func(f *crashfs.FS) atomicfile.FS {
			return broken{FS: f, syncDir: func(path string) error {
				if path == "/var/lib" || path == lifeState {
					return nil
				}
				return f.SyncDir(path)
			}}
		}},
		{"generations are not synced", func(f *crashfs.FS) atomicfile.FS {
			return broken{FS: f, syncDir: func(path string) error {
				if strings.HasPrefix(path, lifeState+"/generations/") {
					return nil
				}
				return f.SyncDir(path)
			}}
		}},
	} {
		e := &lifeExplorer{model: crashfs.Weak, wrap: c.wrap, change: lifeChange{number: 1}, limit: 12}
		err := e.explore(t, nil)
		if err == nil {
			t.Errorf("%s: not found in %d states", c.name, len(e.seen))
			continue
		}
		first, _, _ := strings.Cut(err.Error(), "\n")
		t.Logf("R2: %s: found after %d states: %.200s", c.name, len(e.seen), first)
	}
}
