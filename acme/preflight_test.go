package acme

import (
	"context"
	"net/netip"
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

// A state directory that hosts share is warned of, and the real one here is not.
func TestPreflightRemote(t *testing.T) {
	b := newBench(t, 90*day)
	if err := b.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.solver, b.spec.Challenge = nil, Challenge{Type: HTTP01, Listen: "127.0.0.1:0"}
	here := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	b.Addresses = func(context.Context, string) ([]netip.Addr, error) { return here, nil }
	b.Local = func() ([]netip.Addr, error) { return here, nil }
	if found := b.Preflight(t.Context(), b.spec); len(found) > 0 {
		t.Errorf("a local directory: %v", found)
	}
	b.fsType = func(string) uint32 { return 0x6969 }
	if found := b.Preflight(t.Context(), b.spec); !found.Has("state_remote") || found.Errors().Has("state_remote") {
		t.Errorf("NFS: %v", found)
	}
	if got := fsType("/proc"); got != 0x9fa0 { // PROC_SUPER_MAGIC, statfs(2)
		t.Errorf("/proc is of type %#x", got)
	}
}
