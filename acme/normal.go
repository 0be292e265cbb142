package acme

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"postcert/verify/problem"
)

var keyTypes = []KeyType{EC256, EC384, RSA2048, RSA3072, RSA4096}

var keyPolicies = []KeyPolicy{KeyAuto, KeyReuse, KeyRotate, KeyStaged}

// Normal returns s as it is used: names in lower case without a final dot,
// sorted; defaults filled in. It refuses, by id and all at once, what no CA or no
// challenge of ours can do. The error is a problem.List.
func (s Spec) Normal() (Spec, error) {
	found := checkName("spec_name", "a certificate", fileName(s.Name))
	s.Name = fileName(s.Name)
	if s.KeyType == "" {
		s.KeyType = EC256
	}
	if s.KeyPolicy == "" {
		s.KeyPolicy = KeyAuto
	}
	if s.Account == "" {
		s.Account = defaultAccount
	}
	names, bad := normalNames(s.Identifiers, s.Challenge.Type, s.Profile)
	s.Identifiers = names
	found = append(found, bad...)
	if !slices.Contains(keyTypes, s.KeyType) {
		found = append(found, problem.New("spec_key", problem.At{}, "%q is no key type: %s", brief(string(s.KeyType)), words(keyTypes)))
	}
	if !slices.Contains(keyPolicies, s.KeyPolicy) {
		found = append(found, problem.New("spec_key", problem.At{}, "%q is no key policy: %s", brief(string(s.KeyPolicy)), words(keyPolicies)))
	}
	if len(s.Profile) > maxProfileBytes || strings.ContainsFunc(s.Profile, func(r rune) bool { return r <= ' ' || r > '~' }) {
		found = append(found, problem.New("profile_unknown", problem.At{}, "%q can't be the name of a profile", brief(s.Profile)))
	}
	found = append(found, checkName("spec_name", "an account", s.Account)...)
	found = append(found, checkDirectory(s.Directory, s.Roots)...)
	found = append(found, s.Challenge.check()...)
	if found.Err() != nil {
		return s, found
	}
	return s, nil
}

func words[T ~string](all []T) string {
	var out []string
	for _, w := range all {
		out = append(out, string(w))
	}
	return strings.Join(out, ", ")
}

// checkDirectory judges the URL of a CA and the trust anchors of its own TLS.
func checkDirectory(directory string, roots []byte) problem.List {
	var found problem.List
	u, err := url.Parse(directory)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Opaque != "":
		found = append(found, problem.New("directory_invalid", problem.At{}, "%q is no URL of an ACME directory", brief(redacted(directory))))
	case u.Scheme != "https":
		found = append(found, problem.New("directory_invalid", problem.At{}, "the directory %s is reached without TLS; RFC 8555 section 6.1 wants https", brief(directory)))
	}
	if len(roots) > 0 {
		if _, err := pool(roots); err != nil {
			found = append(found, problem.New("directory_roots", problem.At{}, "the trust anchors of the CA's own TLS: %v", err))
		}
	}
	return found
}

// redacted is a text that may be a URL, without user and password.
func redacted(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.User != nil {
		u.User = nil
		return u.String()
	}
	return raw
}

type rootsError string

func (e rootsError) Error() string { return string(e) }

// pool reads trust anchors. Unlike AppendCertsFromPEM it refuses what it can't
// read: a root that is silently missing shows as a CA that can't be reached.
func pool(roots []byte) (*x509.CertPool, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	out := x509.NewCertPool()
	n := 0
	for rest := roots; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, rootsError("a PEM block is no certificate")
		}
		out.AddCert(cert)
	}
	if n == 0 {
		return nil, rootsError("there is no PEM certificate in them")
	}
	return out, nil
}

// check says what is wrong with a challenge in itself; whether the provider
// exists and its credentials are good, Preflight asks.
func (c Challenge) check() problem.List {
	var found problem.List
	bad := func(format string, args ...any) {
		found = append(found, problem.New("challenge_invalid", problem.At{}, format, args...))
	}
	switch c.Type {
	case HTTP01, TLSALPN01:
		if c.Provider != "" || c.Credentials != "" || c.Propagation != 0 {
			bad("provider, credentials and propagation are for dns-01, not %s", c.Type)
		}
	case DNS01:
		if c.Provider == "" {
			bad("dns-01 needs the name of a DNS provider")
		}
		if c.Listen != "" {
			bad("listen is for http-01 and tls-alpn-01, not dns-01")
		}
	default:
		bad("%q is no challenge: http-01, tls-alpn-01, dns-01", brief(c.Type))
	}
	if c.Webroot != "" && (c.Type != HTTP01 || c.Listen != "" || !filepath.IsAbs(c.Webroot)) {
		bad("webroot is an absolute directory, for http-01, and not together with listen")
	}
	if c.Credentials != "" && !filepath.IsAbs(c.Credentials) {
		bad("credentials is the absolute path of a file, not %q", brief(c.Credentials))
	}
	if c.Propagation < 0 {
		bad("propagation can't be negative")
	}
	if c.Listen != "" {
		if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
			bad("%q is no host:port to listen on", brief(c.Listen))
		}
	}
	return found
}

// Hash tells specifications apart that an order depends on: all but the name. A
// failure's back-off ends when it changes.
func (s Spec) Hash() string {
	s.Name = ""
	b, err := json.Marshal(s)
	if err != nil {
		return "" // strings and numbers only: can't be
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// setHash names a set of names, as CAs count orders by it.
func setHash(identifiers []string) string {
	sorted := slices.Sorted(slices.Values(identifiers))
	sum := sha256.Sum256([]byte(strings.Join(sorted, "\n")))
	return hex.EncodeToString(sum[:16])
}

// differs says whether a version is not what the specification asks for, so that
// an order is due at once. What else a specification says (challenge, preferred
// chain, key policy, account) counts from the next renewal on.
func (s Spec) differs(v *Version) bool {
	return !slices.Equal(s.Identifiers, v.Identifiers) || s.KeyType != v.KeyType || s.Profile != v.Profile || s.Directory != v.Directory
}

// fits says whether an order that was begun is for this specification.
func (s Spec) fits(p *Pending) bool {
	return slices.Equal(s.Identifiers, p.Identifiers) && s.KeyType == p.KeyType && s.Profile == p.Profile && s.Directory == p.Directory
}
