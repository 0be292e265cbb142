package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postcert/acme/acmetest"
	"postcert/deploy/postfix/postfixtest"
)

// released builds the program as it is released and makes the host run that.
func (h *acmeHost) released() {
	h.t.Helper()
	h.exe = filepath.Join(h.dir, "postcert")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", h.exe, "./cmd/postcert")
	build.Dir, build.Env = repository(h.t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

// series asks port 25 by openssl, over and over, and has openssl judge the dates.
type series struct {
	mu     sync.Mutex
	leaves []string // in the order in which they were seen
	asked  int
	wrong  []string
	stop   chan struct{}
	done   sync.WaitGroup
}

func (w *series) look(t *testing.T) {
	chain, err := postfixtest.ServedChain(t, postfixtest.SMTP, postfixtest.StartTLS)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if err != nil {
		w.wrong = append(w.wrong, err.Error())
		return
	}
	leaf := postfixtest.Fingerprint(chain[0])
	if len(w.leaves) == 0 || w.leaves[len(w.leaves)-1] != leaf {
		w.leaves = append(w.leaves, leaf)
	}
	cmd := exec.Command("openssl", "x509", "-inform", "der", "-noout", "-checkend", "0")
	cmd.Stdin = bytes.NewReader(chain[0])
	if out, err := cmd.CombinedOutput(); err != nil {
		w.wrong = append(w.wrong, fmt.Sprintf("%s served: %s", leaf[:8], out))
	}
}

func (w *series) watch(t *testing.T) {
	w.stop = make(chan struct{})
	w.done.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(150 * time.Millisecond):
				w.look(t)
			}
		}
	})
}

// sees waits until the witness has seen a certificate.
func (w *series) sees(t *testing.T, leaf string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		seen := len(w.leaves) > 0 && w.leaves[len(w.leaves)-1] == leaf
		w.mu.Unlock()
		if seen {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the witness has not seen %s", leaf)
		}
	}
}

// R8: the daemon obtains a certificate that lives for a minute, and renews it ten
// times; its clock is 25 s ahead, so that half of that minute is over soon. Whoever
// connects sees an unbroken series of valid certificates, and no private key was
// ever in the daemon's memory.
func TestProofDaemonTenRenewals(t *testing.T) {
	const life, renewals = time.Minute + 2*time.Second, 10
	h := newACMEHost(t, acmetest.Options{
		Profiles:  map[string]acmetest.Profile{"classic": {Description: "a minute", Validity: life}},
		Directory: func(d map[string]any) { delete(d, "renewalInfo") },
	})
	clock := filepath.Join(h.dir, "clock")
	h.write(clock, []byte("25s"))
	h.env = []string{childClock + "=" + clock}
	d := h.daemon("--config", h.config(""))
	d.says("deploy=installed", 30*time.Second)
	var w series
	w.watch(t)
	keys := map[string]bool{}
	h.keepKey(keys)
	for i := range renewals {
		h.weekPasses()
		old := h.live()
		d.until(fmt.Sprintf("renewal %d is served", i+1), 40*time.Second, func() bool {
			return len(children(t)) == 0 && h.live() != old && h.served() == h.live()
		})
		h.keepKey(keys)
		w.sees(t, h.live())
	}
	close(w.stop)
	w.done.Wait()
	for _, bad := range w.wrong {
		t.Error(bad)
	}
	if len(w.leaves) != renewals+1 || h.orders() != renewals+1 {
		t.Errorf("%d certificates were seen, %d were ordered", len(w.leaves), h.orders())
	}
	memory := readMemory(t, d.Process.Pid)
	if !bytes.Contains(memory, []byte(h.issuers())) {
		t.Error("the look into its memory does not find what must be there")
	}
	for key := range keys {
		if bytes.Contains(memory, []byte(key)) {
			t.Error("a private key is in the daemon's memory")
		}
	}
	d.ends(10 * time.Second)
	t.Logf("R25 daemon: %d certificates, %d looks, %d wrong; %d forms of keys, none in the daemon's memory", len(w.leaves), w.asked, len(w.wrong), len(keys))
}

// The released daemon is small, also after as many looks at what is due as a day
// has minutes, each with its configuration read again.
func TestProofDaemonSmall(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.released()
	d := h.daemon("--config", h.config(""))
	d.says("deploy=installed", 30*time.Second)
	first := residentKiB(t, d.Process.Pid)
	for i := range 1440 {
		d.signal(syscall.SIGHUP)
		if i%10 == 9 {
			d.until("it has read again", 10*time.Second, func() bool { return strings.Count(d.text(), "was read again") > i/10 })
		}
	}
	last := residentKiB(t, d.Process.Pid)
	if last > 30<<10 {
		t.Errorf("the daemon has %d KiB", last)
	}
	d.ends(10 * time.Second)
	t.Logf("D7: daemon: peak %.1f MiB after the first order, %.1f MiB after 1440 hang-ups, %d of them taken", float64(first)/1024, float64(last)/1024, strings.Count(d.text(), "was read again"))
}

// weekPasses makes the CA's orders of today those of last week, when nothing runs:
// more than five a week are not made.
func (h *acmeHost) weekPasses() {
	h.t.Helper()
	if len(children(h.t)) > 0 {
		return
	}
	ledgers, err := filepath.Glob(filepath.Join(h.state, "acme", "accounts", "*", "ledger.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, l := range ledgers {
		_ = os.Remove(l)
	}
}

// keepKey notes the live key as memory could hold it: its number, and its PEM.
func (h *acmeHost) keepKey(keys map[string]bool) {
	h.t.Helper()
	data, err := os.ReadFile(h.liveFile("privkey.pem"))
	if err != nil {
		return
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	number, err := key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		h.t.Fatal(err)
	}
	keys[string(number)] = true
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "-") && len(line) > 30 {
			// The first line holds only what all such keys have.
			keys[strings.TrimSpace(line)[20:]] = true
		}
	}
}

func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// readMemory is what a process can write to: its heap, stacks and data.
func readMemory(t *testing.T, pid int) []byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var all []byte
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		from, to, _ := strings.Cut(f[0], "-")
		a, _ := strconv.ParseUint(from, 16, 63)
		b, _ := strconv.ParseUint(to, 16, 63)
		if !strings.HasPrefix(f[1], "rw") || b-a > 256<<20 {
			continue
		}
		part := make([]byte, b-a)
		if n, _ := mem.ReadAt(part, int64(a)); n > 0 {
			all = append(all, part[:n]...)
		}
	}
	return all
}
