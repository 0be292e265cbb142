package dns

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer is a BIND on a high port of loopback with the zone example.com, a
// key for each algorithm, and one that may change nothing.
type nameServer struct {
	address string
	secrets map[string]string // by the name of the key
}

const namedConf = `
options {
	directory "%[1]s"; pid-file none; session-keyfile none; lock-file none; managed-keys-directory "%[1]s";
	listen-on port %[2]d { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; allow-transfer { none; }; empty-zones-enable no;
};
controls { };
zone "example.com" {
	type primary; file "%[1]s/zone";
	update-policy { %[3]s };
};
`

const zoneFile = `$TTL 60
@ IN SOA ns hostmaster 1 3600 600 86400 60
@ IN NS ns
ns IN A 127.0.0.1
_acme-challenge.mail IN TXT "other"
`

// startNamed runs BIND's named until the end of the test.
func startNamed(t *testing.T) nameServer {
	t.Helper()
	path := "/usr/sbin/named"
	if _, err := os.Stat(path); err != nil {
		without(t, "named (package bind9) is not installed")
	}
	parent := ""
	if info, err := os.Stat("/var/cache/bind"); err == nil && info.IsDir() && os.Geteuid() == 0 {
		parent = "/var/cache/bind" // where Debian's profile of AppArmor lets named read and write
	}
	dir, err := os.MkdirTemp(parent, "postcert-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	port := freePort(t)
	s := nameServer{address: fmt.Sprintf("127.0.0.1:%d", port), secrets: map[string]string{}}
	var keys, policy strings.Builder
	for _, algorithm := range []string{"hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512", "powerless"} {
		secret := newSecret()
		s.secrets[algorithm] = secret
		of := algorithm
		if algorithm == "powerless" {
			of = "hmac-sha256"
		} else {
			fmt.Fprintf(&policy, "grant %s name _acme-challenge.mail.example.com TXT; ", algorithm)
		}
		fmt.Fprintf(&keys, "key %q { algorithm %s; secret %q; };\n", algorithm, of, secret)
	}
	conf := filepath.Join(dir, "named.conf")
	must(t, os.WriteFile(conf, []byte(keys.String()+fmt.Sprintf(namedConf, dir, port, policy.String())), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "zone"), []byte(zoneFile), 0o600))
	log := &strings.Builder{}
	cmd := exec.Command(path, "-g", "-c", conf, "-n", "1", "-p", fmt.Sprint(port))
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if reply, err := s.txt(t); err == nil && slices.Equal(reply, []string{"other"}) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatal("named does not answer")
		}
	}
}

func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it does not fail
	return base64.StdEncoding.EncodeToString(b)
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// txt asks the server, without any of our code, for the values of the name.
func (s nameServer) txt(t testing.TB) ([]string, error) {
	t.Helper()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", s.address)
	}}
	values, err := r.LookupTXT(background(t), plainName)
	slices.Sort(values)
	return values, err
}

func (s nameServer) open(t testing.TB, values map[string]string) Provider {
	t.Helper()
	if values["server"] == "" {
		values["server"] = s.address
	}
	p, err := New("rfc2136", Options{Credentials: values})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Against a real name server: values are added and removed beside others, with
// each algorithm; what the server refuses is told in words.
func TestRFC2136(t *testing.T) {
	s := startNamed(t)
	for algorithm := range tsigAlgorithms {
		t.Run(algorithm, func(t *testing.T) {
			p := s.open(t, map[string]string{"name": algorithm, "secret": s.secrets[algorithm], "algorithm": strings.ToUpper(algorithm)})
			must(t, p.Check(background(t), plainName))
			must(t, p.Present(background(t), plainName, keyAuth))
			must(t, p.Present(background(t), plainName, "another"))
			want := []string{Value(keyAuth), Value("another"), "other"}
			slices.Sort(want)
			if got, err := s.txt(t); err != nil || !slices.Equal(got, want) {
				t.Errorf("values %q, %v; want %q", got, err, want)
			}
			must(t, p.CleanUp(background(t), plainName, keyAuth))
			must(t, p.CleanUp(background(t), plainName, "another"))
			must(t, p.CleanUp(background(t), plainName, "another")) // again
			if got, err := s.txt(t); err != nil || !slices.Equal(got, []string{"other"}) {
				t.Errorf("values %q, %v", got, err)
			}
		})
	}
	good := s.secrets["hmac-sha256"]
	tests := []struct {
		name   string
		values map[string]string
		fqdn   string
		kind   Kind
		want   string
	}{
		{"wrong secret", map[string]string{"name": "hmac-sha256", "secret": newSecret()}, plainName, Refused, "BADSIG"},
		{"unknown key", map[string]string{"name": "nobody", "secret": good}, plainName, Refused, "BADKEY"},
		{"wrong algorithm", map[string]string{"name": "hmac-sha256", "secret": good, "algorithm": "hmac-sha512"}, plainName, Refused, "BADKEY"},
		{"no key", map[string]string{}, plainName, Refused, "not allowed"},
		{"key without rights", map[string]string{"name": "powerless", "secret": s.secrets["powerless"]}, plainName, Refused, "not allowed"},
		{"name without rights", map[string]string{"name": "hmac-sha256", "secret": good}, "_acme-challenge.www.example.com.", Refused, "not allowed"},
		{"zone of another server", map[string]string{"name": "hmac-sha256", "secret": good}, "_acme-challenge.example.org.", NoZone, "holds no zone"},
		{"zone given wrong", map[string]string{"name": "hmac-sha256", "secret": good, "zone": "mail.example.com"}, plainName, NoZone, "not primary"},
		{"zone given for another name", map[string]string{"name": "hmac-sha256", "secret": good, "zone": "example.org, example.net"}, plainName, NoZone, "none of the zones"},
		{"zone given right", map[string]string{"name": "hmac-sha256", "secret": good, "zone": "example.org,example.com"}, plainName, 0, ""},
		{"question signed too", map[string]string{"name": "hmac-sha256", "secret": good, "sign_query": "yes"}, plainName, 0, ""},
		{"question signed with a wrong secret", map[string]string{"name": "hmac-sha256", "secret": newSecret(), "sign_query": "true"}, plainName, Refused, "BADSIG"},
		{"nobody there", map[string]string{"server": fmt.Sprintf("127.0.0.1:%d", freePort(t))}, plainName, Unavailable, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := s.open(t, tt.values)
			for what, err := range map[string]error{"present": p.Present(background(t), tt.fqdn, keyAuth), "check": p.Check(background(t), tt.fqdn)} {
				if tt.want == "" {
					if err != nil {
						t.Errorf("%s: %v", what, err)
					}
					continue
				}
				if err == nil || kindOf(t, err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: %v, want %q", what, err, tt.want)
					continue
				}
				if secret := tt.values["secret"]; secret != "" && strings.Contains(printed(err), secret) {
					t.Error("the secret is in the error")
				}
			}
			if tt.want == "" {
				must(t, p.CleanUp(background(t), tt.fqdn, keyAuth))
			}
		})
	}
}

// impostor answers with what it is told to, over TCP.
func impostor(t *testing.T, answer func(q *dns.Msg) *dns.Msg) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	server := &dns.Server{Listener: l, MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if m := answer(q); m != nil {
			_ = w.WriteMsg(m)
		}
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return l.Addr().String()
}

// An answer without a signature to a signed update proves nothing.
func TestUnsignedAnswer(t *testing.T) {
	address := impostor(t, func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetReply(q) })
	p := nameServer{address: address}.open(t, map[string]string{"name": "k", "secret": newSecret(), "zone": "example.com"})
	if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != Refused || !strings.Contains(err.Error(), "without a signature") {
		t.Errorf("error %v", err)
	}
}

// A name server that does not answer does not hold the caller.
func TestSilentNameServer(t *testing.T) {
	address := impostor(t, func(*dns.Msg) *dns.Msg { return nil })
	p := nameServer{address: address}.open(t, map[string]string{"zone": "example.com"})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := p.Present(ctx, plainName, keyAuth)
	if took := time.Since(start); took > time.Second || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after %v: %v", took, err)
	}
	p = nameServer{address: address}.open(t, map[string]string{"dns_timeout": "1"})
	if err := p.Present(background(t), plainName, keyAuth); err == nil || kindOf(t, err) != Unavailable {
		t.Errorf("error %v", err)
	}
}
