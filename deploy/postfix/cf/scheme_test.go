package cf

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// world is what Look finds, by path.
type world map[string]Present

func (w world) look(paths ...string) Present {
	var out Present
	out.Trusted = true
	for _, p := range paths {
		f, ok := w[p]
		if !ok {
			return Present{Err: errors.New("no such file")}
		}
		out.KeyTypes = append(out.KeyTypes, f.KeyTypes...)
		if len(f.Names) > 0 {
			out.Names, out.Trusted, out.Expired = f.Names, f.Trusted, f.Expired
		}
		if f.Err != nil {
			return f
		}
	}
	return out
}

func cert(names ...string) Present { return Present{Names: names, Trusted: true} }
func key(kind string) Present      { return Present{KeyTypes: []string{kind}} }
func both(kind string, names ...string) Present {
	return Present{KeyTypes: []string{kind}, Names: names, Trusted: true}
}

const ours = "/etc/postfix/tls/mail.example.com.pem"

// files is the usual content of the paths the tables use.
var files = world{
	"/live/fullchain.pem": cert("mail.example.com"), "/live/privkey.pem": key("ecdsa"),
	"/rsa/cert.pem": cert("mail.example.com"), "/rsa/key.pem": key("rsa"),
	"/rsa.pem": both("rsa", "mail.example.com"), "/ec.pem": both("ecdsa", "mail.example.com"), "/ed.pem": both("ed25519", "mail.example.com"),
	"/two.pem":   {KeyTypes: []string{"rsa", "ecdsa"}, Names: []string{"mail.example.com"}, Trusted: true},
	"/other.pem": both("ecdsa", "other.example.net"), "/old.pem": {KeyTypes: []string{"ecdsa"}, Names: []string{"old.example.net"}, Trusted: true, Expired: true},
	"/snake.pem": {KeyTypes: []string{"rsa"}, Names: []string{"vm"}},
	ours:         both("ecdsa", "mail.example.com"),
	"/etc/postfix/tls/mail.example.com+rsa.pem": both("rsa", "mail.example.com"),
}

const (
	tls   = "smtpd_tls_security_level = may\nqueue_directory = /var/spool/postfix\n"
	ports = "smtp inet n - y - - smtpd\nsubmission inet n - y - - smtpd\n  -o smtpd_tls_security_level=encrypt\n"
)

func TestCertificateEdits(t *testing.T) {
	need(t, "postconf")
	tests := []struct {
		name, main, master string
		target             func(*Target)
		kind               string
		edits              string // "service|name=value", sorted by plan
		problems           string
		dependants         string
		left               string
		services           string
		files              string
	}{
		{name: "nothing set", main: tls, kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "legacy pair", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " smtpd_tls_key_file=$smtpd_tls_cert_file", dependants: "tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "stands already", main: tls + "smtpd_tls_cert_file = " + ours + "\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},
		{name: "stands by indirection", main: tls + "dir = /etc/postfix/tls\nsmtpd_tls_cert_file = $dir/mail.example.com.pem\nsmtpd_tls_key_file = $smtpd_tls_cert_file\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},
		{name: "stands relative to the queue", main: tls + "smtpd_tls_cert_file = ../../../etc/postfix/tls/mail.example.com.pem\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},
		{name: "stands, client follows: nothing moves", main: tls + "smtpd_tls_cert_file = " + ours + "\nsmtp_tls_cert_file = $smtpd_tls_cert_file\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},
		{name: "none", main: tls + "smtpd_tls_cert_file = none\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "type change, one slot", main: tls + "smtpd_tls_cert_file=/rsa/cert.pem\nsmtpd_tls_key_file=/rsa/key.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " smtpd_tls_key_file=$smtpd_tls_cert_file", problems: "key_type_changed", dependants: "tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "two slots: the one of our type", main: tls + "smtpd_tls_cert_file=/rsa.pem\nsmtpd_tls_eccert_file=/ec.pem\n", kind: "legacy", edits: "smtpd_tls_eccert_file=" + ours, dependants: "smtpd_tls_eckey_file tlsproxy_tls_eccert_file tlsproxy_tls_eckey_file", services: "smtp/inet submission/inet", files: "/rsa.pem " + ours},
		{name: "two slots, types swapped", main: tls + "smtpd_tls_cert_file=/ec.pem\nsmtpd_tls_eccert_file=/rsa.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours + " /rsa.pem"},
		{name: "two slots, neither of our type", main: tls + "smtpd_tls_cert_file=/rsa.pem\nsmtpd_tls_eccert_file=/ed.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "key_type_changed", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours + " /ed.pem"},
		{name: "stale slot of our type is cleared", main: tls + "smtpd_tls_cert_file=" + ours + "\nsmtpd_tls_eccert_file=/old.pem\n", kind: "legacy", edits: "smtpd_tls_eccert_file=", dependants: "smtpd_tls_eckey_file tlsproxy_tls_eccert_file tlsproxy_tls_eckey_file", services: "smtp/inet submission/inet", files: ours},
		{name: "stale dsa slot of our type is cleared", main: tls + "smtpd_tls_dcert_file=/old.pem\nsmtpd_tls_cert_file=/ec.pem\n", kind: "legacy", edits: "smtpd_tls_dcert_file= smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_dkey_file smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_dcert_file tlsproxy_tls_dkey_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "stale slot that cannot be read", main: tls + "smtpd_tls_cert_file=" + ours + "\nsmtpd_tls_eccert_file=/gone.pem\n", kind: "legacy", problems: "stale_slot", services: "smtp/inet submission/inet", files: ours + " /gone.pem"},
		{name: "our file is gone, still ours", main: tls + "smtpd_tls_cert_file=/gone.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "only eccert, our type", main: tls + "smtpd_tls_eccert_file=/ec.pem\n", kind: "legacy", edits: "smtpd_tls_eccert_file=" + ours, dependants: "smtpd_tls_eckey_file tlsproxy_tls_eccert_file tlsproxy_tls_eckey_file", services: "smtp/inet submission/inet", files: ours},
		{name: "second type", main: tls + "smtpd_tls_cert_file=" + ours + "\n", target: func(t *Target) {
			t.Path, t.KeyType = "/etc/postfix/tls/mail.example.com+rsa.pem", "rsa"
		}, kind: "legacy", edits: "smtpd_tls_eccert_file=/etc/postfix/tls/mail.example.com+rsa.pem", dependants: "smtpd_tls_eckey_file tlsproxy_tls_eccert_file tlsproxy_tls_eckey_file", services: "smtp/inet submission/inet", files: ours + " /etc/postfix/tls/mail.example.com+rsa.pem"},

		{name: "chain", main: tls + "smtpd_tls_chain_files = /ec.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: ours},
		{name: "chain stands", main: tls + "smtpd_tls_chain_files = /rsa.pem " + ours + "\n", kind: "chain_files", services: "smtp/inet submission/inet", files: "/rsa.pem " + ours},
		{name: "chain keeps another type", main: tls + "smtpd_tls_chain_files = /rsa.pem,\n  /ec.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=/rsa.pem,_" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: "/rsa.pem " + ours},
		{name: "chain of key and certificate files", main: tls + "smtpd_tls_chain_files = /rsa/key.pem, /rsa/cert.pem, /live/privkey.pem, /live/fullchain.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=/rsa/key.pem,_/rsa/cert.pem,_" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: "/rsa/key.pem /rsa/cert.pem " + ours},
		{name: "chain, type change", main: tls + "smtpd_tls_chain_files = /rsa.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=" + ours, problems: "key_type_changed", dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: ours},
		{name: "chain, second type", main: tls + "smtpd_tls_chain_files = /etc/postfix/tls/mail.example.com+rsa.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=/etc/postfix/tls/mail.example.com+rsa.pem,_" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: "/etc/postfix/tls/mail.example.com+rsa.pem " + ours},
		{name: "chain, third type", main: tls + "smtpd_tls_chain_files = /rsa.pem, /ed.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=/rsa.pem,_/ed.pem,_" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: "/rsa.pem /ed.pem " + ours},
		{name: "chain, our type twice", main: tls + "smtpd_tls_chain_files = " + ours + ", /ec.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: ours},
		{name: "chain, two types in one file", main: tls + "smtpd_tls_chain_files = /two.pem\n", kind: "chain_files", problems: "mixed_chain_file"},
		{name: "chain, a file is gone", main: tls + "smtpd_tls_chain_files = /ec.pem, /gone.pem\n", kind: "chain_files", problems: "stale_slot"},
		{name: "chain, the only file is gone", main: tls + "smtpd_tls_chain_files = /gone.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: ours},
		{name: "chain beside legacy", main: tls + "smtpd_tls_chain_files = /ec.pem\nsmtpd_tls_cert_file=/rsa.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=" + ours, problems: "legacy_ignored", dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: ours},

		{name: "TLS is off", master: "smtp inet n - y - - smtpd\n", main: "", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "tls_not_enabled", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file"},
		{name: "TLS switched on", master: "smtp inet n - y - - smtpd\n", main: "smtpd_tls_cert_file=" + ours + "\n", target: func(t *Target) { t.Enable = true }, kind: "legacy", edits: "smtpd_tls_security_level=may", dependants: "postscreen_tls_security_level tlsproxy_tls_security_level", services: "smtp/inet", files: ours},
		{name: "TLS is none: not ours to change", master: "smtp inet n - y - - smtpd\n", main: "smtpd_tls_security_level = none\nsmtpd_tls_cert_file=" + ours + "\n", target: func(t *Target) { t.Enable = true }, kind: "legacy", problems: "tls_not_enabled"},
		{name: "TLS by the old name", master: "smtp inet n - y - - smtpd\n", main: "smtpd_use_tls = yes\nsmtpd_tls_cert_file=" + ours + "\n", target: func(t *Target) { t.Enable = true }, kind: "legacy", services: "smtp/inet", files: ours},
		{name: "TLS only on submissions", master: "smtp inet n - y - - smtpd\nsubmissions inet n - y - - smtpd -o smtpd_tls_wrappermode=yes\n", main: "smtpd_tls_cert_file=" + ours + "\n", kind: "legacy", services: "submissions/inet", files: ours},

		{name: "client follows", main: tls + "smtpd_tls_cert_file=/ec.pem\nsmtp_tls_cert_file = $smtpd_tls_cert_file\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "client_certificate_follows", dependants: "smtp_tls_cert_file smtp_tls_key_file smtpd_tls_key_file tlsproxy_client_cert_file tlsproxy_client_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "client may follow", main: tls + "smtpd_tls_cert_file=/ec.pem\nlmtp_tls_cert_file = $smtpd_tls_cert_file\n", target: func(t *Target) { t.AllowClient = true }, kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, dependants: "lmtp_tls_cert_file lmtp_tls_key_file smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "client service follows", main: tls + "smtpd_tls_cert_file=/ec.pem\n", master: ports + "smtp unix - - y - - smtp -o smtp_tls_cert_file=$smtpd_tls_cert_file\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "client_certificate_follows", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file smtp/unix:smtp_tls_cert_file", services: "smtp/inet submission/inet", files: ours},

		{name: "override copies main.cf", main: tls + "smtpd_tls_cert_file=/ec.pem\n", master: ports + "  -o smtpd_tls_cert_file=/ec.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "override_present", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override copies main.cf, both of other names", main: tls + "smtpd_tls_cert_file=/other.pem\n", master: ports + "  -o smtpd_tls_cert_file=/other.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "override_present", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override copies, adopted", main: tls + "smtpd_tls_cert_file=/ec.pem\n", master: ports + "  -o smtpd_tls_cert_file=/ec.pem\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " submission/inet|smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "override names ours", main: tls + "smtpd_tls_cert_file=" + ours + "\n", master: ports + "  -o smtpd_tls_cert_file=" + ours + "\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},
		{name: "override of other names is left", main: tls + "smtpd_tls_cert_file=/ec.pem\n", master: ports + "  -o smtpd_tls_cert_file=/other.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, left: "submission/inet:smtpd_tls_cert_file=/other.pem", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override of other names is left even if others are adopted", main: tls + "smtpd_tls_cert_file=/ec.pem\n", master: ports + "  -o smtpd_tls_cert_file=/other.pem\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, left: "submission/inet:smtpd_tls_cert_file=/other.pem", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override expired", main: tls, master: ports + "  -o smtpd_tls_cert_file=/old.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "override_present", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override untrusted", main: tls, master: ports + "  -o smtpd_tls_cert_file=/snake.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "override_present", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override unreadable", main: tls, master: ports + "  -o smtpd_tls_cert_file=/gone.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "override_present", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override of the same names", main: tls + "smtpd_tls_cert_file=" + ours + "\n", master: ports + "  -o smtpd_tls_cert_file=/ec.pem\n", kind: "legacy", problems: "override_present", services: "smtp/inet", files: ours},
		{name: "override by indirection", main: tls + "sub = /ec.pem\n", master: ports + "  -o smtpd_tls_cert_file=$sub\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "override_present", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override by indirection, adopted", main: tls + "sub = /ec.pem\n", master: ports + "  -o smtpd_tls_cert_file=$sub\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " submission/inet|smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "override of what main.cf refers to, intent", main: tls + "cert = /ec.pem\nsmtpd_tls_cert_file = $cert\n", master: ports + "  -o cert=/other.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, problems: "override_present", dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "override of the key alone", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", master: ports + "  -o smtpd_tls_key_file=/live/privkey.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " smtpd_tls_key_file=$smtpd_tls_cert_file", problems: "override_present", dependants: "tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override of the key alone, adopted", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", master: ports + "  -o smtpd_tls_key_file=/live/privkey.pem\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " smtpd_tls_key_file=$smtpd_tls_cert_file submission/inet|smtpd_tls_key_file=$smtpd_tls_cert_file submission/inet|smtpd_tls_cert_file=" + ours, dependants: "tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: ours},
		{name: "override of the certificate alone, whose key would move", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", master: ports + "  -o smtpd_tls_cert_file=/other.pem\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " smtpd_tls_key_file=$smtpd_tls_cert_file", problems: "override_present", dependants: "tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet", files: ours},
		{name: "override of chain files over legacy, adopted", main: tls + "smtpd_tls_cert_file=" + ours + "\n", master: ports + "  -o smtpd_tls_chain_files=/ec.pem\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "submission/inet|smtpd_tls_chain_files=" + ours, problems: "legacy_ignored", services: "smtp/inet submission/inet", files: ours},
		{name: "override of legacy under chain files is ignored", main: tls + "smtpd_tls_chain_files=/ec.pem\n", master: ports + "  -o smtpd_tls_cert_file=/old.pem\n", kind: "chain_files", edits: "smtpd_tls_chain_files=" + ours, dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: ours},
		{name: "override where TLS is off", main: tls + "smtpd_tls_cert_file=" + ours + "\n", master: ports + "10025 inet n - y - - smtpd -o smtpd_tls_security_level=none -o smtpd_tls_cert_file=/old.pem\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},
		{name: "override in a disabled service", main: tls + "master_service_disable = 10025.inet\nsmtpd_tls_cert_file=" + ours + "\n", master: ports + "10025 inet n - y - - smtpd -o smtpd_tls_cert_file=/old.pem\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},

		{name: "postscreen follows", main: tls, master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\ntlsproxy unix - - y - 0 tlsproxy\n", kind: "legacy", edits: "smtpd_tls_cert_file=" + ours, dependants: "smtpd_tls_key_file tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet smtpd/pass", files: ours},
		{name: "tlsproxy override", main: tls + "smtpd_tls_cert_file=" + ours + "\n", master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\ntlsproxy unix - - y - 0 tlsproxy -o tlsproxy_tls_cert_file=/ec.pem\n", kind: "legacy", problems: "override_present", services: "smtpd/pass", files: ours},
		{name: "tlsproxy override, adopted", main: tls + "smtpd_tls_cert_file=" + ours + "\n", master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\ntlsproxy unix - - y - 0 tlsproxy -o tlsproxy_tls_cert_file=/ec.pem\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "tlsproxy/unix|tlsproxy_tls_cert_file=" + ours, services: "smtp/inet smtpd/pass", files: ours},
		{name: "tlsproxy override of the key, adopted", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\ntlsproxy unix - - y - 0 tlsproxy -o tlsproxy_tls_key_file=/live/privkey.pem\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "smtpd_tls_cert_file=" + ours + " smtpd_tls_key_file=$smtpd_tls_cert_file tlsproxy/unix|tlsproxy_tls_key_file=$tlsproxy_tls_cert_file tlsproxy/unix|tlsproxy_tls_cert_file=" + ours, dependants: "tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet smtpd/pass", files: ours},
		{name: "tlsproxy in main.cf", main: tls + "smtpd_tls_cert_file=" + ours + "\ntlsproxy_tls_cert_file=/ec.pem\n", master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\ntlsproxy unix - - y - 0 tlsproxy\n", kind: "legacy", problems: "override_present", services: "smtpd/pass", files: ours},
		{name: "tlsproxy in main.cf, adopted", main: tls + "smtpd_tls_cert_file=" + ours + "\ntlsproxy_tls_cert_file=/ec.pem\n", master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\ntlsproxy unix - - y - 0 tlsproxy\n", target: func(t *Target) { t.AdoptOverrides = true }, kind: "legacy", edits: "tlsproxy_tls_cert_file=" + ours, services: "smtp/inet smtpd/pass", files: ours},
		{name: "tlsproxy override without postscreen", main: tls + "smtpd_tls_cert_file=" + ours + "\n", master: ports + "tlsproxy unix - - y - 0 tlsproxy -o tlsproxy_tls_cert_file=/ec.pem\n", kind: "legacy", services: "smtp/inet submission/inet", files: ours},

		{name: "one service", main: tls + "smtpd_tls_cert_file=/rsa.pem\n", target: func(t *Target) { t.Service = "submission/inet" }, kind: "legacy", edits: "submission/inet|smtpd_tls_cert_file=" + ours, problems: "key_type_changed", services: "submission/inet", files: ours},
		{name: "one service, separate key in main.cf", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", target: func(t *Target) { t.Service = "submission/inet" }, kind: "legacy", edits: "submission/inet|smtpd_tls_cert_file=" + ours + " submission/inet|smtpd_tls_key_file=$smtpd_tls_cert_file", services: "submission/inet", files: ours},
		{name: "one service, chain files", main: tls + "smtpd_tls_chain_files=/rsa.pem, /ec.pem\n", target: func(t *Target) { t.Service = "submission/inet" }, kind: "chain_files", edits: "submission/inet|smtpd_tls_chain_files=/rsa.pem," + ours, services: "submission/inet", files: "/rsa.pem " + ours},
		{name: "one service with TLS off", main: tls + "smtpd_tls_cert_file=/ec.pem\n", master: "smtp inet n - y - - smtpd -o smtpd_tls_security_level=\n", target: func(t *Target) { t.Service, t.Enable = "smtp/inet", true }, kind: "legacy", edits: "smtp/inet|smtpd_tls_cert_file=" + ours + " smtp/inet|smtpd_tls_security_level=may", services: "smtp/inet", files: ours},
		{name: "one service that is not there", main: tls, target: func(t *Target) { t.Service = "smtps/inet" }, problems: "service_unknown"},
		{name: "one service without a certificate", main: tls, master: ports + "pickup unix n - y 60 1 pickup\n", target: func(t *Target) { t.Service = "pickup/unix" }, problems: "service_unknown"},

		{name: "layout pair", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", target: func(t *Target) { t.Layout, t.CertPath, t.KeyPath = Pair, "/p/7/fullchain.pem", "/p/7/privkey.pem" }, kind: "pair", edits: "smtpd_tls_cert_file=/p/7/fullchain.pem smtpd_tls_key_file=/p/7/privkey.pem", dependants: "tlsproxy_tls_cert_file tlsproxy_tls_key_file", services: "smtp/inet submission/inet", files: "/p/7/fullchain.pem /p/7/privkey.pem"},
		{name: "layout pair in chain files", main: tls + "smtpd_tls_chain_files=/ec.pem, /rsa.pem\n", target: func(t *Target) { t.Layout, t.CertPath, t.KeyPath = Pair, "/p/7/fullchain.pem", "/p/7/privkey.pem" }, kind: "pair", edits: "smtpd_tls_chain_files=/p/7/privkey.pem,_/p/7/fullchain.pem,_/rsa.pem", dependants: "tlsproxy_tls_chain_files", services: "smtp/inet submission/inet", files: "/p/7/privkey.pem /p/7/fullchain.pem /rsa.pem"},
		{name: "layout keep", main: tls + "smtpd_tls_cert_file=/live/fullchain.pem\nsmtpd_tls_key_file=/live/privkey.pem\n", master: ports + "  -o smtpd_tls_cert_file=/other.pem -o smtpd_tls_key_file=/other.pem\n", target: func(t *Target) { t.Layout = Keep }, kind: "keep", services: "smtp/inet submission/inet", files: "/live/fullchain.pem /live/privkey.pem /other.pem"},

		{name: "SNI table with our name", main: tls + "smtpd_tls_cert_file=" + ours + "\ntls_server_sni_maps = hash:/etc/postfix/sni\n", target: func(t *Target) { t.SNINames = []string{"x.example", "MAIL.example.com"} }, kind: "legacy", problems: "sni_maps_present", services: "smtp/inet submission/inet", files: ours},
		{name: "SNI table with our parent", main: tls + "smtpd_tls_cert_file=" + ours + "\ntls_server_sni_maps = hash:/etc/postfix/sni\n", target: func(t *Target) { t.SNINames = []string{".example.com"} }, kind: "legacy", problems: "sni_maps_present", services: "smtp/inet submission/inet", files: ours},
		{name: "SNI table of others", main: tls + "smtpd_tls_cert_file=" + ours + "\ntls_server_sni_maps = hash:/etc/postfix/sni\n", target: func(t *Target) { t.SNINames = []string{"x.example", ".example.net"} }, kind: "legacy", services: "smtp/inet submission/inet", files: ours},
		{name: "SNI table not read", main: tls + "smtpd_tls_cert_file=" + ours + "\ntls_server_sni_maps = hash:/etc/postfix/sni\n", kind: "legacy", problems: "sni_maps_present", services: "smtp/inet submission/inet", files: ours},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.master == "" {
				test.master = ports
			}
			s := snapshotOf(t, test.main, test.master)
			target := Target{Path: ours, KeyType: "ecdsa", Names: []string{"mail.example.com"}, Look: files.look}
			if test.target != nil {
				test.target(&target)
			}
			got := s.CertificateEdits(target)
			check := func(what, got, want string) {
				t.Helper()
				if got != want {
					t.Errorf("%s: got %q, want %q", what, got, want)
				}
			}
			check("kind", got.Kind, test.kind)
			check("edits", shown(got.Edits), test.edits)
			var ids, left []string
			for _, p := range got.Problems {
				ids = append(ids, p.ID)
			}
			for _, o := range got.Left {
				left = append(left, o.Service+":"+o.Name+"="+o.Value)
			}
			check("problems", strings.Join(ids, " "), test.problems)
			if got.Problems.Has("mixed_chain_file") || got.Kind == "chain_files" && got.Problems.Has("stale_slot") || got.Problems.Has("tls_not_enabled") {
				return
			}
			check("dependants", strings.Join(got.Dependants, " "), test.dependants)
			check("left", strings.Join(left, " "), test.left)
			check("services", strings.Join(got.Services, " "), test.services)
			check("files", strings.Join(got.Files, " "), test.files)
			if got.Problems.Err() == nil {
				foretold(t, s, got)
			}
		})
	}
}

func shown(edits []Edit) string {
	var out []string
	for _, e := range edits {
		text := e.Parameter + "=" + strings.ReplaceAll(*e.New, " ", "_")
		if e.Service != "" {
			text = e.Service + "|" + text
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// foretold is the plan invariant: postconf reads exactly the edits and the
// dependants, and the services load what the scheme says.
func foretold(t *testing.T, before Snapshot, scheme Scheme) {
	t.Helper()
	main, master, err := Apply(before.Main.Data, before.Master.Data, scheme.Edits)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	after := snapshotOf(t, string(main), string(master))
	want := map[string]bool{}
	for _, e := range scheme.Edits {
		if e.Service == "" {
			want[e.Parameter] = true
		} else {
			want[e.Service+":"+e.Parameter] = true
		}
	}
	for _, d := range scheme.Dependants {
		want[d] = true
	}
	got := map[string]bool{}
	for _, d := range Differences(before, after) {
		if d.Service == "" {
			got[d.Parameter] = true
		} else {
			got[d.Service+":"+d.Parameter] = true
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("differences: got %q, want %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	again := after.CertificateEdits(Target{Layout: Keep, Look: files.look})
	for _, f := range scheme.Files {
		if !slices.Contains(again.Files, f) {
			t.Errorf("%s is not read after the edits: %q", f, again.Files)
		}
	}
}

// TestOverridePresentNames: the message has what the administrator needs to
// find and to resolve it.
func TestOverridePresentNames(t *testing.T) {
	need(t, "postconf")
	s := snapshotOf(t, "smtpd_tls_security_level = may\nbiff = no\nsub = /ec.pem\nsub2 = ${sub}\n", ports+"  -o syslog_name=x\n  -o smtpd_tls_cert_file=$sub2\n")
	got := s.CertificateEdits(Target{Path: ours, KeyType: "ecdsa", Names: []string{"mail.example.com"}, Look: files.look}).Problems
	if len(got) != 1 || got[0].ID != "override_present" {
		t.Fatalf("got %v", got)
	}
	for _, want := range []string{"submission/inet", "master.cf, line 5", "-o smtpd_tls_cert_file=$sub2", "sub, set in main.cf, line 3", "/ec.pem", "--adopt-overrides"} {
		if !strings.Contains(got[0].Message, want) {
			t.Errorf("message %q lacks %q", got[0].Message, want)
		}
	}
	if at := got[0].At; at.Line != 5 || at.Service != "submission/inet" || at.Parameter != "smtpd_tls_cert_file" || at.File != s.Master.Path {
		t.Errorf("at: %+v", at)
	}
}

func TestResolvePath(t *testing.T) {
	need(t, "postconf")
	s := snapshotOf(t, "queue_directory = /var/spool/mine\n", onePort)
	for path, want := range map[string]string{"": "", "/a/b": "/a/b", "b.pem": "/var/spool/mine/b.pem", "./b.pem": "/var/spool/mine/b.pem"} {
		if got := s.ResolvePath(path); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}
