package config

import (
	"crypto/x509"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"postcert/deploy/generation"
)

// FuzzWords: a word that the configuration accepts is one for those who use it
// later: the store of generations, the certificate, the dialler, the clock.
func FuzzWords(f *testing.F) {
	for _, s := range []string{
		"mail.example.com", "*.example.com", "_wildcard.example.com", "a..b", "xn--bcher-kva.example", "1.2.3.4", "-a.b", "a_b", "a.b.", "UPPER.example",
		"127.0.0.1:25", "[::1]:25", "[fe80::1%eth0]:465", "/var/spool/postfix/x", ":443", "host:0", "host:065", "smtp/inet", "[::1]:25/inet",
		"imaps://127.0.0.1:993", "smtp://a:b@c:25", "https://acme.example/dir", "letsencrypt", "60s", "0", "1h30m", "-5m", "12", "true", "0x10", "1_000", " 1", "caf\xe9",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkName(s) == "" && generation.ValidName(s) != nil {
			t.Errorf("the name %q: %v", s, generation.ValidName(s))
		}
		if checkDomain(s) == "" {
			host := strings.Replace(s, "*", "a", 1)
			if err := (&x509.Certificate{DNSNames: []string{s}}).VerifyHostname(host); err != nil {
				t.Errorf("a certificate for the domain %q is not valid for %q: %v", s, host, err)
			}
		}
		if checkAddress(s) == "" && !filepath.IsAbs(s) || checkListen(s) == "" {
			_, port, err := net.SplitHostPort(s)
			if n, err2 := strconv.ParseUint(port, 10, 16); err != nil || err2 != nil || n == 0 {
				t.Errorf("the address %q: %v, %v", s, err, err2)
			}
		}
		if d, err := parseDuration(s); err == nil {
			if again, err := time.ParseDuration(s); err != nil || again != d || strings.Trim(s, "0123456789+-.") == "" {
				t.Errorf("the time %q: %v", s, err)
			}
		}
		for _, words := range []string{checkName(s), checkDomain(s), checkListener(s), checkListen(s), checkProbeURL(s), checkDirectory(s), oneOf(s, "smtp", "imap")} {
			if len(words) > 400 || !utf8.ValidString(words) {
				t.Errorf("%q is refused by %d bytes: %q", s, len(words), words)
			}
		}
		isAccount(s)
		checkScalars(t, s)
	})
}

// checkScalars gives s as each environment variable: what is taken is s itself.
func checkScalars(t *testing.T, s string) {
	t.Helper()
	if n, want := convert(s, 0); want == "" {
		if m, err := strconv.ParseInt(s, 10, 64); err != nil || m > math.MaxInt || int(m) != n.(int) {
			t.Errorf("%q is the number %v", s, n)
		}
	}
	if b, want := convert(s, false); want == "" && strconv.FormatBool(b.(bool)) != s {
		t.Errorf("%q is %v", s, b)
	}
	for _, scalar := range Scalars() {
		l := newLayers(nil, map[string]string{scalar.Variable: s})
		c, list := l.parse("postcert.yaml", nil)
		if list.Err() != nil {
			continue
		}
		if _, isText := scalar.fallback.(string); isText && s != "" && l.viper.GetString(scalar.Key) != s {
			t.Errorf("%s=%q is %q", scalar.Variable, s, l.viper.GetString(scalar.Key))
		}
		if _, err := c.Show(); err != nil {
			t.Errorf("%s=%q is accepted, but not shown: %v", scalar.Variable, s, err)
		}
	}
}
