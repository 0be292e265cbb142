package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mta is a private Postfix whose smtpd services listen on UNIX sockets only.
type mta struct {
	dir string
	log string
}

// startPostfix runs a master of its own, in a process namespace of its own, so
// that nothing of it outlives the test. services are entries of master.cf.
func startPostfix(t *testing.T, main string, services ...string) *mta {
	t.Helper()
	need(t, "postconf", "openssl")
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("not root")
		}
		t.Skip("only root can start Postfix")
	}
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		t.Fatal(err)
	}
	m := &mta{dir: dir, log: filepath.Join(dir, "log", "maillog")}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m.directories(t)
	m.configure(t, main, services)
	daemons, err := exec.Command("postconf", "-d", "-h", "daemon_directory").Output()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	// -d: stay in the foreground. -e: end by itself, whatever happens to us.
	cmd := exec.Command(filepath.Join(strings.TrimSpace(string(daemons)), "master"), "-c", dir, "-d", "-e", "120")
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWPID}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("stderr: %s\n%s", &stderr, m.read())
		}
	})
	m.wait(t)
	return m
}

func (m *mta) directories(t *testing.T) {
	t.Helper()
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		name string
		uid  int
	}{{"log", 0}, {"queue", 0}, {"queue/pid", 0}, {"queue/private", uid}, {"queue/public", uid}, {"data", uid}} {
		p := filepath.Join(m.dir, d.name)
		if err := os.Mkdir(p, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(p, d.uid, -1); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *mta) configure(t *testing.T, main string, services []string) {
	t.Helper()
	main = fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[2]s
maillog_file_prefixes = %[1]s
myhostname = mail.example.com
mydestination =
inet_interfaces = loopback-only
smtpd_peername_lookup = no
local_recipient_maps =
alias_maps =
smtpd_tls_security_level = may
smtpd_tls_loglevel = 1
smtpd_tls_session_cache_database =
`, m.dir, m.log) + main
	master := `postlog unix-dgram n - n - 1 postlogd
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
` + strings.Join(services, "\n") + "\n"
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		text = strings.ReplaceAll(text, "DIR", m.dir)
		path := filepath.Join(m.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		// postconf(1) and the daemons wait for a main.cf younger than 2 s.
		old := time.Now().Add(-time.Minute)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
}

// wait returns when master listens on the sockets.
func (m *mta) wait(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", m.socket("ready")); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("master did not come up: %s", m.read())
		}
	}
}

func (m *mta) socket(service string) string { return filepath.Join(m.dir, "queue/public", service) }

func (m *mta) read() string {
	b, _ := os.ReadFile(m.log)
	return string(b)
}

func TestRealPostfix(t *testing.T) {
	ec, rsa, other := pair("mail.example.com", ecKey()), pair("mail.example.com", rsaKey()), pair("mx.example.net", ecKey())
	certs := t.TempDir()
	ecFile, rsaFile := files(t, certs, "ec.pem", ec), files(t, certs, "rsa.pem", rsa)
	otherFile := files(t, certs, "other.pem", other)
	// A key that is not that of the certificate.
	badFile := files(t, certs, "bad.pem", tls.Certificate{Certificate: ec.Certificate, PrivateKey: newECDSA()})
	longFile := files(t, certs, "negative.pem", tls.Certificate{Certificate: [][]byte{negativeSerial(t), caCert().Raw}, PrivateKey: ecKey()})
	service := func(name string, overrides ...string) string {
		line := name + " unix n - n - - smtpd"
		for _, o := range overrides {
			line += " -o " + o
		}
		return line
	}
	only := "smtpd_tls_chain_files="
	m := startPostfix(t, fmt.Sprintf("smtpd_tls_chain_files = %s, %s\ntls_server_sni_maps = inline:{ { mx.example.net = %s } }\n",
		ecFile, rsaFile, otherFile),
		service("plain"), service("wrapped", "smtpd_tls_wrappermode=yes"),
		service("tls13", "smtpd_tls_protocols=>=TLSv1.3"), service("tls12", "smtpd_tls_protocols=<=TLSv1.2"),
		service("old", "smtpd_tls_protocols=TLSv1", "tls_medium_cipherlist=ALL:@SECLEVEL=0"),
		service("rsa", only+rsaFile), service("negative", only+longFile),
		service("mismatch", only+badFile), service("mismatch_wrapped", only+badFile, "smtpd_tls_wrappermode=yes"),
		service("missing", only+"/nonexistent.pem"),
		service("off", "smtpd_tls_security_level=none"),
		service("milter", "smtpd_milters=unix:/nonexistent", "milter_default_action=tempfail"),
		service("proxy", "smtpd_upstream_proxy_protocol=haproxy", "smtpd_upstream_proxy_timeout=1s"),
		service("proxy_wrapped", "smtpd_upstream_proxy_protocol=haproxy", "smtpd_tls_wrappermode=yes"),
		service("strict", "smtpd_delay_reject=no", "smtpd_helo_required=yes",
			"smtpd_helo_restrictions=reject_invalid_helo_hostname,reject_non_fqdn_helo_hostname"),
		service("no_cipher", "smtpd_tls_exclude_ciphers=aECDSA", "smtpd_tls_protocols=<=TLSv1.2", only+ecFile),
		service("level3", only+rsaFile, "tls_medium_cipherlist=aNULL:-aNULL:HIGH:@STRENGTH:@SECLEVEL=3"),
		service("fatal", "smtpd_tls_security_level=bogus"),
		// master opens the sockets in this order: the last one says that all are there.
		"ready unix n - n - 0 smtpd",
	)
	t.Run("listeners", func(t *testing.T) {
		for _, tt := range []struct {
			service string
			change  func(*Endpoint)
			reason  Reason
			want    tls.Certificate
			verdict Verdict
			oracle  string // arguments of openssl s_client that ask the same; "" for none
		}{
			{service: "plain", reason: OK, want: rsa, verdict: Proven, change: keyType(RSA), oracle: "-tls1_2 -cipher aRSA"},
			{service: "plain", reason: OK, want: ec, verdict: Proven, change: keyType(ECDSA), oracle: "-tls1_2 -cipher aECDSA"},
			{service: "plain", reason: OK, want: other, verdict: Proven, change: sni("mx.example.net"), oracle: "-servername mx.example.net"},
			{service: "plain", reason: OK, want: ec, verdict: Contradicted, change: sni("mx.example.net")},
			{service: "wrapped", reason: OK, want: ec, verdict: Proven, change: both(implicit, keyType(ECDSA)), oracle: "-sigalgs ECDSA+SHA256"},
			{service: "tls13", reason: OK, want: rsa, verdict: Proven, change: keyType(RSA), oracle: "-sigalgs RSA-PSS+SHA256"},
			{service: "tls13", reason: OK, want: ec, verdict: Proven, change: keyType(ECDSA), oracle: "-sigalgs ECDSA+SHA256"},
			{service: "tls12", reason: OK, want: ec, verdict: Proven, change: keyType(ECDSA), oracle: "-tls1_2 -cipher aECDSA"},
			{service: "old", reason: OK, want: rsa, verdict: Proven, change: keyType(RSA), oracle: "-tls1 -cipher aRSA:@SECLEVEL=0"},
			{service: "rsa", reason: OK, want: rsa, verdict: Proven, oracle: "-tls1_3"},
			{service: "strict", reason: OK, want: rsa, verdict: Proven, change: keyType(RSA)},
			{service: "negative", reason: Unreadable, want: ec, verdict: Contradicted},
			{service: "mismatch", reason: TLSNotAvailable, want: ec, verdict: Contradicted},
			{service: "mismatch_wrapped", reason: Closed, want: ec, verdict: Contradicted, change: implicit},
			{service: "missing", reason: HandshakeFailed, want: ec, verdict: Contradicted},
			{service: "off", reason: NotOffered, want: ec, verdict: Contradicted},
			{service: "milter", reason: MilterUnavailable, want: ec, verdict: NotVerified},
			{service: "proxy", reason: OK, want: rsa, verdict: Proven, change: both(proxyHeader, keyType(RSA))},
			{service: "proxy_wrapped", reason: OK, want: rsa, verdict: Proven, change: both(implicit, both(proxyHeader, keyType(RSA)))},
			{service: "proxy", reason: ShuttingDown, want: ec, verdict: NotVerified},
			{service: "no_cipher", reason: HandshakeFailed, want: ec, verdict: Contradicted},
			{service: "level3", reason: HandshakeFailed, want: rsa, verdict: Contradicted},
			{service: "fatal", reason: NoBanner, want: ec, verdict: NotVerified, change: hasty},
		} {
			e := Endpoint{Network: "unix", Address: m.socket(tt.service), OpenSSL: opensslPath(t)}
			if tt.change != nil {
				tt.change(&e)
			}
			t.Run(fmt.Sprintf("%s %s%s proxy=%v", tt.service, e.KeyType, e.ServerName, e.ProxyProtocol), func(t *testing.T) {
				t.Parallel()
				r := Handshake(t.Context(), e)
				if r.Reason != tt.reason {
					t.Fatalf("got %s in %s (%s), want %s", r.Reason, r.Phase, r.Detail, tt.reason)
				}
				if v, why := Compare(r, tt.want.Certificate); v != tt.verdict {
					t.Errorf("got %s, %s (%s), want %s", v, why, r.Detail, tt.verdict)
				}
				if tt.oracle == "" {
					return
				}
				args := append(strings.Fields(tt.oracle), "-unix", e.Address)
				if e.Mode != Implicit {
					args = append(args, "-starttls", "smtp")
				}
				if v, why := Compare(r, oracle(t, args...)); v != Proven {
					t.Errorf("openssl s_client sees something else: %s", why)
				}
			})
		}
	})
	t.Run("manners", func(t *testing.T) { manners(t, m) })
}

// manners holds sessions open and reads in Postfix's own log how probes behaved:
// each of them by another process, each ended with QUIT, none out of turn.
func manners(t *testing.T, m *mta) {
	mark := len(m.read())
	var held []*Session
	for range 3 {
		s, r := Open(context.Background(), Endpoint{Network: "unix", Address: m.socket("plain")})
		if s == nil {
			t.Fatalf("got %s (%s)", r.Reason, r.Detail)
		}
		held = append(held, s)
	}
	for _, s := range held {
		s.Close()
	}
	want := regexp.MustCompile(`smtpd\[(\d+)\]: disconnect from .* ehlo=1 starttls=1 quit=1 commands=3`)
	pids := map[string]bool{}
	for end := time.Now().Add(5 * time.Second); len(pids) < 3 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, hit := range want.FindAllStringSubmatch(m.read()[mark:], -1) {
			pids[hit[1]] = true
		}
	}
	if len(pids) != 3 {
		t.Errorf("got sessions of %d processes that ended with QUIT, want 3:\n%s", len(pids), m.read()[mark:])
	}
	if log := m.read(); strings.Contains(log, "pipelining") || strings.Contains(log, "synchronization") {
		t.Errorf("Postfix saw a client that talks out of turn:\n%s", log)
	}
}

func keyType(k string) func(*Endpoint) { return func(e *Endpoint) { e.KeyType = k } }
func sni(name string) func(*Endpoint)  { return func(e *Endpoint) { e.ServerName = name } }
func hasty(e *Endpoint)                { e.Timeout = time.Second }
func implicit(e *Endpoint)             { e.Mode = Implicit }
func proxyHeader(e *Endpoint)          { e.ProxyProtocol = true }
func both(f, g func(*Endpoint)) func(*Endpoint) {
	return func(e *Endpoint) { f(e); g(e) }
}
