package dns

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The same credentials in our own words, as lego's variables, and in certbot's
// files as their plug-ins document them.
func TestReadCredentials(t *testing.T) {
	ovh := map[string]string{"endpoint": "ovh-eu", "application_key": "MDAwMDAwMDAwMDAw", "application_secret": "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw", "consumer_key": "Y29uc3VtZXI"}
	tests := []struct {
		name, provider, file string
		want                 map[string]string
	}{
		{"ovh, ours", "ovh", "endpoint = ovh-eu\napplication_key=MDAwMDAwMDAwMDAw\n application_secret =MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw\nconsumer_key\t=\tY29uc3VtZXI", ovh},
		{"ovh, lego", "ovh", "OVH_ENDPOINT=ovh-eu\nexport OVH_APPLICATION_KEY='MDAwMDAwMDAwMDAw'\nOVH_APPLICATION_SECRET=\"MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw\"\nOVH_CONSUMER_KEY=Y29uc3VtZXI\n", ovh},
		{"ovh, certbot", "ovh", "# OVH API credentials used by Certbot\r\ndns_ovh_endpoint = ovh-eu\r\ndns_ovh_application_key = MDAwMDAwMDAwMDAw\r\ndns_ovh_application_secret = MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw\r\ndns_ovh_consumer_key = Y29uc3VtZXI # made in May\r\n", ovh},
		{"cloudflare, certbot, token", "cloudflare", "dns_cloudflare_api_token = 0123456789abcdef0123456789abcdef01234567\n", map[string]string{"api_token": "0123456789abcdef0123456789abcdef01234567"}},
		{"cloudflare, certbot, global key", "cloudflare", "dns_cloudflare_email = cloudflare@example.com\ndns_cloudflare_api_key = 0123456789abcdef0123456789abcdef01234\n", map[string]string{"email": "cloudflare@example.com", "api_key": "0123456789abcdef0123456789abcdef01234"}},
		{"cloudflare, lego's short form", "cloudflare", "CF_DNS_API_TOKEN=a\nCF_ZONE_API_TOKEN=b\nCF_TTL=300", map[string]string{"api_token": "a", "zone_token": "b", "ttl": "300"}},
		{"hetzner, certbot 1", "hetzner", "certbot_dns_hetzner:dns_hetzner_api_token = nohnah4zoo9Kiejee9aGh0thoopee2sa\n", map[string]string{"api_token": "nohnah4zoo9Kiejee9aGh0thoopee2sa"}},
		{"hetzner, certbot 4", "hetzner", "dns_hetzner_api_token = nohnah4zoo9\n", map[string]string{"api_token": "nohnah4zoo9"}},
		{"hetzner, certbot-dns-hcloud", "hetzner", "dns_hcloud_api_token = j8foaU8u2irpupAHwaf\n", map[string]string{"api_token": "j8foaU8u2irpupAHwaf"}},
		{"digitalocean, certbot", "digitalocean", "dns_digitalocean_token = 0000111122223333\n", map[string]string{"token": "0000111122223333"}},
		{"rfc2136, certbot", "rfc2136", "dns_rfc2136_server = 192.0.2.1\ndns_rfc2136_port = 53\ndns_rfc2136_name = keyname.\ndns_rfc2136_secret = 4q4wM/2I180UXoMyN4INVhJNi8V9BCV+jMw2mXgZw/CSuxUT8C7NKKFs AmKd7ak51vWKgSl12ib86oQRPkpDjg==\ndns_rfc2136_algorithm = HMAC-SHA512\ndns_rfc2136_sign_query = false\n",
			map[string]string{"server": "192.0.2.1", "port": "53", "name": "keyname.", "secret": "4q4wM/2I180UXoMyN4INVhJNi8V9BCV+jMw2mXgZw/CSuxUT8C7NKKFs AmKd7ak51vWKgSl12ib86oQRPkpDjg==", "algorithm": "HMAC-SHA512", "sign_query": "false"}},
		{"rfc2136, lego", "rfc2136", "RFC2136_NAMESERVER=127.0.0.1:5353\nRFC2136_TSIG_KEY=k\nDNSUPDATE_TSIG_SECRET=YQ==\nRFC2136_TSIG_ALGORITHM=hmac-sha256.\nRFC2136_PROPAGATION_TIMEOUT=90", map[string]string{"server": "127.0.0.1:5353", "name": "k", "secret": "YQ==", "algorithm": "hmac-sha256.", "propagation_timeout": "90"}},
		{"gandi, certbot", "gandi", "# Gandi personal access token\ndns_gandi_token=PERSONAL\n", map[string]string{"token": "PERSONAL"}},
		{"gandi, certbot, key and organisation", "gandiv5", "dns_gandi_api_key=APIKEY\ndns_gandi_sharing_id=org\n", map[string]string{"api_key": "APIKEY", "sharing_id": "org"}},
		{"gandi, certbot 1.2", "gandi", "certbot_plugin_gandi:dns_api_key=APIKEY\n", map[string]string{"api_key": "APIKEY"}},
		{"inwx, certbot", "inwx", "dns_inwx_url = https://api.domrobot.com/xmlrpc/\ndns_inwx_username = your_username\ndns_inwx_password = \"\"\"your \"#' password\"\"\"\ndns_inwx_shared_secret = your_shared_secret optional\n",
			map[string]string{"url": "https://api.domrobot.com/xmlrpc/", "username": "your_username", "password": `your "#' password`, "shared_secret": "your_shared_secret optional"}},
		{"desec, certbot", "desec", "dns_desec_token = token\ndns_desec_endpoint = https://desec.io/api/v1/\n", map[string]string{"token": "token", "endpoint": "https://desec.io/api/v1/"}},
		{"acme-dns, certbot", "acme-dns", "certbot_dns_acmedns:dns_acmedns_api_url = http://acmedns-server/\ncertbot_dns_acmedns:dns_acmedns_registration_file = /etc/certbot/acme-registration.json\n", map[string]string{"api_base": "http://acmedns-server/", "storage_path": "/etc/certbot/acme-registration.json"}},
		{"powerdns, certbot-dns-powerdns", "pdns", "dns_powerdns_api_url = https://api.mypowerdns.example.org\ndns_powerdns_api_key = AbCbASsd!@34\n", map[string]string{"api_url": "https://api.mypowerdns.example.org", "api_key": "AbCbASsd!@34"}},
		{"powerdns, certbot-dns-pdns", "pdns", "dns_pdns_endpoint = https://pdns-api.example.com\ndns_pdns_api_key = KEY\ndns_pdns_server_id = localhost # see the manual\ndns_pdns_disable_notify = false\n", map[string]string{"api_url": "https://pdns-api.example.com", "api_key": "KEY", "server_name": "localhost", "disable_notify": "false"}},
		{"several providers", "desec", "OVH_ENDPOINT=ovh-eu\nDESEC_TOKEN=t\nDO_AUTH_TOKEN=x\ndns_cloudflare_api_token=y\nLINODE_TOKEN=z\nAWS_REGION=eu\ndns_route53_x=1\n", map[string]string{"token": "t"}},
		{"empty values do not count", "desec", "DESEC_TOKEN=t\nDESEC_TTL=\n", map[string]string{"token": "t"}},
		{"the same twice", "desec", "DESEC_TOKEN=t\ndns_desec_token = t\n", map[string]string{"token": "t"}},
		{"a # in lego's form", "desec", "DESEC_TOKEN=t#t\n", map[string]string{"token": "t#t"}},
		{"exec", "exec", "EXEC_PATH=/usr/local/bin/hook\n", map[string]string{"program": "/usr/local/bin/hook"}},
		{"byte order mark", "desec", "\ufeffDESEC_TOKEN=t\n", map[string]string{"token": "t"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadCredentials(secretFile(t, tt.file), tt.provider)
			if err != nil || !maps.Equal(got, tt.want) {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// Each key of certbot and each variable of lego that a field lists is read.
func TestEveryNameIsRead(t *testing.T) {
	for _, d := range definitions {
		for _, f := range d.all() {
			for _, key := range append(append([]string{f.Name}, f.Lego...), f.Certbot...) {
				got, err := parseCredentials("f", []byte(key+"=v\n"), d)
				if f.Name == "secret" && d == rfc2136Definition {
					got, err = parseCredentials("f", []byte(key+"=v\nalgorithm=hmac-sha256"), d)
				}
				if err != nil || got[f.Name] != "v" {
					t.Errorf("%s: %s: %v, %v", d.name, key, got, err)
				}
			}
			if f.Meaning == "" {
				t.Errorf("%s: %s has no meaning", d.name, f.Name)
			}
		}
	}
}

func TestBadCredentials(t *testing.T) {
	const secret = "s3cr3t-value"
	tests := []struct{ name, provider, file, want string }{
		{"unknown key", "ovh", "\ndns_ovh_aplication_key = " + secret, ":2: dns_ovh_aplication_key: ovh knows no such key; near names: dns_ovh_application_key"},
		{"unknown key, ours", "ovh", "consumerkey=" + secret, ":1: consumerkey: ovh knows no such key; near names: consumer_key"},
		{"unknown variable", "desec", "DESEC_TOKN=" + secret, "near names: DESEC_TOKEN"},
		{"nobody's key", "desec", "FOO_BAR=" + secret, ":1: FOO_BAR: desec knows no such key"},
		{"no key", "desec", secret, ":1: not KEY = VALUE"},
		{"no key before =", "desec", "a " + secret + " = x", ":1: what is before = is no key"},
		{"section", "desec", "[" + secret + "]", "sections are not read"},
		{"two values", "desec", "DESEC_TOKEN=" + secret + "\ntoken=other", ":2: token: line 1 says something else"},
		{"open quote", "desec", `DESEC_TOKEN="` + secret, "quotes"},
		{"after the quote", "desec", `DESEC_TOKEN="` + secret + `" x`, "quotes"},
		{"comment or value", "desec", "DESEC_TOKEN=" + secret + " # mine", "put the value in quotes"},
		{"control character", "desec", "DESEC_TOKEN=" + secret + "\x00", "control character"},
		{"another file", "desec", "DESEC_TOKEN_FILE=/run/secrets/desec", "DESEC_TOKEN_FILE: the value itself has to be here"},
		{"certbot's MD5", "rfc2136", "dns_rfc2136_server=127.0.0.1\ndns_rfc2136_name=k\ndns_rfc2136_secret=" + secret, "dns_rfc2136_algorithm: missing, which means HMAC-MD5"},
		{"unknown provider", "cloudflair", "x=" + secret, "near names: cloudflare"},
		{"provider of contrib/dns", "linode", "x=" + secret, "contrib/dns has it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := secretFile(t, tt.file)
			got, err := ReadCredentials(path, tt.provider)
			if err == nil || !strings.Contains(err.Error(), tt.want) || kindOf(t, err) != Configuration {
				t.Fatalf("got %v, %v; want %q", got, err, tt.want)
			}
			if strings.Contains(printed(err), secret) {
				t.Errorf("the value is in the error: %v", err)
			}
			var c *CredentialsError
			if errors.As(err, &c) && c.File != path {
				t.Errorf("file %q", c.File)
			}
		})
	}
}

// Who else can read the file, or could have put it there, makes it refused.
func TestCredentialsFile(t *testing.T) {
	const content = "DESEC_TOKEN=s3cr3t-value\n"
	tests := []struct {
		name string
		make func(t *testing.T, path string) string // the path to be read
		want string                                 // "" is fine
	}{
		{"as it should be", func(t *testing.T, path string) string { return path }, ""},
		{"read-only", func(t *testing.T, path string) string { return path + chmod(t, path, 0o400) }, ""},
		{"readable by the group", func(t *testing.T, path string) string { return path + chmod(t, path, 0o640) }, "mode 0640"},
		{"readable by others", func(t *testing.T, path string) string { return path + chmod(t, path, 0o604) }, "mode 0604"},
		{"writable by the group", func(t *testing.T, path string) string { return path + chmod(t, path, 0o620) }, "mode 0620"},
		{"symbolic link", func(t *testing.T, path string) string {
			must(t, os.Symlink(path, path+".link"))
			return path + ".link"
		}, "symbolic link"},
		{"directory", func(t *testing.T, path string) string { return filepath.Dir(path) }, "not a regular file"},
		{"FIFO", func(t *testing.T, path string) string {
			must(t, syscall.Mkfifo(path+".fifo", 0o600))
			return path + ".fifo"
		}, "not a regular file"},
		{"missing", func(t *testing.T, path string) string { return path + ".none" }, "no such file"},
		{"relative", func(t *testing.T, path string) string { return "credentials" }, "not an absolute path"},
		{"too long", func(t *testing.T, path string) string {
			must(t, os.WriteFile(path, []byte("#"+strings.Repeat("x", maxSecret)), 0o600))
			return path
		}, "longer than 65536"},
		{"longest", func(t *testing.T, path string) string {
			must(t, os.WriteFile(path, []byte(content+"#"+strings.Repeat("x", maxSecret-len(content)-1)), 0o600))
			return path
		}, ""},
		{"somebody else's", func(t *testing.T, path string) string {
			must(t, os.Chown(path, 65534, 0))
			return path
		}, "owned by user 65534"},
		{"in somebody else's directory", func(t *testing.T, path string) string {
			must(t, os.Chown(filepath.Dir(path), 65534, 0))
			return path
		}, "somebody else could replace it"},
		{"in a directory that all may write", func(t *testing.T, path string) string {
			must(t, os.Chmod(filepath.Dir(path), 0o777))
			return path
		}, "somebody else could replace it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasPrefix(tt.name, "somebody") || strings.HasPrefix(tt.name, "in somebody") {
				needRoot(t)
			}
			got, err := ReadCredentials(tt.make(t, secretFile(t, content)), "desec")
			if tt.want == "" {
				if err != nil || got["token"] != "s3cr3t-value" {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	must(t, os.Chmod(path, mode))
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		without(t, "needs root")
	}
}

// without ends a test for something that this machine does not have; where CI is
// set nothing may be left untested.
func without(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// FuzzCredentials: no panic, no value in an error, and only known fields come out.
func FuzzCredentials(f *testing.F) {
	for _, seed := range []string{
		"dns_ovh_endpoint = ovh-eu\n", "export OVH_CONSUMER_KEY='x'", "a=\"\"\"b\"\"\"", "[s]\n", "=", "OVH_APPLICATION_KEY=x # y", "\ufeff;x\n#y\r\nttl=1",
		"certbot_dns_ovh:dns_ovh_consumer_key=x#y", "dns_rfc2136_secret=YQ==", "token='''", "OVH_TOKEN_FILE=x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, d := range definitions {
			values, err := parseCredentials("file", []byte(text), d)
			for name, v := range values {
				if v == "" || strings.ContainsAny(v, "\n\x00\r") {
					t.Errorf("%s: %q", name, v)
				}
			}
			if _, err := complete(d.all(), values); err != nil && strings.Contains(err.Error(), "unknown value") {
				t.Error(err)
			}
			// What follows the first = of a line that is longer than any of our words.
			for _, line := range strings.Split(text, "\n") {
				if _, v, found := strings.Cut(line, "="); found && err != nil && len(v) > 40 && strings.Contains(err.Error(), v) {
					t.Errorf("the value is in the error: %v", err)
				}
			}
		}
	})
}
