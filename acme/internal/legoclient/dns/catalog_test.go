package dns

import (
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	names := Names()
	for _, want := range []string{"ovh", "cloudflare", "hetzner", "desec", "pdns", "inwx", "acme-dns", "gandi", "digitalocean", "rfc2136", "exec", "httpreq"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if !sort.StringsAreSorted(names) || !sort.StringsAreSorted(legoCodes) {
		t.Error("not sorted")
	}
	seen := map[string]string{}
	for _, d := range definitions {
		for _, f := range d.all() {
			for _, key := range append(slices.Clone(f.Lego), f.Certbot...) {
				if other := seen[key]; other != "" {
					t.Errorf("%s is a key of %s and of %s.%s", key, other, d.name, f.Name)
				}
				seen[key] = d.name + "." + f.Name
			}
		}
	}
}

func TestSuggest(t *testing.T) {
	tests := []struct {
		name      string
		first     string // the nearest name; "" for none
		inContrib bool
	}{
		{"ovhh", "ovh", false},
		{"cloudfare", "cloudflare", false},
		{"Hetzner", "hetzner", false},
		{"hetzner-cloud", "hetzner", false},
		{"linode", "linode", true},
		{"route53", "route53", true},
		{"ruote53", "route53", false},
		{"digital", "digitalocean", false},
		{"gandiv5", "gandiv5", false}, // ours by another name
		{"dnsupdate", "dnsupdate", false},
		{"xyzzyplugh", "", false},
		{"", "", false},
	}
	for _, tt := range tests {
		near, inContrib := Suggest(tt.name)
		first := ""
		if len(near) > 0 {
			first = near[0]
		}
		if first != tt.first || inContrib != tt.inContrib {
			t.Errorf("%q: %v, %v", tt.name, near, inContrib)
		}
	}
}

func TestUnknownProvider(t *testing.T) {
	_, err := New("linode", Options{})
	if err == nil || kindOf(t, err) != Configuration || !strings.Contains(err.Error(), "contrib/dns has it") {
		t.Errorf("error %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		provider string
		values   map[string]string
		want     string // "" is fine
	}{
		{"ovh", map[string]string{}, "missing: application_key and application_secret and consumer_key, or client_id and client_secret, or access_token"},
		{"ovh", map[string]string{"application_key": "k", "consumer_key": "c"}, "missing: application_secret"},
		{"ovh", map[string]string{"access_token": "k", "client_id": "c", "client_secret": "s"}, "only one way"},
		{"ovh", map[string]string{"access_token": "k", "endpoint": "ovh-xx"}, "endpoint: not one of kimsufi-ca"},
		{"ovh", map[string]string{"client_id": "c", "client_secret": "s", "endpoint": "kimsufi-eu"}, "OAuth2"},
		{"ovh", map[string]string{"access_token": "k", "consumer": "c"}, `unknown value "consumer"; near names: consumer_key`},
		{"ovh", map[string]string{"access_token": "k\n"}, "access_token: holds a control character"},
		{"cloudflare", map[string]string{"email": "e"}, "missing: api_key"},
		{"cloudflare", map[string]string{"api_token": "t", "ttl": "60"}, ""}, // raised to what they take
		{"cloudflare", map[string]string{"api_token": "t", "ttl": "x"}, "ttl: not a whole number"},
		{"cloudflare", map[string]string{"api_token": "t", "polling_interval": "0"}, "polling_interval: not a whole number"},
		{"hetzner", map[string]string{}, "missing: api_token, or api_key"},
		{"hetzner", map[string]string{"api_key": "t"}, ""},
		{"pdns", map[string]string{"api_key": "t"}, "missing: api_url"},
		{"pdns", map[string]string{"api_key": "t", "api_url": "https://x", "api_version": "0"}, "api_version"},
		{"inwx", map[string]string{"username": "u", "password": "p", "shared_secret": "123456"}, "not base32"},
		{"inwx", map[string]string{"username": "u", "password": "p", "shared_secret": "your_shared_secret optional"}, ""},
		{"inwx", map[string]string{"username": "u", "password": "p", "url": "https://api.domrobot.com.evil.example/"}, "url: neither"},
		{"rfc2136", map[string]string{}, "missing: server"},
		{"rfc2136", map[string]string{"server": "127.0.0.1", "name": "k"}, "belong together"},
		{"rfc2136", map[string]string{"server": "127.0.0.1", "name": "k", "secret": "YQ==", "algorithm": "HMAC-MD5"}, "HMAC-MD5 must not be used"},
		{"rfc2136", map[string]string{"server": "127.0.0.1", "name": "k", "secret": "YQ==", "algorithm": "hmac-md5.sig-alg.reg.int."}, "HMAC-MD5 must not be used"},
		{"rfc2136", map[string]string{"server": "127.0.0.1", "name": "k", "secret": "YQ==", "algorithm": "sha256"}, "algorithm: not one of"},
		{"rfc2136", map[string]string{"server": "127.0.0.1", "name": "k", "secret": "!"}, "secret: not base64"},
		{"rfc2136", map[string]string{"server": "127.0.0.1", "port": "x"}, "port: not a whole number"},
		{"rfc2136", map[string]string{"server": "::1"}, ""},
		{"rfc2136", map[string]string{"server": "[::1]:5353"}, ""},
		{"acme-dns", map[string]string{"api_base": "https://x", "storage_path": "/nonexistent/accounts.json"}, "no such file"},
	}
	for _, tt := range tests {
		_, err := New(tt.provider, Options{Credentials: tt.values})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s %v: %v", tt.provider, tt.values, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || kindOf(t, err) != Configuration):
			t.Errorf("%s %v: %v, want %q", tt.provider, tt.values, err, tt.want)
		}
	}
}

func TestTimeout(t *testing.T) {
	for _, tt := range []struct {
		values      map[string]string
		propagation time.Duration
		want        time.Duration
	}{
		{map[string]string{"token": "t"}, 0, 2 * time.Minute},
		{map[string]string{"token": "t", "propagation_timeout": "7"}, 0, 7 * time.Second},
		{map[string]string{"token": "t", "propagation_timeout": "7"}, time.Minute, time.Minute},
	} {
		p, err := New("desec", Options{Credentials: tt.values, Propagation: tt.propagation})
		if err != nil {
			t.Fatal(err)
		}
		if got, interval := p.Timeout(); got != tt.want || interval != 4*time.Second {
			t.Errorf("%v: %v, %v", tt.values, got, interval)
		}
	}
}
