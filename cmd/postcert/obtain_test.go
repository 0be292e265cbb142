package main

import (
	"testing"

	"postcert/acme/acmetest"
)

// A run asks the CA for its directory and for a nonce once, however many steps and
// orders it has, and for little more than what orders are.
func TestObtainAsksOnce(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	for _, args := range [][]string{
		h.order("--no-deploy"), // with an account
		{"renew", "--force", "--trust", h.issuers()},
		append(h.order("--no-deploy", "--force"), "--domain", "www.example.test", "--name", "second"),
		{"renew", "--force", "--trust", h.issuers()}, // both
	} {
		before := len(h.ca.Requests())
		h.postcert(args...).want(0)
		kinds := map[string]int{}
		for _, r := range h.ca.Requests()[before:] {
			kinds[r.Kind]++
		}
		orders := kinds[acmetest.NewOrder]
		// Of several names at once each request under way needs a nonce.
		if kinds[acmetest.Directory] != 1 || kinds[acmetest.NewNonce] < 1 || kinds[acmetest.NewNonce] > 2 {
			t.Errorf("%v: %v", args[:1], kinds)
		}
		for kind, most := range map[string]int{acmetest.Finalize: orders, acmetest.Certificate: orders, acmetest.RenewalInfo: orders, acmetest.NewAccount: 1} {
			if kinds[kind] > most {
				t.Errorf("%v: %d requests for %s in %v", args[:1], kinds[kind], kind, kinds)
			}
		}
	}
}

// One line obtains by ACME and installs; what was obtained is kept by renew without
// a configuration; nothing is ordered twice.
func TestObtainByFlags(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	h.postcert(h.order()...).want(0).says("next order").says("1 certificate is obtained, and 1 certificate is installed and proven.")
	leaf := h.live()
	h.serves(leaf)
	v := h.postcert("renew", "--json", "--trust", h.issuers()).want(0).certificate(0)
	if v["action"] != "none" || v["next"].(map[string]any)["attempt"] == nil {
		t.Errorf("renew: %v", v)
	}
	h.postcert(h.order()...).want(0)
	if n := h.orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
	h.serves(leaf)
	h.postcert("status").want(0)
}
