package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// recordDesk is an API of DNS records, as lego's provider httpreq speaks to it
// (https://go-acme.github.io/lego/dns/httpreq/), in front of the CA's name server.
type recordDesk struct {
	dns      *acmetest.DNS
	password string

	mu      sync.Mutex
	calls   []string // path and name
	refuses bool
	hold    chan struct{} // present waits for it
}

func (d *recordDesk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var record struct{ FQDN, Value string }
	_, password, _ := r.BasicAuth()
	if json.NewDecoder(r.Body).Decode(&record) != nil || password != d.password {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	d.mu.Lock()
	d.calls = append(d.calls, r.URL.Path+" "+record.FQDN)
	refuses, hold := d.refuses, d.hold
	d.mu.Unlock()
	switch {
	case r.URL.Path == "/present" && refuses:
		http.Error(w, "the zone is frozen", http.StatusConflict)
	case r.URL.Path == "/present":
		d.dns.AddTXT(record.FQDN, record.Value)
		if hold != nil {
			<-hold
		}
	case r.URL.Path == "/cleanup":
		d.dns.RemoveTXT(record.FQDN, record.Value)
	}
}

func (d *recordDesk) set(refuses bool, hold chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuses, d.hold = refuses, hold
}

func (d *recordDesk) took() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := strings.Join(d.calls, "\n")
	d.calls = nil
	return calls
}

// dnsProgram is a mail host whose postcert writes records by the program of
// contrib/dns, which is built here and runs one of lego's own providers.
type dnsProgram struct {
	*acmeHost
	desk    *recordDesk
	runtime string
}

func newDNSProgram(t *testing.T) *dnsProgram {
	t.Helper()
	h := newACMEHost(t, acmetest.Options{})
	d := &dnsProgram{acmeHost: h, desk: &recordDesk{dns: h.ca.DNS, password: "s3cret-0123456789"}, runtime: filepath.Join(h.dir, "dns-run")}
	bin := filepath.Join(h.dir, "postcert-dns")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, ".")
	build.Dir, build.Env = filepath.Join(repository(t), "contrib", "dns"), append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	api := httptest.NewServer(d.desk)
	t.Cleanup(api.Close)
	credentials := filepath.Join(h.dir, "httpreq.env")
	h.write(credentials, []byte(fmt.Sprintf("HTTPREQ_ENDPOINT=%s\nHTTPREQ_USERNAME=postcert\nHTTPREQ_PASSWORD=%s\n", api.URL, d.desk.password)))
	h.write(filepath.Join(h.dir, "exec.conf"), []byte(fmt.Sprintf("program = %s\narguments = -credentials %s -runtime %s -resolver %s httpreq\npropagation_timeout = 20\n",
		bin, credentials, d.runtime, h.ca.DNS.Addr)))
	for _, f := range []string{credentials, filepath.Join(h.dir, "exec.conf")} {
		if err := os.Chmod(f, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.resolveByCA() // where both look for the zone and its name servers
	return d
}

// resolveByCA makes the CA's name server the resolver of this host.
func (h *acmeHost) resolveByCA() {
	h.t.Helper()
	ip, port, _ := net.SplitHostPort(h.ca.DNS.Addr)
	if port != "53" {
		h.t.Fatalf("the name server is at %s, not at port 53", h.ca.DNS.Addr)
	}
	conf := filepath.Join(h.dir, "resolv.conf")
	h.write(conf, []byte("nameserver "+ip+"\n"))
	if out, err := exec.Command("mount", "--bind", conf, "/etc/resolv.conf").CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.t.Cleanup(func() { _ = exec.Command("umount", "/etc/resolv.conf").Run() })
}

// order are the flags of an order by the program.
func (d *dnsProgram) order(more ...string) []string {
	return append([]string{"obtain", "--provider", "exec", "--credentials", filepath.Join(d.dir, "exec.conf"), "--directory", d.ca.URL,
		"--acme-trust", d.ca.RootsFile, "--agree-tos", "--trust", d.issuers(), "--profile", "classic"}, more...)
}

// nothing is left: no record, no process that waits, no secret in what was said.
func (d *dnsProgram) nothing(t *testing.T, said string) {
	t.Helper()
	if left := d.ca.DNS.TXT(); len(left) > 0 {
		t.Errorf("records are left: %v", left)
	}
	if strings.Contains(said, d.desk.password) {
		t.Errorf("a secret was said:\n%s", said)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		var waiting []string
		for _, path := range all {
			if data, _ := os.ReadFile(path); strings.Contains(string(data), d.runtime) { // it may be gone
				waiting = append(waiting, path)
			}
		}
		if len(waiting) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still there: %v", waiting)
		}
	}
}

// An order by dns-01 through provider exec and the program of contrib/dns, with one
// of lego's 195 providers that postcert does not have in this form: two values at
// one name, a provider that refuses, a run that is ended in the middle.
func TestProofDNSProgram(t *testing.T) {
	d := newDNSProgram(t)
	a := d.postcert(d.order("--domain", "*.example.test", "--domain", "example.test", "--name", hostName)...).want(0)
	d.serves(d.live())
	names := d.san(d.liveFile("cert.pem"))
	for _, name := range []string{"DNS:*.example.test", "DNS:example.test"} {
		if !strings.Contains(names, name) {
			t.Errorf("the certificate is for %s, without %s", names, name)
		}
	}
	calls := d.desk.took()
	if strings.Count(calls, "/present _acme-challenge.example.test.") != 2 || strings.Count(calls, "/cleanup _acme-challenge.example.test.") != 2 {
		t.Errorf("the API was called:\n%s", calls)
	}
	d.nothing(t, a.stdout+a.stderr)

	t.Run("renewed", func(t *testing.T) {
		old := d.live()
		a := d.postcert("renew", "--force", "--trust", d.issuers())
		a.t = t
		a.want(0)
		if d.live() == old {
			t.Error("not renewed")
		}
		d.serves(d.live())
		d.nothing(t, a.stdout+a.stderr)
	})
	t.Run("refused", func(t *testing.T) {
		d.desk.set(true, nil)
		defer d.desk.set(false, nil)
		old := d.live()
		a := d.postcert("renew", "--force", "--trust", d.issuers())
		a.t = t
		a.want(6).says("challenge_failed").says("the zone is frozen").says("what is served stays")
		if d.live() != old {
			t.Error("renewed")
		}
		d.serves(old)
		d.nothing(t, a.stdout+a.stderr)
	})
	t.Run("ended", d.ended)
}

// san are the names of a certificate, by openssl.
func (h *acmeHost) san(path string) string {
	h.t.Helper()
	out, err := exec.Command("openssl", "x509", "-in", path, "-noout", "-ext", "subjectAltName").Output()
	if err != nil {
		h.t.Fatal(err)
	}
	return string(out)
}

// ended sends SIGTERM while the API is in the middle of a record.
func (d *dnsProgram) ended(t *testing.T) {
	hold := make(chan struct{})
	d.desk.set(false, hold)
	d.desk.took()
	cmd := d.command("renew", "--force", "--trust", d.issuers())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); len(d.ca.DNS.TXT()) == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	begin := time.Now()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait() // the status is in ProcessState
	took := time.Since(begin)
	d.desk.set(false, nil)
	close(hold)
	if cmd.ProcessState.ExitCode() != statusTerminated || took > 2*time.Second {
		t.Errorf("status %d after %s", cmd.ProcessState.ExitCode(), took)
	}
	// The API was in the middle of it: the process that waits takes it down.
	for end := time.Now().Add(20 * time.Second); len(d.ca.DNS.TXT()) > 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
	}
	d.nothing(t, "")
	a := d.postcert("renew", "--force", "--trust", d.issuers())
	a.t = t
	a.want(0)
}
