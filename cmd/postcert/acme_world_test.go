package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/acme/acmetest"
	"postcert/deploy/postfix/postfixtest"
)

// childClock is a file with a duration by which the time of day differs from the
// real one, for the processes of a daemon as well.
const childClock = "POSTCERT_TEST_CLOCK_FILE"

// acmeHost is a mail host with a CA of its own.
type acmeHost struct {
	*host
	ca *acmetest.CA
}

// newACMEHost starts both. Every name leads to 127.0.0.1, for the CA by its own
// name server.
func newACMEHost(t *testing.T, o acmetest.Options) *acmeHost {
	t.Helper()
	return withCA(newHost(t, postfixtest.Options{}), o)
}

// withCA gives a host a CA.
func withCA(mail *host, o acmetest.Options) *acmeHost {
	t := mail.t
	t.Helper()
	h := &acmeHost{host: mail, ca: acmetest.Start(t, o)}
	h.write(filepath.Join(h.dir, "issuers.pem"), h.ca.IssuersPEM())
	hosts := filepath.Join(h.dir, "hosts")
	h.write(hosts, []byte("127.0.0.1 localhost "+hostName+" www.example.test\n"))
	if out, err := exec.Command("mount", "--bind", hosts, "/etc/hosts").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "/etc/hosts").Run() })
	return h
}

// order are the flags of an order for the host's own name.
func (h *acmeHost) order(more ...string) []string {
	return append([]string{"obtain", "--domain", hostName, "--challenge", "http-01", "--listen", h.httpListen(), "--directory", h.ca.URL,
		"--acme-trust", h.ca.RootsFile, "--agree-tos", "--trust", h.issuers(), "--profile", "classic"}, more...)
}

func (h *acmeHost) httpListen() string { return fmt.Sprintf("127.0.0.1:%d", h.ca.HTTPPort) }
func (h *acmeHost) issuers() string    { return filepath.Join(h.dir, "issuers.pem") }

// config writes a configuration with one certificate and returns its path.
func (h *acmeHost) config(more string) string {
	path := filepath.Join(h.dir, "postcert.yaml")
	h.write(path, []byte(fmt.Sprintf(`
certificates:
  - name: %[1]s
    domains: [%[1]s]
    challenge: {type: http-01, listen: "%[2]s"}
    profile: classic
instances:
  - {config_directory: %[3]s, certificate: %[1]s}
trust: [%[4]s]
acme: {directory: "%[5]s", agree_tos: true, trust: %[6]s}
%[7]s`, hostName, h.httpListen(), h.pf.ConfigDir, h.issuers(), h.ca.URL, h.ca.RootsFile, more)))
	return path
}

// live is the fingerprint of the live certificate of a name, by openssl.
func (h *acmeHost) live() string {
	h.t.Helper()
	return h.leafOf(filepath.Join(h.state, "acme", "certs", hostName, "live"))
}

// daemon is a running "postcert daemon".
type daemonProcess struct {
	*exec.Cmd
	h   *acmeHost
	mu  sync.Mutex
	log strings.Builder
	end chan struct{}
}

func (d *daemonProcess) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(p)
}

func (d *daemonProcess) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// daemon starts one. It ends with the test.
func (h *acmeHost) daemon(args ...string) *daemonProcess {
	h.t.Helper()
	d := &daemonProcess{Cmd: h.command(append([]string{"daemon", "--trust", h.issuers()}, args...)...), h: h, end: make(chan struct{})}
	d.Stdout, d.Stderr = d, d
	if err := d.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { _ = d.Wait(); close(d.end) }()
	h.t.Cleanup(func() {
		_ = d.Process.Kill()
		<-d.end
		if h.t.Failed() {
			h.t.Logf("the daemon said:\n%s", d.text())
		}
	})
	return d
}

// until waits for something to be so.
func (d *daemonProcess) until(what string, limit time.Duration, so func() bool) {
	d.h.t.Helper()
	for end := time.Now().Add(limit); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			d.h.t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func (d *daemonProcess) says(text string, limit time.Duration) {
	d.h.t.Helper()
	d.until("the daemon says "+text, limit, func() bool { return strings.Contains(d.text(), text) })
}

// renewals makes the CA wish each certificate, up to n, to be renewed so long after
// it is asked about it.
func renewals(ca *acmetest.CA, after time.Duration, n int) {
	var mu sync.Mutex
	asked := map[int]time.Time{}
	ca.Fault(acmetest.Fault{Kind: acmetest.RenewalInfo, Edit: func(body []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		made := ca.Count(acmetest.Finalize)
		if made > n {
			return body
		}
		if asked[made].IsZero() {
			asked[made] = time.Now()
		}
		start := asked[made].Add(after)
		answer, _ := json.Marshal(map[string]any{"suggestedWindow": map[string]time.Time{"start": start.UTC(), "end": start.Add(time.Second).UTC()}})
		return answer
	}})
}

// orders is how many orders the CA was asked for.
func (h *acmeHost) orders() int { return h.ca.Count(acmetest.NewOrder) }

// certificate is the n-th certificate that an answer in JSON is about.
func (a answer) certificate(n int) map[string]any {
	a.t.Helper()
	list, _ := a.json()["certificates"].([]any)
	if len(list) <= n {
		a.t.Fatalf("no certificate %d in %s", n, a.stdout)
	}
	return list[n].(map[string]any)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
