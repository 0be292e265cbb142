package audit

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/cf"
)

// row is a configuration that a rule is asked about.
type row struct {
	rule    string
	name    string
	version string // "" is 3.7.11
	main    string // lines added to usualMain; "-" in front: instead of it
	master  string // "" is usual
	facts   Facts
	want    []string // "main:3" or "master:2", the place of each finding, and part of its message; none: silent
	fixes   bool     // it brings edits, after which it is silent
}

// file is a fact about one file.
func file(path string, f File) Facts { return Facts{Files: map[string]File{path: f}} }

func files(all map[string]File) Facts { return Facts{Files: all} }

var (
	rsaKeyed = PEM{Keys: 1, Certs: []Cert{{KeyType: "rsa"}}}
	rsaCert  = PEM{Certs: []Cert{{KeyType: "rsa"}}}
	anchors  = PEM{Certs: []Cert{{KeyType: "rsa", CA: true}}}
)

const a = "/tls/a.pem" // the certificate of usualMain

const hashPolicy = "smtp_tls_policy_maps = hash:/p\n"

// rows have at least one for each rule that fires and one that does not:
// TestEveryRule.
var rows = []row{
	// certificates and keys
	{rule: "cert_missing", main: "-smtpd_tls_security_level = may\n", want: []string{"master:1 smtp/inet", "master:2 submission/inet", "master:7 submissions/inet"}},
	{rule: "cert_missing", name: "one by -o", main: "-smtpd_tls_security_level = may\n", master: "smtp inet n - n - - smtpd -o smtpd_tls_cert_file=/x\n"},
	{rule: "cert_missing", name: "anonymous on purpose", main: "-smtpd_tls_security_level = may\nsmtpd_tls_cert_file = none\n"},
	{rule: "cert_unusable", name: "missing", facts: file(a, File{Err: "no such file or directory"}), want: []string{"main:1 no such file"}},
	{rule: "cert_unusable", name: "nothing in it", facts: file(a, File{}), want: []string{"main:1 neither key nor certificate"}},
	{rule: "cert_unusable", name: "no key", main: "-smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /c\nsmtpd_tls_key_file = /k\n", facts: files(map[string]File{"/c": {PEM: rsaCert}, "/k": {PEM: rsaCert}}), want: []string{"main:2 no private key"}},
	{rule: "cert_unusable", name: "key without certificate", main: "-smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /c\nsmtpd_tls_key_file = /k\n", facts: files(map[string]File{"/c": {PEM: PEM{Keys: 1}}, "/k": {PEM: rsaKeyed}}), want: []string{"main:2 no certificate"}},
	{rule: "cert_unusable", name: "by -o", master: "smtp inet n - n - - smtpd -o smtpd_tls_chain_files=/x\n", facts: file("/x", File{Err: "no such file"}), want: []string{"master:1 no such file"}},
	{rule: "cert_unusable", name: "good", facts: file(a, File{PEM: rsaKeyed})},
	{rule: "cert_unusable", name: "not known"},
	{rule: "cert_slot_stale", main: "-smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /c\nsmtpd_tls_eccert_file = /e\n", facts: files(map[string]File{"/c": {PEM: rsaKeyed}, "/e": {PEM: rsaKeyed}}), want: []string{"main:3 hold rsa certificates"}},
	{rule: "cert_slot_stale", name: "two kinds", main: "-smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /c\nsmtpd_tls_eccert_file = /e\n", facts: files(map[string]File{"/c": {PEM: rsaKeyed}, "/e": {PEM: PEM{Keys: 1, Certs: []Cert{{KeyType: "ecdsa"}}}}})},
	{rule: "cert_legacy_ignored", main: "smtpd_tls_cert_file = /old\n", want: []string{"main:5 is ignored"}, fixes: true},
	{rule: "cert_legacy_ignored", name: "somebody follows it", main: "smtpd_tls_cert_file = /old\nsmtp_tls_cert_file = $smtpd_tls_cert_file\n", want: []string{"main:5 is ignored"}},
	{rule: "cert_legacy_ignored", name: "alone"},
	{rule: "cert_override", master: usual + "26 inet n - n - - smtpd -o smtpd_tls_chain_files=/x\n", want: []string{"master:13 /x"}},
	{rule: "cert_override", name: "the same one", master: usual + "26 inet n - n - - smtpd -o smtpd_tls_chain_files=/tls/a.pem\n"},
	{rule: "key_encrypted", facts: file(a, File{PEM: PEM{Keys: 1, Encrypted: true}}), want: []string{"main:1 encrypted"}},
	{rule: "key_encrypted", name: "clear", facts: file(a, File{PEM: rsaKeyed})},
	{rule: "key_readable", facts: file(a, File{Mode: 0o644, PEM: rsaKeyed}), want: []string{"main:1 mode 0644"}},
	{rule: "key_readable", name: "of a client", main: "-smtp_tls_cert_file = /c\nsmtp_tls_security_level = may\n", facts: file("/c", File{Mode: 0o604, PEM: rsaKeyed}), want: []string{"main:1 mode 0604"}},
	{rule: "key_readable", name: "a certificate", main: "-smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /c\nsmtpd_tls_key_file = /k\n", facts: files(map[string]File{"/c": {Mode: 0o644, PEM: rsaCert}, "/k": {Mode: 0o600, PEM: rsaKeyed}})},
	{rule: "key_group_readable", facts: file(a, File{Mode: 0o640, GID: 7, PEM: rsaKeyed}), want: []string{"main:1 mode 0640 and group 7"}},
	{rule: "key_group_readable", name: "of a user", facts: file(a, File{Mode: 0o600, UID: 7, PEM: rsaKeyed}), want: []string{"main:1 user 7"}},
	{rule: "key_group_readable", name: "root's group", facts: file(a, File{Mode: 0o640, PEM: rsaKeyed})},
	{rule: "key_directory", facts: file(a, File{Loose: []string{"/tls (mode 0777)"}, PEM: rsaKeyed}), want: []string{"main:1 0777"}},
	{rule: "key_directory", name: "root's", facts: file(a, File{PEM: rsaKeyed})},
	{rule: "key_backup", facts: Facts{Backups: []Backup{{"/tls/a.pem.bak", 0o644}}}, want: []string{"/tls/a.pem.bak:0 others than root"}},
	{rule: "key_backup", name: "none"},
	{rule: "client_cert_purpose", main: "smtp_tls_cert_file = /c\n", facts: file("/c", File{PEM: rsaKeyed}), want: []string{"main:5 servers only"}},
	{rule: "client_cert_purpose", name: "for clients", main: "smtp_tls_cert_file = /c\n", facts: file("/c", File{PEM: PEM{Keys: 1, Certs: []Cert{{ClientAuth: true}}}})},

	// levels
	{rule: "level_invalid", main: "-smtpd_tls_security_level = yes\n", want: []string{"main:1 yes is no level"}},
	{rule: "level_invalid", name: "wrapped, where it does not count", main: "-smtpd_tls_security_level = yes\nsmtpd_tls_wrappermode = yes\n"},
	{rule: "level_of_clients", main: "-smtpd_tls_security_level = secure\n", want: []string{"main:1 counts as encrypt"}, fixes: true},
	{rule: "level_of_clients", name: "may"},
	{rule: "smtp_no_tls", main: "-smtpd_tls_chain_files = /a\n", want: []string{"master:1 offers no TLS"}, fixes: true},
	{rule: "smtp_no_tls", name: "by -o", main: "-smtpd_tls_chain_files = /a\nsmtpd_tls_security_level = may\n", master: "smtp inet n - n - - smtpd -o smtpd_tls_security_level=none\n", want: []string{"master:1 offers no TLS"}, fixes: true},
	{rule: "smtp_no_tls", name: "no certificate to offer", main: "-inet_interfaces = all\n", want: []string{"master:1 offers no TLS"}},
	{rule: "smtp_no_tls", name: "hidden", main: "smtpd_discard_ehlo_keywords = starttls\n", want: []string{"main:5 hides STARTTLS"}},
	{rule: "smtp_no_tls", name: "no level", main: "-smtpd_tls_security_level = yes\n"},
	{rule: "smtp_no_tls", name: "for this host only", main: "-inet_interfaces = loopback-only\n"},
	{rule: "smtp_encrypt", main: "-smtpd_tls_security_level = encrypt\n", want: []string{"main:1 encrypt on smtp/inet"}, fixes: true},
	{rule: "smtp_encrypt", name: "that users need", main: "-smtpd_tls_security_level = encrypt\n", master: "smtp inet n - n - - smtpd\n2525 inet n - n - - smtpd\n", want: []string{"main:1 encrypt on smtp/inet"}, fixes: true},
	{rule: "smtp_encrypt", name: "by -o", master: "25 inet n - n - - smtpd\n  -o smtpd_tls_security_level=encrypt\n", want: []string{"master:2 encrypt on 25/inet"}, fixes: true},
	{rule: "smtp_encrypt", name: "for this host only", main: "-smtpd_tls_security_level = encrypt\ninet_interfaces = 127.0.0.1, [::1]\n"},
	{rule: "smtp_encrypt", name: "on 587 only"},
	{rule: "submission_not_encrypted", master: "submission inet n - n - - smtpd\n", want: []string{"main:2 submission/inet has smtpd_tls_security_level = may"}, fixes: true},
	{rule: "submission_not_encrypted", name: "on an address", master: "[::1]:587 inet n - n - - smtpd\n  -o smtpd_tls_security_level=none\n", want: []string{"master:2 none"}, fixes: true},
	{rule: "submission_not_encrypted", name: "encrypt"},
	{rule: "submissions_no_wrapper", master: "smtps inet n - n - - smtpd\n", want: []string{"master:1 smtps/inet"}, fixes: true},
	{rule: "submissions_no_wrapper", name: "wrapped"},
	{rule: "wrapper_on_other_port", master: "submission inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes\n", want: []string{"master:2 submission/inet"}, fixes: true},
	{rule: "wrapper_on_other_port", name: "in main.cf", main: "smtpd_tls_wrappermode = yes\n", master: "smtp inet n - n - - smtpd\n", want: []string{"main:5 smtp/inet"}},
	{rule: "wrapper_on_other_port", name: "on 465"},
	{rule: "auth_before_tls", main: "-smtpd_sasl_auth_enable = yes\nsmtpd_tls_security_level = may\n", want: []string{"main:0 smtp/inet may offer AUTH"}, fixes: true},
	{rule: "auth_before_tls", name: "as seen", main: "-smtpd_sasl_auth_enable = yes\nsmtpd_tls_auth_only = no\n", master: "smtp inet n - n - - smtpd\n", facts: Facts{Greetings: map[string]Greeting{"smtp/inet": {Endpoint: "127.0.0.1:25", Before: []string{"SIZE", "AUTH PLAIN LOGIN"}}}}, want: []string{"main:2 offers AUTH before TLS, as the reply"}, fixes: true},
	{rule: "auth_before_tls", name: "seen, not configured", facts: Facts{Greetings: map[string]Greeting{"smtp/inet": {Before: []string{"AUTH=PLAIN"}}}}, want: []string{"main:4 as its reply to EHLO shows"}},
	{rule: "auth_before_tls", name: "only inside", facts: Facts{Greetings: map[string]Greeting{"submission/inet": {Before: []string{"STARTTLS"}, After: []string{"AUTH PLAIN"}}}}},
	{rule: "auth_before_tls", name: "encrypt implies it", main: "-smtpd_sasl_auth_enable = yes\nsmtpd_tls_security_level = encrypt\n"},
	{rule: "submission_no_auth", master: "submission inet n - n - - smtpd\n", want: []string{"master:1 no smtpd_sasl_auth_enable"}},
	{rule: "submission_no_auth", name: "SASL is broken", facts: Facts{Greetings: map[string]Greeting{"submissions/inet": {Endpoint: "127.0.0.1:465", After: []string{"SIZE"}}}}, want: []string{"master:10 offers no AUTH inside TLS"}},
	{rule: "submission_no_auth", name: "offered", facts: Facts{Greetings: map[string]Greeting{"submissions/inet": {After: []string{"AUTH PLAIN"}}}}},
	{rule: "auth_without_submission", main: "smtpd_sasl_auth_enable = yes\n", master: "smtp inet n - n - - smtpd\n", want: []string{"main:5 neither"}},
	{rule: "auth_without_submission", name: "there is one", main: "smtpd_sasl_auth_enable = yes\n"},
	{rule: "submission_missing", master: "smtp inet n - n - - smtpd\n", want: []string{"master:0 port 587", "master:0 port 465"}, fixes: true},
	{rule: "submission_missing", name: "smtps by its example", version: "3.5.25", master: "smtp inet n - y - - smtpd\n#smtps inet n - y - - smtpd\n#  -o a=b\nsubmission inet n - n - - smtpd\n", want: []string{"master:0 port 465"}, fixes: true},
	{rule: "submission_missing", name: "by its number", version: "3.5.25", master: "smtp inet n - y - - smtpd\nsubmission inet n - n - - smtpd\n", want: []string{"master:0 port 465"}, fixes: true},
	{rule: "submission_missing", name: "both there"},
	{rule: "service_half_commented", master: "smtp inet n - n - - smtpd\n#submission inet n - n - - smtpd\n  -o smtpd_tls_security_level=encrypt\n  -o x=y\n", want: []string{"master:3 belongs to smtp/inet"}},
	{rule: "service_half_commented", name: "some options first", master: "smtp inet n - n - - smtpd\n#smtps inet n - n - - smtpd\n#  -o syslog_name=postfix/smtps\n  -o smtpd_tls_wrappermode=yes\n", want: []string{"master:4 smtps/inet"}},
	{rule: "service_half_commented", name: "whole", master: usual + "#628 inet n - n - - qmqpd\n#submission inet n - n - - smtpd\n#  -o a=b\n# that was all\n"},
	{rule: "service_half_commented", name: "prose between", master: "smtp inet n - n - - smtpd\n#submission inet n - n - - smtpd\n# not needed here\n  -o c=d\n"},
	{rule: "service_half_commented", name: "an option of an entry that is there", master: "smtp inet n - n - - smtpd\n#  -o a=b\n  -o c=d\n"},
	{rule: "tls_broken", facts: Facts{Greetings: map[string]Greeting{"smtp/inet": {Endpoint: "127.0.0.1:25", Failed: "454"}}}, want: []string{"master:1 454"}},
	{rule: "tls_broken", name: "nobody answered", facts: Facts{Greetings: map[string]Greeting{"smtp/inet": {Failed: "refused", Unknown: true}}}},
	{rule: "tlsmgr_missing", master: "NOREST smtp inet n - n - - smtpd\n", want: []string{"master:0 tlsmgr"}},
	{rule: "tlsmgr_missing", name: "there"},

	// deprecated
	{rule: "deprecated_level", name: "S62 in main.cf", main: "-smtpd_use_tls = yes\nsmtp_use_tls = yes\n", want: []string{"main:1 means smtpd_tls_security_level = may", "main:2 means smtp_tls_security_level = may"}, fixes: true},
	{rule: "deprecated_level", name: "S62 by -o", main: "-smtpd_use_tls = yes\n", master: "smtp inet n - n - - smtpd\n  -o smtpd_use_tls=no\nsubmission inet n - n - - smtpd\n  -o smtpd_enforce_tls=yes\n", want: []string{"main:1 may", "master:2 none", "master:4 encrypt"}, fixes: true},
	{rule: "deprecated_level", name: "S62 both", main: "smtpd_enforce_tls = yes\n", want: []string{"main:5 has no effect beside smtpd_tls_security_level = may"}, fixes: true},
	{rule: "deprecated_level", name: "clients", main: "-smtp_enforce_tls = yes\nsmtp_tls_enforce_peername = no\n", want: []string{"main:1 encrypt", "main:2 part of"}, fixes: true},
	{rule: "deprecated_level", name: "clients that verify", main: "-smtp_enforce_tls = yes\n", want: []string{"main:1 verify"}, fixes: true},
	{rule: "deprecated_level", name: "an empty override", main: "smtpd_use_tls = yes\n", master: "smtp inet n - n - - smtpd\n  -o smtpd_tls_security_level=\n", want: []string{"main:5 no effect"}, fixes: true},
	{rule: "deprecated_level", name: "new ones only"},
	{rule: "deprecated_per_site", main: "smtp_tls_per_site = hash:/x\n", want: []string{"main:5 hash:/x"}},
	{rule: "deprecated_per_site", name: "none"},
	{rule: "deprecated_eecdh_grade", main: "smtpd_tls_eecdh_grade = strong\n", want: []string{"main:5 strong"}, fixes: true},
	{rule: "deprecated_eecdh_grade", name: "where it counts", version: "3.5.25", main: "smtpd_tls_eecdh_grade = strong\n"},
	{rule: "deprecated_dh_file", version: "3.10.3", main: "smtpd_tls_dh1024_param_file = /x\n", want: []string{"main:5 /x"}, fixes: true},
	{rule: "deprecated_dh_file", name: "where it counts", main: "smtpd_tls_dh1024_param_file = /x\n"},
	{rule: "mandatory_protocols_old", main: "smtpd_tls_mandatory_protocols = TLSv1\n", want: []string{"main:5 allows TLSv1 only"}, fixes: true},
	{rule: "mandatory_protocols_old", name: "by -o", master: "submission inet n - n - - smtpd\n  -o smtpd_tls_mandatory_protocols=TLSv1,TLSv1.1\n", want: []string{"master:2 TLSv1, TLSv1.1 only"}, fixes: true},
	{rule: "mandatory_protocols_old", name: "with newer ones", main: "smtpd_tls_mandatory_protocols = TLSv1, TLSv1.2\n"},

	// protocols and ciphers
	{rule: "protocols_invalid", name: "S21", main: "smtpd_tls_protocols = !SSLv3 #\n", want: []string{`main:5 smtp/inet: "#" is no protocol`}, fixes: true},
	{rule: "protocols_invalid", name: "bound on 3.5", version: "3.5.25", main: "smtpd_tls_protocols = >=TLSv1.2\n", want: []string{"main:5 switches TLS off"}, fixes: true},
	{rule: "protocols_invalid", name: "no such version", main: "smtpd_tls_protocols = >=TLSv1.9\n", want: []string{"main:5 TLSv1.9"}, fixes: true},
	{rule: "protocols_invalid", name: "mandatory ones", main: "smtpd_tls_mandatory_protocols = !SSLv3 ! TLSv1\n", want: []string{"main:5 submission/inet, submissions/inet"}, fixes: true},
	{rule: "protocols_invalid", name: "of the client", main: "smtp_tls_protocols = TLSv1.4\n", want: []string{"main:5 smtp/unix, relay/unix"}, fixes: true},
	{rule: "protocols_invalid", name: "bound on 3.6", version: "3.6.0", main: "smtpd_tls_protocols = >=TLSv1.2 <=0304\n"},
	{rule: "protocols_no_modern", main: "smtpd_tls_protocols = TLSv1 TLSv1.1\n", want: []string{"main:5 TLSv1, TLSv1.1 only"}, fixes: true},
	{rule: "protocols_no_modern", name: "a ceiling", main: "smtpd_tls_mandatory_protocols = <=TLSv1.1\n", want: []string{"main:5 TLSv1.1 only for submission/inet, submissions/inet"}, fixes: true},
	{rule: "protocols_no_modern", name: "nothing left", main: "smtpd_tls_protocols = TLSv1.2, !TLSv1.2\n", want: []string{"main:5 allows nothing"}, fixes: true},
	{rule: "protocols_no_modern", name: "1.3 only", main: "smtpd_tls_protocols = >=TLSv1.3\n"},
	{rule: "protocols_ssl", main: "smtpd_tls_protocols = !SSLv2\n", want: []string{"main:5 allows SSL"}, fixes: true},
	{rule: "protocols_ssl", name: "nothing forbidden", main: "smtpd_tls_protocols =\n", want: []string{"main:5 allows SSL"}, fixes: true},
	{rule: "protocols_ssl", name: "forbidden", main: "smtpd_tls_protocols = !SSLv2, !SSLv3\n"},
	{rule: "protocols_strict_smtp", main: "smtpd_tls_protocols = >=TLSv1.2\n", want: []string{"main:5 refuses old peers on smtp/inet"}},
	{rule: "protocols_strict_smtp", name: "for users", main: "smtpd_tls_mandatory_protocols = >=TLSv1.2\n"},
	{rule: "protocols_below_12", want: []string{"main:0 before TLS 1.2 for submission/inet, submissions/inet"}, fixes: true},
	{rule: "protocols_below_12", name: "on 3.5", version: "3.5.25", main: "smtpd_tls_mandatory_protocols = !SSLv2, !SSLv3\n", want: []string{"main:5 before TLS 1.2"}, fixes: true},
	{rule: "protocols_below_12", name: "not allowed", main: "smtpd_tls_mandatory_protocols = >=TLSv1.2\n"},
	{rule: "cipher_grade_invalid", main: "smtpd_tls_ciphers = strong\n", want: []string{"main:5 strong is no grade"}, fixes: true},
	{rule: "cipher_grade_invalid", name: "high", main: "smtpd_tls_ciphers = HIGH\n"},
	{rule: "cipher_grade_weak", main: "smtpd_tls_mandatory_ciphers = export\n", want: []string{"main:5 export"}, fixes: true},
	{rule: "cipher_grade_weak", name: "medium"},
	{rule: "cipher_exclusion_invalid", main: "smtpd_tls_exclude_ciphers = aNULL, !MD5\n", want: []string{`main:5 "!MD5"`}, fixes: true},
	{rule: "cipher_exclusion_invalid", name: "names", main: "smtpd_tls_exclude_ciphers = aNULL, MD5:DES\n"},
	{rule: "cipher_exclusion_broad", main: "smtpd_tls_mandatory_exclude_ciphers = aNULL, aRSA\n", want: []string{"main:5 aRSA"}},
	{rule: "cipher_exclusion_broad", name: "narrow", main: "smtpd_tls_exclude_ciphers = aNULL, MD5, DES, 3DES, RC4, EXPORT, eNULL\n"},
	{rule: "cipherlist_changed", main: "tls_high_cipherlist = ECDHE-RSA-AES256-GCM-SHA384\n", want: []string{"main:5 tls_high_cipherlist"}, fixes: true},
	{rule: "cipherlist_changed", name: "default"},

	// logging and caches
	{rule: "loglevel_silent", main: "smtp_tls_loglevel = 1\n", want: []string{"main:0 smtpd_tls_loglevel = 0"}, fixes: true},
	{rule: "loglevel_silent", name: "1", main: "smtp_tls_loglevel = 1\nsmtpd_tls_loglevel = 1\n"},
	{rule: "loglevel_high", main: "smtpd_tls_loglevel = 4\n", want: []string{"main:5 smtpd_tls_loglevel = 4"}, fixes: true},
	{rule: "loglevel_high", name: "1", main: "smtpd_tls_loglevel = 1\n"},
	{rule: "received_header_off", want: []string{"main:0 no"}, fixes: true},
	{rule: "received_header_off", name: "yes", main: "smtpd_tls_received_header = yes\n"},
	{rule: "session_cache_server", main: "smtpd_tls_session_cache_database = btree:/x\n", want: []string{"main:5 btree:/x"}, fixes: true},
	{rule: "session_cache_server", name: "empty", main: "smtpd_tls_session_cache_database =\n"},
	{rule: "session_cache_client", facts: Facts{TableTypes: []string{"lmdb"}}, want: []string{"main:0 empty"}, fixes: true},
	{rule: "session_cache_client", name: "set", main: "smtp_tls_session_cache_database = btree:/x\n"},
	{rule: "parameter_twice", main: "smtp_tls_security_level = encrypt\n", want: []string{"main:3 is set again in main.cf, line 5"}},
	{rule: "parameter_twice", name: "once"},

	// outgoing mail
	{rule: "outbound_level_invalid", main: "-smtp_tls_security_level = yes\n", want: []string{"main:1 yes"}, fixes: true},
	{rule: "outbound_level_invalid", name: "may"},
	{rule: "outbound_none", main: "-smtpd_tls_security_level = may\n", want: []string{"main:0 empty"}, fixes: true},
	{rule: "outbound_none", name: "may"},
	{rule: "outbound_mandatory", main: "-smtp_tls_security_level = encrypt\n", want: []string{"main:1 encrypt without a relayhost"}},
	{rule: "outbound_mandatory", name: "relayhost", main: "-smtp_tls_security_level = encrypt\nrelayhost = [x]:587\n"},
	{rule: "outbound_note_offer", main: "-relayhost =\n", want: []string{"main:0 no"}, fixes: true},
	{rule: "outbound_note_offer", name: "never without TLS"},
	{rule: "outbound_no_trust", name: "S60 nothing", main: "-smtp_tls_security_level = secure\n", want: []string{"main:1 neither smtp_tls_CAfile nor smtp_tls_CApath"}},
	{rule: "outbound_no_trust", name: "S60 chroot", main: "-smtp_tls_security_level = secure\nsmtp_tls_CApath = /certs\nqueue_directory = /q\n", master: "NOREST smtp unix - - y - - smtp\n",
		facts: Facts{Bundle: "/b", Hashed: map[string]int{"/certs": 9, "/q/certs": 0}}, want: []string{"main:1 inside the chroot"}},
	{rule: "outbound_no_trust", name: "by a policy", main: hashPolicy, facts: file("/p", File{Entries: []Entry{{"x.example", "secure", 1}}}), want: []string{"main:3 the policy secure of x.example"}},
	{rule: "outbound_no_trust", name: "a policy with its own", main: hashPolicy, facts: file("/p", File{Entries: []Entry{{"x.example", "secure tafile=/t", 1}}})},
	{rule: "outbound_no_trust", name: "a bundle", main: "-smtp_tls_security_level = secure\nsmtp_tls_CAfile = /b\n", facts: file("/b", File{PEM: anchors})},
	{rule: "outbound_no_trust", name: "hashed", main: "-smtp_tls_security_level = secure\nsmtp_tls_CApath = /certs\n", facts: Facts{Hashed: map[string]int{"/certs": 9}}},
	{rule: "outbound_no_trust", name: "the library's", main: "-smtp_tls_security_level = secure\ntls_append_default_CA = yes\n"},
	{rule: "trust_chroot", main: "smtp_tls_CApath = /certs\nqueue_directory = /q\n", master: "NOREST smtp unix - - y - - smtp\n", facts: Facts{Bundle: "/b", Hashed: map[string]int{"/certs": 9, "/q/certs": 0}}, want: []string{"main:5 chroot of smtp/unix"}},
	{rule: "trust_chroot", name: "copied there", main: "smtp_tls_CApath = /certs\nqueue_directory = /q\n", master: "NOREST smtp unix - - y - - smtp\n", facts: Facts{Hashed: map[string]int{"/certs": 9, "/q/certs": 9}}},
	{rule: "trust_file", main: "smtp_tls_CAfile = /b\n", facts: Facts{Bundle: "/x", Files: map[string]File{"/b": {Err: "no such file"}}}, want: []string{"main:5 no such file"}},
	{rule: "trust_file", name: "good", main: "smtp_tls_CAfile = /b\n", facts: file("/b", File{PEM: anchors})},
	{rule: "trust_no_ca", main: "smtp_tls_CAfile = /b\n", facts: file("/b", File{PEM: rsaCert}), want: []string{"main:5 no certificate of a CA"}},
	{rule: "trust_no_ca", name: "good", main: "smtp_tls_CAfile = /b\n", facts: file("/b", File{PEM: anchors})},
	{rule: "dane_no_dnssec", main: "-smtp_tls_security_level = dane\n", want: []string{"main:1 smtp_dns_support_level = "}, fixes: true},
	{rule: "dane_no_dnssec", name: "with", main: "-smtp_tls_security_level = dane\nsmtp_dns_support_level = dnssec\n"},
	{rule: "dane_unused", want: []string{"main:3 may"}},
	{rule: "dane_unused", name: "used", main: "-smtp_tls_security_level = dane\n"},
	{rule: "tlsrpt_incomplete", version: "3.10.3", main: "smtp_tlsrpt_enable = yes\n", want: []string{"main:5 empty"}},
	{rule: "tlsrpt_incomplete", name: "complete", version: "3.10.3", main: "smtp_tlsrpt_enable = yes\nsmtp_tlsrpt_socket_name = x\n"},
	{rule: "tlsrpt_unused", version: "3.10.3", want: []string{"main:0 not yes"}},
	{rule: "tlsrpt_unused", name: "before it was there"},

	// tables
	{rule: "table_type_missing", main: hashPolicy, facts: Facts{TableTypes: []string{"lmdb", "cdb"}}, want: []string{"main:5 type hash"}},
	{rule: "table_type_missing", name: "cache", main: "smtp_tls_session_cache_database = btree:${data_directory}/x\n", facts: Facts{TableTypes: []string{"lmdb"}}, want: []string{"main:5 type btree"}},
	{rule: "table_type_missing", name: "there", main: "smtp_tls_policy_maps = inline:{ { a = may } }, proxy:hash:/p\n", facts: Facts{TableTypes: []string{"hash", "inline"}}},
	{rule: "table_unreadable", main: hashPolicy, facts: files(map[string]File{"/p": {}, "/p.db": {Err: "no such file"}}), want: []string{"main:5 /p.db"}},
	{rule: "table_unreadable", name: "text", main: "smtp_tls_policy_maps = texthash:/p\n", facts: file("/p", File{Err: "no such file"}), want: []string{"main:5 /p"}},
	{rule: "table_unreadable", name: "no file at all", main: "smtp_tls_policy_maps = mysql:/p\n", facts: file("/p", File{Err: "no such file"})},
	{rule: "table_stale", name: "S61", main: hashPolicy, facts: files(map[string]File{"/p": {Modified: time.Unix(9, 0)}, "/p.db": {Modified: time.Unix(8, 0)}}), want: []string{"main:5 older"}},
	{rule: "table_stale", name: "in time", main: hashPolicy, facts: files(map[string]File{"/p": {Modified: time.Unix(8, 0)}, "/p.db": {Modified: time.Unix(8, 0)}})},
	{rule: "table_keys_readable", main: "tls_server_sni_maps = hash:/s\n", facts: file("/s.db", File{Mode: 0o644}), want: []string{"main:5 0644"}},
	{rule: "table_keys_readable", name: "root's", main: "tls_server_sni_maps = hash:/s\n", facts: file("/s.db", File{Mode: 0o600})},
	{rule: "policy_invalid", name: "S61 attribute", version: "3.3.22", main: hashPolicy, facts: file("/p", File{Entries: []Entry{{"x.example", "secure servername=y", 4}}}), want: []string{`/p:4 "servername" is of Postfix 3.4`}},
	{rule: "policy_invalid", name: "level", main: hashPolicy, facts: file("/p", File{Entries: []Entry{{"x.example", "mandatory", 2}}}), want: []string{`/p:2 "mandatory" is no security level`}},
	{rule: "policy_invalid", name: "good", main: hashPolicy, facts: file("/p", File{Entries: []Entry{{"x.example", "secure match=a.example:.b.example protocols=>=TLSv1.2 ciphers=high servername=c", 2}, {"y", "none", 3}, {"z", "verify { match = a }", 4}}})},

	// the runbook
	{rule: "runbook_smtp_tls_security_level", main: "-smtp_tls_security_level = encrypt\n", want: []string{"main:1 encrypt, not may"}, fixes: true},
	{rule: "runbook_smtp_tls_security_level", name: "may"},
	{rule: "runbook_smtp_tls_note_starttls_offer", want: []string{"main:0 no, not yes"}, fixes: true},
	{rule: "runbook_smtp_tls_note_starttls_offer", name: "yes", main: "smtp_tls_note_starttls_offer = yes\n"},
	{rule: "runbook_smtpd_tls_security_level", main: "-smtpd_tls_security_level = encrypt\n", want: []string{"main:1 encrypt, not may"}, fixes: true},
	{rule: "runbook_smtpd_tls_security_level", name: "may"},
	{rule: "runbook_smtpd_tls_auth_only", main: "-smtpd_tls_auth_only = no\n", want: []string{"main:1 no, not yes"}, fixes: true},
	{rule: "runbook_smtpd_tls_auth_only", name: "yes"},
	{rule: "runbook_smtpd_tls_loglevel", want: []string{"main:0 0, not 1"}, fixes: true},
	{rule: "runbook_smtpd_tls_loglevel", name: "1", main: "smtpd_tls_loglevel = 1\n"},
	{rule: "runbook_smtpd_tls_received_header", want: []string{"main:0 no, not yes"}, fixes: true},
	{rule: "runbook_smtpd_tls_received_header", name: "yes", main: "smtpd_tls_received_header = yes\n"},
	{rule: "runbook_smtpd_tls_mandatory_ciphers", want: []string{"main:0 medium, not high"}, fixes: true},
	{rule: "runbook_smtpd_tls_mandatory_ciphers", name: "high", main: "smtpd_tls_mandatory_ciphers = high\n"},
	{rule: "runbook_smtpd_tls_exclude_ciphers", main: "smtpd_tls_exclude_ciphers = aNULL\n", want: []string{"main:5 aNULL, not aNULL, MD5"}, fixes: true},
	{rule: "runbook_smtpd_tls_exclude_ciphers", name: "other blanks", main: "smtpd_tls_exclude_ciphers = aNULL MD5,DES,  3DES,RC4,EXPORT,eNULL\n"},
	{rule: "runbook_smtpd_tls_eecdh_grade", version: "3.5.25", want: []string{"main:0 auto, not strong"}, fixes: true},
	{rule: "runbook_smtpd_tls_eecdh_grade", name: "where it is ignored"},
	{rule: "runbook_tls_preempt_cipherlist", want: []string{"main:0 no, not yes"}, fixes: true},
	{rule: "runbook_tls_preempt_cipherlist", name: "yes", main: "tls_preempt_cipherlist = yes\n"},
	{rule: "runbook_submission_smtpd_tls_security_level", master: "submission inet n - n - - smtpd\n", want: []string{"main:2 may, not encrypt"}, fixes: true},
	{rule: "runbook_submission_smtpd_tls_security_level", name: "encrypt"},
	{rule: "runbook_submission_smtpd_sasl_auth_enable", master: "submission inet n - n - - smtpd\n", want: []string{"master:1 no, not yes"}, fixes: true},
	{rule: "runbook_submission_smtpd_sasl_auth_enable", name: "yes"},
	{rule: "runbook_submission_smtpd_tls_auth_only", master: "submission inet n - n - - smtpd -o smtpd_tls_auth_only=no\n", want: []string{"master:1 no, not yes"}, fixes: true},
	{rule: "runbook_submission_smtpd_tls_auth_only", name: "yes"},
	{rule: "runbook_submission_smtpd_relay_restrictions", master: "submission inet n - n - - smtpd\n", want: []string{"master:1 not permit_sasl"}, fixes: true},
	{rule: "runbook_submission_smtpd_relay_restrictions", name: "as it says"},
	{rule: "runbook_submissions_smtpd_tls_security_level", master: "465 inet n - n - - smtpd\n", want: []string{"main:2 may, not encrypt"}, fixes: true},
	{rule: "runbook_submissions_smtpd_tls_security_level", name: "encrypt"},
	{rule: "runbook_submissions_smtpd_tls_wrappermode", master: "465 inet n - n - - smtpd\n", want: []string{"master:1 no, not yes"}, fixes: true},
	{rule: "runbook_submissions_smtpd_tls_wrappermode", name: "yes"},
	{rule: "runbook_submissions_smtpd_sasl_auth_enable", master: "465 inet n - n - - smtpd\n", want: []string{"master:1 no, not yes"}, fixes: true},
	{rule: "runbook_submissions_smtpd_sasl_auth_enable", name: "yes"},
	{rule: "runbook_submissions_smtpd_tls_auth_only", master: "465 inet n - n - - smtpd -o smtpd_tls_auth_only=no\n", want: []string{"master:1 no, not yes"}, fixes: true},
	{rule: "runbook_submissions_smtpd_tls_auth_only", name: "yes"},
	{rule: "runbook_submissions_smtpd_relay_restrictions", master: "465 inet n - n - - smtpd\n", want: []string{"master:1 not permit_sasl"}, fixes: true},
	{rule: "runbook_submissions_smtpd_relay_restrictions", name: "as it says"},
}

func (r row) snapshot(t *testing.T) cf.Snapshot {
	t.Helper()
	main, own := strings.CutPrefix(r.main, "-")
	if !own {
		main = usualMain + r.main
	}
	master := r.master
	if master == "" {
		master = usual
	}
	if only, bare := strings.CutPrefix(master, "NOREST "); bare {
		master = only
	} else {
		master += rest
	}
	version := r.version
	if version == "" {
		version = "3.7.11"
	}
	return snapshot(t, version, main, master)
}

// TestRules: each row has its findings, at their places; edits put them right,
// and undone leave both files as they were.
func TestRules(t *testing.T) {
	for i, r := range rows {
		t.Run(fmt.Sprintf("%s/%d %s", r.rule, i, r.name), func(t *testing.T) {
			s := r.snapshot(t)
			got := Run(s, r.facts, []Rule{rule(t, r.rule)})
			if len(got) != len(r.want) {
				t.Fatalf("%d findings, want %d: %s", len(got), len(r.want), said(got))
			}
			for i, f := range got {
				place, words, _ := strings.Cut(r.want[i], " ")
				name, line, _ := strings.Cut(place, ":")
				if path := map[string]string{"main": s.Main.Path, "master": s.Master.Path}[name]; path != "" {
					name = path
				}
				if f.At.File != name || fmt.Sprint(f.At.Line) != line || !strings.Contains(f.Message, words) {
					t.Errorf("finding %d is %s, want %s %s", i, said(got[i:i+1]), place, words)
				}
				if f.Advice == "" || f.Rule.Why == "" || f.Rule.Cite == "" || f.Rule.Title == "" {
					t.Errorf("finding %d says too little: %+v", i, *f)
				}
				if !strings.HasPrefix(f.Rule.ID, "key_") && f.At.Parameter == "" && f.At.Service == "" {
					t.Errorf("finding %d names neither parameter nor service", i)
				}
			}
			if fixes := len(got) > 0 && len(got[0].Remedy) > 0; fixes != r.fixes && r.facts.Bundle == "" {
				t.Fatalf("edits: %v, want %v", fixes, r.fixes)
			}
			remedied(t, r, s, got)
		})
	}
}

// remedied carries the edits out, asks again, and takes them back.
func remedied(t *testing.T, r row, s cf.Snapshot, got []*Finding) {
	t.Helper()
	edits, conflicts := Edits(got)
	if len(conflicts) > 0 {
		t.Fatalf("edits of one rule that contradict each other: %s", said(conflicts))
	}
	if len(edits) == 0 {
		return
	}
	edits, main, master, err := cf.Trace(s.Main.Data, s.Master.Data, edits)
	if err != nil {
		t.Fatal(err)
	}
	after := snapshot(t, s.Version, string(main), string(master))
	facts := r.facts
	if facts.Bundle != "" {
		facts.Files = map[string]File{facts.Bundle: {PEM: anchors}}
	}
	for id, g := range facts.Greetings {
		g.Before = nil // somebody would ask again
		facts.Greetings[id] = g
	}
	if left := Run(after, facts, []Rule{rule(t, r.rule)}); len(left) > 0 {
		t.Errorf("after the remedy: %s\nmain.cf:\n%smaster.cf:\n%s", said(left), main, master)
	}
	var back []cf.Edit
	for _, e := range edits {
		back = append([]cf.Edit{e.Inverse()}, back...)
	}
	main, master, err = cf.Apply(main, master, back)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(main, s.Main.Data) || !bytes.Equal(master, s.Master.Data) {
		t.Errorf("undone it is another one:\n%s%s", main, master)
	}
}

func said(all []*Finding) string {
	var out []string
	for _, f := range all {
		out = append(out, fmt.Sprintf("%s %s:%d %s: %s", f.Rule.ID, f.At.File, f.At.Line, f.At.Service, f.Message))
	}
	return strings.Join(out, "\n")
}

// TestEveryRule: each rule has a row in which it fires and one in which it does
// not, and its text is whole.
func TestEveryRule(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, r := range rows {
		if len(r.want) > 0 {
			fires[r.rule] = true
		} else {
			silent[r.rule] = true
		}
	}
	seen := map[string]bool{}
	for _, r := range Rules() {
		if !fires[r.ID] || !silent[r.ID] {
			t.Errorf("%s: a row that fires %v, one that does not %v", r.ID, fires[r.ID], silent[r.ID])
		}
		if seen[r.ID] {
			t.Errorf("%s is there twice", r.ID)
		}
		seen[r.ID] = true
	}
	for id := range fires {
		if !seen[id] {
			t.Errorf("%s is no rule", id)
		}
	}
	t.Logf("%d rules, %d rows", len(seen), len(rows))
}
