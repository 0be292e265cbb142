package postfix

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/problem"
)

func TestMain(m *testing.M) {
	if args := os.Getenv("POSTFIX_TEST_ONESHOT"); args != "" {
		os.Exit(oneshot(strings.Split(args, ",")))
	}
	postfixtest.Main(m)
}

// fixture is a real instance, how the package sees it, and its certificate.
type fixture struct {
	*postfixtest.Instance
	i    Instance
	cert string // the file that Postfix reads
	leaf string // fingerprint of what is in it
}

func newFixture(t *testing.T, o postfixtest.Options) *fixture {
	t.Helper()
	postfixtest.Need(t, "postfix", "openssl")
	f := &fixture{cert: filepath.Join(t.TempDir(), "mail.pem")}
	f.leaf = postfixtest.WritePair(t, f.cert)
	o.Cert = f.cert
	f.Instance = postfixtest.New(t, o)
	f.i = Instance{ConfigDirectory: f.ConfigDir, RuntimeDirectory: f.Dir + "/run"}
	return f
}

func (f *fixture) master(t *testing.T) Master {
	t.Helper()
	m, err := f.i.Master(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ctx is a context that ends before the test binary's own limit.
func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

// wantProblem checks that err is one problem with this id, and returns it.
func wantProblem(t *testing.T, err error, id string) problem.Problem {
	t.Helper()
	l := problem.From(err)
	if len(l) != 1 || l[0].ID != id {
		t.Fatalf("got %v, want the problem %s", err, id)
	}
	return l[0]
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}
