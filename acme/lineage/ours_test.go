package lineage

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// disk is a directory with lineages on it.
type disk struct {
	t   *testing.T
	dir string
	ca  *certtest.CA
}

func newDisk(t *testing.T) *disk {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &disk{t, dir, certtest.NewCA(t, certtest.Authority{})}
}

func (d *disk) at(path ...string) string { return filepath.Join(append([]string{d.dir}, path...)...) }

func (d *disk) write(path string, data []byte) {
	d.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// certbot makes version n of a lineage live and returns its leaf's fingerprint.
func (d *disk) certbot(name string, n int, names ...string) string {
	d.t.Helper()
	if len(names) == 0 {
		names = []string{name}
	}
	p := d.ca.Leaf(d.t, certtest.Leaf{Names: names})
	from := d.t.TempDir()
	p.WriteFiles(d.t, from)
	for _, part := range []string{"fullchain", "privkey"} {
		data, err := os.ReadFile(filepath.Join(from, part+".pem"))
		if err != nil {
			d.t.Fatal(err)
		}
		d.write(d.at("archive", name, fmt.Sprintf("%s%d.pem", part, n)), data)
		link := d.at("live", name, part+".pem")
		if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
			d.t.Fatal(err)
		}
		_ = os.Remove(link)
		if err := os.Symlink(fmt.Sprintf("../../archive/%s/%s%d.pem", name, part, n), link); err != nil {
			d.t.Fatal(err)
		}
	}
	return keypair.Fingerprint(p.Cert)
}

// The five rules, one by one, and that nothing else makes a lineage ours.
func TestOurs(t *testing.T) {
	d := newDisk(t)
	first := d.certbot("mail.example.com", 1)
	now := d.certbot("mail.example.com", 2)
	d.certbot("mail.example.com-0001", 1, "mail.example.com")
	mail, sibling := directory(Certbot, d.at("live", "mail.example.com")), directory(Certbot, d.at("live", "mail.example.com-0001"))
	if err := os.Symlink(d.at("live", "mail.example.com", "fullchain.pem"), d.at("smtpd.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(d.at("live"), d.at("lives")); err != nil {
		t.Fatal(err)
	}
	lego := func(name string) Lineage {
		cert := d.at("lego", name+".crt")
		p := d.ca.Leaf(t, certtest.Leaf{Names: []string{name}})
		d.write(cert, p.FullchainPEM())
		d.write(d.at("lego", name+".key"), []byte("x"))
		return Lineage{Client: Lego, Source: src(cert, d.at("lego", name+".key"))}
	}
	a, b := lego("a.example.com"), lego("b.example.com")
	wild := d.certbot("wild", 1, "*.example.com")
	named := mail
	named.Named = true
	tests := []struct {
		name string
		l    Lineage
		f    Facts
		want Rule
	}{
		{"nothing known", mail, Facts{}, ""},
		{"configured", mail, Facts{Configured: []string{mail.Dir}, Deployed: []string{"x"}}, RuleConfigured},
		{"configured by another path", mail, Facts{Configured: []string{d.at("lives", "mail.example.com")}}, RuleConfigured},
		{"configured, the sibling", sibling, Facts{Configured: []string{mail.Dir}, Deployed: []string{"x"}}, ""},
		{"recorded", mail, Facts{Recorded: []string{mail.Dir}, Deployed: []string{"x"}}, RuleRecorded},
		{"recorded by its file", a, Facts{Recorded: []string{a.Source.Cert}, Deployed: []string{"x"}}, RuleRecorded},
		{"recorded, beside it", b, Facts{Recorded: []string{a.Source.Cert}, Deployed: []string{"x"}}, ""},
		{"parameter", mail, Facts{Parameters: []string{mail.Source.Cert}, Deployed: []string{"x"}}, RuleParameter},
		{"parameter names another file of it", mail, Facts{Parameters: []string{d.at("live", "mail.example.com", "cert.pem")}}, RuleParameter},
		{"parameter through links", mail, Facts{Parameters: []string{d.at("smtpd.pem")}}, RuleParameter},
		{"parameter names a version", mail, Facts{Parameters: []string{d.at("archive", "mail.example.com", "fullchain1.pem")}}, RuleParameter},
		{"parameter, the sibling", sibling, Facts{Parameters: []string{mail.Source.Cert}, Deployed: []string{"x"}}, ""},
		{"parameter, lego", a, Facts{Parameters: []string{a.Source.Key}}, RuleParameter},
		{"parameter, lego, beside it", b, Facts{Parameters: []string{a.Source.Cert, a.Source.Key}}, ""},
		{"archived, the present one", mail, Facts{Deployed: []string{"x", now}}, RuleArchived},
		{"archived, a former one", mail, Facts{Deployed: []string{first}}, RuleArchived},
		{"archived, the sibling", sibling, Facts{Deployed: []string{first, now}}, ""},
		{"covers", mail, Facts{Names: []string{"vm.internal", "Mail.Example.com."}}, RuleCovers},
		{"covers, but something is deployed", mail, Facts{Names: []string{"mail.example.com"}, Deployed: []string{"x"}}, ""},
		{"covers another name", mail, Facts{Names: []string{"example.com", "", "vm.internal"}}, ""},
		{"covers by a wildcard", directory(Certbot, d.at("live", "wild")), Facts{Names: []string{"smtp.example.com"}}, RuleCovers},
		{"a wildcard is served", directory(Certbot, d.at("live", "wild")), Facts{Names: []string{"*.example.com"}}, RuleCovers},
		{"named", named, Facts{Deployed: []string{"x"}}, RuleNamed},
		{"named and recorded", named, Facts{Recorded: []string{mail.Dir}}, RuleRecorded},
	}
	if wild == "" {
		t.Fatal("no wildcard")
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen, err := tt.l.Look()
			if err != nil {
				t.Fatal(err)
			}
			if got := Ours(tt.l, seen, tt.f); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// A look waits for nothing, follows what certbot does, and no more of an archive
// than a few.
func TestLook(t *testing.T) {
	d := newDisk(t)
	l := directory(Certbot, d.at("live", "a"))
	if _, err := l.Look(); !problem.From(err).Has("input_missing") {
		t.Errorf("a lineage that is not there: %v", err)
	}
	var sums []string
	for n := 1; n <= 30; n++ {
		sums = append(sums, d.certbot("a", n))
		stamp := time.Now().Add(time.Duration(n-40) * time.Minute)
		if err := os.Chtimes(d.at("archive", "a", fmt.Sprintf("fullchain%d.pem", n)), stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	d.write(d.at("archive", "a", "fullchain99.pem.bak"), []byte("x"))
	seen, err := l.Look()
	slices.Reverse(sums)
	if err != nil || !slices.Equal(seen.Fingerprints, sums[:maxFormer+1]) {
		t.Errorf("%d fingerprints, %v", len(seen.Fingerprints), err)
	}
	for _, make := range []func(string) error{
		func(p string) error { return syscall.Mkfifo(p, 0o600) },
		func(p string) error { return os.Mkdir(p, 0o700) },
		func(p string) error { return os.Symlink("/dev/zero", p) },
		func(p string) error { return os.WriteFile(p, []byte("no certificate"), 0o600) },
	} {
		path := d.at("live", "a", "fullchain.pem")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		seen, err := l.Look()
		if err != nil || seen.Leaf != nil || !slices.Contains(seen.Dirs, l.Dir) || time.Since(began) > time.Second {
			t.Errorf("%+v, %v", seen, err)
		}
	}
}

// A file with the leaf alone is completed from the one beside it, another is not.
func TestComplete(t *testing.T) {
	d := newDisk(t)
	inter := d.ca.Intermediate(t, certtest.Authority{})
	p := inter.Leaf(t, certtest.Leaf{})
	cert, issuer := d.at("a.crt"), d.at("a.issuer.crt")
	l := Lineage{Client: Lego, Source: src(cert, d.at("a.key")), Issuer: issuer}
	d.write(cert, certtest.EncodeCerts(p.Cert))
	if got := l.Complete(); got.Chain != "" {
		t.Errorf("there is no %s", got.Chain)
	}
	d.write(issuer, certtest.EncodeCerts(inter.Cert))
	if got := l.Complete(); got.Chain != issuer {
		t.Errorf("chain %q", got.Chain)
	}
	d.write(cert, certtest.EncodeCerts(p.Cert, inter.Cert))
	if got := l.Complete(); got.Chain != "" {
		t.Errorf("chain %q beside one in the file", got.Chain)
	}
}
