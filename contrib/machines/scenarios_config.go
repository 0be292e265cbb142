package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"postcert/verify/certtest"
)

func init() {
	register(
		Scenario{ID: "S15", Title: "smtpd_tls_chain_files beside legacy parameters: those in effect are set", Run: chainFiles},
		Scenario{ID: "S16", Title: "main.cf a link, one file for both, macros: the same naming is followed", Run: naming},
		Scenario{ID: "S16 types", Title: "RSA and ECDSA in several chain files: the one of its type is replaced", Run: severalChainFiles},
		Scenario{ID: "S17", Title: "an override on submissions: refused by service and line, adopted when asked", Run: override},
		Scenario{ID: "S17 intent", Title: "an override with a good certificate of other names is left alone", Run: overrideMeant},
		Scenario{ID: "S18", Title: "127.0.0.1:465, [::1]:587, 2525, IP:port: all proven, none added or removed", Run: addresses},
		Scenario{ID: "main.cf", Title: "no final newline, mode 0640, comments and continuations: kept byte for byte", Run: mainBytes},
		Scenario{ID: "release", Title: "release gives the former configuration back, byte for byte", Run: released},
	)
}

// onSixAddresses are the listeners of a Ready machine, both protocols.
var onSixAddresses = append([]string{"[::1]:25", "[::1]:587", "[::1]:465"}, Listeners...)

// ours is the file that Postfix reads after an install.
const ours = "/etc/postfix/tls/" + lineageName + ".pem"

// aged runs a shell script in /etc/postfix and reloads Postfix. The files look older
// than they are: each new process of Postfix waits for a main.cf of the last 2 s.
func (m *Machine) aged(script string) {
	m.s.Helper()
	m.Sh("set -e; cd /etc/postfix; " + script + "\ntouch -d '10 seconds ago' main.cf master.cf; postfix reload")
}

// aside keeps a copy of /etc/postfix, for edited.
func (m *Machine) aside() { m.s.Helper(); m.Sh("rm -rf /root/aside; cp -a /etc/postfix /root/aside") }

// edited are the lines of main.cf or master.cf that are not as in the copy, as
// diff(1) shows them: "< " was there, "> " is there now.
func (m *Machine) edited(file string) []string {
	m.s.Helper()
	var out []string
	for line := range strings.Lines(m.Try("diff /root/aside/" + file + " /etc/postfix/" + file).Stdout) {
		if strings.HasPrefix(line, "<") || strings.HasPrefix(line, ">") || strings.HasPrefix(line, "\\") {
			out = append(out, strings.TrimRight(line, "\n"))
		}
	}
	return out
}

// wantEdited fails the scenario unless exactly these lines differ, in any order.
func (m *Machine) wantEdited(file string, want ...string) {
	m.s.Helper()
	got := m.edited(file)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		m.s.Fatalf("%s differs by %q, want %q", file, got, want)
	}
}

// writePair writes a pair in one file, key first, and returns its path.
func (m *Machine) writePair(path string, p *Pair) string {
	m.s.Helper()
	m.Write(path, string(p.PostfixPEM()), 0o600)
	return path
}

func chainFiles(s *S) {
	m := s.Boot(Ready)
	old := s.Pair()
	file := m.writePair("/etc/ssl/private/chain.pem", old)
	m.aged("postconf -e smtpd_tls_chain_files=" + file)
	m.WaitServes(old, time.Minute)
	m.aside()
	next := s.Pair()
	m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0).WantProblem("legacy_ignored")
	m.Serves(next)
	m.wantEdited("main.cf", "< smtpd_tls_chain_files = "+file, "> smtpd_tls_chain_files = "+ours)
	m.wantEdited("master.cf")
}

func naming(s *S) {
	m := s.Boot(Ready)
	old := s.Pair()
	m.writePair("/etc/postfix/old/mail.example.org.pem", old)
	m.Sh("mkdir /etc/mail && mv /etc/postfix/main.cf /etc/mail/main.cf && ln -s ../mail/main.cf /etc/postfix/main.cf")
	for _, lines := range [][2]string{
		{"$config_directory/old/$myhostname.pem", "${smtpd_tls_cert_file}"},
		{"/etc/postfix/old/mail.example.org.pem", "/etc/postfix/old/mail.example.org.pem"},
	} {
		s.Step("%s, %s", lines[0], lines[1])
		m.aged("sed -i --follow-symlinks -e 's|^smtpd_tls_cert_file *=.*|smtpd_tls_cert_file = " + lines[0] +
			"|' -e 's|^smtpd_tls_key_file *=.*|smtpd_tls_key_file = " + lines[1] + "|' main.cf")
		m.WaitServes(old, time.Minute)
		m.Sh("rm -rf /root/aside; cp -aL /etc/postfix /root/aside")
		next := s.Pair()
		r := m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
		m.Serves(next)
		want := []string{"< smtpd_tls_cert_file = " + lines[0], "> smtpd_tls_cert_file = " + ours}
		if !strings.HasPrefix(lines[1], "$") { // it follows already
			want = append(want, "< smtpd_tls_key_file = "+lines[1], "> smtpd_tls_key_file = $smtpd_tls_cert_file")
		}
		m.wantEdited("main.cf", want...)
		diff := fmt.Sprint(r.Get("plan.diff"))
		for _, line := range want {
			if shown := strings.NewReplacer("< ", "-", "> ", "+").Replace(line[:2]) + line[2:]; !strings.Contains(diff, shown) {
				s.Errorf("the diff does not show %q:\n%s", shown, diff)
			}
		}
		if target := m.Sh("readlink /etc/postfix/main.cf"); target != "../mail/main.cf" {
			s.Errorf("main.cf points to %q", target)
		}
		m.Postcert("release", lineageName).Want(0)
		m.Serves(old)
		m.wantEdited("main.cf")
	}
	if sum := m.Sh("sha256sum </etc/postfix/old/mail.example.org.pem"); !strings.HasPrefix(sum, fingerprint(old.PostfixPEM())) {
		s.Errorf("the administrator's own file has changed")
	}
}

func severalChainFiles(s *S) {
	m := s.Boot(Ready)
	rsa, ecdsa := s.CA().Leaf(s, certtest.Leaf{Key: "rsa"}), s.CA().Leaf(s, certtest.Leaf{Key: "ecdsa"})
	m.writePair("/etc/ssl/private/rsa.pem", rsa)
	m.writePair("/etc/ssl/private/ecdsa.pem", ecdsa)
	m.aged("printf 'smtpd_tls_chain_files = /etc/ssl/private/rsa.pem,\n # both\n  /etc/ssl/private/ecdsa.pem\n' >>main.cf")
	asRSA := []string{"-sigalgs", "rsa_pss_rsae_sha256"}
	asECDSA := []string{"-sigalgs", "ecdsa_secp256r1_sha256"}
	s.WaitFor("both certificates", time.Minute, func() bool {
		got, err := m.Presented(Listeners[0], asRSA...)
		return err == nil && fingerprint(got[0]) == LeafOf(rsa)
	})
	next := s.CA().Leaf(s, certtest.Leaf{Key: "rsa"})
	m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
	for _, addr := range Listeners {
		if got := m.Leaf(addr, asRSA...); got != LeafOf(next) {
			s.Errorf("%s shows %.8s to clients of RSA, want %.8s", addr, got, LeafOf(next))
		}
		if got := m.Leaf(addr, asECDSA...); got != LeafOf(ecdsa) {
			s.Errorf("%s shows %.8s to clients of ECDSA, want %.8s", addr, got, LeafOf(ecdsa))
		}
	}
	if got, want := m.Sh("postconf -h smtpd_tls_chain_files"), ours+", /etc/ssl/private/ecdsa.pem"; strings.Join(strings.Fields(got), " ") != want {
		s.Errorf("smtpd_tls_chain_files = %s, want %s", got, want)
	}
}

// overridden gives the service submissions a certificate of its own.
func (m *Machine) overridden(p *Pair) {
	m.s.Helper()
	file := m.writePair("/etc/ssl/private/override.pem", p)
	m.aged("postconf -P submissions/inet/smtpd_tls_cert_file=" + file + " submissions/inet/smtpd_tls_key_file=" + file)
	m.WaitServes(p, time.Minute, "127.0.0.1:465")
}

func override(s *S) {
	m := s.Boot(Ready)
	stale := s.Pair()
	m.overridden(stale)
	m.aside()
	next := s.Pair()
	live := m.Lineage(lineageName, next)
	line := m.Sh("grep -n override.pem /etc/postfix/master.cf | head -n 1 | cut -d: -f1")
	before, reloads := m.Configuration(), m.reloads()
	m.Postcert("install-cert", live).Want(3).WantProblem("override_present").says("submissions/inet").says(`"line":` + line)
	if changed := before.Changed(m.Configuration()); changed != nil || m.reloads() != reloads {
		s.Errorf("refused, but changed: %q, or reloaded", changed)
	}
	m.Serves(stale, "127.0.0.1:465")
	m.Serves(m.First, "127.0.0.1:25", "127.0.0.1:587")

	s.Step("adopted")
	m.Postcert("install-cert", "--adopt-overrides", live).Want(0)
	m.Serves(next)
	for _, line := range m.edited("master.cf") {
		if !strings.Contains(line, "-o smtpd_tls_cert_file=") && !strings.Contains(line, "-o smtpd_tls_key_file=") {
			s.Errorf("master.cf: %s", line)
		}
	}
	m.Postcert("release", lineageName).Want(0)
	m.Serves(stale, "127.0.0.1:465")
	m.Serves(m.First, "127.0.0.1:25", "127.0.0.1:587")
	m.wantEdited("master.cf")
	m.wantEdited("main.cf")
}

func overrideMeant(s *S) {
	m := s.Boot(Ready)
	own := s.Pair("shop.example.org")
	m.overridden(own)
	m.aside()
	next := s.Pair()
	r := m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
	if left := fmt.Sprint(r.Get("plan.left")); !strings.Contains(left, "override.pem") {
		s.Errorf("left alone: %s, want the override", left)
	}
	m.Serves(next, "127.0.0.1:25", "127.0.0.1:587")
	m.Serves(own, "127.0.0.1:465")
	m.wantEdited("master.cf")
}

func addresses(s *S) {
	m := s.Boot(Ready)
	const tail = "inet n - y - - smtpd"
	// Stopped: the master of Postfix 3.5 ends at a reload that moves a listener from
	// all addresses to one.
	m.Sh(`set -e; systemctl stop postfix; cd /etc/postfix; postconf -MX submission/inet submissions/inet
		{
			echo '127.0.0.1:465 ` + tail + `'; echo '  -o smtpd_tls_wrappermode=yes'
			echo '[::1]:587 ` + tail + `'; echo '2525 ` + tail + `'; echo '127.0.0.2:2526 ` + tail + `'
			echo '2465 ` + tail + `'; echo '2465 ` + tail + `'; echo '  -o smtpd_tls_wrappermode=yes'
		} >>master.cf
		touch -d '10 seconds ago' master.cf; systemctl start postfix`)
	want := []string{
		"127.0.0.1:25", "[::1]:25", "smtps://127.0.0.1:465", "[::1]:587", "127.0.0.1:2525", "[::1]:2525",
		"127.0.0.2:2526", "smtps://127.0.0.1:2465", "smtps://[::1]:2465",
	}
	m.WaitServes(m.First, bootLimit, want...)
	m.aside()
	next := s.Pair()
	r := m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
	m.Serves(next, want...)
	m.wantEdited("master.cf")
	proven := map[string]bool{}
	listeners, _ := r.Get("transaction.listeners").([]any)
	for i := range listeners {
		at := fmt.Sprintf("transaction.listeners.%d.", i)
		if r.Get(at+"verdict") == "proven" {
			proven[fmt.Sprint(r.Get(at+"endpoint"))] = true
		}
	}
	for _, addr := range want {
		if addr = strings.TrimPrefix(addr, "smtps://"); !proven[addr] {
			s.Errorf("%s was not proven", addr)
		}
	}
	if len(proven) != len(want) {
		s.Errorf("proven: %v, want %q", proven, want)
	}
	if sockets := m.Sh("ss -Hltn"); strings.Contains(sockets, "127.0.0.1:587 ") || strings.Contains(sockets, "0.0.0.0:587 ") {
		s.Errorf("a listener was added on 127.0.0.1:587")
	}
}

// mainBytes gives main.cf what editors and administrators leave there, in several
// ways one after the other; each time only the planned lines may differ, and after
// release nothing may.
func mainBytes(s *S) {
	m := s.Boot(Ready)
	m.Sh("cp -p /etc/postfix/main.cf /root/main.cf")
	for _, way := range []struct{ name, script string }{
		{"without a final newline, the planned parameter last", `
			grep -v '^smtpd_tls_\(cert\|key\)_file' /root/main.cf >main.cf
			printf 'smtpd_tls_key_file = /etc/ssl/private/mail.key\nsmtpd_tls_cert_file = /etc/ssl/certs/mail.pem' >>main.cf`},
		{"mode 0640, another group, without a final newline", `
			cat /root/main.cf >main.cf; printf '# the end' >>main.cf; chgrp adm main.cf; chmod 0640 main.cf`},
		{"comments, continuations, tabs, trailing spaces, twice", `
			{ printf '#smtpd_tls_cert_file = /commented/out.pem\n\n\t\n'; cat /root/main.cf
			  printf 'smtpd_tls_cert_file=/etc/ssl/certs/mail.pem  \n'
			  printf '# smtpd_tls_key_file = /commented/out.key\nsmtpd_recipient_restrictions =\n\tpermit_mynetworks\n# between\n  \n\treject_unauth_destination   \n\n   # indented\n'
			  printf 'notify_classes   =   resource,\n    software\n\n\n'; } >main.cf`},
	} {
		s.Step("%s", way.name)
		m.aged(way.script)
		m.aside()
		state := "stat -c '%a %U %G' /etc/postfix/main.cf; sha256sum /etc/postfix/main.cf /etc/postfix/master.cf"
		before := m.Sh(state)
		next := s.Pair()
		m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
		m.Serves(next)
		m.onlyPlanned()
		if owner, now := strings.Split(before, "\n")[0], strings.Split(m.Sh(state), "\n")[0]; owner != now {
			s.Errorf("main.cf was %s and is %s", owner, now)
		}
		m.Postcert("release", lineageName).Want(0)
		m.Serves(m.First)
		if now := m.Sh(state); now != before {
			s.Errorf("before:\n%s\nand after release:\n%s", before, now)
		}
	}
}

// onlyPlanned fails the scenario if main.cf differs in more than the two parameters,
// or in none.
func (m *Machine) onlyPlanned() {
	m.s.Helper()
	edited := m.edited("main.cf")
	if len(edited) == 0 {
		m.s.Errorf("main.cf was not edited")
	}
	ends := 0 // of a file without a final newline: of both or of none
	for _, line := range edited {
		if strings.HasPrefix(line, `\ No newline`) {
			ends++
			continue
		}
		text := strings.TrimLeft(line, "<> ")
		if !strings.HasPrefix(text, "smtpd_tls_cert_file") && !strings.HasPrefix(text, "smtpd_tls_key_file") {
			m.s.Errorf("main.cf: %s", line)
		}
	}
	if ends == 1 {
		m.s.Errorf("main.cf: the final newline was added or taken away")
	}
	m.wantEdited("master.cf")
}

func released(s *S) {
	m := s.Boot(Ready)
	state := "cd /etc/postfix; find . -path ./tls -prune -o -type f -printf '%p %m %u %g\\n' | sort; sha256sum *.cf"
	before := m.Sh(state)
	m.Postcert("release", lineageName).Want(3)
	for range 2 {
		next := s.Pair()
		m.Postcert("install-cert", m.Lineage(lineageName, next)).Want(0)
		m.Serves(next)
	}
	m.Postcert("release").Want(0)
	m.Serves(m.First)
	if now := m.Sh(state); now != before {
		s.Errorf("before:\n%s\nand after release:\n%s", before, now)
	}
	// A renewal no longer concerns us; adopting it again does.
	live := m.Lineage(lineageName, s.Pair())
	hook := m.Try("RENEWED_LINEAGE=" + live + " RENEWED_DOMAINS=" + lineageName + " postcert hook --json")
	if hook.Status != 0 || !strings.Contains(hook.Stdout, `"hook_left"`) {
		s.Errorf("the hook ends with %d, want 0 and hook_left", hook.Status)
	}
	m.Serves(m.First)
	again := s.Pair()
	m.Postcert("install-cert", m.Lineage(lineageName, again)).Want(0)
	m.Serves(again)
}
