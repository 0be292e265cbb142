package main

import (
	"testing"

	"postcert/acme/acmetest"
)

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
