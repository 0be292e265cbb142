package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/acme/acmetest"
)

// S46: a renewal that cannot succeed keeps what is served, names the cause and the
// name, and shows when it is tried again.
func TestS46RenewalFails(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.postcert(h.order("--domain", "www.example.test", "--name", hostName)...).want(0)
	old := h.live()
	tests := []struct {
		name  string
		begin func(t *testing.T) (end func())
		id    string
		says  string
	}{
		{"the port is busy", func(t *testing.T) func() {
			l, err := net.Listen("tcp", h.httpListen())
			if err != nil {
				t.Fatal(err)
			}
			return func() { l.Close() }
		}, "challenge_failed", h.httpListen()},
		{"one of the names leads elsewhere", func(t *testing.T) func() {
			h.ca.DNS.SetAddr("www.example.test", "127.0.0.9")
			return func() { h.ca.DNS.SetAddr("www.example.test", "127.0.0.1") }
		}, "validation_failed", "www.example.test"},
		{"the CA is down", func(*testing.T) func() {
			return h.ca.Fault(acmetest.Fault{Kind: acmetest.Directory, Status: http.StatusBadGateway, Body: "<html>"})
		}, "ca_unreachable", "502"},
		{"the local resolver is broken", func(t *testing.T) func() {
			// Names cannot be looked up here; the CA can, so the order goes through.
			if out, err := exec.Command("mount", "--bind", "/dev/null", "/etc/hosts").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return func() { _ = exec.Command("umount", "/etc/hosts").Run() }
		}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			end := tt.begin(t)
			a := h.postcert("renew", "--force", "--trust", h.issuers())
			end()
			a.t = t
			if tt.id == "" {
				a.want(0).says("domain_unresolved")
				return
			}
			a.want(6).says(tt.id).says(tt.says).says("next order").says("what is served stays")
			h.serves(old)
			h.postcert("status").says("next order")
		})
	}
}

// S47: 429 with Retry-After is heeded to the letter, by every later run and after a
// restart of the daemon; --force does not pass over it.
func TestS47RateLimited(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	h.ca.Fault(acmetest.Fault{Kind: acmetest.NewOrder, Status: http.StatusTooManyRequests, Problem: "rateLimited", Detail: "too many certificates",
		Header: http.Header{"Retry-After": {"7200"}}})
	before := time.Now()
	h.postcert("renew", "--config", conf).want(6).says("ca_rate_limited").says("the CA asked us to wait")
	for range 3 {
		h.postcert("renew", "--config", conf).says("order_waits")
		h.postcert("renew", "--force", "--config", conf)
		d := h.daemon("--config", conf)
		d.says("msg=started", 10*time.Second)
		time.Sleep(200 * time.Millisecond)
		d.ends(10 * time.Second)
	}
	if n := h.orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
	v := h.postcert("status", "--config", conf, "--json").want(8).json()["orders"].([]any)[0].(map[string]any)
	at, err := time.Parse(time.RFC3339, v["next"].(map[string]any)["attempt"].(string))
	if err != nil || at.Sub(before) < 7200*time.Second-time.Second || at.Sub(before) > 3*time.Hour {
		t.Errorf("next attempt in %v (%v)", at.Sub(before), err)
	}
}

// S48: certificates of any life are renewed at about 2/3 of it, those of six days
// at about 1/2.
func TestS48Lifetimes(t *testing.T) {
	lives := map[string]time.Duration{"d90": 90 * 24 * time.Hour, "d64": 64 * 24 * time.Hour, "d45": 45 * 24 * time.Hour, "h160": 160 * time.Hour}
	profiles := map[string]acmetest.Profile{}
	for name, life := range lives {
		profiles[name] = acmetest.Profile{Description: name, Validity: life}
	}
	h := newACMEHost(t, acmetest.Options{Profiles: profiles, Directory: func(d map[string]any) { delete(d, "renewalInfo") }})
	for name, life := range lives {
		h.state = filepath.Join(h.pf.Dir, "state-"+name)
		v := h.postcert(h.order("--no-deploy", "--json", "--profile", name)...).want(0).certificate(0)
		at, err := time.Parse(time.RFC3339, v["next"].(map[string]any)["attempt"].(string))
		if err != nil {
			t.Fatal(err)
		}
		want := 2.0 / 3
		if life < 10*24*time.Hour {
			want = 0.5
		}
		if got := float64(time.Until(at)) / float64(life); got < want-0.03 || got > want+0.01 {
			t.Errorf("%s: renewed at %.3f of its life, want about %.3f", name, got, want)
		}
	}
}

// S49: the CA wants all certificates renewed now. The same run orders and deploys,
// and the next ones order nothing more; --force does the same once.
func TestS49RenewNow(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.ca.Fault(acmetest.Fault{Kind: acmetest.RenewalInfo, Header: http.Header{"Retry-After": {"60"}}})
	h.postcert(h.order()...).want(0)
	old := h.live()
	past := acmetest.Window(time.Now().Add(-time.Hour), time.Now().Add(-30*time.Minute)) // as Boulder has it
	if err := h.ca.SetRenewalInfo(h.leafAt(h.liveFile("cert.pem")), past); err != nil {
		t.Fatal(err)
	}
	clock := filepath.Join(h.dir, "clock")
	h.write(clock, []byte("2m")) // the CA is asked again
	h.env = []string{childClock + "=" + clock}
	v := h.postcert("renew", "--trust", h.issuers(), "--json").want(0).certificate(0)
	if v["action"] != "renewed" || v["reason"] != "ari" || h.live() == old {
		t.Errorf("%v because of %v", v["action"], v["reason"])
	}
	h.serves(h.live())
	for range 3 {
		h.postcert("renew", "--trust", h.issuers()).want(0)
	}
	if n := h.orders(); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
	h.postcert("renew", "--force", "--trust", h.issuers()).want(0)
	h.serves(h.live())
	h.postcert("renew", "--trust", h.issuers()).want(0)
	if n := h.orders(); n != 3 {
		t.Errorf("%d orders, want 3", n)
	}
}

// S50: with the default settings a renewal keeps the key, by openssl, so that TLSA
// 3 1 1 stays true; another key has to be allowed.
func TestS50KeyStays(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	h.postcert("obtain", "--config", conf).want(0)
	spki, old := h.spkiAt(h.liveFile("cert.pem")), h.live()
	h.postcert("renew", "--force", "--config", conf).want(0)
	if h.live() == old || h.spkiAt(h.liveFile("cert.pem")) != spki {
		t.Error("not another certificate with the same key")
	}
	data, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	h.write(conf, []byte(strings.Replace(string(data), "    profile: classic\n", "    profile: classic\n    key: {type: ec256, policy: rotate}\n", 1)))
	h.postcert("renew", "--force", "--config", conf).want(3).says("key_change_refused").says("--allow-key-change")
	h.postcert("renew", "--force", "--allow-key-change", "--config", conf).want(0)
	if h.spkiAt(h.liveFile("cert.pem")) == spki {
		t.Error("the key is the same")
	}
	h.serves(h.live())
}

// With the policy staged the next key is on disk and its TLSA record is shown, and
// renewals keep the present key until somebody says that the record is published.
func TestS50StagedKey(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	conf := h.config("")
	data, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	h.write(conf, []byte(strings.Replace(string(data), "    profile: classic\n", "    profile: classic\n    key: {type: ec256, policy: staged}\n", 1)))
	next := func(args ...string) (record string) {
		t.Helper()
		v := h.postcert(append(args, "--config", conf, "--json")...).want(0).certificate(0)
		record, _ = v["next_tlsa"].(string)
		digest, err := exec.Command("sh", "-c", "openssl pkey -in '"+filepath.Join(h.state, "acme", "certs", hostName, "next.key")+"' -pubout -outform DER | openssl dgst -sha256 -r").Output()
		if err != nil || record != "3 1 1 "+strings.Fields(string(digest))[0] {
			t.Errorf("the record is %q, and the key %s (%v)", record, digest, err)
		}
		return record
	}
	present := func() string {
		t.Helper()
		digest, err := exec.Command("sh", "-c", "openssl x509 -in '"+h.liveFile("cert.pem")+"' -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -r").Output()
		if err != nil {
			t.Fatal(err)
		}
		return "3 1 1 " + strings.Fields(string(digest))[0]
	}
	prepared, first := next("obtain"), present()
	if again := next("renew", "--force"); again != prepared || present() != first {
		t.Errorf("the renewal changed a key: prepared %s, then %s; in use %s, then %s", prepared, again, first, present())
	}
	h.postcert("renew", "--config", conf).want(0).says(prepared).says("--allow-key-change " + hostName)
	if after := next("renew", "--force", "--allow-key-change"); after == prepared || present() != prepared {
		t.Errorf("in use is %s, want %s; the next one is %s", present(), prepared, after)
	}
	h.serves(h.live())
}

// spkiAt is the public key of a certificate, by openssl.
func (h *acmeHost) spkiAt(path string) string {
	h.t.Helper()
	out, err := exec.Command("openssl", "x509", "-in", path, "-noout", "-pubkey").Output()
	if err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("%x", out)
}
