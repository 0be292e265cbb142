package acme

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// Key policies: what is in the next certificate, and what asks DNS first (S50).
func TestKeyPolicy(t *testing.T) {
	answers := map[string]func(context.Context, string) (TLSA, error){
		"none":    func(context.Context, string) (TLSA, error) { return TLSANone, nil },
		"present": func(context.Context, string) (TLSA, error) { return TLSAPresent, nil },
		"unknown": func(context.Context, string) (TLSA, error) { return TLSAUnknown, nil },
		"error":   func(context.Context, string) (TLSA, error) { return TLSANone, errors.New("SERVFAIL") },
		"nobody":  nil,
	}
	for _, c := range []struct {
		policy  KeyPolicy
		keyType KeyType
		tlsa    string
		allow   bool
		change  bool
		refused bool
	}{
		{KeyAuto, EC256, "present", false, false, false},
		{KeyReuse, EC256, "present", false, false, false},
		{KeyStaged, EC256, "present", false, false, false},
		{KeyStaged, EC256, "present", true, true, false},
		{KeyRotate, EC256, "none", false, true, false},
		{KeyRotate, EC256, "present", false, false, true},
		{KeyRotate, EC256, "unknown", false, false, true},
		{KeyRotate, EC256, "error", false, false, true},
		{KeyRotate, EC256, "nobody", false, false, true},
		{KeyRotate, EC256, "present", true, true, false},
		{KeyAuto, EC384, "present", false, false, true},
		{KeyAuto, EC384, "none", false, true, false},
	} {
		t.Run(fmt.Sprint(c.policy, c.keyType, c.tlsa, c.allow), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := ready(t, 90*day)
				b.TLSA = answers[c.tlsa]
				first := b.must(t, Options{}) // the first certificate has no key to keep
				b.spec.KeyPolicy, b.spec.KeyType = c.policy, c.keyType
				if c.refused {
					e := b.mustFail(t, Options{Force: true}, ClassRefused)
					if !e.Problems.Has("key_change_refused") || len(b.ca.made) != 1 {
						t.Errorf("got %v after %d orders", e, len(b.ca.made))
					}
					// What was refused is done at once when it is allowed.
					if r := b.must(t, Options{Force: true, AllowKeyChange: true}); !r.KeyChange {
						t.Error("the key did not change")
					}
					return
				}
				r := b.must(t, Options{Force: true, AllowKeyChange: c.allow})
				if r.KeyChange != c.change || (r.Version.SPKI != first.Version.SPKI) != c.change || !r.Renewed {
					t.Errorf("key changed: %v, want %v", r.KeyChange, c.change)
				}
				if c.policy == KeyStaged {
					st, err := b.State(b.spec.Name)
					key, kerr := b.Store.readKey(b.Store.nextKeyPath(b.spec.Name))
					if err != nil || kerr != nil || st.NextSPKI != spki(key.Public()) || st.NextSPKI == r.Version.SPKI {
						t.Errorf("no next key is prepared: %v %v", err, kerr)
					}
				}
			})
		})
	}
}
