package main

import (
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

// screened are postscreen(8) with TLS by tlsproxy(8) on port 25, that insist on TLS
// here. A deep test keeps postscreen itself in the conversation.
func screened(options ...string) (smtpd, main []string) {
	smtpd = append([]string{"smtp inet n - n - 1 postscreen"}, options...)
	smtpd = append(smtpd, "smtpd pass - - n - - smtpd", "dnsblog unix - - n - 0 dnsblog",
		"tlsproxy unix - - n - 0 tlsproxy", "  -o tlsproxy_tls_security_level=encrypt")
	return smtpd, []string{"postscreen_access_list =", "postscreen_greet_wait = 1s", "postscreen_pipelining_enable = yes", "postscreen_tls_security_level = encrypt"}
}

// hiddenListener is one that openssl cannot ask as it is, or that is answered by
// another program than the one in master.cf.
type hiddenListener struct {
	name, service, addr string
	proxied             bool
	o                   postfixtest.Options
}

func hiddenListeners() []hiddenListener {
	screen, screenMain := screened()
	both, _ := screened("  -o postscreen_upstream_proxy_protocol=haproxy")
	return []hiddenListener{
		{"smtpd", "127.0.0.1:2525/inet", "127.0.0.1:2525", true, postfixtest.Options{Master: []string{"127.0.0.1:2525 inet n - n - - smtpd", "  -o smtpd_upstream_proxy_protocol=haproxy",
			"  -o smtpd_tls_security_level=encrypt"}}},
		{"postscreen", "smtp/inet", postfixtest.SMTP, false, postfixtest.Options{SMTPD: screen, Main: screenMain}},
		{"postscreen behind a proxy", "smtp/inet", postfixtest.SMTP, true, postfixtest.Options{SMTPD: both, Main: screenMain}},
	}
}

// Listeners that want the PROXY protocol, and tlsproxy behind postscreen, are in the
// matrix of clients too: a hardening that locks those out who come that way is undone,
// and one that does not is proven there. openssl judges, through a proxy of the test's
// own, which sends version 1 of the header.
func TestHardenBehindProxies(t *testing.T) {
	for _, tt := range hiddenListeners() {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Only25 = true
			h := newHost(t, tt.o)
			addr := tt.addr
			if tt.proxied {
				addr = proxied(t, addr)
			}
			tls12 := []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"}
			first, err := postfixtest.ServedLeaf(t, addr, postfixtest.StartTLS, tls12...)
			if err != nil {
				t.Fatal(err)
			}
			served := func(when string) {
				t.Helper()
				if leaf, err := postfixtest.ServedLeaf(t, addr, postfixtest.StartTLS, tls12...); err != nil || leaf != first {
					t.Errorf("%s: served %s, %v, want %s", when, leaf, err, first)
				}
			}
			main, master := string(h.pf.Main()), string(h.pf.Master())
			args := []string{"harden", "--profile", "runbook", "--without-submission"}
			a := h.postcert(append(args, "--json")...).want(0)
			if n := a.connected(tt.service, "TLS 1.2"); n == 0 {
				t.Errorf("no client was asked about at %s:\n%s", tt.service, a.stdout)
			}
			served("hardened")
			if got := h.pf.Postconf("-h", "smtpd_tls_mandatory_ciphers"); got != "high" {
				t.Errorf("smtpd_tls_mandatory_ciphers = %s", got)
			}
			h.postcert("harden", "--undo").want(0)
			if string(h.pf.Main()) != main || string(h.pf.Master()) != master {
				t.Error("undone, and not as before")
			}
			served("undone")

			// The list of high ciphers leaves none for this key.
			h.pf.AppendMain("tls_high_cipherlist = AES128-SHA")
			h.pf.Reload()
			main = string(h.pf.Main())
			h.postcert(args...).want(4).says("a client that must be able to connect cannot: TLS 1.2").says(tt.service).says("rolled back")
			if string(h.pf.Main()) != main || string(h.pf.Master()) != master {
				t.Error("not put back")
			}
			served("rolled back")
			if strings.HasPrefix(tt.name, "postscreen") && !strings.Contains(h.pf.Log(), "postfix/tlsproxy[") {
				t.Error("tlsproxy was never asked")
			}
		})
	}
}

// connected counts the kinds of clients that harden says got through at a service in
// the end, of those whose name begins so.
func (a answer) connected(service, client string) (n int) {
	a.t.Helper()
	for _, c := range a.json()["harden"].(map[string]any)["clients"].([]any) {
		if c := c.(map[string]any); c["service"] == service && c["after"] == "yes" && strings.HasPrefix(c["client"].(string), client) {
			n++
		}
	}
	return n
}
