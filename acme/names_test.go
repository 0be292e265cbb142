package acme

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcert/verify/problem"
)

func good() Spec {
	return Spec{
		Name: "mail", Identifiers: []string{"mail.example.com"}, Directory: "https://ca.example/dir",
		Challenge: Challenge{Type: HTTP01},
	}
}

// Every bad name has an id of its own and is named, before anything is asked.
func TestNames(t *testing.T) {
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("h%d.example.com", i))
		}
		return out
	}
	label := strings.Repeat("a", 63)
	for _, c := range []struct {
		name      string
		in        []string
		challenge string
		profile   string
		want      []string
		ids       []string
	}{
		{name: "plain", in: []string{"mail.example.com"}, want: []string{"mail.example.com"}},
		{name: "upper case", in: []string{"MAIL.Example.COM"}, want: []string{"mail.example.com"}},
		{name: "trailing dot", in: []string{"mail.example.com."}, want: []string{"mail.example.com"}},
		{name: "sorted", in: []string{"b.example.com", "a.example.com"}, want: []string{"a.example.com", "b.example.com"}},
		{name: "A-label", in: []string{"XN--bcher-kva.example"}, want: []string{"xn--bcher-kva.example"}},
		{name: "IDN", in: []string{"bücher.example"}, ids: []string{"domain_idn"}},
		{name: "IDN after case folding", in: []string{"\u212a.example"}, ids: []string{"domain_idn"}}, // KELVIN SIGN
		{name: "none", ids: []string{"domain_missing"}},
		{name: "empty", in: []string{""}, ids: []string{"domain_invalid"}},
		{name: "dot", in: []string{"."}, ids: []string{"domain_invalid"}},
		{name: "two dots at the end", in: []string{"a.example.."}, ids: []string{"domain_invalid"}},
		{name: "empty label", in: []string{"a..example"}, ids: []string{"domain_invalid"}},
		{name: "one label", in: []string{"localhost"}, ids: []string{"domain_invalid"}},
		{name: "underscore", in: []string{"_dmarc.example.com"}, ids: []string{"domain_invalid"}},
		{name: "hyphens", in: []string{"-a.example.com"}, ids: []string{"domain_invalid"}},
		{name: "hyphens at 3", in: []string{"ab--c.example.com"}, ids: []string{"domain_invalid"}},
		{name: "space", in: []string{"a b.example.com"}, ids: []string{"domain_invalid"}},
		{name: "newline", in: []string{"a.example.com\n"}, ids: []string{"domain_invalid"}},
		{name: "NUL", in: []string{"a\x00.example.com"}, ids: []string{"domain_invalid"}},
		{name: "slash", in: []string{"a/../b.example.com"}, ids: []string{"domain_invalid"}},
		{name: "URL", in: []string{"https://a.example.com"}, ids: []string{"domain_invalid"}},
		{name: "mail address", in: []string{"me@example.com"}, ids: []string{"domain_invalid"}},
		{name: "label of 63", in: []string{label + ".example.com"}, want: []string{label + ".example.com"}},
		{name: "label of 64", in: []string{label + "a.example.com"}, ids: []string{"domain_invalid"}},
		{name: "253", in: []string{label + "." + label + "." + label + "." + strings.Repeat("b", 61)}, want: []string{label + "." + label + "." + label + "." + strings.Repeat("b", 61)}},
		{name: "254", in: []string{label + "." + label + "." + label + "." + strings.Repeat("b", 62)}, ids: []string{"domain_invalid"}},
		{name: "numeric end", in: []string{"1.2.3"}, ids: []string{"domain_invalid"}},
		{name: "IPv4", in: []string{"192.0.2.1"}, ids: []string{"domain_ip"}},
		{name: "IPv4 short-lived", in: []string{"192.0.2.1"}, profile: "shortlived", ids: []string{"domain_ip"}},
		{name: "IPv6", in: []string{"2001:db8::1"}, ids: []string{"domain_ip"}},
		{name: "IPv6 in brackets", in: []string{"[2001:db8::1]"}, ids: []string{"domain_ip"}},
		{name: "duplicate", in: []string{"a.example.com", "a.example.com"}, ids: []string{"domain_duplicate"}},
		{name: "duplicate by case", in: []string{"a.example.com", "A.example.com"}, ids: []string{"domain_duplicate"}},
		{name: "duplicate by dot", in: []string{"a.example.com", "a.example.com."}, ids: []string{"domain_duplicate"}},
		{name: "wildcard", in: []string{"*.example.com"}, challenge: DNS01, want: []string{"*.example.com"}},
		{name: "wildcard and its parent", in: []string{"example.com", "*.example.com"}, challenge: DNS01, want: []string{"*.example.com", "example.com"}},
		{name: "wildcard and a name below", in: []string{"a.example.com", "*.example.com"}, challenge: DNS01, ids: []string{"domain_redundant"}},
		{name: "wildcard by http-01", in: []string{"*.example.com"}, ids: []string{"domain_wildcard"}},
		{name: "wildcard by tls-alpn-01", in: []string{"*.example.com"}, challenge: TLSALPN01, ids: []string{"domain_wildcard"}},
		{name: "inner wildcard", in: []string{"a.*.example.com"}, challenge: DNS01, ids: []string{"domain_invalid"}},
		{name: "half wildcard", in: []string{"a*.example.com"}, challenge: DNS01, ids: []string{"domain_invalid"}},
		{name: "two wildcards", in: []string{"*.*.example.com"}, challenge: DNS01, ids: []string{"domain_invalid"}},
		{name: "bare wildcard", in: []string{"*"}, challenge: DNS01, ids: []string{"domain_invalid"}},
		{name: "wildcard of a top level", in: []string{"*.com"}, challenge: DNS01, ids: []string{"domain_invalid"}},
		{name: "100", in: many(100), want: slices.Sorted(slices.Values(many(100)))},
		{name: "101", in: many(101), ids: []string{"domain_too_many"}},
		{name: "25 short-lived", in: many(25), profile: "shortlived", want: slices.Sorted(slices.Values(many(25)))},
		{name: "26 short-lived", in: many(26), profile: "shortlived", ids: []string{"domain_too_many"}},
		{name: "26 tlsserver", in: many(26), profile: "tlsserver", ids: []string{"domain_too_many"}},
		{name: "all at once", in: []string{"1.2.3.4", "bücher.example", "a b", "ok.example.com"}, ids: []string{"domain_ip", "domain_idn", "domain_invalid"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good()
			s.Identifiers, s.Profile = c.in, c.profile
			if c.challenge != "" {
				s.Challenge.Type = c.challenge
			}
			if c.challenge == DNS01 {
				s.Challenge.Provider = "ovh"
			}
			n, err := s.Normal()
			var ids []string
			for _, p := range problem.From(err) {
				ids = append(ids, p.ID)
			}
			if !slices.Equal(ids, c.ids) {
				t.Fatalf("got %v (%v), want %v", ids, err, c.ids)
			}
			if err == nil && !slices.Equal(n.Identifiers, c.want) {
				t.Errorf("got %q, want %q", n.Identifiers, c.want)
			}
			if err == nil {
				again, err := n.Normal()
				if err != nil || again.Hash() != n.Hash() {
					t.Errorf("normal is not normal: %v", err)
				}
			}
		})
	}
}

func TestSpecRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Spec)
		id     string
	}{
		"no name":               {func(s *Spec) { s.Name = "" }, "spec_name"},
		"path":                  {func(s *Spec) { s.Name = "../x" }, "spec_name"},
		"slash":                 {func(s *Spec) { s.Name = "a/b" }, "spec_name"},
		"dotted":                {func(s *Spec) { s.Name = ".x" }, "spec_name"},
		"account path":          {func(s *Spec) { s.Account = "../x" }, "spec_name"},
		"key type":              {func(s *Spec) { s.KeyType = "ed25519" }, "spec_key"},
		"key policy":            {func(s *Spec) { s.KeyPolicy = "never" }, "spec_key"},
		"profile":               {func(s *Spec) { s.Profile = "a b" }, "profile_unknown"},
		"no TLS":                {func(s *Spec) { s.Directory = "http://ca.example/dir" }, "directory_invalid"},
		"no URL":                {func(s *Spec) { s.Directory = "ca.example" }, "directory_invalid"},
		"user":                  {func(s *Spec) { s.Directory = "https://me:secret@ca.example/" }, "directory_invalid"},
		"roots":                 {func(s *Spec) { s.Roots = []byte("x") }, "directory_roots"},
		"challenge":             {func(s *Spec) { s.Challenge.Type = "" }, "challenge_invalid"},
		"provider missing":      {func(s *Spec) { s.Challenge = Challenge{Type: DNS01} }, "challenge_invalid"},
		"provider with http-01": {func(s *Spec) { s.Challenge.Provider = "ovh" }, "challenge_invalid"},
		"webroot and listen":    {func(s *Spec) { s.Challenge.Webroot, s.Challenge.Listen = "/w", ":80" }, "challenge_invalid"},
		"relative webroot":      {func(s *Spec) { s.Challenge.Webroot = "w" }, "challenge_invalid"},
		"listen":                {func(s *Spec) { s.Challenge.Listen = "80" }, "challenge_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			c.change(&s)
			_, err := s.Normal()
			if !problem.From(err).Has(c.id) {
				t.Errorf("got %v, want %s", err, c.id)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}

// Every part of a specification but its name counts for the hash.
func TestSpecHash(t *testing.T) {
	base, err := good().Normal()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{base.Hash(): "base"}
	for name, change := range map[string]func(*Spec){
		"identifiers": func(s *Spec) { s.Identifiers = []string{"x.example.com"} }, "key type": func(s *Spec) { s.KeyType = RSA2048 },
		"policy": func(s *Spec) { s.KeyPolicy = KeyRotate }, "profile": func(s *Spec) { s.Profile = "p" },
		"required": func(s *Spec) { s.ProfileRequired = true }, "chain": func(s *Spec) { s.PreferredChain = "X" },
		"directory": func(s *Spec) { s.Directory = "https://b.example/" }, "roots": func(s *Spec) { s.Roots = []byte("r") },
		"account": func(s *Spec) { s.Account = "b" }, "challenge": func(s *Spec) { s.Challenge.Type = TLSALPN01 },
		"listen": func(s *Spec) { s.Challenge.Listen = ":81" }, "resolvers": func(s *Spec) { s.Challenge.Resolvers = []string{"::1"} },
	} {
		s := base
		change(&s)
		if was, ok := seen[s.Hash()]; ok {
			t.Errorf("%s has the hash of %s", name, was)
		}
		seen[s.Hash()] = name
	}
	renamed := base
	renamed.Name = "other"
	if renamed.Hash() != base.Hash() {
		t.Error("the name counts")
	}
}

// What is accepted as a name is one element of a path, whatever it is.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"mail.example.com", "*.example.com", "a..b", "../x", "xn--a.b", "1.2.3.4", "A.b.", "é.b", "a.b\x00"} {
		f.Add(s, DNS01)
		f.Add(s, HTTP01)
	}
	f.Fuzz(func(t *testing.T, name, challenge string) {
		s := good()
		s.Name, s.Identifiers = name, []string{name}
		s.Challenge = Challenge{Type: challenge, Provider: map[bool]string{true: "ovh"}[challenge == DNS01]}
		n, err := s.Normal()
		if err != nil {
			if len(problem.From(err)) == 0 {
				t.Fatalf("no id: %v", err)
			}
			return
		}
		if filepath.Base(n.Name) != n.Name || n.Name[0] == '.' || strings.ContainsAny(n.Name, "*/\x00") {
			t.Fatalf("%q became the file %q", name, n.Name)
		}
		if id := n.Identifiers[0]; id != strings.ToLower(id) || strings.HasSuffix(id, ".") || strings.ContainsAny(id, " _/\n\x00") {
			t.Fatalf("%q became the name %q", name, id)
		}
	})
}

// The thumbprint is that of RFC 7638: openssl's reading of the key gives the same
// JWK.
func TestThumbprint(t *testing.T) {
	for _, kt := range []KeyType{EC256, EC384, RSA2048} {
		key, err := newKey(kt)
		if err != nil {
			t.Fatal(err)
		}
		if keyType(key.Public()) != kt {
			t.Errorf("a new %s key is %s", kt, keyType(key.Public()))
		}
		data, err := encodeKey(key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		der, err := exec.Command("openssl", "pkey", "-in", path, "-pubout", "-outform", "DER").Output()
		if err != nil {
			var exit *exec.ExitError
			errors.As(err, &exit)
			t.Fatalf("openssl: %v", err)
		}
		out, err := exec.Command("sh", "-c", "openssl pkey -in "+path+" -pubout -outform DER | openssl dgst -sha256").Output()
		if err != nil || !strings.Contains(string(out), spki(key.Public())) || len(der) == 0 {
			t.Errorf("openssl's SPKI digest is %s, ours %s (%v)", out, spki(key.Public()), err)
		}
	}
	// RFC 7638 section 3.1.
	const n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	if got := thumbprint(rsaPublic(t, n)); got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("the thumbprint of RFC 7638's key is %s", got)
	}
}
