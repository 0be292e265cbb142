package audit

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"postcert/deploy/postfix/cf"
)

// rest is the end of every master.cf.
const rest = "tlsmgr unix - - n 1000? 1 tlsmgr\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n"

// usual is a master.cf as the runbook wants it.
const usual = `smtp inet n - n - - smtpd
submission inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_tls_auth_only=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
submissions inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  -o smtpd_tls_wrappermode=yes
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_tls_auth_only=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
`

// usualMain is a main.cf in which nothing is wrong.
const usualMain = "smtpd_tls_chain_files = /tls/a.pem\nsmtpd_tls_security_level = may\nsmtp_tls_security_level = may\nsmtpd_tls_auth_only = yes\n"

var readDefaults = sync.OnceValues(func() ([]byte, error) { return os.ReadFile("testdata/defaults.txt") })

// snapshot is what Postfix of a version would have read in the two files. What
// postconf prints is made of its defaults (testdata/defaults.txt: postconf -d of
// 3.7.11) and of the lines of main.cf.
func snapshot(t testing.TB, version, main, master string) cf.Snapshot {
	t.Helper()
	defaults, err := readDefaults()
	if err != nil {
		t.Fatal(err)
	}
	out := "mail_version = " + version + "\n"
	set := map[string]string{}
	for line := range strings.Lines(main) {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			set[strings.TrimSpace(name)] = strings.Join(strings.Fields(value), " ")
		}
	}
	for line := range strings.Lines(string(defaults)) {
		name, _, _ := strings.Cut(line, " =")
		if before(version, "3.6") && strings.HasPrefix(name, "smtp") && strings.Contains(name, "_tls_") && strings.HasSuffix(name, "_protocols") {
			line = name + " = !SSLv2, !SSLv3\n"
		}
		if _, ok := set[name]; !ok {
			out += line
		}
	}
	for name, value := range set {
		out += name + " = " + value + "\n"
	}
	s, err := cf.Parse("/etc/postfix", cf.File{Path: "/etc/postfix/main.cf", Data: []byte(main)}, cf.File{Path: "/etc/postfix/master.cf", Data: []byte(master)}, cf.Outputs{All: []byte(out)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rule finds one by its id.
func rule(t testing.TB, id string) Rule {
	t.Helper()
	all := Rules()
	i := slices.IndexFunc(all, func(r Rule) bool { return r.ID == id })
	if i < 0 {
		t.Fatalf("there is no rule %s", id)
	}
	return all[i]
}
