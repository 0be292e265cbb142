package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
	"postcert/deploy/postfix/postfixtest"
)

// neighbours is a host on which certbot and lego live beside postcert, at the same CA.
type neighbours struct {
	*acmeHost
	dir string
}

func newNeighbours(t *testing.T) *neighbours {
	t.Helper()
	postfixtest.Need(t, "certbot", "lego")
	h := newACMEHost(t, acmetest.Options{})
	return &neighbours{h, filepath.Join(h.dir, "neighbours")}
}

// certbot is a call of Debian's certbot.
func (n *neighbours) certbot(args ...string) *exec.Cmd {
	args = append(args, "--server", n.ca.URL, "--non-interactive", "--config-dir", n.dir+"/certbot", "--work-dir", n.dir+"/work", "--logs-dir", n.dir+"/logs")
	cmd := exec.Command("/usr/bin/certbot", args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "REQUESTS_CA_BUNDLE=" + n.ca.RootsFile}
	return cmd
}

// certbotOrder are the arguments of an order by http-01 on the port that postcert uses, too.
func (n *neighbours) certbotOrder(more ...string) []string {
	return append([]string{"certonly", "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", strconv.Itoa(n.ca.HTTPPort),
		"--key-type", "ecdsa", "--domain", "www.example.test"}, more...)
}

// lego is a call of Debian's lego.
func (n *neighbours) lego(email, domain string) *exec.Cmd {
	cmd := exec.Command("/usr/bin/lego", "--server", n.ca.URL, "--email", email, "--accept-tos", "--key-type", "ec256", "--path", n.dir+"/lego",
		"--http", "--http.port", n.httpListen(), "--domains", domain, "run")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LEGO_CA_CERTIFICATES=" + n.ca.RootsFile}
	return cmd
}

// must runs a program that has to succeed.
func (n *neighbours) must(cmd *exec.Cmd) string {
	n.t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v: %v\n%s", cmd.Args[:2], err, out)
	}
	return string(out)
}

// put writes a file in a directory of its own.
func (n *neighbours) put(path string, data []byte) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		n.t.Fatal(err)
	}
	n.write(path, data)
}

// account is what postcert keeps of its account.
func (n *neighbours) account() (key, uri string) {
	n.t.Helper()
	keys, _ := filepath.Glob(filepath.Join(n.state, "acme", "accounts", "*", "*", "account.key"))
	if len(keys) != 1 {
		n.t.Fatalf("account keys: %v", keys)
	}
	shown := n.postcert("account", "show", "--directory", n.ca.URL, "--acme-trust", n.ca.RootsFile, "--json").want(0).json()
	return keys[0], shown["account"].(map[string]any)["uri"].(string)
}

// accounts are those that the CA was asked to make.
func (n *neighbours) accounts() int {
	made := 0
	for _, r := range n.ca.Requests() {
		if r.Kind == acmetest.NewAccount && r.Status == http.StatusCreated {
			made++
		}
	}
	return made
}

// TestProofSameAccount: lego and certbot order with the account that postcert has
// registered, and postcert with one that lego has. Keys are of the same form but for
// their encoding.
func TestProofSameAccount(t *testing.T) {
	n := newNeighbours(t)
	n.postcert(n.order()...).want(0)
	key, uri := n.account()
	host := n.ca.URL[len("https://") : len(n.ca.URL)-len("/dir")]

	t.Run("lego with postcert's", func(t *testing.T) {
		const email = "admin@example.test"
		dir := filepath.Join(n.dir, "lego", "accounts", strings.Replace(host, ":", "_", 1), email)
		sec1 := n.must(exec.Command("openssl", "pkey", "-in", key, "-traditional"))
		n.put(filepath.Join(dir, "keys", email+".key"), []byte(sec1))
		n.put(filepath.Join(dir, "account.json"), []byte(fmt.Sprintf(`{"email":%q,"registration":{"body":{"status":"valid"},"uri":%q}}`, email, uri)))
		n.must(n.lego(email, "www.example.test"))
	})
	t.Run("certbot with postcert's", func(t *testing.T) {
		dir := filepath.Join(n.dir, "certbot", "accounts", host, "dir", "0123456789abcdef0123456789abcdef")
		n.put(filepath.Join(dir, "private_key.json"), n.jwk(key))
		n.put(filepath.Join(dir, "regr.json"), []byte(fmt.Sprintf(`{"body":{},"uri":%q}`, uri)))
		n.put(filepath.Join(dir, "meta.json"), []byte(`{"creation_dt":"2026-11-01T00:00:00Z","creation_host":"localhost","register_to_eff":null}`))
		n.must(n.certbot(n.certbotOrder()...))
	})
	if made := n.accounts(); made != 1 {
		t.Errorf("%d accounts were made, want 1", made)
	}
	n.postcert("renew", "--force", "--trust", n.issuers()).want(0)

	t.Run("postcert with lego's", func(t *testing.T) {
		const email = "other@example.test"
		n.must(n.lego(email, "www.example.test"))
		dir := filepath.Join(n.dir, "lego", "accounts", strings.Replace(host, ":", "_", 1), email)
		var theirs struct{ Registration struct{ URI string } }
		data, err := os.ReadFile(filepath.Join(dir, "account.json"))
		if err != nil || json.Unmarshal(data, &theirs) != nil || theirs.Registration.URI == uri {
			t.Fatalf("%v: %s", err, data)
		}
		ours := strings.Replace(filepath.Dir(key), n.state, n.state+"2", 1)
		n.put(filepath.Join(ours, "account.key"), []byte(n.must(exec.Command("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", filepath.Join(dir, "keys", email+".key")))))
		n.state += "2"
		made := n.accounts()
		n.postcert(n.order("--no-deploy")...).want(0)
		if _, got := n.account(); got != theirs.Registration.URI || n.accounts() != made {
			t.Errorf("the account is %s, want %s; %d were made", got, theirs.Registration.URI, n.accounts()-made)
		}
	})
}

// jwk is a key on P-256 as RFC 7517 and RFC 7518 section 6.2 write it.
func (n *neighbours) jwk(path string) []byte {
	n.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		n.t.Fatal(err)
	}
	key, err := parsed.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		n.t.Fatal(err)
	}
	public, err := parsed.(*ecdsa.PrivateKey).PublicKey.Bytes()
	if err != nil {
		n.t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	out, _ := json.Marshal(map[string]string{"kty": "EC", "crv": "P-256", "x": encode(public[1:33]), "y": encode(public[33:]), "d": encode(key)})
	return out
}

// TestProofSideBySide: certbot and postcert on one host, each with its account and
// certificates. They want the same port at the same time; one renews; one revokes
// what the other has obtained.
func TestProofSideBySide(t *testing.T) {
	n := newNeighbours(t)
	n.postcert(n.order()...).want(0)
	t.Run("the port is certbot's for a while", n.portTaken)
	t.Run("each renews its own", func(t *testing.T) {
		live := filepath.Join(n.dir, "certbot", "live", "www.example.test")
		mine, theirs := n.live(), n.leafOf(live)
		n.must(n.certbot("renew", "--force-renewal", "--no-random-sleep-on-renew"))
		if n.leafOf(live) == theirs || n.live() != mine {
			t.Error("certbot did not renew its own certificate alone")
		}
		theirs = n.leafOf(live)
		// The failure before waits for two minutes; a person does not.
		n.postcert("renew", "--force", "--trust", n.issuers()).want(0)
		if n.live() == mine || n.leafOf(live) != theirs {
			t.Error("postcert did not renew its own certificate alone")
		}
		n.serves(n.live())
		if made := n.accounts(); made != 2 {
			t.Errorf("%d accounts, want 2", made)
		}
	})
	t.Run("certbot revokes by the certificate's key", func(t *testing.T) {
		leaf, mine := n.leafAt(n.liveFile("cert.pem")), n.live()
		n.must(n.certbot("revoke", "--cert-path", n.liveFile("fullchain.pem"), "--key-path", n.liveFile("privkey.pem"), "--no-delete-after-revoke"))
		if !n.ca.Revoked(leaf) {
			t.Fatal("not revoked")
		}
		// The CA's word for that is a window in the past, which is heard at the next
		// question; the clock is moved to it.
		clock := filepath.Join(n.dir, "clock")
		n.write(clock, []byte("7h"))
		n.env = []string{childClock + "=" + clock}
		v := n.postcert("renew", "--trust", n.issuers(), "--json").want(0).certificate(0)
		if v["action"] != "renewed" || v["reason"] != "ari" || n.live() == mine {
			t.Errorf("%v because of %v", v["action"], v["reason"])
		}
		n.serves(n.live())
	})
}

// portTaken orders while certbot answers its own challenge.
func (n *neighbours) portTaken(t *testing.T) {
	old := n.live()
	remove := n.ca.Fault(acmetest.Fault{Kind: acmetest.Challenge, Delay: 4 * time.Second, Count: 1})
	defer remove()
	theirs := n.certbot(n.certbotOrder("--email", "admin@example.test", "--no-eff-email", "--agree-tos")...)
	var said strings.Builder
	theirs.Stdout, theirs.Stderr = &said, &said
	if err := theirs.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", n.httpListen()); err == nil {
			conn.Close()
			break
		}
	}
	orders := n.orders()
	a := n.postcert("renew", "--force", "--trust", n.issuers())
	a.t = t
	a.want(6).says("challenge_failed").says(n.httpListen()).says("certbot (process " + strconv.Itoa(theirs.Process.Pid) + ")").says("what is served stays")
	if n.orders() != orders {
		t.Error("an order was made for a port that is taken")
	}
	n.serves(old)
	if err := theirs.Wait(); err != nil {
		t.Errorf("certbot: %v\n%s", err, said.String())
	}
}
