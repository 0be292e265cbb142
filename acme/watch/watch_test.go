package watch

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"postcert/acme/lineage"
	"postcert/acme/lineage/lineagetest"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
	"postcert/verify/keypair"
)

const name = "mail.example.test"

// running is a Watcher at work, with its log.
type running struct {
	*Watcher
	mu   sync.Mutex
	log  bytes.Buffer
	stop func()
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *running) said(words string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), words)
}

// start runs a Watcher that never looks without an event, unless prepare says so.
func start(t *testing.T, prepare func(w *Watcher), sources ...keypair.Source) *running {
	t.Helper()
	r := &running{}
	r.Watcher = New(slog.New(slog.NewTextHandler(r, nil)))
	r.Quiet, r.Longest, r.Rescan, r.Poll = 20*time.Millisecond, 100*time.Millisecond, time.Hour, time.Hour
	if prepare != nil {
		prepare(r.Watcher)
	}
	r.Watch(sources)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	r.stop = func() { cancel(); <-ended }
	t.Cleanup(r.stop)
	return r
}

// hinted waits for a hint after which something is so.
func (r *running) hinted(t *testing.T, what string, so func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case <-r.Hints():
			if so() {
				return
			}
		case <-limit:
			t.Fatalf("no hint after %s", what)
		}
	}
}

func (r *running) silent(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-r.Hints():
		t.Error("a hint for nothing")
	case <-time.After(d):
	}
}

func leaves(t *testing.T, n int) []*certtest.Pair {
	t.Helper()
	ca := certtest.NewCA(t, certtest.Authority{}).Intermediate(t, certtest.Authority{})
	var out []*certtest.Pair
	for range n {
		out = append(out, ca.Leaf(t, certtest.Leaf{Names: []string{name}}))
	}
	return out
}

// Whatever way a pair is replaced, over and over, a hint comes after it, by events
// alone; and no watch is left on a directory that is no longer on the way.
func TestEveryWriter(t *testing.T) {
	all := leaves(t, 8)
	for _, writer := range lineagetest.Writers {
		t.Run(writer.Name, func(t *testing.T) {
			base := t.TempDir()
			_, cert, key := writer.Source(base, name)
			src := keypair.Source{Cert: cert, Key: key}
			w := start(t, nil, src) // before there is anything
			w.hinted(t, "the start", func() bool { return true })
			var watches int
			for i, p := range all {
				writer.Write(t, base, name, i+1, p, func() { time.Sleep(time.Millisecond) })
				w.hinted(t, fmt.Sprintf("pair %d", i+1), func() bool {
					leaf := lineage.Leaf(src)
					return leaf != nil && leaf.Equal(p.Cert) && lineage.LookAt(src, nil).Missing == ""
				})
				if i == 2 {
					watches = kernelWatches(t)
				}
			}
			time.Sleep(150 * time.Millisecond)
			if n := kernelWatches(t); n > watches+2 { // of a directory that was just put aside
				t.Errorf("%d watches after 8 pairs, %d after 3", n, watches)
			}
		})
	}
}

// kernelWatches is how many watches this process has, by the kernel.
func kernelWatches(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		data, _ := os.ReadFile(f)
		n += strings.Count(string(data), "inotify wd:")
	}
	return n
}

// Another name beside the lineage, and other files in it, are nobody's concern.
func TestSiblings(t *testing.T) {
	all := leaves(t, 2)
	base := t.TempDir()
	certbot := lineagetest.Writers[0]
	dir, cert, key := certbot.Source(base, name)
	certbot.Write(t, base, name, 1, all[0], func() {})
	w := start(t, nil, keypair.Source{Cert: cert, Key: key})
	w.hinted(t, "the start", func() bool { return true })
	certbot.Write(t, base, name+"-0001", 1, all[1], func() {})
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.silent(t, 300*time.Millisecond)
	_, cert, key = certbot.Source(base, name+"-0001")
	w.Watch([]keypair.Source{{Cert: cert, Key: key}}) // another configuration
	w.hinted(t, "another source", func() bool { return true })
	certbot.Write(t, base, name, 2, all[1], func() {})
	w.silent(t, 300*time.Millisecond)
	certbot.Write(t, base, name+"-0001", 2, all[0], func() {})
	w.hinted(t, "a pair of the new source", func() bool { return true })
}

// When the kernel's queue overflows, what was lost is looked for. Nothing here says
// anything about the source but the overflow itself.
func TestOverflow(t *testing.T) {
	all := leaves(t, 2)
	dir := t.TempDir()
	f := all[0].WriteFiles(t, dir)
	w := start(t, nil, keypair.Source{Cert: f.Fullchain, Key: f.Key})
	w.hinted(t, "the start", func() bool { return true })
	w.silent(t, 200*time.Millisecond)
	w.Watcher.mu.Lock() // nobody reads events
	for i := range 30000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("x", i%2)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(filepath.Join(dir, fmt.Sprint("x", i%2)))
	}
	all[1].WriteFiles(t, dir)
	w.Watcher.mu.Unlock()
	w.hinted(t, "an overflow", func() bool { return true })
}

// Events that do not cease delay a hint, but not for ever.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan fsnotify.Event)
		w := start(t, func(w *Watcher) {
			w.Quiet, w.Longest = Quiet, Longest
			w.Open = func() (Notifier, error) {
				nothing := func(string) error { return nil }
				return Notifier{Add: nothing, Remove: nothing, Close: func() error { close(events); return nil }, Events: events}, nil
			}
		}, keypair.Source{Cert: "/nowhere/fullchain.pem"})
		w.hinted(t, "the start", func() bool { return true })
		began, hints := time.Now(), 0
		for time.Since(began) < 60*time.Second {
			events <- fsnotify.Event{Name: "/nowhere", Op: fsnotify.Create}
			time.Sleep(500 * time.Millisecond)
			select {
			case <-w.Hints():
				hints++
			default:
			}
		}
		if hints < 11 || hints > 13 {
			t.Errorf("%d hints in a minute", hints)
		}
		time.Sleep(2 * Longest)
		select {
		case <-w.Hints():
		default:
		}
		events <- fsnotify.Event{Name: "/nowhere", Op: fsnotify.Create}
		began = time.Now()
		w.hinted(t, "one event", func() bool { return true })
		if took := time.Since(began); took != Quiet {
			t.Errorf("a single event's hint after %v", took)
		}
		w.stop()
	})
}

// Whatever happens, nothing is left open at the end.
func TestNothingLeftOpen(t *testing.T) {
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	p := leaves(t, 1)[0]
	dir := t.TempDir()
	f := p.WriteFiles(t, dir)
	var before int
	for i := range 30 {
		w := start(t, nil, keypair.Source{Cert: f.Fullchain, Key: f.Key})
		w.hinted(t, "the start", func() bool { return true })
		p.WriteFiles(t, dir)
		w.stop()
		if i == 4 {
			before = open()
		}
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// limited names the limit that this test's own process lives under.
const limited = "POSTCERT_TEST_LIMITED"

// Where the kernel has no watches or no queues left, the files are looked at from
// time to time, which is said once; and when it has some again, they are watched.
// The limits are set in a user namespace, so nobody else feels them.
func TestLimits(t *testing.T) {
	postfixtest.Need(t, "unshare")
	for limit, value := range map[string]string{"max_inotify_watches": "2", "max_inotify_instances": "0"} {
		t.Run(limit, func(t *testing.T) {
			file := "/proc/sys/user/" + limit
			cmd := exec.Command("unshare", "-Ur", "sh", "-c", `echo `+value+` >`+file+` && exec "$0" -test.run '^TestUnderLimits$' -test.v`, os.Args[0])
			cmd.Env = append(os.Environ(), limited+"="+file)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestUnderLimits") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestUnderLimits(t *testing.T) {
	file := os.Getenv(limited)
	if file == "" {
		return // see TestLimits
	}
	all := leaves(t, 3)
	dir := t.TempDir()
	f := all[0].WriteFiles(t, dir)
	src := keypair.Source{Cert: f.Fullchain, Key: f.Key}
	w := start(t, func(w *Watcher) { w.Poll = 50 * time.Millisecond }, src)
	w.hinted(t, "the start", func() bool { return true })
	time.Sleep(200 * time.Millisecond)
	all[1].WriteFiles(t, dir)
	w.hinted(t, "a change that only polling shows", func() bool { return lineage.Leaf(src).Equal(all[1].Cert) })
	if n := w.said("no more watches"); n != 1 {
		t.Errorf("said %d times:\n%s", n, w.log.String())
	}
	if err := os.WriteFile(file, []byte("100000"), 0); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); w.said("are watched again") != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not watched again:\n%s", w.log.String())
		}
	}
	time.Sleep(100 * time.Millisecond)
	all[2].WriteFiles(t, dir)
	w.hinted(t, "a change that is watched", func() bool { return lineage.Leaf(src).Equal(all[2].Cert) })
}

// A directory that is mounted at two places has one watch in the kernel. When one
// of the two is given up, the other is still watched.
func TestOneDirectoryTwice(t *testing.T) {
	all := leaves(t, 2)
	dir, other := t.TempDir(), t.TempDir()
	f := all[0].WriteFiles(t, dir)
	if err := syscall.Mount(dir, other, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("needs root: %v", err)
	}
	defer func() { _ = syscall.Unmount(other, syscall.MNT_DETACH) }()
	here := keypair.Source{Cert: f.Fullchain}
	there := keypair.Source{Cert: filepath.Join(other, "fullchain.pem")}
	for _, kept := range []keypair.Source{here, there} {
		w := start(t, nil, here, there)
		w.hinted(t, "the start", func() bool { return true })
		w.Watch([]keypair.Source{kept})
		w.hinted(t, "fewer sources", func() bool { return true })
		all[1].WriteFiles(t, dir)
		w.hinted(t, "a change", func() bool { return true })
		w.stop()
	}
}
