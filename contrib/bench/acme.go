package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// issuing is the contest of -acme: one CA, and who orders certificates from it.
type issuing struct {
	t       testing.TB
	ca      *acmetest.CA
	binary  string // postcert
	dir     string // everybody's files
	issuers string // file of the roots that the certificates chain to
	listen  string // where the CA comes to validate
	memory  string // a directory in memory, as /run is on a host
}

// cost is what one turn took. Programs are measured by the launcher.
type cost struct {
	Took     time.Duration `json:"took_ns"`
	CPU      time.Duration `json:"cpu_ns"`     // user and system; 0: it has no process of its own
	Peak     int64         `json:"peak_bytes"` // likewise
	Requests requests      `json:"requests"`   // that the CA got
}

// requests are their numbers by kind, such as acmetest.Order.
type requests map[string]int

func (r requests) sum() int {
	n := 0
	for _, k := range r {
		n += k
	}
	return n
}

// since are the requests that the CA got after the first n.
func (i *issuing) since(n int) requests {
	out := requests{}
	for _, r := range i.ca.Requests()[n:] {
		out[r.Kind]++
	}
	return out
}

// issuer is one way to a certificate.
type issuer struct {
	key, title string
	lacks      string // Debian package that has it; "" needs none
	run        func(ctx context.Context, name string) cost
	files      func(name string) pair // what it left behind
}

// pair is where a certificate with its chain, and its key, are.
type pair struct{ chain, key string }

// newIssuing starts the CA. It refuses no nonce, does not sleep before it
// validates, uses no authorization twice, and never asks anybody to wait: so what
// is measured is the client.
func newIssuing(t testing.TB, binary string) *issuing {
	t.Helper()
	i := &issuing{t: t, binary: binary, memory: runtimeDir}
	var err error
	if i.dir, err = os.MkdirTemp("/run", "acme-"); err != nil {
		t.Fatal(err)
	}
	i.hidePostfix()
	i.ca, err = acmetest.New(acmetest.Options{
		Dir: i.dir,
		// One, as Pebble picks one at random for who does not ask for a profile.
		Profiles: map[string]acmetest.Profile{"classic": {Description: "the only one", Validity: 90 * 24 * time.Hour, CommonName: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.ca.Close() })
	i.issuers = filepath.Join(i.dir, "issuers.pem")
	i.write(i.issuers, i.ca.IssuersPEM())
	i.listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(i.ca.HTTPPort))
	return i
}

// hidePostfix makes sure that nobody finds a Postfix of this host to install a
// certificate on: its configuration is not in our namespace.
func (i *issuing) hidePostfix() {
	i.t.Helper()
	const real = "/etc/postfix"
	if _, err := os.Stat(real); os.IsNotExist(err) {
		return
	}
	empty := filepath.Join(i.dir, "no-postfix")
	if err := os.Mkdir(empty, 0o755); err != nil {
		i.t.Fatal(err)
	}
	mount(i.t, empty, real, "", syscall.MS_BIND)
}

func (i *issuing) write(path string, data []byte) {
	i.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		i.t.Fatal(err)
	}
}

// contestants are the clients; peers are other people's clients.
func (i *issuing) contestants(peers bool) []issuer {
	all := []issuer{i.postcert(), i.floor()}
	if peers {
		all = append(all, i.lego(), i.certbot())
	}
	return all
}

// lacking says which programs are not there, and how to get them.
func lacking(all []issuer) error {
	var packages []string
	for _, who := range all {
		if who.lacks == "" {
			continue
		}
		if _, err := exec.LookPath(who.lacks); err != nil {
			packages = append(packages, who.lacks)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	return fmt.Errorf("not on this host: %s. On Debian 12, as root: apt-get install --no-install-recommends %s",
		strings.Join(packages, ", "), strings.Join(packages, " "))
}

func (i *issuing) postcert() issuer {
	state := filepath.Join(i.dir, "postcert")
	return issuer{"postcert", "postcert obtain", "", func(ctx context.Context, name string) cost {
		return i.program(ctx, nil, i.binary, "obtain", "--domain", name, "--challenge", "http-01", "--listen", i.listen, "--no-deploy",
			"--directory", i.ca.URL, "--acme-trust", i.ca.RootsFile, "--agree-tos",
			"--state-dir", state, "--runtime-dir", filepath.Join(i.memory, "postcert"))
	}, func(name string) pair { return kept(state, name) }}
}

// kept is where postcert has a certificate.
func kept(state, name string) pair {
	live := filepath.Join(state, "acme", "certs", name, "live")
	return pair{filepath.Join(live, "fullchain.pem"), filepath.Join(live, "privkey.pem")}
}

func (i *issuing) lego() issuer {
	dir := filepath.Join(i.dir, "lego")
	return issuer{"lego", "lego run", "lego", func(ctx context.Context, name string) cost {
		return i.program(ctx, []string{"LEGO_CA_CERTIFICATES=" + i.ca.RootsFile}, "/usr/bin/lego",
			"--server", i.ca.URL, "--email", "bench@bench.test", "--accept-tos", "--key-type", "ec256", "--path", dir,
			"--http", "--http.port", i.listen, "--pem", "--domains", name, "run")
	}, func(name string) pair {
		at := filepath.Join(dir, "certificates", name)
		return pair{at + ".crt", at + ".key"}
	}}
}

func (i *issuing) certbot() issuer {
	dir := filepath.Join(i.dir, "certbot")
	return issuer{"certbot", "certbot certonly", "certbot", func(ctx context.Context, name string) cost {
		return i.program(ctx, []string{"REQUESTS_CA_BUNDLE=" + i.ca.RootsFile}, "/usr/bin/certbot", "certonly", "--standalone",
			"--http-01-address", "127.0.0.1", "--http-01-port", strconv.Itoa(i.ca.HTTPPort), "--domain", name,
			"--server", i.ca.URL, "--email", "bench@bench.test", "--no-eff-email", "--agree-tos", "--non-interactive", "--key-type", "ecdsa",
			"--config-dir", dir+"/config", "--work-dir", dir+"/work", "--logs-dir", dir+"/logs")
	}, func(name string) pair {
		at := filepath.Join(dir, "config", "live", name)
		return pair{filepath.Join(at, "fullchain.pem"), filepath.Join(at, "privkey.pem")}
	}}
}

// orderLimit is more than any client needs for one certificate.
const orderLimit = 3 * time.Minute

// program runs one program under the launcher.
func (i *issuing) program(ctx context.Context, env []string, command ...string) cost {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	before := len(i.ca.Requests())
	l := start(ctx, i.t, env, command...)
	return cost{l.Took, l.CPU, l.Peak, i.since(before)}
}

// contest lets everybody order n certificates of one name each, round by round.
// In a first round, which is not counted, each registers its account.
func (i *issuing) contest(ctx context.Context, n int, all []issuer, progress io.Writer) map[string][]cost {
	i.t.Helper()
	out := map[string][]cost{}
	for round := -1; round < n; round++ {
		fmt.Fprintf(progress, "\rcertificate %d of %d ", max(round+1, 0), n)
		for k := range all { // nobody always follows the same one
			who := all[(k+max(round, 0))%len(all)]
			name := fmt.Sprintf("n%d.%s.bench.test", round+1, strings.ReplaceAll(who.key, "_", "-"))
			c := i.turn(ctx, who, name)
			if round >= 0 {
				out[who.key] = append(out[who.key], c)
			}
		}
	}
	fmt.Fprintln(progress)
	return out
}

// turn is one certificate of one contestant, and openssl's judgement of it.
func (i *issuing) turn(ctx context.Context, who issuer, name string) cost {
	i.t.Helper()
	if err := ctx.Err(); err != nil {
		i.t.Fatal(err)
	}
	c := who.run(ctx, name)
	if err := i.judge(ctx, who.files(name), name); err != nil {
		i.t.Fatalf("%s: %v", who.title, err)
	}
	return c
}

// judge asks openssl whether a pair is what was ordered: the chain leads to the
// CA's root, the certificate is for that name and no other, and it belongs to the
// key, which is on P-256.
func (i *issuing) judge(ctx context.Context, p pair, name string) error {
	if said, err := ask(ctx, "verify", "-CAfile", i.issuers, "-untrusted", p.chain, "-purpose", "sslserver", "-verify_hostname", name, p.chain); err != nil {
		return fmt.Errorf("%s: %w\n%s", p.chain, err, said)
	}
	names, err := ask(ctx, "x509", "-in", p.chain, "-noout", "-ext", "subjectAltName")
	if err != nil {
		return err
	}
	if lines := strings.SplitN(names, "\n", 2); len(lines) != 2 || strings.TrimSpace(lines[1]) != "DNS:"+name {
		return fmt.Errorf("%s: names %q, want %s alone", p.chain, names, name)
	}
	certificate, err := ask(ctx, "x509", "-in", p.chain, "-noout", "-pubkey")
	if err != nil {
		return err
	}
	key, err := ask(ctx, "pkey", "-in", p.key, "-pubout")
	if err != nil {
		return err
	}
	if certificate != key {
		return fmt.Errorf("%s is not for the key %s", p.chain, p.key)
	}
	kind, err := ask(ctx, "pkey", "-in", p.key, "-noout", "-text_pub")
	if err == nil && !strings.Contains(kind, "ASN1 OID: prime256v1") {
		err = fmt.Errorf("%s is not a key on P-256", p.key)
	}
	return err
}

// ask is openssl's answer.
func ask(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, openssl, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("openssl %s: %w: %s", args[0], err, out)
	}
	return string(out), err
}

// batch lets one process order n certificates that a configuration names. Its
// account is registered before the clock starts.
func (i *issuing) batch(ctx context.Context, n int) cost {
	i.t.Helper()
	state := filepath.Join(i.dir, "batch")
	names, config := i.configure(state, "batch", n)
	i.program(ctx, nil, i.binary, "account", "register", "--config", config)
	c := i.program(ctx, nil, i.binary, "obtain", "--config", config)
	for _, name := range names {
		if err := i.judge(ctx, kept(state, name), name); err != nil {
			i.t.Fatal(err)
		}
	}
	return c
}

// configure writes a configuration with n certificates, and returns their names.
func (i *issuing) configure(state, label string, n int) (names []string, path string) {
	i.t.Helper()
	if err := os.Mkdir(state, 0o700); err != nil {
		i.t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "state_dir: %s\nruntime_dir: %s\n", state, filepath.Join(i.memory, label))
	fmt.Fprintf(&b, "acme: {directory: %q, email: bench@bench.test, agree_tos: true, trust: %s}\ncertificates:\n", i.ca.URL, i.ca.RootsFile)
	for k := range n {
		names = append(names, fmt.Sprintf("n%d.%s.bench.test", k+1, label))
		fmt.Fprintf(&b, "  - {name: %[1]s, domains: [%[1]s], source: acme, challenge: {type: http-01, listen: %[2]q}}\n", names[k], i.listen)
	}
	path = filepath.Join(state, "postcert.yaml")
	i.write(path, []byte(b.String()))
	return names, path
}
