package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// S46: a TXT record that shows late is waited for, before the CA is asked, and one
// that does not show in time costs no validation.
func TestS46RecordsLate(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.resolveByCA()
	desk := &recordDesk{dns: h.ca.DNS, password: "s3cret-0123456789"}
	api := httptest.NewServer(desk)
	t.Cleanup(api.Close)
	credentials := filepath.Join(h.dir, "httpreq.env")
	h.write(credentials, []byte("HTTPREQ_ENDPOINT="+api.URL+"\nHTTPREQ_USERNAME=postcert\nHTTPREQ_PASSWORD="+desk.password+"\n"))
	order := []string{"obtain", "--domain", hostName, "--provider", "httpreq", "--credentials", credentials, "--propagation", "30s",
		"--directory", h.ca.URL, "--acme-trust", h.ca.RootsFile, "--agree-tos", "--trust", h.issuers(), "--profile", "classic"}
	h.ca.DNS.SetLag(3 * time.Second)
	begin := time.Now()
	h.postcert(order...).want(0)
	if took := time.Since(begin); took < 3*time.Second || h.ca.Count(acmetest.Challenge) != 1 {
		t.Errorf("obtained after %s, with %d validations", took, h.ca.Count(acmetest.Challenge))
	}
	old := h.live()
	h.serves(old)

	h.ca.DNS.SetLag(time.Hour)
	order[8] = "4s"
	a := h.postcert(append(order, "--force")...).want(6).says("challenge_failed").says("_acme-challenge." + hostName).says("next order").says("what is served stays")
	if h.live() != old || h.ca.Count(acmetest.Challenge) != 1 || strings.Contains(a.stdout+a.stderr, desk.password) {
		t.Errorf("%d validations; said:\n%s%s", h.ca.Count(acmetest.Challenge), a.stdout, a.stderr)
	}
	h.serves(old)
	if left := h.ca.DNS.TXT(); len(left) > 0 {
		t.Errorf("records are left: %v", left)
	}
	h.postcert("status").says("next order").says("last failure")
	// It was no order of its own: the same one is gone on with.
	h.ca.DNS.SetLag(0)
	h.postcert("renew", "--force", "--trust", h.issuers()).want(0)
	if n := h.orders(); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
}

// S46: an IPv6 address that leads elsewhere is named before the order, as the CA
// prefers it. So is an address of a name that this host does not have.
func TestS46AddressElsewhere(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.write(filepath.Join(h.dir, "hosts"), []byte("127.0.0.1 localhost "+hostName+" www.example.test\n2001:db8::9 www.example.test\n"))
	order := h.order("--domain", "www.example.test", "--no-deploy")
	a := h.postcert(append(order, "--json")...).want(0)
	found := false
	for _, p := range a.json()["problems"].([]any) {
		p := p.(map[string]any)
		if p["id"] == "domain_elsewhere" {
			found = true
			said := p["message"].(string)
			if !strings.Contains(said, "www.example.test leads to 2001:db8::9") || strings.Contains(said, "127.0.0.1") {
				t.Errorf("%s", said)
			}
		}
	}
	if !found {
		t.Errorf("not named: %s", a.stdout)
	}
}

// S47: an account that the CA has paused is left alone until somebody has visited
// the page, whose address is told in full; later runs, --force and the daemon do not
// order, for a day.
func TestS47Paused(t *testing.T) {
	const page = "https://portal.example/sfe/v1/unpause?jwt=eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	h.postcert("obtain", "--config", conf).want(0)
	old := h.live()
	remove := h.ca.Fault(acmetest.Fault{Kind: acmetest.NewOrder, Status: http.StatusTooManyRequests, Problem: "rateLimited",
		Detail: "Your account is temporarily prevented from requesting certificates for " + hostName + " and possibly others. Please visit: " + page})
	h.postcert("renew", "--force", "--config", conf).want(6).says("ca_paused").says(page).says("what is served stays")
	orders := h.orders()
	for range 2 {
		h.postcert("renew", "--force", "--config", conf).says("ca_paused")
		h.postcert("renew", "--config", conf).says("next order")
		d := h.daemon("--config", conf)
		d.says("msg=started", 10*time.Second)
		time.Sleep(200 * time.Millisecond)
		d.ends(10 * time.Second)
	}
	if n := h.orders(); n != orders {
		t.Errorf("%d orders after the pause", n-orders)
	}
	h.serves(old)
	v := h.postcert("status", "--config", conf, "--json").json()["orders"].([]any)[0].(map[string]any)
	at, err := time.Parse(time.RFC3339, v["next"].(map[string]any)["attempt"].(string))
	if err != nil || !strings.Contains(v["last_error"].(string), page) || at.Before(time.Now().Add(23*time.Hour)) {
		t.Errorf("status: %v (%v)", v, err)
	}
	// Somebody has visited the page, and a day has passed.
	remove()
	clock := filepath.Join(h.dir, "clock")
	h.write(clock, []byte("26h"))
	h.env = []string{childClock + "=" + clock}
	h.postcert("renew", "--force", "--config", conf).want(0)
}

// What would stop the next renewal is told once a day, weeks before it is due: here
// the port that has been taken since. What is served stays, and the pass is fine.
func TestRenewLooksAhead(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	h.postcert("obtain", "--config", conf).want(0)
	l, err := net.Listen("tcp", h.httpListen())
	if err != nil {
		t.Fatal(err)
	}
	const words = "the next renewal of " + hostName + " would fail"
	silent := func(args ...string) {
		t.Helper()
		if a := h.postcert(append(args, "--config", conf)...).want(0); strings.Contains(a.stdout+a.stderr, words) {
			t.Errorf("%v: said already:\n%s%s", args, a.stdout, a.stderr)
		}
	}
	silent("renew") // the order was today
	clock := filepath.Join(h.dir, "clock")
	h.env = []string{childClock + "=" + clock}
	timeless := h.ca.Fault(acmetest.Fault{Kind: acmetest.Directory, Header: http.Header{"Date": {"none"}}}) // days pass for the CA, too
	h.write(clock, []byte("25h"))
	h.postcert("renew", "--config", conf).want(0).says(words).says("challenge_failed").says(h.httpListen())
	h.write(clock, []byte("30h"))
	silent("renew")
	h.write(clock, []byte("50h"))
	h.postcert("renew", "--config", conf).want(0).says(words)
	l.Close()
	h.write(clock, []byte("75h"))
	silent("renew")
	h.write(clock, []byte("100h"))
	timeless()
	down := h.ca.Fault(acmetest.Fault{Kind: acmetest.Directory, Status: http.StatusBadGateway, Body: "<html>"})
	silent("renew")
	down()
	if n := h.orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
	h.serves(h.live())
}

// What failed is on disk, by its class: a new process knows it.
func TestFailureIsKept(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.postcert(h.order("--no-deploy")...).want(0)
	h.ca.DNS.SetAddr(hostName, "127.0.0.9")
	h.postcert("renew", "--force", "--trust", h.issuers()).want(6).says("validation_failed")
	out, err := exec.Command("grep", "-r", "-h", "-o", `"class": *"[a-z_]*"`, filepath.Join(h.state, "acme", "certs", hostName, "state.json")).Output()
	if err != nil || !strings.Contains(string(out), "validation") {
		data, _ := os.ReadFile(filepath.Join(h.state, "acme", "certs", hostName, "state.json"))
		t.Errorf("%v: the class on disk is %q in %s", err, out, data)
	}
	h.postcert("renew", "--trust", h.issuers()).says("next order")
}
