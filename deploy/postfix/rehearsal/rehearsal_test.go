package rehearsal

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/probe"
)

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// pair is a self-signed certificate in one file with its key.
type pair struct {
	path  string
	chain [][]byte
}

func newPair(t testing.TB, keyType string, names ...string) pair {
	t.Helper()
	var key crypto.Signer
	var err error
	if keyType == "rsa" {
		key, err = rsaKey()
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := pair{path: filepath.Join(t.TempDir(), "pair.pem"), chain: [][]byte{certificate(t, key, names)}}
	writePEM(t, p.path, key, p.chain...)
	return p
}

func certificate(t testing.TB, key crypto.Signer, names []string) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t testing.TB, path string, key crypto.Signer, chain ...[]byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for _, c := range chain {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// production is a real instance and what its postconf says.
type production struct {
	*postfixtest.Instance
	live pair // what its main.cf names
}

func newProduction(t testing.TB, o postfixtest.Options) production {
	t.Helper()
	live := newPair(t, "ecdsa", "old.example.test")
	o.Cert = live.path
	return production{postfixtest.New(t, o), live}
}

// candidate is what production's files say, with next in the place of the live
// pair, and next expected of the services.
func (p production) candidate(t testing.TB, next pair, ids ...string) Candidate {
	t.Helper()
	snap, err := cf.Parse(p.ConfigDir,
		cf.File{Path: p.ConfigDir + "/main.cf", Data: p.Main()},
		cf.File{Path: p.ConfigDir + "/master.cf", Data: p.Master()},
		cf.Outputs{
			All: p.postconf(), Set: p.postconf("-n"), Expanded: p.postconf("-x"), Services: p.postconf("-M"), Overrides: p.postconf("-P"),
		})
	if err != nil {
		t.Fatal(err)
	}
	c := Candidate{
		Version: snap.Version, DaemonDirectory: snap.Expanded["daemon_directory"],
		Parameters: snap.Expanded, Substitute: map[string]string{p.live.path: next.path},
	}
	for _, id := range ids {
		s := Service{ID: id, Parameters: map[string]string{}, Want: next.chain}
		for name := range snap.Expanded {
			if keeps(name) {
				s.Parameters[name] = snap.Effective(id, name)
			}
		}
		s.Implicit = s.Parameters["smtpd_tls_wrappermode"] == "yes"
		c.Services = append(c.Services, s)
	}
	return c
}

func (p production) postconf(args ...string) []byte { return []byte(p.Postconf(args...) + "\n") }

func newStage(t testing.TB) Stage {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "st")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pids := inside(dir); len(pids) > 0 {
			t.Errorf("processes %v still work in the runtime directory", pids)
		}
		if left, err := os.ReadDir(filepath.Join(dir, roomsName)); err == nil && len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		os.RemoveAll(dir)
	})
	return Stage{RuntimeDir: dir}
}

var three = []string{"smtp/inet", "submission/inet", "submissions/inet"}

func TestServes(t *testing.T) {
	p := newProduction(t, postfixtest.Options{})
	next := newPair(t, "rsa", "new.example.test")
	report, err := newStage(t).Rehearse(context.Background(), p.candidate(t, next, three...))
	if err != nil {
		t.Fatalf("got %v, want nil\n%s", err, strings.Join(report.Log, "\n"))
	}
	if len(report.Served) != 3 {
		t.Fatalf("got %d answers, want 3", len(report.Served))
	}
	for _, s := range report.Served {
		if s.Verdict != probe.Proven {
			t.Errorf("%s: got %s, want proven", s, s.Verdict)
		}
	}
	t.Logf("took %s\n%s", report.Took, strings.Join(report.Log, "\n"))
}
