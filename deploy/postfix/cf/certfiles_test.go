package cf

import (
	"slices"
	"testing"
)

// What the two files alone say about where certificates are, and when that is not
// enough.
func TestCertificateFiles(t *testing.T) {
	const master = "smtp inet n - y - - smtpd\n"
	tests := []struct {
		name, main, master string
		want               []string
		ok                 bool
	}{
		{"legacy", "smtpd_tls_cert_file = /a,b.pem\nsmtpd_tls_key_file = $smtpd_tls_cert_file\n", master, []string{"/a,b.pem"}, true},
		{"list", "smtpd_tls_chain_files = /a.pem,\n  /b.pem\n", master, []string{"/a.pem", "/b.pem"}, true},
		{"none", "smtpd_tls_cert_file = none\nsmtpd_tls_chain_files =\n", master, nil, true},
		{"not set", "myhostname = x\n", master, nil, true},
		{"the last holds", "smtpd_tls_cert_file = /a.pem\nsmtpd_tls_cert_file = /b.pem\n", master, []string{"/b.pem"}, true},
		{"own parameter", "dir = /etc/ssl\nsmtpd_tls_cert_file = $dir/a.pem\n", master, []string{"/etc/ssl/a.pem"}, true},
		{"its directory", "smtpd_tls_cert_file = $config_directory/a.pem\n", master, []string{"/etc/postfix/a.pem"}, true},
		{"override", "smtpd_tls_cert_file = /a.pem\n", "submission inet n - y - - smtpd\n  -o smtpd_tls_cert_file=/b.pem\n", []string{"/a.pem", "/b.pem"}, true},
		{"override of what it is made of", "dir = /a\nsmtpd_tls_cert_file = $dir/x.pem\n", "submission inet n - y - - smtpd\n  -o dir=/b\n", []string{"/a/x.pem", "/b/x.pem"}, true},
		{"a built-in default", "smtpd_tls_cert_file = $data_directory/a.pem\n", master, []string{"/a.pem"}, false},
		{"relative", "smtpd_tls_cert_file = a.pem\n", master, []string{"a.pem"}, false},
		{"broken main.cf", "nonsense\n", master, nil, false},
		{"broken master.cf", "", "smtp inet\n", nil, false},
		{"client certificate", "smtp_tls_cert_file = /c.pem\n", master, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := CertificateFiles("/etc/postfix", []byte(tt.main), []byte(tt.master))
			slices.Sort(got)
			if ok != tt.ok || !slices.Equal(got, tt.want) {
				t.Errorf("%q, %v; want %q, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}
