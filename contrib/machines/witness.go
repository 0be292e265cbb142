package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Listeners are the listeners of a Ready machine.
var Listeners = []string{"127.0.0.1:25", "127.0.0.1:587", "127.0.0.1:465"}

// Presented is the DER of the certificates that a listener presents, in order, as
// the host's openssl s_client sees them: a witness from outside, in nothing of
// the machine but its network. addr is HOST:PORT; port 465 and 993 are TLS from
// the first byte, 143 is IMAP, all others SMTP with STARTTLS, unless addr begins
// with smtp://, smtps://, imap:// or imaps://. args are for s_client, such as
// "-servername", NAME. The error has openssl's words.
func (m *Machine) Presented(addr string, args ...string) ([][]byte, error) {
	host, starttls := dialect(addr)
	words := []string{"--target", strconv.Itoa(m.leader), "--net", "openssl", "s_client", "-showcerts", "-connect", host}
	if starttls != "" {
		words = append(words, "-starttls", starttls)
	}
	if !strings.Contains(strings.Join(args, " "), "-servername") {
		words = append(words, "-noservername")
	}
	cmd := exec.Command("nsenter", append(words, args...)...)
	// It would read all of the host's authorities first, which takes six times as long
	// as the session, and believes none of them: bytes are compared.
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/dev/null")
	r, err := run(m.s.ctx, 30*time.Second, []byte("Q\n"), cmd)
	if err != nil {
		return nil, fmt.Errorf("openssl s_client %s: %w: %s", addr, err, tail(r.Stderr, 5))
	}
	chain := certificates([]byte(r.Stdout))
	// A server that shows its certificate and then fails is not serving.
	if r.Status != 0 || len(chain) == 0 {
		return nil, fmt.Errorf("openssl s_client %s: no TLS session: %s", addr, tail(r.Stderr, 5))
	}
	return chain, nil
}

// dialect is how openssl is to speak with addr.
func dialect(addr string) (host, starttls string) {
	scheme, host, found := strings.Cut(addr, "://")
	if !found {
		host = addr
		switch addr[strings.LastIndex(addr, ":")+1:] {
		case "465":
			scheme = "smtps"
		case "993":
			scheme = "imaps"
		case "143":
			scheme = "imap"
		default:
			scheme = "smtp"
		}
	}
	switch scheme {
	case "smtps", "imaps":
		return host, ""
	}
	return host, scheme
}

func certificates(text []byte) [][]byte {
	var out [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
}

// Leaf is the SHA-256, in lower-case hex, of the leaf that a listener presents to
// the host's openssl. The scenario fails if there is no TLS session.
func (m *Machine) Leaf(addr string, args ...string) string {
	m.s.Helper()
	chain, err := m.Presented(addr, args...)
	if err != nil {
		m.s.Fatalf("%v", err)
	}
	return fingerprint(chain[0])
}

// LeafOf is the SHA-256 of a pair's leaf, as [Machine.Leaf] tells it.
func LeafOf(p *Pair) string { return fingerprint(p.Cert.Raw) }

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Serves fails the scenario unless every listener, [Listeners] if none is named,
// presents exactly the certificates of the pair, in order, three times.
func (m *Machine) Serves(p *Pair, listeners ...string) {
	m.s.Helper()
	if wrong := m.differs(p, 3, listeners); wrong != "" {
		m.s.Fatalf("%s", wrong)
	}
	m.s.note("%s: openssl sees %.8s on %s", m.Name, LeafOf(p), strings.Join(orDefault(listeners), ", "))
}

// WaitServes waits until every listener presents exactly the pair.
func (m *Machine) WaitServes(p *Pair, bound time.Duration, listeners ...string) {
	m.s.Helper()
	var wrong string
	defer func() {
		if wrong != "" {
			m.s.note("%s: %s", m.Name, wrong)
		}
	}()
	m.s.WaitFor("the new certificate", bound, func() bool {
		wrong = m.differs(p, 1, listeners)
		return wrong == ""
	})
	m.Serves(p, listeners...)
}

func orDefault(listeners []string) []string {
	if len(listeners) == 0 {
		return Listeners
	}
	return listeners
}

// differs says which listeners present something else; "" if none does.
func (m *Machine) differs(p *Pair, times int, listeners []string) string {
	listeners = orDefault(listeners)
	want := [][]byte{p.Cert.Raw}
	for _, c := range p.Chain {
		want = append(want, c.Raw)
	}
	wrong := make([]string, len(listeners))
	var wg sync.WaitGroup
	for i, addr := range listeners {
		wg.Go(func() {
			for range times {
				got, err := m.Presented(addr)
				if err != nil {
					wrong[i] = err.Error()
				} else if !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
					wrong[i] = fmt.Sprintf("%s presents %d certificates with leaf %.16s, want %d with leaf %.16s", addr, len(got), fingerprint(got[0]), len(want), LeafOf(p))
				}
			}
		})
	}
	wg.Wait()
	return strings.Trim(strings.Join(wrong, "\n"), "\n")
}

// MasterPID is the process id of Postfix's master, inside the machine.
func (m *Machine) MasterPID() string {
	m.s.Helper()
	return strings.TrimSpace(m.Sh(`cat "$(postconf -h queue_directory)/pid/master.pid"`))
}

// Lineage writes a pair as certbot keeps it, archive/NAME and the links of
// live/NAME, the next version if there is one, and returns the directory of the
// links.
func (m *Machine) Lineage(name string, p *Pair) string {
	m.s.Helper()
	live, archive := "/etc/letsencrypt/live/"+name, "/etc/letsencrypt/archive/"+name
	m.Sh("mkdir -p -m 755 " + live + " " + archive + " && chmod 700 /etc/letsencrypt/live /etc/letsencrypt/archive")
	n := m.Sh("expr $(ls " + archive + " | grep -c ^privkey) + 1")
	m.Write(archive+"/cert"+n+".pem", string(p.CertPEM()), 0o644)
	m.Write(archive+"/chain"+n+".pem", string(p.ChainPEM()), 0o644)
	m.Write(archive+"/fullchain"+n+".pem", string(p.FullchainPEM()), 0o644)
	m.Write(archive+"/privkey"+n+".pem", string(p.KeyPEM()), 0o600)
	m.Sh("cd " + live + " && for f in cert chain fullchain privkey; do ln -sfn ../../archive/" + name + "/${f}" + n + ".pem $f.pem; done")
	return live
}
