package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postcert/acme/acmetest"
)

// What is wrong on the command line or in the files that it names is said by id and
// by name, before any order.
func TestObtainBadInput(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	secret := "s3cret-0123456789"
	file := func(name string, mode os.FileMode, content string) string {
		path := filepath.Join(h.dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := []string{"--directory", h.ca.URL, "--acme-trust", h.ca.RootsFile, "--agree-tos", "--no-deploy"}
	http := append([]string{"--challenge", "http-01", "--listen", h.httpListen()}, ca...)
	dns := append([]string{"--challenge", "dns-01"}, ca...)
	open := file("open.env", 0o644, "DESEC_TOKEN="+secret+"\n")
	many := []string{}
	for i := range 101 {
		many = append(many, "-d", fmt.Sprintf("m%d.example.test", i))
	}
	tests := []struct {
		name   string
		status int
		id     string
		says   string // part of what is said
		args   []string
	}{
		{"no name", 2, "usage", "--domain", http},
		{"no challenge", 2, "usage", "--challenge is missing", append([]string{"-d", hostName}, ca...)},
		{"internationalised", 2, "domain_idn", "postfäch.example", append([]string{"-d", "postfäch.example"}, http...)},
		{"wildcard under http-01", 2, "domain_wildcard", "*.example.test", append([]string{"-d", "*.example.test"}, http...)},
		{"an address", 2, "domain_ip", "192.0.2.1", append([]string{"-d", "192.0.2.1"}, http...)},
		{"an IPv6 address", 2, "domain_ip", "2001:db8::1", append([]string{"-d", "2001:db8::1"}, http...)},
		{"twice", 2, "domain_duplicate", hostName, append([]string{"-d", hostName, "-d", strings.ToUpper(hostName) + "."}, http...)},
		{"no DNS name", 2, "domain_invalid", "mail_example", append([]string{"-d", "mail_example"}, http...)},
		{"more than a profile allows", 2, "domain_too_many", "101 names", append(many, http...)},
		{"more than shortlived allows", 2, "domain_too_many", "26 names", append(append(many[:52:52], "--profile", "shortlived"), http...)},
		{"unknown challenge", 2, "challenge_invalid", "dns-02", append([]string{"-d", hostName, "--challenge", "dns-02"}, ca...)},
		{"listen and webroot", 2, "challenge_invalid", "", append([]string{"-d", hostName, "--webroot", h.dir}, http...)},
		{"unknown key type", 2, "spec_key", "ed25519", append([]string{"-d", hostName, "--key-type", "ed25519"}, http...)},
		{"unknown provider", 2, "dns_provider_unknown", "cloudflare", append([]string{"-d", hostName, "--provider", "cloudflar"}, dns...)},
		{"a provider of contrib/dns", 2, "dns_provider_unknown", "contrib/dns", append([]string{"-d", hostName, "--provider", "route53"}, dns...)},
		{"credentials for all to read", 2, "dns_credentials", open, append([]string{"-d", hostName, "--provider", "desec", "--credentials", open}, dns...)},
		{"no credentials file", 2, "dns_credentials", "nothing.env", append([]string{"-d", hostName, "--provider", "desec", "--credentials", "/nonexistent/nothing.env"}, dns...)},
		{"a directory without TLS", 2, "", "https", append([]string{"-d", hostName, "--challenge", "http-01", "--agree-tos", "--no-deploy", "--directory"}, strings.Replace(h.ca.URL, "https", "http", 1))},
		{"a directory with an unknown CA", 6, "ca_unreachable", "acme-trust", append([]string{"-d", hostName, "--challenge", "http-01", "--agree-tos", "--no-deploy", "--directory"}, h.ca.URL)},
		{"an unknown CA by name", 2, "acme_directory_unknown", "letsencript", append([]string{"-d", hostName, "--challenge", "http-01", "--agree-tos", "--no-deploy", "--directory"}, "letsencript")},
		{"trust that is no file", 2, "acme_trust_unreadable", "none.pem", append([]string{"-d", hostName, "--challenge", "http-01", "--no-deploy", "--acme-trust", "/nonexistent/none.pem", "--directory"}, h.ca.URL)},
		{"terms that nobody agreed to", 3, "terms_not_agreed", "--agree-tos", append([]string{"-d", hostName, "--challenge", "http-01", "--listen", h.httpListen(), "--no-deploy", "--acme-trust", h.ca.RootsFile, "--directory"}, h.ca.URL)},
		{"half an account binding", 2, "usage", "go together", append([]string{"-d", hostName, "--eab-kid", "x"}, http...)},
		{"a key in the arguments", 2, "usage", "eab-hmac-key", append([]string{"-d", hostName, "--eab-hmac-key=x"}, http...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := h.postcert(append([]string{"obtain"}, tt.args...)...)
			a.t = t
			a.want(tt.status).says(tt.id).says(tt.says)
			if tt.status != 2 {
				a.says("not obtained: nothing was stored")
			}
			if strings.Contains(a.stdout+a.stderr, secret) {
				t.Errorf("a secret in the output:\n%s%s", a.stdout, a.stderr)
			}
		})
	}
	if n := h.orders(); n != 0 {
		t.Errorf("%d orders", n)
	}
	if left, _ := os.ReadDir(filepath.Join(h.state, "obtained")); len(left) > 0 {
		t.Errorf("what was not obtained is remembered: %v", left)
	}
}

// Upper case and a final dot mean the same name, and the CA is asked for it once.
func TestObtainNormalises(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	args := h.order("--no-deploy", "--json")
	args[2] = strings.ToUpper(hostName) + "."
	v := h.postcert(args...).want(0).certificate(0)
	if v["name"] != hostName || fmt.Sprint(v["domains"]) != "["+hostName+"]" {
		t.Errorf("%v %v", v["name"], v["domains"])
	}
}

// certbot's spelling, and what it becomes.
func TestCertbotSpelling(t *testing.T) {
	tests := []struct{ in, want string }{
		{"obtain --dns-ovh --dns-ovh-credentials ovh.ini --dns-ovh-propagation-seconds 60 -d a.example",
			"obtain --challenge dns-01 --provider ovh --credentials ovh.ini --propagation 60s -d a.example"},
		{"obtain --dns-ovh-credentials=ovh.ini --dns-ovh-propagation-seconds=60", "obtain --credentials ovh.ini --propagation 60s"},
		{"obtain --standalone -n --agree-tos", "obtain --challenge http-01 --agree-tos"},
		{"obtain -w /var/www -d a.example", "obtain --webroot /var/www -d a.example"},
		{"obtain --json -- --dns-ovh", "obtain --json -- --dns-ovh"},
		{"obtain --dns-ovh-credentials", "obtain --credentials "},
		{"status --dns-ovh", "status --dns-ovh"},
		{"--json obtain --dns-rfc2136", "--json obtain --challenge dns-01 --provider rfc2136"},
	}
	for _, tt := range tests {
		if got := strings.Join(certbotSpelling(strings.Split(tt.in, " ")), " "); got != tt.want {
			t.Errorf("%q becomes %q, want %q", tt.in, got, tt.want)
		}
	}
}
