package acme

import (
	"testing"
	"time"
)

// What can't work as it is written is told before anybody is asked.
func TestPreflightAsksLast(t *testing.T) {
	b := newBench(t, 90*24*time.Hour)
	b.solver = nil // as in the program
	b.spec.Challenge = Challenge{Type: DNS01, Provider: "ovhh", Credentials: "/etc/postcert/none"}
	found := b.Preflight(t.Context(), b.spec)
	if len(found) != 1 || found[0].ID != "dns_provider_unknown" {
		t.Errorf("problems %v", found)
	}
	if len(b.ca.asked) != 0 {
		t.Errorf("the CA was asked: %q", b.ca.asked)
	}
}
