package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// traces are the forms in which a private key could turn up.
func traces(t *testing.T, p *certtest.Pair) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	var d *big.Int
	switch k := p.Key.(type) {
	case *ecdsa.PrivateKey:
		raw, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		d = new(big.Int).SetBytes(raw)
	case *rsa.PrivateKey:
		d = k.D
		out["decimal prime"] = []byte(k.Primes[0].String())
	default:
		t.Fatalf("no such key: %T", k)
	}
	text := p.KeyPEM()
	block, _ := pem.Decode(text)
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil || !bytes.Equal(der, block.Bytes) {
		t.Fatalf("the key is not PKCS#8: %v", err)
	}
	secret := d.Bytes()
	if len(secret) > 60 {
		secret = secret[:60]
	}
	lines := bytes.Split(text, []byte("\n"))
	public, err := x509.MarshalPKIXPublicKey(p.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range lines[1 : len(lines)-2] {
		// PKCS#8 holds the public key too, which is in the certificate.
		if part, err := base64.StdEncoding.DecodeString(string(l)); err == nil && len(l) > 30 && !bytes.Contains(public, part) {
			out[fmt.Sprintf("PEM line %d", i+1)] = l
			aligned(out, fmt.Sprintf("PEM line %d", i+1), l)
		}
	}
	aligned(out, "the number", secret)
	out["decimal D"] = []byte(d.String())
	out["hex"] = []byte(hex.EncodeToString(secret))
	out["HEX"] = bytes.ToUpper(out["hex"])
	out["the number itself"] = secret
	numbers := strings.Trim(fmt.Sprint(secret), "[]")
	out["as numbers"] = []byte(numbers)
	out["as numbers with commas"] = []byte(strings.ReplaceAll(numbers, " ", ","))
	return out
}

// aligned adds data in base64 as it looks at each of the three places where it
// can stand in a longer text, without what its neighbours decide.
func aligned(out map[string][]byte, name string, data []byte) {
	for shift := range 3 {
		code := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), data...))
		out[fmt.Sprintf("%s in base64, place %d", name, shift)] = []byte(code[4 : len(code)-4])
	}
}

// scanner looks for keys.
type scanner struct {
	t     *testing.T
	forms map[string]map[string][]byte // by name of the key
}

func (s *scanner) add(name string, p *certtest.Pair) {
	s.t.Helper()
	s.forms[name] = traces(s.t, p)
}

// found is which key data holds, and how; "" if none.
func (s *scanner) found(data []byte) string {
	if bytes.Contains(data, []byte("[45 45 45")) {
		return "PEM as numbers"
	}
	for key, forms := range s.forms {
		for form, code := range forms {
			if bytes.Contains(data, code) {
				return key + ": " + form
			}
		}
	}
	return ""
}

// clean fails the test if data holds a key.
func (s *scanner) clean(what string, data []byte) {
	s.t.Helper()
	if why := s.found(data); why != "" {
		s.t.Errorf("%s holds a private key (%s)", what, why)
	}
}

var (
	installedKey  = regexp.MustCompile(`^tls/[^/]+\.pem$`)
	generationKey = regexp.MustCompile(`^generations/.+/(postfix\.pem|000000/file-\d+)$`)
)

// tree looks at every file below dir: those that may hold a key must be root's
// alone, and no other may hold one. It returns how many hold one.
func (s *scanner) tree(dir string, may *regexp.Regexp) int {
	s.t.Helper()
	holders := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		why := s.found(data)
		if why == "" {
			return nil
		}
		holders++
		name, _ := filepath.Rel(dir, path)
		info, err := e.Info()
		if may == nil || !may.MatchString(name) {
			s.t.Errorf("%s holds a private key (%s)", path, why)
		} else if err == nil && info.Mode() != 0o600 {
			s.t.Errorf("%s holds a private key and has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return holders
}

// TestNoKeyLeaves: whatever happens, and however much is told of it, a private
// key is in the files that are made for it and nowhere else.
func TestNoKeyLeaves(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{"tls_medium_cipherlist = aNULL:-aNULL:HIGH:@STRENGTH:@SECLEVEL=3", "smtpd_tls_loglevel = 2"}})
	s := &scanner{t: t, forms: map[string]map[string][]byte{}}
	pairs := map[string]*certtest.Pair{
		"first": h.leaf(certtest.Leaf{}), "renewal": h.leaf(certtest.Leaf{}), "mixed": h.leaf(certtest.Leaf{}),
		"weak": h.leaf(certtest.Leaf{Key: "rsa"}), "killed": h.leaf(certtest.Leaf{}),
	}
	for name, p := range pairs {
		s.add(name, p)
	}
	// The scan finds what it looks for, in each form.
	first := traces(t, pairs["first"])
	for name, code := range first {
		if s.found([]byte("before "+string(code)+" after")) == "" {
			t.Errorf("the scan does not find %s", name)
		}
	}
	if s.found(fmt.Appendf(nil, "%v", struct{ b []byte }{pairs["first"].KeyPEM()})) == "" {
		t.Error("the scan does not find a printed struct")
	}
	mixed := pairs["mixed"].WithLeaf(pairs["first"].Cert)
	look := func(what string, a answer, trace string) {
		t.Helper()
		s.clean(what+": standard output", []byte(a.stdout))
		s.clean(what+": standard error", []byte(a.stderr))
		s.clean(what+": arguments and environment of programs", []byte(trace))
		s.clean(what+": the mail log", []byte(h.pf.Log()))
		if n := s.tree(h.pf.ConfigDir, installedKey); n > 1 {
			t.Errorf("%s: %d files with a key in the configuration directory", what, n)
		}
		s.tree(h.state, generationKey)
		s.tree(h.run, nil)
		s.tree(h.pf.QueueDir, nil)
	}
	for i, tc := range []struct {
		name   string
		status int
		args   []string
	}{
		{"install", 0, []string{"install-cert", h.pairDir(pairs["first"])}},
		{"renewal", 0, []string{"install-cert", h.pairDir(pairs["renewal"])}},
		{"refusal", statusRefused, []string{"install-cert", h.pairDir(mixed)}},
		{"rehearsal refused", statusRefused, []string{"install-cert", h.pairDir(pairs["weak"])}},
		{"rolled back", statusRolledBack, []string{"install-cert", h.pairDir(pairs["weak"]), "--no-rehearsal"}},
		{"rollback", 0, []string{"rollback"}},
		{"dry run", 0, []string{"install-cert", h.pairDir(pairs["renewal"]), "--dry-run"}},
		{"verify", 0, []string{"verify", h.pairDir(pairs["renewal"])}},
		{"status", 0, []string{"status"}},
		{"history", 0, []string{"history"}},
		{"config show", 0, []string{"config", "show"}},
	} {
		args := append(tc.args, "-vv")
		// strace is slow, and slower where others want the processor too. Where
		// the proof is to succeed, a longer deadline costs nothing.
		if h.env = nil; tc.status == 0 {
			h.env = []string{testDeadline + "=30s"}
		}
		if i%2 == 0 {
			args = append(args, "--json")
		}
		if i > 5 {
			look(tc.name, h.postcert(args...).want(tc.status), "")
			continue
		}
		a, _, trace := trace(h, h.command(args...))
		look(tc.name, a.want(tc.status), trace)
		if i == 0 {
			protected(t, trace)
		}
	}
	// A transaction that a kill left open: its journal knows the key by
	// reference only.
	h.env = []string{killAt + "=reload begin"}
	look("killed", h.postcert("install-cert", h.pairDir(pairs["killed"]), "-vv"), "")
	if _, err := os.Stat(filepath.Join(h.state, "journal", "open.json")); err != nil {
		t.Errorf("nothing was left open, so nothing was shown: %v", err)
	}
	h.env = nil
	look("recovered", h.postcert("recover", "-vv").want(0), "")
}

// protected fails the test unless the process gave up core dumps and being
// read by others before it started the first program.
func protected(t *testing.T, trace string) {
	t.Helper()
	begin := strings.Index(trace, "execve(")
	next := strings.Index(trace[begin+1:], "execve(")
	early := trace[begin : begin+1+next]
	for what, re := range map[string]string{
		"core dumps":     `(prlimit64\(0, RLIMIT_CORE, \{rlim_cur=0, rlim_max=0\}|setrlimit\(RLIMIT_CORE, \{rlim_cur=0, rlim_max=0\})`,
		"being dumpable": `prctl\(PR_SET_DUMPABLE, (0|SUID_DUMP_DISABLE)`,
	} {
		if !regexp.MustCompile(re).MatchString(early) {
			t.Errorf("%s was not given up before anything else:\n%.2000s", what, early)
		}
	}
}
