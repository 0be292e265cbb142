package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

// Runbook "Enforce TLS only on specific destination domains": an entry of the policy
// table overrides the level for its domain and for no other.
func TestRunbookPolicyPerDomain(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_security_level = may"}}, "")
	before := s.pf.Main()
	s.postcert("policy", "set", domain, "encrypt", "--dry-run").want(0).says("+" + domain + " encrypt").says("+smtp_tls_policy_maps = hash:")
	if _, err := os.Stat(filepath.Join(s.pf.ConfigDir, "tls_policy")); err == nil {
		t.Fatal("a dry run made the table")
	}
	s.postcert("outbound", "encrypt", "--for", domain).want(0).says("policy remove")
	table := "hash:" + filepath.Join(s.pf.ConfigDir, "tls_policy")
	s.effective(policyParameter, table)
	s.found(table, domain, "encrypt")
	s.sends(domain, "status=deferred", "TLS is required, but was not offered")
	s.sends("other.example", "status=sent")
	s.postcert("policy", "list").want(0).says(domain).says("encrypt").says("may")
	s.postcert("policy", "set", domain, "encrypt").want(0).says("unchanged")
	s.postcert("policy", "set", domain, "none").want(0)
	s.sends(domain, "status=sent")
	s.postcert("policy", "remove", domain).want(0)
	s.found(table, domain, "")
	s.sends(domain, "status=sent")
	if got := string(s.pf.Main()); got != string(before)+"smtp_tls_policy_maps = "+table+"\n" {
		if !strings.Contains(got, "smtp_tls_policy_maps = "+table) {
			t.Errorf("main.cf:\n%s", got)
		}
	}
}

// A relayhost is the key: an entry under the recipient's domain has no effect, one
// under the relayhost as it is written has.
func TestRunbookRelayhostIsTheKey(t *testing.T) {
	s := newSender(t, postfixtest.Options{Only25: true, Main: []string{"relayhost = [relay.example]:25", "smtp_tls_security_level = may"}}, "")
	s.postcert("policy", "set", domain, "encrypt").want(0).says("policy_key_differs").says("[relay.example]:25")
	s.sends(domain, "status=sent")
	s.postcert("policy", "set", "[relay.example]:25", "encrypt").want(0)
	s.sends(domain, "status=deferred", "TLS is required, but was not offered")
}

// The lines of others stay byte for byte, in each type of table that this Postfix
// has, and what was set and taken out again leaves the text as it was.
func TestPolicyKeepsOtherLines(t *testing.T) {
	text := "# our partners\n\nother.example\t secure match=.other.example\n   # more\n  ciphers=high\n.example.net none\n"
	for _, kind := range []string{"hash", "btree", "texthash", "lmdb", "cdb"} {
		h := newHost(t, postfixtest.Options{Only25: true})
		if !strings.Contains(" "+strings.Join(strings.Fields(h.pf.Postconf("-m")), " ")+" ", " "+kind+" ") {
			h.pf.Stop()
			continue
		}
		path := filepath.Join(h.pf.ConfigDir, "partners")
		h.write(path, []byte(text))
		past := time.Now().Add(-time.Hour)
		if err := errors.Join(os.Chmod(path, 0o640), os.Chtimes(path, past, past)); err != nil {
			t.Fatal(err)
		}
		h.pf.AppendMain("smtp_tls_policy_maps = " + kind + ":" + path)
		if kind != "texthash" {
			if out, err := exec.Command("postmap", "-c", h.pf.ConfigDir, kind+":"+path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		h.pf.Reload()
		s := &sender{host: h}
		main := h.pf.Main()
		h.postcert("policy", "set", "example.org", "verify", "tafile="+h.trust).want(0).says(kind + ":")
		s.found(kind+":"+path, "example.org", "verify tafile="+h.trust)
		s.found(kind+":"+path, ".example.net", "none")
		h.postcert("policy", "set", ".example.net", "may").want(0)
		s.found(kind+":"+path, ".example.net", "may")
		got, err := os.ReadFile(path)
		if want := strings.Replace(text, ".example.net none", ".example.net may", 1) + "example.org verify tafile=" + h.trust + "\n"; err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", kind, err, got, want)
		}
		h.postcert("policy", "set", ".example.net", "none").want(0)
		h.postcert("policy", "remove", "EXAMPLE.org").want(0)
		got, err = os.ReadFile(path)
		if st, serr := os.Stat(path); err != nil || serr != nil || string(got) != text || st.Mode() != 0o640 {
			t.Errorf("%s: not as before: %v %v\n%s", kind, err, serr, got)
		}
		if string(h.pf.Main()) != string(main) {
			t.Errorf("%s: main.cf was edited", kind)
		}
		h.pf.Stop()
	}
}

// S61: an index that is older than its text is flagged, and made again with the next
// change; an attribute that this version does not know is refused, because smtp(8)
// would defer all mail for the destination.
func TestS61StaleAndUnknown(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	h.postcert("policy", "set", "example.org", "encrypt").want(0)
	path := filepath.Join(h.pf.ConfigDir, "tls_policy")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h.write(path, append(text, "example.net encrypt\nexample.com secure cipher=high\n"...))
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	h.postcert("policy", "list").want(8).says("policy_stale").says("policy_invalid").says(`no attribute "cipher"`)
	s := &sender{host: h}
	s.found("hash:"+path, "example.net", "")
	h.postcert("policy", "set", "example.com", "secure", "cipher=high").want(3).says("policy_invalid")
	h.postcert("policy", "set", "example.com", "encrypt", "match=x").want(3).says("would defer all mail")
	h.postcert("policy", "set", "example.com", "encrypt").want(0)
	s.found("hash:"+path, "example.net", "encrypt")
	h.postcert("policy", "list").want(0)
	h.postcert("policy", "set", "a b", "encrypt").want(2)
	h.postcert("policy", "set", "example.com", "secure").want(3).says("outbound_no_anchors")
}

// A map that is no file is left alone: a table is put before it, and what it answers
// for first cannot be overridden from behind.
func TestPolicyBesideOtherMaps(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_policy_maps = inline:{example.net=none}"}})
	h.postcert("policy", "set", "example.org", "encrypt").want(0).says("policy_precedence").says("inline:{example.net=none}")
	s := &sender{host: h}
	table := "hash:" + filepath.Join(h.pf.ConfigDir, "tls_policy")
	s.effective(policyParameter, table+", inline:{example.net=none}")
	h.postcert("policy", "list").want(0).says("inline:{example.net=none} is asked too")
	h.pf.ReplaceMain("smtp_tls_policy_maps = "+table+", inline:{example.net=none}", "smtp_tls_policy_maps = inline:{example.net=none}, "+table)
	h.postcert("policy", "set", "example.net", "encrypt").want(3).says("policy_shadowed")
	h.postcert("policy", "set", "example.com", "encrypt", "--type", "mysql").want(0) // the table is there: its type is known
}

// smtp_tls_per_site would be without effect beside the first policy table.
func TestPolicyRefusedWithPerSite(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"smtp_tls_per_site = inline:{x.example=NONE}"}})
	h.untouchedOn25(func() {
		h.postcert("policy", "set", "example.org", "encrypt").want(3).says("per_site_present")
	})
	other := newHostType(t, h)
	other.postcert("policy", "set", "example.org", "encrypt", "--type", "cidr").want(3).says("table_type")
}

// newHostType is the host without its per-site table.
func newHostType(t *testing.T, h *host) *host {
	t.Helper()
	h.pf.ReplaceMain("smtp_tls_per_site = inline:{x.example=NONE}\n", "")
	return h
}

// What somebody writes into the table before a change is undone is his: it is left as
// it is, and that is said.
func TestPolicyForeignLineIsKept(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	h.postcert("policy", "set", "example.org", "may").want(0)
	path := filepath.Join(h.pf.ConfigDir, "tls_policy")
	h.during("reload end", func() {
		h.write(path, []byte("example.org encrypt\nexample.net none\n"))
		h.write(path+".db", []byte("no index"))
	}, "policy", "set", "example.org", "encrypt").want(4).says("kept").says(path + " was left as it is")
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "example.org encrypt\nexample.net none\n" {
		t.Errorf("%v: %q", err, got)
	}
}
