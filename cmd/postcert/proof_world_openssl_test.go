package main

import (
	"slices"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// R7: openssl goes wrong. It is asked only where crypto/tls cannot choose the
// type of the server's key: under TLS 1.3, with certificates of two types. What
// it cannot tell is not verified, and no reason to undo a renewal that was
// rehearsed.
func TestProofOpenSSL(t *testing.T) {
	t.Parallel()
	const shards = 3
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{MaxUse: 1, Main: []string{"smtpd_tls_protocols = >=TLSv1.3", "smtpd_tls_mandatory_protocols = >=TLSv1.3"}})
		rsa, _ := h.trusted(certtest.Leaf{Key: "rsa"})
		ecdsa, leaf := h.trusted(certtest.Leaf{Key: "ecdsa"})
		h.configured(leaf, "smtpd_tls_chain_files = "+rsa+", "+ecdsa)
		h.with(patience).postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
		programs := stagePrograms(t)
		var figures statuses
		n := 0
		for _, at := range []string{"", "rehearse begin", "prove begin"} {
			for _, m := range faults {
				alike := slices.Contains([]string{"endless", "binary", "killed"}, m.name)
				if n++; n%shards != shard || alike && !long {
					continue
				}
				name := "openssl " + m.name + " at " + at
				h.at(name, func(h *host) {
					old, lineage := h.chain(), h.lineage(certtest.Leaf{})
					f := facing{want: []int{9}, limit: 3 * leeway, mend: programs.clear, says: []string{"not verified"}}
					switch {
					case m.name == "slow":
						f.want, f.says = []int{0}, nil
					case at == "rehearse begin":
						// Neither rehearsed nor verified: undone; and that the former
						// pair is served again cannot be asked either.
						f.want, f.says = []int{5}, nil
					}
					if at == "" {
						sh(h.t, "%s", programs.set("openssl", "", m))
					} else {
						f.env = append(f.env, doAt+"="+at+": "+programs.set("openssl", "", m))
					}
					figures.add(name, h.faces(f, old, h.chainOf(lineage), "install-cert", lineage))
				})
				programs.clear()
			}
		}
		t.Logf("R7, openssl, shard %d: %s", shard, &figures)
	})
}
