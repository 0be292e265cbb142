package rehearsal

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postcert/verify/probe"
)

func TestPlan(t *testing.T) {
	service := func(id string, params ...string) Service {
		s := Service{ID: id, Parameters: map[string]string{}}
		for i := 0; i < len(params); i += 2 {
			s.Parameters[params[i]] = params[i+1]
		}
		return s
	}
	wrapped := service("submissions/inet", "smtpd_tls_wrappermode", "yes")
	wrapped.Implicit = true
	screened := service("smtp/inet")
	screened.Postscreen = true
	tests := []struct {
		name     string
		services []Service
		want     []string // socket: service IDs
	}{
		{"the same TLS", []Service{service("smtp/inet"), service("submission/inet", "smtpd_sasl_auth_enable", "yes", "smtpd_tls_ciphers", "high")},
			[]string{"smtp: smtp/inet submission/inet"}},
		{"an override", []Service{service("smtp/inet"), service("submission/inet", "smtpd_tls_ciphers", "medium"), service("x/inet", "smtpd_tls_ciphers", "medium")},
			[]string{"smtp: smtp/inet", "submission: submission/inet x/inet"}},
		{"what is forced makes no difference", []Service{service("a/inet", "smtpd_tls_loglevel", "4"), service("b/inet", "smtpd_tls_loglevel", "0")},
			[]string{"a: a/inet b/inet"}},
		{"wrapper mode and postscreen", []Service{screened, service("submission/inet"), wrapped},
			[]string{"smtp: smtp/inet", "submission: submission/inet", "submissions: submissions/inet"}},
		{"one name, several types", []Service{service("smtpd/pass"), service("smtpd/unix", "smtpd_tls_ciphers", "x"), service("smtpd/inet", "smtpd_tls_ciphers", "y")},
			[]string{"smtpd: smtpd/pass", "smtpd+2: smtpd/unix", "smtpd+3: smtpd/inet"}},
		{"addresses", []Service{service("[::1]:25/inet"), service("192.0.2.1:25/inet", "smtpd_tls_ciphers", "x"), service("[__1]_25/inet", "smtpd_tls_ciphers", "y")},
			[]string{"[::1]:25: [::1]:25/inet", "192.0.2.1:25: 192.0.2.1:25/inet", "[__1]_25+2: [__1]_25/inet"}},
		{"our own names", []Service{service("tlsmgr/inet"), service("tlsproxy-1/inet", "smtpd_tls_ciphers", "x")},
			[]string{"tlsmgr+2: tlsmgr/inet", "+tlsproxy-1: tlsproxy-1/inet"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			groups, err := plan(Candidate{Services: tt.services, Parameters: map[string]string{"smtpd_tls_ciphers": "high"}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, g := range groups {
				s := g.socket + ":"
				for _, i := range g.services {
					s += " " + tt.services[i].ID
				}
				got = append(got, s)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSupported(t *testing.T) {
	for version, want := range map[string]bool{
		"": true, "3.4.0": true, "3.11.6": true, "3.12-20260821": true, "4.0": true, "3.3.22": false, "2.11.0": false, "postfix": false, "a.b": false,
	} {
		if err := supported(version); (err == nil) != want {
			t.Errorf("%q: got %v, want supported %t", version, err, want)
		}
	}
}

func TestSubstitute(t *testing.T) {
	by := map[string]string{"/etc/tls/a.pem": "/s/1", "/etc/sni": "/s/2", "/with space": "/s/3", "/with": "/s/4"}
	tests := []struct{ name, value, want string }{
		{"nothing", "", ""},
		{"alone", "/etc/tls/a.pem", "/s/1"},
		{"in a list", "/etc/tls/a.pem, /b,/etc/tls/a.pem\t/c", "/s/1, /b,/s/1\t/c"},
		{"after a type", "hash:/etc/sni, texthash:/etc/sni", "hash:/s/2, texthash:/s/2"},
		{"in braces", "inline:{ a=/b, {x = /etc/sni}}", "inline:{ a=/b, {x = /s/2}}"},
		{"a longer path", "/etc/tls/a.pem.old /x/etc/tls/a.pem hash:/etc/sni.db", "/etc/tls/a.pem.old /x/etc/tls/a.pem hash:/etc/sni.db"},
		{"a path with a blank", "/with space, /with", "/s/3, /s/4"},
		{"a longer path with a blank", "/with spaces", "/s/4 spaces"},
		{"once only", "/s/1", "/s/1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := substitute(tt.value, by); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEffective(t *testing.T) {
	tests := []struct{ name, parameter, value, want string }{
		{"as it is", "smtpd_tls_ciphers", "high", "high"},
		{"a dollar is literal", "smtpd_tls_exclude_ciphers", "a$b${c}$$", "a$$b$${c}$$$$"},
		{"forced", "smtpd_tls_session_cache_database", "btree:/var/lib/postfix/smtpd_scache", ""},
		{"a relative file", "smtpd_tls_key_file", "key.pem", "/q/key.pem"},
		{"relative files", "smtpd_tls_chain_files", "a.pem, /b.pem c.pem", "/q/a.pem, /b.pem, /q/c.pem"},
		{"no file at all", "smtpd_tls_cert_file", "None", "None"},
		{"a relative directory", "smtpd_tls_CApath", "certs", "/q/certs"},
		{"no file", "smtpd_tls_eccert_file", "", ""},
		{"automatic", "smtpd_tls_dh1024_param_file", "auto", "auto"},
		{"OpenSSL's own", "tls_config_file", "default", "default"},
		{"relative and staged", "tlsproxy_tls_cert_file", "staged.pem", "/s/new.pem"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := effective(Candidate{
				Parameters: map[string]string{tt.parameter: tt.value, "queue_directory": "/q", "smtpd_milters": "inet:x", "smtp_tls_cert_file": "/y", "tls_random_source": "egd:/z", "tlsproxy_client_cert_file": "/y"},
				Substitute: map[string]string{"/q/staged.pem": "/s/new.pem"},
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if v, ok := got[tt.parameter]; !ok || v != tt.want {
				t.Errorf("got %q, want %q", v, tt.want)
			}
			if len(got) != 1 {
				t.Errorf("got %v, want nothing else", got)
			}
		})
	}
	for _, bad := range []string{"a\nb", "a\x00", "a\r"} {
		if _, err := effective(Candidate{Parameters: map[string]string{"smtpd_tls_ciphers": bad}}, nil); err == nil {
			t.Errorf("%q: want an error", bad)
		}
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		want       line
		out        string
		blames     bool
	}{
		{"information", "Nov 20 21:11:15 mx rehearsal/smtp/smtpd[15309]: connect from localhost[127.0.0.1]",
			line{tag: "rehearsal/smtp", program: "smtpd", text: "connect from localhost[127.0.0.1]"}, "rehearsal/smtp/smtpd: connect from localhost[127.0.0.1]", false},
		{"a warning", "Nov  2 01:11:15 mx rehearsal/[__1]_25/smtpd[1]: warning: TLS library problem: x[2]: y",
			line{tag: "rehearsal/[__1]_25", program: "smtpd", severity: "warning", text: "TLS library problem: x[2]: y"},
			"rehearsal/[__1]_25/smtpd: warning: TLS library problem: x[2]: y", true},
		{"before main.cf", "Nov 20 21:11:15 localhost postfix/master[7]: fatal: open lock file data/master.lock: Permission denied",
			line{tag: "postfix", program: "master", severity: "fatal", text: "open lock file data/master.lock: Permission denied"},
			"postfix/master: fatal: open lock file data/master.lock: Permission denied", false},
		{"a parameter", "Nov 20 21:11:15 mx rehearsal/smtp/smtpd[1]: fatal: bad numerical configuration: smtpd_tls_ccert_verifydepth = many",
			line{tag: "rehearsal/smtp", program: "smtpd", severity: "fatal", text: "bad numerical configuration: smtpd_tls_ccert_verifydepth = many"},
			"rehearsal/smtp/smtpd: fatal: bad numerical configuration: smtpd_tls_ccert_verifydepth = many", true},
		{"a service of ours", "Nov 20 21:11:15 mx rehearsal/smtp/smtpd[1]: warning: connect to private/tlsmgr: Connection refused",
			line{tag: "rehearsal/smtp", program: "smtpd", severity: "warning", text: "connect to private/tlsmgr: Connection refused"},
			"rehearsal/smtp/smtpd: warning: connect to private/tlsmgr: Connection refused", false},
		{"a handshake", "Nov 20 21:11:15 mx rehearsal/smtp/smtpd[1]: SSL_accept error from localhost[127.0.0.1]: -1",
			line{tag: "rehearsal/smtp", program: "smtpd", text: "SSL_accept error from localhost[127.0.0.1]: -1"},
			"rehearsal/smtp/smtpd: SSL_accept error from localhost[127.0.0.1]: -1", true},
		{"a client that left", "Nov 20 21:11:15 mx rehearsal/smtp/smtpd[1]: SSL_accept error from localhost[127.0.0.1]: Broken pipe",
			line{tag: "rehearsal/smtp", program: "smtpd", text: "SSL_accept error from localhost[127.0.0.1]: Broken pipe"},
			"rehearsal/smtp/smtpd: SSL_accept error from localhost[127.0.0.1]: Broken pipe", false},
		{"something else", "hello", line{text: "hello"}, "hello", false},
		{"not text", "\xff\x00\n", line{text: "?"}, "?", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := parse(tt.text)
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if got.String() != tt.out {
				t.Errorf("got %q, want %q", got, tt.out)
			}
			if b := blames(got, []string{"smtpd_tls_ccert_verifydepth"}); b != tt.blames {
				t.Errorf("got blames %t, want %t", b, tt.blames)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	answer := func(service string, v probe.Verdict, r probe.Reason) Served {
		return Served{Service: service, Judged: v != "", Verdict: v, Reason: r, tag: tagPrefix + service}
	}
	ok := answer("a", probe.Proven, probe.OK)
	tlsLine := line{tag: "rehearsal/a", program: "smtpd", severity: "fatal", text: "Invalid TLS level", blames: true}
	diskLine := line{tag: "rehearsal/a", program: "smtpd", severity: "fatal", text: "disk"}
	common := line{tag: "postfix", program: "smtpd", severity: "fatal", text: "TLS", blames: true}
	other := line{tag: "rehearsal/b", program: "smtpd", severity: "warning", text: "TLS", blames: true}
	tests := []struct {
		name   string
		served []Served
		log    []line
		want   string // "", refused, not run
		lines  int    // in the error
	}{
		{"proven", []Served{ok}, []line{tlsLine}, "", 0},
		{"not judged", []Served{answer("a", "", probe.TLSNotAvailable)}, []line{tlsLine}, "", 0},
		{"contradicted", []Served{ok, answer("b", probe.Contradicted, probe.OtherLeaf)}, nil, "refused", 0},
		{"contradicted, with words", []Served{answer("a", probe.Contradicted, probe.HandshakeFailed)}, []line{tlsLine, tlsLine, diskLine, other}, "refused", 1},
		{"silent", []Served{answer("a", probe.NotVerified, probe.NoBanner)}, nil, "not run", 0},
		{"silent because of TLS", []Served{answer("a", probe.NotVerified, probe.NoBanner)}, []line{tlsLine}, "refused", 1},
		{"silent, with words of a daemon that has no name yet", []Served{answer("a", probe.NotVerified, probe.NoBanner)}, []line{common}, "refused", 1},
		{"silent for another reason", []Served{answer("a", probe.NotVerified, probe.NoBanner)}, []line{diskLine}, "not run", 1},
		{"silent, and another service complains", []Served{answer("a", probe.NotVerified, probe.Timeout), answer("b", "", probe.HandshakeFailed)}, []line{other}, "not run", 1},
		{"one question cannot be asked", []Served{ok, answer("a", probe.NotVerified, probe.NotAsked)}, nil, "", 0},
		{"no question can be asked", []Served{ok, answer("b", probe.NotVerified, probe.NotAsked)}, nil, "not run", 0},
		{"refused and silent", []Served{answer("a", probe.NotVerified, probe.NoBanner), answer("b", probe.Contradicted, probe.OtherChain)}, nil, "refused", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := judge(tt.served, tt.log)
			got, lines := "", 0
			if e, ok := errors.AsType[*RefusedError](err); ok {
				got, lines = "refused", len(e.Log)
			}
			if e, ok := errors.AsType[*NotRunError](err); ok {
				got, lines = "not run", len(e.Log)
			}
			if got != tt.want || lines != tt.lines {
				t.Errorf("got %q with %d lines, want %q with %d: %v", got, lines, tt.want, tt.lines, err)
			}
		})
	}
}

// Where the private Postfix has no room, the error names the directory, which the
// log does not.
func TestRoomless(t *testing.T) {
	r := &room{dir: "/run/postcert/rehearsal/x"}
	full := &NotRunError{Why: "no answer", Log: []string{"rehearsal/tlsmgr: fatal: cannot write PRNG exchange file data/prng_exch: No space left on device"}}
	if err := r.roomless(full); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), r.dir+": no space left on device") {
		t.Errorf("got %v", err)
	}
	for _, err := range []error{nil, &RefusedError{Log: full.Log}, &NotRunError{Why: "no answer", Log: []string{"rehearsal/smtpd: fatal: other"}}} {
		if got := r.roomless(err); errors.Is(got, syscall.ENOSPC) {
			t.Errorf("%v: got %v", err, got)
		}
	}
}

// Whatever the values are, each parameter is one line, and only the known ones
// are there.
func FuzzMainCF(f *testing.F) {
	for _, v := range []string{"high", "a$b", "a\nb = c", "{ x }", "/a, /b", "\t", "ä", "\xff"} {
		f.Add("smtpd_tls_ciphers", v)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		if !keeps(name) || strings.ContainsAny(name, "=\n\r \x00") {
			return
		}
		c := Candidate{Parameters: map[string]string{name: value, "myhostname": value}}
		data, err := mainCF(c, "/run/x")
		if err != nil {
			return
		}
		plain, err := mainCF(Candidate{Parameters: map[string]string{"myhostname": "x"}}, "/run/x")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Count(string(data), "\n"), strings.Count(string(plain), "\n")+1; got != want {
			t.Errorf("got %d lines, want %d:\n%s", got, want, data)
		}
	})
}
