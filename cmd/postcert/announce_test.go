package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postcert/acme/acmetest"
)

// unnamed runs postcert without --instance, on a host whose only Postfix is this one.
func (h *host) unnamed(args ...string) answer {
	h.t.Helper()
	cmd := h.command(args...)
	i := slices.Index(cmd.Args, h.pf.ConfigDir) - 1
	cmd.Args = slices.Delete(cmd.Args, i, i+2)
	return h.finish(cmd)
}

// With one certificate and no instances in the configuration the host's only Postfix
// gets it: that is said before the order, by a dry run as well, with the way out.
func TestObtainAnnounces(t *testing.T) {
	h := newACMEHost(t, acmetest.Options{})
	if err := syscall.Mount(h.pf.ConfigDir, "/etc/postfix", "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount("/etc/postfix", syscall.MNT_DETACH) })
	conf := h.config("")
	data, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	list := "instances:\n  - {config_directory: " + h.pf.ConfigDir + ", certificate: " + hostName + "}\n"
	if !strings.Contains(string(data), list) {
		t.Fatalf("the configuration is another one:\n%s", data)
	}
	none, empty := filepath.Join(h.dir, "none.yaml"), filepath.Join(h.dir, "empty.yaml")
	h.write(none, []byte(strings.Replace(string(data), list, "", 1)))
	h.write(empty, []byte(strings.Replace(string(data), list, "instances: []\n", 1)))
	before := h.served()
	kept := func() {
		t.Helper()
		if h.served() != before {
			t.Fatal("it was installed")
		}
	}
	before2 := func(a answer, first, second string) {
		t.Helper()
		if i, j := strings.Index(a.stdout, first), strings.Index(a.stdout, second); i < 0 || j < i {
			t.Errorf("%q is not said before %q:\n%s", first, second, a.stdout)
		}
	}

	trial := []string{"--dry-run", "--directory", h.ca.URL}
	a := h.unnamed(append([]string{"obtain", "--config", none}, trial...)...).want(0)
	before2(a, "would go to  the Postfix of /etc/postfix, the only one here, as the configuration names none; --no-deploy", "a whole order")
	h.unnamed(append([]string{"obtain", "--config", none, "--no-deploy"}, trial...)...).want(0).says("would go to  no Postfix")
	h.unnamed(append([]string{"obtain", "--config", empty}, trial...)...).want(0).says("would go to  no Postfix")
	h.unnamed(append([]string{"renew", "--config", none}, trial[:1]...)...).says("would go to  the Postfix of /etc/postfix")
	flags := append(h.order(), trial...)
	before2(h.unnamed(flags...).want(0), "would go to  the Postfix of /etc/postfix, the only one here; --no-deploy keeps it off", "a whole order")
	if v := h.unnamed(append(flags, "--json")...).want(0).certificate(0); !slices.Equal(v["installs_on"].([]any), []any{"/etc/postfix"}) {
		t.Errorf("installs_on is %v", v["installs_on"])
	}
	kept()

	h.unnamed("obtain", "--config", none, "--no-deploy").want(0).says("1 certificate is obtained.")
	kept()
	h.unnamed("renew", "--config", empty).want(0).says("not_deployed")
	kept()
	a = h.unnamed("renew", "--force", "--config", none).want(0)
	before2(a, "goes to      the Postfix of /etc/postfix, the only one here", "  order  ")
	h.serves(h.live())
	if a := h.unnamed("renew", "--config", none).want(0); strings.Contains(a.stdout, "goes to") {
		t.Errorf("it is said again:\n%s", a.stdout)
	}
}
