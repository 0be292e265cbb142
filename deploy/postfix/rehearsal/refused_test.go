package rehearsal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/probe"
)

// What no reading of the files can find, or what a reader could overlook.
func TestRefuses(t *testing.T) {
	tests := []struct {
		name    string
		keyType string
		main    []string // added to main.cf; LIVE is the certificate file
		adapt   func(*testing.T, *Candidate, pair)
		reason  probe.Reason // of the first question; "" for any
		log     string       // is in the error
		one     bool         // smtps is not concerned: smtpd_tls_wrappermode overrides it
	}{
		{
			name: "a key that is too small for the security level", keyType: "rsa",
			main:   []string{"tls_medium_cipherlist = aNULL:-aNULL:HIGH:@STRENGTH:@SECLEVEL=3"},
			reason: probe.HandshakeFailed, log: "ee key too small",
		},
		{
			name: "no cipher for an ECDSA certificate", keyType: "ecdsa",
			main:   []string{"smtpd_tls_exclude_ciphers = aECDSA", "smtpd_tls_protocols = !TLSv1.3", "smtpd_tls_mandatory_protocols = !TLSv1.3"},
			reason: probe.HandshakeFailed, log: "no shared cipher",
		},
		{
			name: "a missing file", keyType: "rsa",
			adapt: func(t *testing.T, _ *Candidate, next pair) {
				if err := os.Remove(next.path); err != nil {
					t.Fatal(err)
				}
			},
			reason: probe.TLSNotAvailable, log: "error opening chain file",
		},
		{
			// STARTTLS is answered with 220 all the same.
			name: "a missing chain file", keyType: "rsa",
			main:   []string{"smtpd_tls_chain_files = /nowhere.pem"},
			reason: probe.HandshakeFailed, log: "error opening chain file: /nowhere.pem",
		},
		{
			name: "the key of another certificate", keyType: "ecdsa",
			adapt: func(t *testing.T, _ *Candidate, next pair) {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				writePEM(t, next.path, key, next.chain...)
			},
			reason: probe.TLSNotAvailable, log: "private key mismatch",
		},
		{
			name: "a chain file with the key last", keyType: "ecdsa", main: []string{"smtpd_tls_chain_files = LIVE"},
			adapt: func(t *testing.T, _ *Candidate, next pair) {
				data, err := os.ReadFile(next.path)
				if err != nil {
					t.Fatal(err)
				}
				key, rest := pem.Decode(data)
				if err := os.WriteFile(next.path, append(rest, pem.EncodeToMemory(key)...), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			reason: probe.TLSNotAvailable, log: "key not first",
		},
		{
			name: "another leaf", keyType: "rsa",
			adapt:  func(_ *testing.T, c *Candidate, _ pair) { clear(c.Substitute) },
			reason: probe.OtherLeaf,
		},
		{
			name: "an invalid security level", keyType: "rsa",
			main: []string{"smtpd_tls_security_level = bogus"},
			log:  `fatal: Invalid TLS level "bogus"`, one: true,
		},
		{
			name: "an invalid number", keyType: "rsa",
			main: []string{"smtpd_tls_ccert_verifydepth = many"},
			log:  "smtpd_tls_ccert_verifydepth",
		},
		{
			name: "an invalid protocol list", keyType: "rsa",
			main:   []string{"smtpd_tls_protocols = >=TLSv9", "smtpd_tls_mandatory_protocols = >=TLSv9"},
			reason: probe.TLSNotAvailable, log: "Invalid TLS protocol list",
		},
		{
			name: "an invalid cipher grade", keyType: "rsa",
			main: []string{"smtpd_tls_ciphers = best", "smtpd_tls_mandatory_ciphers = best"},
			log:  `invalid cipher grade: "best"`,
		},
		{
			name: "no TLS at all", keyType: "rsa",
			main:   []string{"smtpd_tls_security_level = none"},
			reason: probe.NotOffered, one: true,
		},
		{
			name: "an SNI table of a type this Postfix does not have", keyType: "rsa",
			main: []string{"tls_server_sni_maps = nosuch:/etc/sni"},
			adapt: func(_ *testing.T, c *Candidate, _ pair) {
				for i := range c.Services {
					c.Services[i].SNI = []string{"new.example.test"}
				}
			},
			reason: probe.HandshakeFailed, log: "unsupported dictionary type: nosuch",
		},
		{
			name: "an SNI entry without a file", keyType: "rsa",
			main: []string{"tls_server_sni_maps = inline:{ new.example.test=/nowhere.pem }"},
			adapt: func(_ *testing.T, c *Candidate, _ pair) {
				for i := range c.Services {
					c.Services[i].SNI = []string{"new.example.test"}
				}
			},
			reason: probe.HandshakeFailed, log: "new.example.test map lookup problem",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProduction(t, postfixtest.Options{})
			next := newPair(t, tt.keyType, "new.example.test")
			for _, l := range tt.main {
				p.AppendMain(strings.ReplaceAll(l, "LIVE", p.live.path))
			}
			c := p.candidate(t, next, "smtp/inet", "submissions/inet")
			if tt.adapt != nil {
				tt.adapt(t, &c, next)
			}
			start := time.Now()
			report, err := newStage(t).Rehearse(context.Background(), c)
			refused, ok := errors.AsType[*RefusedError](err)
			if !ok {
				t.Fatalf("got %v, want a RefusedError\n%s", err, strings.Join(report.Log, "\n"))
			}
			want := 2
			if tt.one {
				want = 1
			}
			if got := len(refused.Served); got != want {
				t.Errorf("refused %d services, want %d: %v", got, want, err)
			}
			if got := refused.Served[0].Reason; tt.reason != "" && got != tt.reason {
				t.Errorf("got %s, want %s", got, tt.reason)
			}
			if !strings.Contains(err.Error(), tt.log) {
				t.Errorf("got %v, want %q in it", err, tt.log)
			}
			// master waits a minute with a daemon that died; we do not.
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
			t.Log(err)
		})
	}
}

// A service that is not judged cannot refuse: it may have been broken before.
func TestRecordsOnly(t *testing.T) {
	p := newProduction(t, postfixtest.Options{})
	next := newPair(t, "rsa", "new.example.test")
	c := p.candidate(t, next, three...)
	c.Services[1].Want = nil
	c.Services[1].Parameters["smtpd_tls_cert_file"] = "/nowhere.pem"
	report, err := newStage(t).Rehearse(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	s := report.Served[1]
	if s.Judged || s.Verdict != "" || s.Reason != probe.TLSNotAvailable {
		t.Errorf("got %s judged %t, want it recorded as tls_not_available", s, s.Judged)
	}
}

func TestServiceWithTwoCertificates(t *testing.T) {
	p := newProduction(t, postfixtest.Options{})
	ec, rs, sni := newPair(t, "ecdsa", "new.example.test"), newPair(t, "rsa", "new.example.test"), newPair(t, "ecdsa", "sni.example.test")
	table := filepath.Join(t.TempDir(), "sni")
	old := time.Now().Add(-hot) // see Candidate.Substitute
	if err := errors.Join(os.WriteFile(table, []byte("sni.example.test "+sni.path+"\n"), 0o600), os.Chtimes(table, old, old)); err != nil {
		t.Fatal(err)
	}
	p.AppendMain("smtpd_tls_chain_files = /live/ec.pem, /live/rsa.pem", "tls_server_sni_maps = texthash:/live/sni")
	c := p.candidate(t, ec, three...)
	for i := range c.Services {
		c.Services[i].SNI = []string{"", "sni.example.test", "unknown.example.test"}
		c.Services[i].KeyTypes = []string{probe.RSA, probe.ECDSA}
	}
	c.Substitute = map[string]string{"/live/ec.pem": ec.path, "/live/rsa.pem": rs.path, "/live/sni": table}
	c.Expect = func(_ Service, name, keyType string) [][]byte {
		switch {
		case name == "sni.example.test" && keyType == probe.RSA:
			return nil // that name has no RSA certificate
		case name == "sni.example.test":
			return sni.chain
		case keyType == probe.RSA:
			return rs.chain
		}
		return ec.chain
	}
	report, err := newStage(t).Rehearse(context.Background(), c)
	if err != nil {
		t.Fatalf("got %v, want nil\n%s", err, strings.Join(report.Log, "\n"))
	}
	proven := 0
	for _, s := range report.Served {
		if s.Verdict == probe.Proven {
			proven++
		}
	}
	if proven != 15 {
		t.Errorf("got %d proven of %d, want 15 of 18", proven, len(report.Served))
	}
	// The RSA certificate of another generation.
	c.Substitute["/live/rsa.pem"] = p.live.path
	if _, err := newStage(t).Rehearse(context.Background(), c); err == nil {
		t.Error("the wrong second certificate was not refused")
	}
}

func TestNotRun(t *testing.T) {
	tests := []struct {
		name  string
		adapt func(*Candidate, *Stage)
		want  string
	}{
		{"no master", func(c *Candidate, _ *Stage) { c.DaemonDirectory = "/nowhere" }, "/nowhere/master"},
		{"an unknown mail_owner", func(c *Candidate, _ *Stage) { c.Parameters["mail_owner"] = "nobody-here" }, "nobody-here"},
		{"an unknown setgid_group", func(c *Candidate, _ *Stage) { c.Parameters["setgid_group"] = "nogroup-here" }, "nogroup-here"},
		{"a Postfix without postlogd", func(c *Candidate, _ *Stage) { c.Version = "3.3.22" }, "3.3.22"},
		{"no service", func(c *Candidate, _ *Stage) { c.Services = nil }, "no service"},
		{"a value that is no line", func(c *Candidate, _ *Stage) {
			c.Services[0].Parameters["smtpd_tls_ciphers"] = "high\nmail_owner = root"
		}, "smtpd_tls_ciphers"},
		{"a long path", func(_ *Candidate, s *Stage) { s.RuntimeDir += "/" + strings.Repeat("long", 20) }, "longer than 107"},
		{"a relative path", func(_ *Candidate, s *Stage) { s.RuntimeDir = "run" }, "absolute"},
		{"no answer", func(_ *Candidate, s *Stage) {
			s.Handshake = func(context.Context, probe.Endpoint) probe.Result { return probe.Result{Reason: probe.NoBanner} }
		}, "no_banner"},
		{"a question that cannot be asked", func(_ *Candidate, s *Stage) {
			s.Handshake = func(context.Context, probe.Endpoint) probe.Result { return probe.Result{Reason: probe.NotAsked} }
		}, "not_asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProduction(t, postfixtest.Options{})
			c, s := p.candidate(t, newPair(t, "rsa", "new.example.test"), "smtp/inet"), newStage(t)
			tt.adapt(&c, &s)
			_, err := s.Rehearse(context.Background(), c)
			if _, ok := errors.AsType[*NotRunError](err); !ok || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a NotRunError with %q", err, tt.want)
			}
		})
	}
}

// The caller's context ends a rehearsal, and its processes.
func TestContextEnds(t *testing.T) {
	p := newProduction(t, postfixtest.Options{})
	s := newStage(t)
	ctx, cancel := context.WithCancel(context.Background())
	s.Handshake = func(ctx context.Context, _ probe.Endpoint) probe.Result {
		cancel()
		<-ctx.Done()
		return probe.Result{Reason: probe.Timeout}
	}
	_, err := s.Rehearse(ctx, p.candidate(t, newPair(t, "rsa", "new.example.test"), "smtp/inet"))
	if _, ok := errors.AsType[*NotRunError](err); !ok || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a NotRunError because of context.Canceled", err)
	}
}
