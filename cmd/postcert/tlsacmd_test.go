package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcert/acme/acmetest"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// wantTLSA runs tlsa, and fails the test unless it ends with this status and reports
// these ids. It returns the first host.
func (h *host) wantTLSA(status int, ids []string, args ...string) tlsaHost {
	h.t.Helper()
	a := h.postcert(append([]string{"tlsa", "--json"}, args...)...).want(status)
	var v struct {
		Hosts    []tlsaHost
		Problems []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		h.t.Fatalf("%v in %s", err, a.stdout)
	}
	var got []string
	for _, p := range v.Problems {
		got = append(got, p.ID)
	}
	if !slices.Equal(got, ids) {
		h.t.Errorf("problems %v, want %v\n%s", got, ids, a.stdout)
	}
	if len(v.Hosts) == 0 {
		h.t.Fatal(a.stdout)
	}
	return v.Hosts[0]
}

// servedDigest is the digest of the key that openssl(1) is shown on port 25, by
// openssl(1).
func (h *host) servedDigest(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("sh", "-c", "openssl s_client -connect "+postfixtest.SMTP+" -starttls smtp "+strings.Join(args, " ")+
		" </dev/null 2>/dev/null | openssl x509 -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r").Output()
	digest, _, ok := strings.Cut(string(out), " ")
	if err != nil || !ok || len(digest) != 64 {
		h.t.Fatalf("openssl: %v: %s", err, out)
	}
	return digest
}

const tlsaOwner = "_25._tcp." + hostName + ". 60 IN TLSA "

// P4: what is wanted is what openssl and Postfix's own tool say of the key that is
// served; a record that matches nothing stops DANE senders, and is answered no.
func TestTLSAServed(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	set := (&sender{host: h}).zone(true)
	digest := h.servedDigest()
	host := h.wantTLSA(0, nil)
	if len(host.Wanted) != 1 || host.Wanted[0].Record != "3 1 1 "+digest || host.Wanted[0].Of != "served" || len(host.Published) != 0 || host.Host != hostName {
		t.Fatalf("%+v, and openssl says %s", host, digest)
	}
	// Postfix's own tool (postfix-tls(1)) writes the same line.
	out, err := exec.Command("postfix", "-c", h.pf.ConfigDir, "tls", "output-server-tlsa", "-h", hostName, filepath.Join(h.dir, "first.pem")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "_25._tcp."+hostName+". IN TLSA 3 1 1 "+digest) {
		t.Errorf("postfix tls: %v: %s", err, out)
	}
	h.postcert("tlsa").want(0).says("_25._tcp." + hostName + ". IN TLSA 3 1 1 " + digest).says("no TLSA record is published")
	set(tlsaOwner + "3 1 1 " + digest)
	if host = h.wantTLSA(0, nil); !host.Validated || !host.Wanted[0].Published || host.Published[0].Of != "served" {
		t.Errorf("%+v", host)
	}
	old := strings.Repeat("ab", 32)
	set(tlsaOwner + "3 1 1 " + old)
	if host = h.wantTLSA(8, []string{"tlsa_mismatch"}); host.OK || host.Wanted[0].Published || host.Published[0].Of != "" {
		t.Errorf("%+v", host)
	}
	h.postcert("tlsa", hostName).want(8).says("hold their mail back").says("3 1 1 " + digest).says("nothing that is known here")
	set(tlsaOwner+"3 1 1 "+old, tlsaOwner+"3 1 1 "+digest)
	h.wantTLSA(0, nil)
	set(tlsaOwner + "1 1 1 " + digest) // RFC 7672 section 3.1.3: not for mail
	h.wantTLSA(0, []string{"tlsa_unusable"})
	set()
	h.postcert("tlsa", "no host").want(2)
	if host = h.wantTLSA(0, nil, "other.example.test"); host.Host != "other.example.test" {
		t.Errorf("%+v", host)
	}
}

// Records of the issuer and of the certificate match too; the second kind does not
// outlive a renewal, and that is said. With two keys both must match.
func TestTLSAKinds(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	set := (&sender{host: h}).zone(true)
	ecdsa, rsa := h.leaf(certtest.Leaf{}), h.leaf(certtest.Leaf{Key: "rsa"})
	path := h.pairFile("ecdsa.pem", ecdsa.PostfixPEM())
	h.pf.AppendMain("smtpd_tls_eccert_file = "+path, "smtpd_tls_cert_file = "+h.pairFile("rsa.pem", rsa.PostfixPEM()))
	h.pf.Reload()
	postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, fingerprint(ecdsa.Cert))
	one, two := h.servedDigest("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"), h.servedDigest("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")
	set(tlsaOwner + "3 1 1 " + one)
	host := h.wantTLSA(8, []string{"tlsa_mismatch"})
	var wanted []string
	for _, w := range host.Wanted {
		wanted = append(wanted, w.Record)
	}
	slices.Sort(wanted)
	if want := []string{"3 1 1 " + one, "3 1 1 " + two}; !slices.Equal(wanted, want) && !slices.Equal(wanted, []string{want[1], want[0]}) {
		t.Errorf("wanted %v, openssl says %v", wanted, want)
	}
	set(tlsaOwner+"3 1 1 "+one, tlsaOwner+"3 1 1 "+two)
	h.wantTLSA(0, nil)
	set(tlsaOwner + "2 1 1 " + spki(h.ca.Cert))
	h.wantTLSA(0, nil)
	set(tlsaOwner+"3 0 1 "+fingerprint(ecdsa.Cert), tlsaOwner+"3 1 1 "+two)
	h.wantTLSA(0, []string{"tlsa_fragile"})
}

// An answer that is not validated is told as such; none at all is not taken for "there
// are no records".
func TestTLSANotKnown(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true})
	set := (&sender{host: h}).zone(false, tlsaOwner+"3 1 1 "+h.servedDigest())
	if host := h.wantTLSA(0, nil); host.Validated || !strings.Contains(host.Words, "not validated") {
		t.Errorf("%+v", host)
	}
	h.pf.Stop()
	h.wantTLSA(8, []string{"tlsa_unknown"}, hostName)
	h.pf.Start()
	set()
	conf := h.pairFile("resolv.conf", []byte("nameserver 127.0.0.9\n")) // where nobody listens
	if err := os.Chmod(conf, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "--bind", conf, "/etc/resolv.conf").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "/etc/resolv.conf").Run() })
	h.wantTLSA(8, []string{"tlsa_unknown"})
}

// S51: the key that the policy "staged" prepares must be published before it is used:
// its record is that of the key on disk, by openssl.
func TestS51TLSANext(t *testing.T) {
	h := withCA(newHost(t, postfixtest.Options{Only25: true}), acmetest.Options{})
	h.postcert(h.order("--key-policy", "staged")...).want(0)
	set := (&sender{host: h.host}).zone(true)
	out, err := exec.Command("sh", "-c", "openssl pkey -in "+filepath.Join(h.state, "acme", "certs", hostName, "next.key")+" -pubout -outform der | openssl dgst -sha256 -r").Output()
	next, _, _ := strings.Cut(string(out), " ")
	if err != nil || len(next) != 64 {
		t.Fatalf("%v: %s", err, out)
	}
	served := h.servedDigest()
	host := h.wantTLSA(0, nil, hostName)
	if len(host.Wanted) != 2 || host.Wanted[0].Record != "3 1 1 "+served || host.Wanted[1].Record != "3 1 1 "+next || host.Wanted[1].Of != "next" {
		t.Fatalf("%+v, want %s and %s", host.Wanted, served, next)
	}
	set(tlsaOwner + "3 1 1 " + served)
	h.wantTLSA(8, []string{"tlsa_next_missing"}, hostName)
	set(tlsaOwner+"3 1 1 "+served, tlsaOwner+"3 1 1 "+next)
	if host = h.wantTLSA(0, nil, hostName); host.Published[1].Of != "next" {
		t.Errorf("%+v", host.Published)
	}
	h.postcert("tlsa", hostName).want(0).says("of the next key")
	// After the change the record of the old key is of no use any more.
	h.postcert("renew", "--force", "--allow-key-change", "--trust", h.issuers(), hostName).want(0)
	if got := h.servedDigest(); got != next {
		t.Fatalf("%s is served, want %s", got, next)
	}
	if host = h.wantTLSA(8, []string{"tlsa_next_missing"}, hostName); host.Published[0].Of != "" || host.Published[1].Of != "served" {
		t.Errorf("%+v", host.Published)
	}
}
