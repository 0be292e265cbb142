package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// nameServer is where a test's named(8) answers; it listens on addresses of interfaces.
const nameServer = "127.0.0.1"

// named serves the records of zones example.test and other.test, in the form of a
// zone file, to this host's resolver until the test ends.
func (h *host) named(records string) {
	h.t.Helper()
	postfixtest.Need(h.t, "named")
	dir := h.t.TempDir()
	conf := fmt.Sprintf(`options { directory %q; listen-on port 53 { %s; }; listen-on-v6 { none; }; recursion no; pid-file none; session-keyfile none; dnssec-validation no; };
controls { };
zone "test" { type primary; file "zone"; };
`, dir, nameServer)
	zone := "$TTL 60\n@ IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60\n@ IN NS ns\nns IN A " + nameServer + "\n" + records
	h.write(filepath.Join(dir, "named.conf"), []byte(conf))
	h.write(filepath.Join(dir, "zone"), []byte(zone))
	h.write(filepath.Join(dir, "resolv.conf"), []byte("nameserver "+nameServer+"\noptions timeout:2 attempts:2\n"))
	if err := os.Chmod(filepath.Join(dir, "resolv.conf"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	// The mounts are this test binary's own.
	if err := syscall.Mount(filepath.Join(dir, "resolv.conf"), "/etc/resolv.conf", "", syscall.MS_BIND, ""); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := syscall.Unmount("/etc/resolv.conf", syscall.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("/usr/sbin/named", "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", nameServer+":53"); err == nil {
			conn.Close()
			return
		}
	}
	text, _ := os.ReadFile(log.Name())
	h.t.Fatalf("named does not answer:\n%s", text)
}

// mxWorld is a domain with two MX hosts, each a real Postfix.
type mxWorld struct {
	*host
	second     *postfixtest.Instance
	certs      [2]string // the files that the two serve
	policy     *httptest.Server
	policyText atomic.Pointer[stsAnswer]
}

// stsAnswer is what the server of MTA-STS policies says.
type stsAnswer struct {
	status     int
	kind, body string
}

// records of the zone: two MX hosts, one with an IPv6 address that nobody here can
// reach, and other domains.
const mxRecords = `
example IN MX 10 mx1.example
example IN MX 20 mx2.example
mx1.example IN A 127.0.0.1
mx1.example IN AAAA 2001:db8::25
mx2.example IN A 192.0.2.25
null IN MX 0 .
only IN A 127.0.0.1
six IN MX 10 mx.six
mx.six IN AAAA 2001:db8::26
lost IN MX 10 mx.lost
lost IN MX 20 mx1.example
sts IN MX 10 mx1.example
sts IN MX 20 mx2.example
_mta-sts.sts IN TXT "v=STSv1; id=20261120T000000"
mta-sts.sts IN A 127.0.0.80
twice IN MX 10 mx1.example
_mta-sts.twice IN TXT "v=STSv1; id=1"
_mta-sts.twice IN TXT "v=STSv1; id=2"
`

var mxNames = []string{"mx1.example.test", "mx2.example.test"}

func newMXWorld(t *testing.T) *mxWorld {
	dir := t.TempDir()
	w := &mxWorld{certs: [2]string{filepath.Join(dir, "one.pem"), filepath.Join(dir, "two.pem")}}
	postfixtest.WritePair(t, w.certs[0], mxNames...)
	postfixtest.WritePair(t, w.certs[1], mxNames...)
	w.host = newHost(t, postfixtest.Options{Only25: true, Cert: w.certs[0], Address: "127.0.0.1", Main: []string{"inet_protocols = ipv4"}})
	w.second = postfixtest.New(t, postfixtest.Options{Only25: true, Cert: w.certs[1], Address: postfixtest.SecondAddress, Name: "postfix-two", Main: []string{"inet_protocols = ipv4"}})
	w.second.Start()
	w.named(mxRecords)
	w.serve(0, w.leaf(certtest.Leaf{Names: mxNames}))
	w.serve(1, w.leaf(certtest.Leaf{Names: mxNames}))
	return w
}

// serve gives one of the two MX hosts a pair.
func (w *mxWorld) serve(n int, p *certtest.Pair) {
	w.t.Helper()
	w.write(w.certs[n], p.PostfixPEM())
	pf, addr := w.pf, postfixtest.SMTP
	if n == 1 {
		pf, addr = w.second, postfixtest.SecondAddress+":25"
	}
	pf.Reload()
	postfixtest.WaitServed(w.t, addr, postfixtest.StartTLS, postfixtest.Fingerprint(p.Cert.Raw))
}

// mx asks for the MX hosts of a domain.
func (w *mxWorld) mx(domain string, args ...string) answer {
	w.t.Helper()
	return w.postcert(append([]string{"probe", "--mx", domain, "--trust", w.trust}, args...)...)
}

// hosts are the verdicts of an answer, by host.
func (a answer) hosts() map[string]bool {
	a.t.Helper()
	out := map[string]bool{}
	for _, h := range a.json()["mx"].(map[string]any)["hosts"].([]any) {
		h := h.(map[string]any)
		out[h["name"].(string)] = h["ok"].(bool)
	}
	return out
}

// wantHosts fails the test unless the two MX hosts got these verdicts.
func (a answer) wantHosts(one, two bool) answer {
	a.t.Helper()
	got := a.hosts()
	if len(got) != 2 || got[mxNames[0]] != one || got[mxNames[1]] != two {
		a.t.Errorf("got %v, want %v, %v\n%s", got, one, two, a.stdout)
	}
	return a
}

// S67: two MX hosts, the second of which fails or is stale: each gets its verdict,
// and the answer is no.
func TestS67SecondMX(t *testing.T) {
	w := newMXWorld(t)
	w.mx("example.test", "--json").want(0).wantHosts(true, true)
	all := w.mx("example.test", "--json").want(0)
	oneObject(t, []string{"probe", "--mx"}, all)
	w.golden("mx/probe.json", all.stdout)
	w.mx("example.test.").want(0).says("mx2.example.test").says("2001:db8::25").says("no route").says("internet.nl")

	day := 24 * time.Hour
	now := time.Now()
	for name, leaf := range map[string]certtest.Leaf{
		"expired":                    {Names: mxNames, NotBefore: now.Add(-90 * day), NotAfter: now.Add(-day)},
		"stale: mx1.example.test":    {Names: mxNames, NotBefore: now.Add(-65 * day), NotAfter: now.Add(25 * day)},
		"does not cover mx2.example": {Names: mxNames[:1]},
	} {
		w.serve(1, w.leaf(leaf))
		w.mx("example.test", "--json").want(8).wantHosts(true, false)
		a := w.mx("example.test").want(8).says("1 of 2 MX hosts")
		if !strings.Contains(strings.ToLower(a.stdout), name) {
			t.Errorf("the output does not say %q:\n%s", name, a.stdout)
		}
	}
	// One that nobody renewed, and no newer one to compare it with.
	w.serve(1, w.leaf(certtest.Leaf{Names: mxNames[1:], NotBefore: now.Add(-85 * day), NotAfter: now.Add(5 * day)}))
	w.mx("example.test").want(8).says("stale: it should have been renewed")
	// A younger one of other names is no reason to call one that is due old.
	w.serve(1, w.leaf(certtest.Leaf{Names: mxNames[1:], NotBefore: now.Add(-65 * day), NotAfter: now.Add(25 * day)}))
	w.mx("example.test", "--json").want(0).wantHosts(true, true)
	w.second.Stop()
	w.mx("example.test", "--json").want(8).wantHosts(true, false)
	w.mx("example.test").want(8).says("192.0.2.25:25")
}

// What DNS can say about a domain's mail.
func TestProbeMXNames(t *testing.T) {
	w := newMXWorld(t)
	w.mx("null.test").want(0).says("takes no mail").says("RFC 7505")
	w.serve(0, w.leaf(certtest.Leaf{Names: append([]string{"only.test"}, mxNames...)}))
	w.mx("only.test").want(0).says("mx_implicit").says("127.0.0.1:25")
	w.mx("six.test").want(8).says("none of its addresses can be reached").says("mx_unroutable")
	a := w.mx("lost.test", "--json").want(8)
	if got := a.hosts(); got["mx.lost.test"] || !got["mx1.example.test"] {
		t.Errorf("got %v", got)
	}
	w.mx("lost.test").want(8).says("no address")
	w.mx("nowhere.test").want(3).says("mx_lookup").says("no address")
	w.postcert("probe", "--mx", "example.test", "127.0.0.1:25").want(2)
}

// policyServer answers for https://mta-sts.sts.test on loopback.
func (w *mxWorld) policyServer(p *certtest.Pair) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.80:443")
	if err != nil {
		w.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(p.FullchainPEM(), p.KeyPEM())
	if err != nil {
		w.t.Fatal(err)
	}
	w.policy = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer := w.policyText.Load()
		status := answer.status
		if r.URL.Path != "/.well-known/mta-sts.txt" || r.Host != "mta-sts.sts.test" {
			status = http.StatusTeapot
		}
		rw.Header().Set("Content-Type", answer.kind)
		rw.Header().Set("Location", "/.well-known/mta-sts.txt")
		rw.WriteHeader(status)
		fmt.Fprint(rw, answer.body)
	}))
	w.policy.Listener.Close()
	w.policy.Listener, w.policy.TLS = l, &tls.Config{Certificates: []tls.Certificate{pair}}
	w.policy.Config.ErrorLog = nil
	w.policy.StartTLS()
}

// The MTA-STS policy, served over HTTPS as senders fetch it.
func TestProbeMXPolicy(t *testing.T) {
	w := newMXWorld(t)
	const head = "version: STSv1\r\nmax_age: 86400\r\n"
	w.policyText.Store(&stsAnswer{200, "text/plain", head})
	w.mx("sts.test").want(8).says("mta_sts_unusable").says("MTA-STS policy is not") // nobody answers
	w.policyServer(w.leaf(certtest.Leaf{Names: []string{"mta-sts.sts.test"}}))
	tests := []struct {
		name, body   string
		code         int
		kind         string
		status       int
		second       bool
		says, silent string
	}{
		{"enforced, both named", head + "mode: enforce\r\nmx: mx1.example.test\nmx: mx2.example.test\n", 200, "text/plain; charset=utf-8", 0, true, "mode enforce", "mta_sts"},
		{"enforced, by a wildcard", head + "mode: enforce\nmx: *.example.test\nunknown: x\n", 200, "text/plain", 0, true, "24h0m0s", "mta_sts"},
		{"enforced, the second not named", head + "mode: enforce\nmx: mx1.example.test\n", 200, "text/plain", 8, false, "does not name it", ""},
		{"on trial, the second not named", head + "mode: testing\nmx: mx1.example.test\n", 200, "text/plain", 0, true, "mta_sts_name", ""},
		{"a wildcard is one label", head + "mode: enforce\nmx: *.test\nmx: mx1.example.test\n", 200, "text/plain", 8, false, "does not name it", ""},
		{"mode none", head + "mode: none\n", 200, "text/plain", 0, true, "mode none", "mta_sts"},
		{"another version", "version: STSv2\nmax_age: 1\nmode: none\n", 200, "text/plain", 8, true, "STSv2", ""},
		{"no max_age", "version: STSv1\nmode: none\n", 200, "text/plain", 8, true, "max_age", ""},
		{"no hosts", head + "mode: enforce\n", 200, "text/plain", 8, true, "names no MX host", ""},
		{"too large", head + "mode: none\n" + strings.Repeat("x: y\n", stsSize/4), 200, "text/plain", 8, true, "larger than 64 KiB", ""},
		{"HTML", head + "mode: none\n", 200, "text/html", 8, true, "text/html", ""},
		{"a redirect is not followed", head + "mode: none\n", 302, "text/plain", 8, true, "302 Found", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer func(parent *testing.T) { w.t = parent }(w.t)
			w.t = t
			w.policyText.Store(&stsAnswer{tt.code, tt.kind, tt.body})
			w.mx("sts.test", "--json").want(tt.status).wantHosts(true, tt.second)
			a := w.mx("sts.test").want(tt.status).says(tt.says)
			if tt.silent != "" && strings.Contains(a.stdout+a.stderr, tt.silent) {
				t.Errorf("the output says %q:\n%s%s", tt.silent, a.stdout, a.stderr)
			}
		})
	}
	w.mx("twice.test").want(8).says("2 records")
	w.policy.Close()
	w.policyText.Store(&stsAnswer{200, "text/plain", head + "mode: none\n"})
	w.policyServer(w.leaf(certtest.Leaf{Names: []string{"www.sts.test"}}))
	w.mx("sts.test").want(8).says("does not cover mta-sts.sts.test")
	w.policy.Close()
	w.policyServer(certtest.SelfSigned(t, certtest.Leaf{Names: []string{"mta-sts.sts.test"}}))
	w.mx("sts.test").want(8).says("mta_sts_unusable")
	w.policy.Close()
}

func FuzzSTSPolicy(f *testing.F) {
	f.Add([]byte("version: STSv1\nmode: enforce\nmx: *.example.test\nmax_age: 86400\n"), "mx.example.test")
	f.Add([]byte("version: STSv1\r\nmode: none\r\nmax_age: -1\r\n"), ".")
	f.Fuzz(func(t *testing.T, body []byte, host string) {
		var p stsPolicy
		if err := p.parse(body); err == nil && (p.Mode == "" || p.MaxAge < 0 || p.Mode != "none" && len(p.MX) == 0) {
			t.Errorf("%q is taken for %+v", body, p)
		}
		_ = p.permits(host)
	})
}
