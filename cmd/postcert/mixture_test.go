package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// keyOverridden lets main.cf name the two files of a lineage, and submissions its
// key once more by an override: the new certificate with that key serves nothing,
// nor does the old one with a key that is looked for in its file.
func keyOverridden(t *testing.T) (h *host, old string) {
	h = newHost(t, postfixtest.Options{MaxUse: 1})
	old = h.lineage(certtest.Leaf{})
	lines := strings.Split(string(h.pf.Main()), "\n")
	for i, line := range lines {
		switch name, _, _ := strings.Cut(line, " "); name {
		case "smtpd_tls_cert_file":
			lines[i] = name + " = " + old + "/fullchain.pem"
		case "smtpd_tls_key_file":
			lines[i] = name + " = " + old + "/privkey.pem"
		}
	}
	h.pf.SetMain([]byte(strings.Join(lines, "\n")))
	h.pf.ReplaceMaster("  -o smtpd_tls_wrappermode=yes\n", "  -o smtpd_tls_wrappermode=yes\n  -o smtpd_tls_key_file="+old+"/privkey.pem\n")
	h.pf.Reload()
	h.serves(h.leafOf(old))
	return h, old
}

// atEach runs postcert and calls f each time that it comes to an event, while it
// waits there.
func (h *host) atEach(event string, f func(), args ...string) (times int) {
	h.t.Helper()
	mark := filepath.Join(h.t.TempDir(), "paused")
	cmd := h.command(args...)
	cmd.Env = append(cmd.Env, pauseAt+"="+event+"="+mark)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }() // the status is in ProcessState
	for {
		select {
		case <-done:
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				h.t.Errorf("exit status %d", code)
			}
			return times
		case <-time.After(5 * time.Millisecond):
		}
		if _, err := os.Stat(mark); err != nil {
			continue
		}
		times++
		f()
		if err := os.Remove(mark); err != nil {
			h.t.Error(err)
		}
	}
}

// S17: an override of the key alone is adopted without a moment in which a new
// process has a certificate and a key of two pairs: master.cf is changed and read
// first, and openssl is served at each stage by processes that have just started.
func TestAdoptMasterFirst(t *testing.T) {
	h, old := keyOverridden(t)
	former := h.look()
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(3).says("override_present").says("submissions/inet")
	h.postcert("install-cert", l, "--adopt-overrides", "--dry-run").want(0)
	if !maps.Equal(h.look(), former) {
		t.Fatal("not untouched")
	}
	var seen []view
	times := h.atEach("commit end", func() { seen = append(seen, h.look()) }, "install-cert", l, "--adopt-overrides")
	if times != 2 {
		t.Errorf("%d commits, want 2: master.cf, then main.cf", times)
	}
	h.serves(h.leafOf(l))
	next := h.look()
	for i, v := range seen {
		for addr, chain := range v {
			if chain != former[addr] && chain != next[addr] {
				t.Errorf("commit %d, %s: neither old nor new", i+1, addr)
			}
		}
	}
	if main := string(h.pf.Main()) + string(h.pf.Master()); strings.Contains(main, old) {
		t.Errorf("%s is still named:\n%s", old, main)
	}
	// A renewal is a file switch again.
	second := h.lineage(certtest.Leaf{})
	before := h.pf.Files()
	h.postcert("install-cert", second).want(0)
	h.serves(h.leafOf(second))
	for _, name := range []string{"main.cf", "master.cf"} {
		if string(before[name].Data) != string(h.pf.Files()[name].Data) {
			t.Errorf("%s was changed by a renewal", name)
		}
	}
}

// The second reload of such a change fails, or the run is killed between the two:
// the former configuration is back, byte for byte, and served.
func TestAdoptMasterFirstUndone(t *testing.T) {
	h, old := keyOverridden(t)
	before := h.pf.Files()
	back := func(what string) {
		t.Helper()
		for _, name := range []string{"main.cf", "master.cf"} {
			if string(before[name].Data) != string(h.pf.Files()[name].Data) {
				t.Errorf("%s: %s is not as before", what, name)
			}
		}
		h.serves(h.leafOf(old))
	}
	for _, n := range []string{"1", "2"} {
		h.with(failAt+"=Reload "+n).postcert("install-cert", h.lineage(certtest.Leaf{}), "--adopt-overrides").want(4)
		back("reload " + n + " fails")
	}
	if a := h.with(killAt+"=reload end").postcert("install-cert", h.lineage(certtest.Leaf{}), "--adopt-overrides"); a.status != -1 {
		t.Fatalf("not killed: %d", a.status)
	}
	h.look() // each listener serves something
	h.postcert("recover").want(0)
	back("killed between the reloads")
}

// A first certificate is undone after its reload: until the master has read the
// former overrides it starts processes with those that name the file of ours, which
// therefore goes last.
func TestUndoneWhileOverridesAreRead(t *testing.T) {
	h, old := keyOverridden(t)
	before := h.pf.Files()
	next := h.lineage(certtest.Leaf{})
	h.dies("prove begin", "install-cert", next, "--adopt-overrides")
	former, ours := h.chainOf(old), h.chainOf(next)
	times := h.atEach("undo end", func() {
		for addr, chain := range h.look() {
			if chain != former && chain != ours {
				t.Errorf("%s: neither old nor new", addr)
			}
		}
	}, "recover")
	if times != 2 {
		t.Errorf("%d steps of undo, want 2: what was there, then what was made", times)
	}
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("not as it was: %s", d)
	}
	h.serves(h.leafOf(old))
}

// Where neither file can go first nothing is touched, and it is said why: here
// the protocols are valid only if both files name the same certificate.
func TestMixtureRefused(t *testing.T) {
	stale := filepath.Join(t.TempDir(), "stale.pem")
	postfixtest.WritePair(t, stale, hostName)
	h := newHost(t, postfixtest.Options{Cert: stale, MaxUse: 1})
	h.pf.ReplaceMaster("  -o smtpd_tls_security_level=encrypt\n", "  -o smtpd_tls_security_level=encrypt\n  -o smtpd_tls_chain_files="+stale+
		"\n  -o { smtpd_tls_mandatory_protocols = ${{$smtpd_tls_cert_file} == {$smtpd_tls_chain_files} ? {!SSLv2} : {bogus}} }\n")
	h.pf.Reload()
	h.untouched(func() {
		h.postcert("install-cert", h.lineage(certtest.Leaf{}), "--adopt-overrides").want(3).
			says("mixture_refused").says("neither file can be changed first").says("bogus").says("postconf -P")
	})
}

// A service whose TLS would go off with the parameters of the certificate is found
// in the plan: nobody would ask it afterwards.
func TestTLSLost(t *testing.T) {
	stale := filepath.Join(t.TempDir(), "stale.pem")
	postfixtest.WritePair(t, stale, hostName)
	h := newHost(t, postfixtest.Options{Cert: stale})
	h.pf.ReplaceMaster("  -o smtpd_tls_security_level=encrypt\n", "  -o { smtpd_tls_security_level = ${{$smtpd_tls_cert_file} == {"+stale+"} ? {may} : {none}} }\n")
	h.pf.Reload()
	h.untouched(func() {
		h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(3).says("tls_lost").says("submission/inet").says("smtpd_tls_security_level")
	})
}
