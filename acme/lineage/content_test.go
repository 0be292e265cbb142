package lineage_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"postcert/acme/lineage"
	"postcert/verify/certtest"
	"postcert/verify/keypair"
)

// The content of files is that of the pair that is read from them, whether a root
// is among them or the chain stands apart; other certificates have another one,
// the key has no part in it.
func TestContent(t *testing.T) {
	root := certtest.NewCA(t, certtest.Authority{})
	ca := root.Intermediate(t, certtest.Authority{})
	p, other := ca.Leaf(t, certtest.Leaf{}), ca.Leaf(t, certtest.Leaf{})
	seen := map[string]string{}
	for name, cert := range map[string][]byte{
		"a chain":             p.FullchainPEM(),
		"a chain with a root": append(p.FullchainPEM(), certtest.EncodeCerts(root.Cert)...),
		"a leaf":              p.CertPEM(),
		"a key as well":       append(p.KeyPEM(), p.CertPEM()...),
	} {
		dir := t.TempDir()
		f := p.WriteFiles(t, dir)
		if err := os.WriteFile(f.Fullchain, cert, 0o600); err != nil {
			t.Fatal(err)
		}
		src := keypair.Source{Cert: f.Fullchain, Key: f.Key}
		if name == "a key as well" {
			src.Key = ""
		}
		pair, _, err := keypair.Read(t.Context(), src)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := lineage.Content(src), lineage.ContentOf(pair); got != want || got == "" {
			t.Errorf("%s: content %s, of the pair %s", name, got, want)
		}
		if leaf := lineage.Leaf(src); leaf == nil || keypair.Fingerprint(leaf) != pair.Fingerprint() {
			t.Errorf("%s: another leaf", name)
		}
		seen[name] = lineage.Content(src)
	}
	if seen["a chain"] == seen["a leaf"] || seen["a leaf"] != seen["a key as well"] {
		t.Errorf("contents %v", seen)
	}
	f := p.WriteFiles(t, t.TempDir())
	apart := keypair.Source{Cert: f.Cert, Key: f.Key, Chain: f.Chain}
	if lineage.Content(apart) != seen["a chain"] {
		t.Error("a separate chain does not count")
	}
	before := lineage.Content(apart)
	if err := os.WriteFile(f.Cert, other.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if lineage.Content(apart) == before {
		t.Error("another leaf has the same content")
	}
	for _, path := range []string{f.Key, filepath.Join(f.Dir, "absent"), f.Dir, "/dev/zero", "relative"} {
		if got := lineage.Content(keypair.Source{Cert: path}); got != "" {
			t.Errorf("%s: content %s", path, got)
		}
	}
}

// A look differs after anything that can bring other bytes, and tells which
// directories have to be watched for it.
func TestLookAt(t *testing.T) {
	p := certtest.NewCA(t, certtest.Authority{}).Leaf(t, certtest.Leaf{})
	dir := t.TempDir()
	f := p.WriteFiles(t, dir)
	live := filepath.Join(dir, "live")
	link := func(target, path string) {
		t.Helper()
		_ = os.Remove(path)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	link(".", live)
	link("fullchain.pem", filepath.Join(dir, "cert"))
	src := keypair.Source{Cert: filepath.Join(live, "cert"), Key: filepath.Join(live, "privkey.pem")}
	places := map[string]bool{}
	last := lineage.LookAt(src, func(dir, name string) { places[filepath.Join(dir, name)] = true })
	for _, want := range []string{"live", "cert", "fullchain.pem", "privkey.pem"} {
		if !places[filepath.Join(dir, want)] {
			t.Errorf("%s is not among %v", want, places)
		}
	}
	if again := lineage.LookAt(src, nil); again != last || last.Missing != "" {
		t.Errorf("two looks differ: %+v, %+v", last, again)
	}
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"rewritten", func() error { time.Sleep(20 * time.Millisecond); return os.WriteFile(f.Key, p.KeyPEM(), 0o600) }},
		{"mode", func() error { time.Sleep(20 * time.Millisecond); return os.Chmod(f.Key, 0o640) }},
		{"another link", func() error { link("./fullchain.pem", filepath.Join(dir, "cert")); return nil }},
		{"another directory", func() error { link(dir, live); return nil }},
		{"gone", func() error { return os.Remove(f.Key) }},
	} {
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		now := lineage.LookAt(src, nil)
		if now.Sum == last.Sum {
			t.Errorf("%s: not seen", change.name)
		}
		last = now
	}
	if last.Missing != filepath.Join(dir, "privkey.pem") {
		t.Errorf("missing: %q", last.Missing)
	}
	link("cert", filepath.Join(dir, "cert"))
	if l := lineage.LookAt(src, nil); l.Missing == "" {
		t.Error("a link to itself leads somewhere")
	}
}
