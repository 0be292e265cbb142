package main

import (
	"fmt"
	"path/filepath"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// What instances[].services says decides which service a certificate is for.
func TestConfiguredServices(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	first, l := h.served(), h.lineage(certtest.Leaf{})
	conf := filepath.Join(h.dir, "postcert.yaml")
	yaml := `certificates:
  - {name: main, source: watch, lineage: /etc/letsencrypt/live/main}
  - {name: other, source: watch, lineage: /etc/letsencrypt/live/other}
instances:
  - config_directory: %s
    certificate: main
    services: [%s]
`
	h.write(conf, fmt.Appendf(nil, yaml, h.pf.ConfigDir, "{service: submissions/inet, certificate: other}"))
	h.postcert("install-cert", l, "--name", "other", "--config", conf).want(0)
	for addr, mode := range listeners {
		want := first
		if addr == postfixtest.Submissions {
			want = h.leafOf(l)
		}
		if got, err := postfixtest.ServedLeaf(t, addr, mode); err != nil || got != want {
			t.Errorf("%s serves %s (%v), want %s", addr, got, err, want)
		}
	}

	// A rollback of it concerns that service, with or without a configuration.
	next := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", next, "--name", "other", "--service", "submissions/inet").want(0)
	main := h.pf.Main()
	h.postcert("rollback", "other").want(0)
	if got, err := postfixtest.ServedLeaf(t, postfixtest.Submissions, postfixtest.Implicit); err != nil || got != h.leafOf(l) {
		t.Errorf("rollback: %s (%v), want %s", got, err, h.leafOf(l))
	}
	if h.served() != first || string(main) != string(h.pf.Main()) {
		t.Error("rollback of one service's certificate changed the others")
	}

	h.write(conf, fmt.Appendf(nil, yaml, h.pf.ConfigDir,
		"{service: submissions/inet, certificate: other}, {service: submission/inet, certificate: other}"))
	before := h.pf.Files()
	h.postcert("install-cert", h.lineage(certtest.Leaf{}), "--name", "other", "--config", conf).want(3).says("services_unsupported")
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("changed: %s", d)
	}
}
