package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// name is what the certificates are for.
const name = "mail.example.test"

// host has the two instances and the authority that renews their certificates.
type host struct {
	t        testing.TB
	binary   string
	dir      string // lineages
	trust    string // file of the root
	ca       *certtest.CA
	issued   int
	begin    time.Time
	ours     *instance // renewed by postcert
	hand     *instance // renewed by hand
	rehearse func(ctx context.Context) error
	without  string // contestant that is left out
}

// instance is a private Postfix and where it listens.
type instance struct {
	*postfixtest.Instance
	address string
	first   []byte // main.cf as it was
}

// newHost starts both instances; each serves a certificate of the authority, and
// postcert has adopted its own.
func newHost(t testing.TB, binary string) *host {
	t.Helper()
	root := certtest.NewCA(t, certtest.Authority{})
	h := &host{t: t, binary: binary, dir: t.TempDir(), begin: time.Now().Add(-time.Hour), ca: root.Intermediate(t, certtest.Authority{})}
	h.trust = filepath.Join(h.dir, "root.pem")
	h.write(h.trust, certtest.EncodeCerts(root.Cert))
	h.ours = h.instance("127.0.0.1")
	h.hand = h.instance(postfixtest.SecondAddress)
	h.postcert(context.Background(), h.renewal(), true)
	h.rehearse = h.rehearsal()
	return h
}

func (h *host) instance(address string) *instance {
	h.t.Helper()
	first := filepath.Join(h.dir, address+".pem")
	h.write(first, h.ca.Leaf(h.t, h.leaf()).PostfixPEM())
	i := &instance{Instance: postfixtest.New(h.t, postfixtest.Options{Cert: first, Address: address}), address: address}
	i.first = i.Main()
	i.Start()
	return i
}

func (h *host) write(path string, data []byte) {
	h.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// leaf is the next certificate: later than those before it.
func (h *host) leaf() certtest.Leaf {
	h.issued++
	return certtest.Leaf{Names: []string{name}, NotBefore: h.begin.Add(time.Duration(h.issued) * time.Second)}
}

// lineage is a renewed certificate as certbot leaves it.
type lineage struct {
	certtest.Files
	leaf string // fingerprint
}

func (h *host) renewal() lineage {
	h.t.Helper()
	l := h.leaf()
	dir := filepath.Join(h.dir, fmt.Sprint("lineage-", h.issued), name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	pair := h.ca.Leaf(h.t, l)
	return lineage{pair.WriteFiles(h.t, dir), postfixtest.Fingerprint(pair.Cert.Raw)}
}

// program runs one program as an administrator does at a terminal, and fails
// the bench if it fails.
func (h *host) program(ctx context.Context, stdin, path string, args ...string) {
	h.t.Helper()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	// A file, not a pipe: nobody waits for what a program leaves in the
	// background.
	out, err := os.CreateTemp(runtimeDir, "out-")
	if err != nil {
		h.t.Fatal(err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		h.t.Fatalf("%s %s: %v\n%s", path, strings.Join(args, " "), err, said)
	}
}

// arguments of postcert for a renewal by l.
func (h *host) arguments(l lineage) []string {
	return []string{"install-cert", l.Dir, "--trust", h.trust, "--instance", h.ours.ConfigDir,
		"--state-dir", h.ours.Dir + "/state", "--runtime-dir", runtimeDir + "/postcert", "--json"}
}

// outcome is what postcert says of a transaction.
type outcome struct {
	Transaction struct {
		Outcome   string `json:"outcome"`
		Rehearsed any    `json:"rehearsed"`
		Steps     []struct {
			Step string  `json:"step"`
			Took float64 `json:"took_ms"`
		} `json:"steps"`
		Listeners []struct {
			Verdict string `json:"verdict"`
		} `json:"listeners"`
	} `json:"transaction"`
}

// postcert renews the certificate of h.ours and makes sure that nothing was left
// out: it was rehearsed, installed, and proven everywhere.
func (h *host) postcert(ctx context.Context, l lineage, adopting bool) outcome {
	h.t.Helper()
	cmd := exec.CommandContext(ctx, h.binary, h.arguments(l)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	said, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("postcert: %v\n%s%s", err, said, stderr.String())
	}
	var o outcome
	if err := json.Unmarshal(said, &o); err != nil {
		h.t.Fatalf("postcert: %v in %s", err, said)
	}
	if t := o.Transaction; t.Outcome != "installed" || t.Rehearsed != true || len(t.Listeners) < len(listeners) {
		h.t.Fatalf("postcert left something out:\n%s", said)
	}
	return o
}

// listener is a port and how TLS begins there.
type listener struct {
	port string
	mode postfixtest.Mode
}

var listeners = []listener{{"25", postfixtest.StartTLS}, {"587", postfixtest.StartTLS}, {"465", postfixtest.Implicit}}

// serves fails the bench unless openssl is shown this certificate.
func (h *host) serves(i *instance, l lineage) {
	h.t.Helper()
	for _, at := range listeners {
		postfixtest.WaitServed(h.t, i.address+":"+at.port, at.mode, l.leaf)
	}
}

// age sets when the configuration of i was edited.
func (h *host) age(i *instance, since time.Duration) {
	h.t.Helper()
	then := time.Now().Add(-since)
	for _, f := range []string{"main.cf", "master.cf"} {
		if err := os.Chtimes(filepath.Join(i.ConfigDir, f), then, then); err != nil {
			h.t.Fatal(err)
		}
	}
}
