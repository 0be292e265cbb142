package lineage

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// FuzzRecognise: whatever a call holds, what comes of it are absolute paths that
// hold nothing odd, and the same each time.
func FuzzRecognise(f *testing.F) {
	f.Add("", "RENEWED_LINEAGE=/etc/letsencrypt/live/a", "/", "")
	f.Add("", "LEGO_CERT_PATH=a.crt\x00LEGO_CERT_KEY_PATH=/a.key", "/srv", "")
	f.Add("", "LEGO_HOOK_CERT_PATH=/a.crt\x00LEGO_HOOK_CERT_KEY_PATH=/a.key", "", "")
	f.Add("", "CERT_FULLCHAIN_PATH=/a/f\x00CERT_KEY_PATH=/a/k\x00Le_Domain=a", "/", "")
	f.Add("deploy_cert\x00a\x00/d/k\x00/d/c\x00/d/f\x00/d/h\x001", "", "/", "")
	f.Add("live-updated", "ACME_STATE_DIR=/var/lib/acme", "/", "a\nb.example.com\n")
	f.Add("challenge-http-start\x00a", "ACME_STATE_DIR=/var/lib/acme", "/", "")
	f.Add("./a", "", "/srv", "")
	f.Add("../a\n", "RENEWED_LINEAGE=$(id)", "/srv", "..\n")
	f.Fuzz(func(t *testing.T, args, env, dir, stdin string) {
		in := Input{Env: map[string]string{}, Stdin: func() ([]byte, error) { return []byte(stdin), nil }}
		if args != "" {
			in.Args = strings.Split(args, "\x00")
		}
		for kv := range strings.SplitSeq(env, "\x00") {
			if name, value, ok := strings.Cut(kv, "="); ok {
				in.Env[name] = value
			}
		}
		if filepath.IsAbs(dir) && hostile("", dir) == nil { // it is the kernel's word
			in.Dir = dir
		}
		c, err := Recognise(in)
		if err != nil {
			if len(c.Lineages) > 0 || strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Fatalf("%+v with %q", c, err)
			}
			return
		}
		if c.Client == "" || (c.Nothing || c.Foreign) && len(c.Lineages) > 0 {
			t.Fatalf("%+v", c)
		}
		for _, l := range c.Lineages {
			for _, p := range []string{l.Source.Cert, l.Source.Key, l.Source.Chain, l.Issuer, l.Dir} {
				if p == "" {
					continue
				}
				if !filepath.IsAbs(p) || slices.Contains(strings.Split(p, "/"), "..") || strings.ContainsFunc(p, unicode.IsControl) {
					t.Fatalf("%q from %q, %q, %q, %q", p, args, env, dir, stdin)
				}
			}
			if l.Source.Cert == "" || !l.Source.Foreign {
				t.Fatalf("%+v", l)
			}
		}
	})
}
