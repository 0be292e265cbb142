package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

// S21: a typo in a list that nothing uses yet would switch TLS off for the two new
// services. The rehearsal refuses it, and production is not touched.
func TestS21HardenWouldDisableTLS(t *testing.T) {
	h := runbookHost(t, "smtpd_tls_mandatory_protocols = !SSLv3 # no old ones")
	h.sasl()
	h.untouchedOn25(func() {
		h.postcert("harden", "--profile", "runbook", "--json").refuses(3, "rehearsal_refused")
		h.postcert("harden", "--profile", "runbook").want(3).says("disabling TLS support")
	})
	h.postcert("harden", "--profile", "runbook", "--without-submission").want(0)
}

// S63: port 25 at encrypt, AUTH before TLS, 465 without its wrapper, half a
// commented entry: each is named with its place, a dry run and a refusal change
// nothing, and harden mends them when it is told to, but for what only a person can.
func TestS63HardenMends(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Address: "all", Main: []string{"smtpd_sasl_auth_enable = yes", "smtpd_sasl_type = dovecot", "smtpd_sasl_path = private/auth"},
		Master: []string{"submission inet n - n - - smtpd", "465 inet n - n - - smtpd", "#smtps inet n - n - - smtpd", "  -o syslog_name=postfix/half"}})
	h.sasl()
	h.pf.ReplaceMain("smtpd_tls_security_level = may", "smtpd_tls_security_level = encrypt")
	h.pf.Reload()
	before := h.pf.Files()
	got := h.postcert("audit", "--json").want(8).stdout
	for _, rule := range []string{"smtp_encrypt", "submissions_no_wrapper", "service_half_commented"} {
		if !strings.Contains(got, `"`+rule+`"`) {
			t.Errorf("audit does not say %s", rule)
		}
	}
	h.postcert("harden", "--profile", "recommended", "--dry-run").want(0).says("service_half_commented").says("smtpd_tls_wrappermode=yes").says("uncomment line")
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("without consent: %s", d)
	}
	h.postcert("harden", "--profile", "recommended").want(0)
	for _, q := range [][2]string{{"smtp/inet/smtpd_tls_security_level", "may"}, {"465/inet/smtpd_tls_wrappermode", "yes"}} {
		if got := h.pf.Postconf("-P", q[0]); !strings.HasSuffix(strings.TrimSpace(got), "= "+q[1]) && h.pf.Postconf("-h", strings.TrimPrefix(q[0], "smtp/inet/")) != q[1] {
			t.Errorf("%s: %q", q[0], got)
		}
	}
	if out := plain25(t, postfixtest.SMTP, "EHLO c.example.test"); strings.Contains(out[1], "AUTH") {
		t.Errorf("AUTH before TLS: %q", out)
	}
	if _, err := postfixtest.ServedLeaf(t, postfixtest.Submissions, postfixtest.Implicit); err != nil {
		t.Error(err)
	}
	h.postcert("harden", "--undo").want(0)
	if string(h.pf.Main()) != string(before["main.cf"].Data) || string(h.pf.Master()) != string(before["master.cf"].Data) {
		t.Error("undone they are other ones")
	}
}

// S64: who still talks TLS 1.0 or a password in clear, in the log, is listed before
// anything is done. Clients that must get through and cannot, because the list of
// high ciphers was narrowed by hand, bring the former profile back, proven.
func TestS64HardenLocksOut(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{"smtpd_tls_mandatory_protocols = >=TLSv1", "smtpd_sasl_type = dovecot", "smtpd_sasl_path = private/auth"}})
	h.sasl()
	c := talkTo(t, postfixtest.Submission, "-tls1", "-cipher", "ALL:@SECLEVEL=0")
	c.says("EHLO old.example.test", "250-"+hostName)
	c.says("MAIL FROM:<old@example.test>", "250")
	c.says("QUIT", "221")
	h.pf.WaitLog("disconnect from")
	before := h.pf.Files()
	said := h.postcert("harden", "--profile", "strict", "--dry-run").want(0)
	said.says("TLSv1 with ").says("TLSv1 will be refused").says("turned away from now on: TLS 1.0")
	h.postcert("harden", "--profile", "strict").want(0)
	if out, err := exec.Command("openssl", "s_client", "-connect", postfixtest.Submission, "-starttls", "smtp", "-tls1", "-cipher", "ALL:@SECLEVEL=0").CombinedOutput(); err == nil {
		t.Errorf("TLS 1.0 is taken still: %s", out)
	}
	h.postcert("harden", "--undo").want(0)
	if d := changed(before["main.cf"].Data, h.pf.Main()); len(d) > 0 {
		t.Errorf("undone: %q", d)
	}

	h.pf.AppendMain("tls_high_cipherlist = AES128-SHA") // RSA key exchange, and the key is ECDSA
	h.pf.Reload()
	main, master := h.pf.Main(), h.pf.Master()
	h.postcert("harden", "--profile", "runbook").want(4).says("a client that must be able to connect cannot: TLS 1.2").says("rolled back")
	if string(h.pf.Main()) != string(main) || string(h.pf.Master()) != string(master) {
		t.Error("not put back")
	}
	for _, addr := range []string{postfixtest.Submission, postfixtest.SMTP} {
		if _, err := postfixtest.ServedLeaf(t, addr, postfixtest.StartTLS, "-tls1_2"); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	h.postcert("harden", "--undo", "--json").refuses(3, "harden_not_ours")
}

// A level that follows smtpd_tls_loglevel by reference: new main.cf with the option
// of before would end smtpd, so master.cf goes first; each step is proven, and an undo
// brings both back.
func TestHardenSplit(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"smtpd_sasl_type = dovecot", "smtpd_sasl_path = private/auth"},
		Master: []string{"submission inet n - n - - smtpd", "  -o { smtpd_tls_security_level = ${{$smtpd_tls_loglevel} == {1} ? {bogus} : {may}} }"}})
	h.sasl()
	h.pf.ReplaceMain("smtpd_tls_loglevel = 1", "smtpd_tls_loglevel = 0")
	h.pf.Reload()
	before := h.pf.Files()
	h.postcert("harden", "--profile", "runbook", "--dry-run").want(0).says("master.cf first, then main.cf").says("+smtpd_tls_auth_only = yes")
	h.postcert("harden", "--profile", "runbook").want(0)
	h.authOnlyInside()
	h.historySays("harden --profile runbook installed", "harden --profile runbook installed")
	after := h.pf.Files()
	// The second of two fails: the first is taken back.
	h.pf.SetMain(before["main.cf"].Data)
	h.pf.SetMaster(before["master.cf"].Data)
	sh(t, "rm -r %s", filepath.Join(h.state, "hardened"))
	h.pf.Reload()
	h.with(failAt+"=Reload 2").postcert("harden", "--profile", "runbook").want(4).says("the first was taken back")
	if string(h.pf.Main()) != string(before["main.cf"].Data) || string(h.pf.Master()) != string(before["master.cf"].Data) {
		t.Errorf("not taken back:\n%s%s", h.pf.Main(), h.pf.Master())
	}
	h.postcert("harden", "--profile", "runbook").want(0)
	for _, name := range []string{"main.cf", "master.cf"} {
		if string(after[name].Data) != string(h.pf.Files()[name].Data) {
			t.Errorf("%s is another one the second time", name)
		}
	}
}

// --undo later, with lines of others around it: byte for byte but for theirs. What
// they changed themselves stays and is said; smtpd_tls_auth_only alone can be undone,
// is warned about, and shown by status until it is gone.
func TestRunbookRollbackUndo(t *testing.T) {
	h := runbookHost(t, "smtpd_sasl_auth_enable = yes", "smtpd_tls_auth_only = no")
	h.sasl()
	before := string(h.pf.Main())
	master := string(h.pf.Master())
	h.postcert("harden", "--profile", "runbook").want(0)
	h.postcert("harden", "--undo", "smtpd_tls_received_header", "smtpd_tls_auth_only").want(0).says("auth_before_tls").says("takes passwords without TLS")
	if h.pf.Postconf("-h", "smtpd_tls_auth_only") != "no" || h.pf.Postconf("-h", "smtpd_tls_mandatory_ciphers") != "high" || !strings.Contains(string(h.pf.Master()), "submissions inet") {
		t.Error("not only the named ones")
	}
	if out := plain25(t, postfixtest.SMTP, "EHLO c.example.test"); !strings.Contains(out[1], "AUTH") {
		t.Errorf("no fallback: %q", out)
	}
	h.postcert("status", "--json").says(`"auth_fallback"`)
	h.pf.ReplaceMain("smtpd_tls_auth_only = no", "smtpd_tls_auth_only = yes")
	if got := h.postcert("status", "--json"); slices.Contains(got.ids(), "auth_fallback") {
		t.Error("it is gone, and status says it still")
	}
	h.pf.ReplaceMain("smtpd_tls_auth_only = yes", "smtpd_tls_auth_only = no")

	// Others edit around it.
	h.pf.SetMain(append([]byte("# of others\n"), h.pf.Main()...))
	h.pf.AppendMain("header_size_limit = 4096")
	h.pf.ReplaceMain("smtpd_tls_mandatory_ciphers = high", "smtpd_tls_mandatory_ciphers = medium")
	h.pf.ReplaceMaster("submission inet  n       -       n       -       -       smtpd\n", "submission inet  n       -       n       -       -       smtpd\n  -o syslog_name=postfix/of-others\n")
	h.pf.Reload()
	h.postcert("harden", "--undo").want(0).says("harden_kept").says("smtpd_tls_mandatory_ciphers").says("submission/inet")
	want := "# of others\n" + before + "smtpd_tls_mandatory_ciphers = medium\nheader_size_limit = 4096\n"
	if got := string(h.pf.Main()); got != want {
		t.Errorf("main.cf is\n%s\nwant\n%s", got, want)
	}
	if got := string(h.pf.Master()); strings.Contains(got, "submissions inet") || !strings.Contains(got, "of-others") || !strings.HasPrefix(got, master) {
		t.Errorf("master.cf is\n%s", got)
	}
}

// A harden that is killed at a step is entirely done or not at all after the next
// run, and what --undo knows agrees with it.
func TestHardenKilled(t *testing.T) {
	h := runbookHost(t)
	h.sasl()
	args := []string{"harden", "--profile", "runbook"}
	h.postcert(append(args, "--dry-run")...).want(0)
	main, master := string(h.pf.Main()), string(h.pf.Master())
	ends := map[bool]int{}
	for _, point := range []string{"journal end", "commit end", "reload end", "ask end"} {
		h.dies(point, args...)
		h.postcert("recover").want(0)
		old := string(h.pf.Main()) == main
		ends[old]++
		if old != (string(h.pf.Master()) == master) {
			t.Errorf("killed at %s: one file is old and one new", point)
		}
		if old {
			h.postcert("harden", "--undo", "--json").refuses(3, "harden_not_ours")
			continue
		}
		h.postcert("harden", "--undo").want(0)
	}
	if ends[true] == 0 || string(h.pf.Main()) != main || string(h.pf.Master()) != master {
		t.Errorf("%v ended as before", ends)
	}
}
