package deploy

import (
	"strings"
	"testing"

	"postcert/deploy/generation"
	"postcert/deploy/postfix/cf"
	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

func TestPick(t *testing.T) {
	gens := func(numbers ...int) []generation.Generation {
		var out []generation.Generation
		for _, n := range numbers {
			out = append(out, generation.Generation{Number: n})
		}
		return out
	}
	tests := []struct {
		name        string
		gens        []generation.Generation
		current, to int
		want        int // 0: refused
		says        string
	}{
		{"the one before", gens(0, 1, 2, 3), 3, 0, 2, ""},
		{"the one before, with a gap", gens(0, 2, 5, 9), 9, 0, 5, ""},
		{"in whatever order they come", gens(9, 2, 5, 0), 9, 0, 5, ""},
		{"after a rollback it is the one before that", gens(1, 2, 3), 2, 0, 1, ""},
		{"named, older", gens(1, 2, 3), 3, 1, 1, ""},
		{"named, newer", gens(1, 2, 3), 1, 3, 3, ""},
		{"named, and what is installed is not ours", gens(1, 2), 0, 2, 2, ""},
		{"already the oldest", gens(0, 2, 3), 2, 0, 0, "generation 2 of NAME is the oldest"},
		{"generation 0 is no certificate of ours", gens(0, 1), 1, 0, 0, "is the oldest"},
		{"unknown", gens(0, 2, 3), 3, 1, 0, "no generation 1 of NAME; there are 2, 3"},
		{"none", gens(0), 0, 0, 0, "no generation of NAME"},
		{"what is installed is not ours", gens(1, 2), 0, 0, 0, "none of the generations 1, 2; name one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := pick(tt.gens, tt.current, tt.to, "NAME")
			if g.Number != tt.want || (err == nil) != (tt.want > 0) {
				t.Fatalf("generation %d, %v; want %d", g.Number, err, tt.want)
			}
			if err != nil && (!problem.From(err).Has("generation_unknown") || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("%v; want it to say %q", err, tt.says)
			}
		})
	}
}

func TestNameOf(t *testing.T) {
	const dir = "/etc/postfix"
	tests := []struct{ path, want string }{ // want "": none of ours
		{"/etc/postfix/tls/mail.example.com.pem", "mail.example.com"},
		{"/etc/postfix/tls/mail.example.com+rsa.pem", "mail.example.com+rsa"},
		{"/etc/postfix/tls/my-mail.example.com-0123456789ab.fullchain.pem", "my-mail.example.com"},
		{"/etc/postfix/tls/my-mail.example.com-0123456789ab.privkey.pem", "my-mail.example.com"},
		{"/etc/postfix/tls/my-mail.fullchain.pem", "my-mail.fullchain"},
		{"/etc/postfix/tls/my-0123456789ab.pem", "my-0123456789ab"},
		{"/etc/postfix/tls/below/mail.pem", ""},
		{"/etc/postfix/mail.pem", ""},
		{"/etc/postfix2/tls/mail.pem", ""},
		{"/etc/postfix/tls/mail.key", ""},
		{"/etc/ssl/tls/mail.pem", ""},
		{"", ""},
	}
	for _, tt := range tests {
		if got, ok := nameOf(dir, tt.path); got != tt.want || ok != (tt.want != "") {
			t.Errorf("nameOf(%q) = %q, %v; want %q", tt.path, got, ok, tt.want)
		}
	}
}

// testPair is a pair as it is read from a lineage.
func testPair(t *testing.T) keypair.Pair {
	t.Helper()
	p := certtest.NewCA(t, certtest.Authority{}).Leaf(t, certtest.Leaf{})
	pair, _, err := keypair.Parse(keypair.Input{Name: "cert", Data: p.FullchainPEM()}, keypair.Input{Name: "key", Data: p.KeyPEM()}, keypair.Input{})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// What pairPath writes, nameOf reads, whatever the name looks like.
func TestPairPath(t *testing.T) {
	pair := testPair(t)
	for _, name := range []string{"mail.example.com", "my-mail-0123456789ab", "_wildcard.example.com", "mail+rsa", "a.fullchain"} {
		for _, part := range []Part{PartFullchain, PartKey} {
			path := pairPath("/etc/postfix", name, pair, part)
			if got, ok := nameOf("/etc/postfix", path); !ok || got != name {
				t.Errorf("nameOf(%q) = %q, %v; want %q", path, got, ok, name)
			}
		}
	}
	if pairPath("/e", "n", pair, PartFullchain) == pairPath("/e", "n", pair, PartKey) {
		t.Error("key and chain have one path")
	}
}

// Release touches what still has a value of ours, and nothing else.
func TestIsOurs(t *testing.T) {
	s := cf.Snapshot{Dir: "/etc/postfix"}
	value := func(v string) *string { return &v }
	tests := []struct {
		name, parameter string
		old             *string
		want            bool
	}{
		{"our file", "smtpd_tls_cert_file", value("/etc/postfix/tls/mail.example.pem"), true},
		{"our files", "smtpd_tls_chain_files", value("/etc/postfix/tls/mail.example.pem, /etc/postfix/tls/mail.example+rsa.pem"), true},
		{"our second type", "smtpd_tls_eccert_file", value("/etc/postfix/tls/mail.example+ecdsa.pem"), true},
		{"our chain of layout pair", "smtpd_tls_cert_file", value("/etc/postfix/tls/mail.example-0123456789ab.fullchain.pem"), true},
		{"our key of layout pair", "smtpd_tls_key_file", value("/etc/postfix/tls/mail.example-0123456789ab.privkey.pem"), true},
		{"our reference", "smtpd_tls_key_file", value("$smtpd_tls_cert_file"), true},
		{"our level", "smtpd_tls_security_level", value("may"), true},
		{"cleared by us", "smtpd_tls_dcert_file", value(""), true},
		{"removed by us", "smtpd_tls_dcert_file", nil, true},
		{"a name that begins like it", "smtpd_tls_cert_file", value("/etc/postfix/tls/mail.example.com.pem"), false},
		{"a shorter name", "smtpd_tls_cert_file", value("/etc/postfix/tls/mail.pem"), false},
		{"somebody's file", "smtpd_tls_cert_file", value("/etc/letsencrypt/live/mail.example/fullchain.pem"), false},
		{"another instance's", "smtpd_tls_cert_file", value("/etc/postfix-in/tls/mail.example.pem"), false},
		{"a level that somebody raised", "smtpd_tls_security_level", value("encrypt"), false},
		{"the word may elsewhere", "smtpd_tls_ciphers", value("may"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := isOurs(s, cf.Edit{Parameter: tt.parameter, Old: tt.old}, "mail.example"); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
