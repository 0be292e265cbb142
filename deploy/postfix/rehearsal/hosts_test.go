package rehearsal

import (
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/probe"
)

// Configurations that a copy of main.cf and master.cf would stumble over.
// DESIGN.md section 4: nothing but TLS can make a rehearsal fail.
func TestUnfriendlyHosts(t *testing.T) {
	tests := []struct {
		name    string
		options postfixtest.Options
		ids     []string
		adapt   func(*testing.T, production, *Candidate)
	}{
		{name: "Dovecot SASL that does not run", options: postfixtest.Options{
			Main: []string{"smtpd_sasl_type = dovecot", "smtpd_sasl_path = private/auth", "smtpd_sasl_auth_enable = yes"},
		}},
		{name: "a dead milter", options: postfixtest.Options{
			Main: []string{"smtpd_milters = unix:private/opendkim, inet:127.0.0.1:1", "milter_default_action = tempfail"},
		}},
		{name: "a dead policy service", options: postfixtest.Options{Main: []string{
			"smtpd_delay_reject = no", "smtpd_client_restrictions = check_policy_service unix:private/policyd",
			"smtpd_helo_required = yes", "smtpd_helo_restrictions = check_policy_service inet:127.0.0.1:1, reject",
		}}},
		{name: "mysql maps", options: postfixtest.Options{Main: []string{
			"virtual_mailbox_maps = mysql:/run/absent.cf", "local_recipient_maps = mysql:/run/absent.cf", "relay_domains = mysql:/run/absent.cf",
			"smtpd_sender_login_maps = mysql:/run/absent.cf", "mynetworks = mysql:/run/absent.cf",
		}}},
		{name: "chroot", options: postfixtest.Options{Chroot: true}},
		{name: "the PROXY protocol", options: postfixtest.Options{Main: []string{"smtpd_upstream_proxy_protocol = haproxy"}}},
		{name: "IPv6 only", options: postfixtest.Options{Main: []string{"inet_protocols = ipv6", "inet_interfaces = 2001:db8::25"}}},
		{name: "no inet services", options: postfixtest.Options{Main: []string{"master_service_disable = inet"}}},
		{name: "a log elsewhere", options: postfixtest.Options{Main: []string{"maillog_file = /var/log/elsewhere", "maillog_file_prefixes = /var"}}},
		{name: "client certificates required", options: postfixtest.Options{Main: []string{"smtpd_tls_req_ccert = yes", "smtpd_tls_ask_ccert = yes"}}},
		{name: "another import_environment", options: postfixtest.Options{Main: []string{"import_environment = TZ", "syslog_name = production"}}},
		{name: "limits", options: postfixtest.Options{Main: []string{
			"smtpd_client_connection_rate_limit = 1", "smtpd_client_new_tls_session_rate_limit = 1",
			"smtpd_client_event_limit_exceptions =", "default_process_limit = 1", "smtpd_discard_ehlo_keywords = starttls",
		}}},
		{name: "services bound to addresses", options: postfixtest.Options{
			Master: []string{"127.0.0.1:2525 inet n - n - - smtpd", "[::1]:2525 inet n - n - - smtpd", "  -o smtpd_tls_ciphers=high"},
		}, ids: []string{"127.0.0.1:2525/inet", "[::1]:2525/inet"}},
		{name: "a pass service", options: postfixtest.Options{
			Master: []string{"smtpd pass - - n - - smtpd", "smtpd unix n - n - - smtpd", "  -o smtpd_tls_ciphers=high"},
		}, ids: []string{"smtpd/pass", "smtpd/unix"}},
		{name: "overrides by reference", options: postfixtest.Options{
			Main: []string{"mua_cert = /nowhere.pem"},
			Master: []string{"2525 inet n - n - - smtpd", "  -o smtpd_tls_cert_file=$mua_cert", "  -o smtpd_tls_key_file=$smtpd_tls_cert_file",
				"  -o { smtpd_tls_exclude_ciphers = aNULL, MD5 }"},
		}, ids: []string{"2525/inet"}, adapt: func(_ *testing.T, p production, c *Candidate) {
			c.Substitute["/nowhere.pem"] = c.Substitute[p.live.path]
		}},
		{name: "a relative path", options: postfixtest.Options{Main: []string{"smtpd_tls_cert_file = rel.pem"}}, adapt: func(t *testing.T, p production, c *Candidate) {
			data, err := os.ReadFile(c.Substitute[p.live.path])
			if err := errors.Join(err, os.WriteFile(p.QueueDir+"/rel.pem", data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProduction(t, tt.options)
			next := newPair(t, "rsa", "new.example.test")
			ids := tt.ids
			if ids == nil {
				ids = three
			}
			c := p.candidate(t, next, ids...)
			if tt.adapt != nil {
				tt.adapt(t, p, &c)
			}
			before := p.Files()
			report, err := newStage(t).Rehearse(context.Background(), c)
			if err != nil {
				t.Fatalf("got %v, want nil\n%s", err, strings.Join(report.Log, "\n"))
			}
			for _, s := range report.Served {
				if s.Verdict != probe.Proven {
					t.Errorf("%s: got %s, want proven", s, s.Verdict)
				}
			}
			for _, l := range report.Log {
				if strings.Contains(l, ": warning: ") || strings.Contains(l, ": error: ") {
					t.Errorf("logged %s", l)
				}
			}
			if d := postfixtest.Compare(before, p.Files()); len(d) > 0 {
				t.Errorf("production's files: %v", d)
			}
		})
	}
}

// postscreen hands STARTTLS of clients it does not know to tlsproxy, which
// has parameters of its own. Its certificate is what the Internet sees.
func TestPostscreen(t *testing.T) {
	p := newProduction(t, postfixtest.Options{
		SMTPD: []string{"smtp inet n - n - 1 postscreen", "smtpd pass - - n - - smtpd", "dnsblog unix - - n - 0 dnsblog", "tlsproxy unix - - n - 0 tlsproxy"},
		Main:  []string{"postscreen_greet_wait = 6s", "postscreen_dnsbl_sites = zen.example.test", "postscreen_access_list = permit_mynetworks"},
	})
	next := newPair(t, "rsa", "new.example.test")
	c := p.candidate(t, next, "smtp/inet", "submission/inet")
	c.Services[0].Postscreen = true
	c.Services[0].SNI = []string{"", "a.example.test", "b.example.test"}
	report, err := newStage(t).Rehearse(context.Background(), c)
	if err != nil {
		t.Fatalf("got %v, want nil\n%s", err, strings.Join(report.Log, "\n"))
	}
	if log := strings.Join(report.Log, "\n"); !strings.Contains(log, "smtp/tlsproxy: Anonymous TLS connection established from [192.0.2.") {
		t.Errorf("tlsproxy served nobody:\n%s", log)
	}
	t.Logf("took %s", report.Took)

	// What only tlsproxy reads.
	first := c.Services[0].Parameters
	for _, bad := range []map[string]string{
		{"tlsproxy_tls_cert_file": "/nowhere.pem", "tlsproxy_tls_key_file": "/nowhere.pem"},
		{"tlsproxy_tls_chain_files": "/nowhere.pem"},
	} {
		c.Services[0].Parameters = maps.Clone(first)
		maps.Copy(c.Services[0].Parameters, bad)
		_, err = newStage(t).Rehearse(context.Background(), c)
		refused, ok := errors.AsType[*RefusedError](err)
		if !ok || len(refused.Served) != 3 || !strings.Contains(err.Error(), "/nowhere.pem") {
			t.Errorf("%v: got %v, want a RefusedError of the three questions to smtp/inet", bad, err)
		}
	}
}

// The private Postfix and production with the same session cache, given by an
// absolute path: whoever locks it first makes the other's tlsmgr die.
func TestSessionCacheOfProduction(t *testing.T) {
	p := newProduction(t, postfixtest.Options{MaxUse: 1})
	p.AppendMain("smtpd_tls_session_cache_database = btree:"+p.DataDir+"/smtpd_scache", "tls_random_exchange_name = "+p.DataDir+"/prng_exch")
	p.Start()
	if _, err := postfixtest.ServedLeaf(t, "127.0.0.1:25", postfixtest.StartTLS); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.DataDir + "/smtpd_scache.db"); err != nil {
		t.Fatalf("production's cache is not in use: %v", err)
	}
	next := newPair(t, "rsa", "new.example.test")
	report, err := newStage(t).Rehearse(context.Background(), p.candidate(t, next, three...))
	if err != nil {
		t.Fatalf("got %v, want nil\n%s", err, strings.Join(report.Log, "\n"))
	}
	if _, err := postfixtest.ServedLeaf(t, "127.0.0.1:25", postfixtest.StartTLS); err != nil {
		t.Error(err)
	}
	if log := p.Log(); strings.Contains(log, "fatal") || strings.Contains(log, "exclusive lock") {
		t.Errorf("production suffered:\n%s", log)
	}
}
