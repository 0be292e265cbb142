package main

import (
	"regexp"
	"strings"
	"time"

	"postcert/verify/certtest"
)

func init() {
	register(
		Scenario{ID: "S04", Title: "expired, and not yet valid: refused, the old one is kept", Run: outOfDate},
		Scenario{ID: "S05", Title: "live/ turned back to an older generation: refused, unless it is meant", Run: turnedBack},
		Scenario{ID: "S06", Title: "the leaf alone: refused; completed when the chain is given", Run: leafAlone},
		Scenario{ID: "S10", Title: "a name is missing that was served: refused, unless it is meant", Run: nameMissing},
		Scenario{ID: "S13", Title: "umask 000, open directories, a key in mode 0644: ours is 0600 at every moment", Run: openModes},
		Scenario{ID: "S14", Title: "state directory full, /etc read-only: nothing changes, nothing is left", Run: noRoom},
		Scenario{ID: "S26", Title: "no environment, no terminal, no working directory, as cron and snap start us", Run: bareEnvironment},
	)
}

const lineageName = "mail.example.org"

// pid is MasterPID where postconf cannot be asked, because master.cf is broken.
func (m *Machine) pid() string {
	m.s.Helper()
	return strings.TrimSpace(m.Sh("cat /var/spool/postfix/pid/master.pid"))
}

// unchanged fails the scenario if f changes what the machine serves, which is old,
// a file of the configuration or a certificate of ours, the master, or reloads it.
func (m *Machine) unchanged(old *Pair, f func()) {
	m.s.Helper()
	before, pid, reloads := m.Configuration(), m.pid(), m.reloads()
	f()
	if changed := before.Changed(m.Configuration()); changed != nil {
		m.s.Errorf("changed: %q", changed)
	}
	if now := m.pid(); now != pid {
		m.s.Errorf("the master is %s, was %s", now, pid)
	}
	if now := m.reloads(); now != reloads {
		m.s.Errorf("%d reloads, were %d", now, reloads)
	}
	m.Serves(old)
}

// says fails the scenario unless the report has the text, in a problem, a plan or
// a log line.
func (r *Report) says(text string) *Report {
	r.m.s.Helper()
	if !strings.Contains(r.Stdout, text) {
		r.m.s.Fatalf("it does not say %q: %s", text, r.line)
	}
	return r
}

func outOfDate(s *S) {
	m := s.Boot(Ready)
	now, day := time.Now(), 24*time.Hour
	for _, bad := range []struct {
		id   string
		leaf certtest.Leaf
	}{
		{"cert_expired", certtest.Leaf{NotBefore: now.Add(-90 * day), NotAfter: now.Add(-time.Hour)}},
		{"cert_not_yet_valid", certtest.Leaf{NotBefore: now.Add(day), NotAfter: now.Add(90 * day)}},
	} {
		m.unchanged(m.First, func() {
			m.Postcert("install-cert", m.Lineage(lineageName, s.CA().Leaf(s, bad.leaf))).Want(3).WantProblem(bad.id)
		})
	}
}

func turnedBack(s *S) {
	m := s.Boot(Ready)
	old := s.CA().Leaf(s, certtest.Leaf{NotBefore: time.Now().Add(-40 * 24 * time.Hour)})
	next := s.Pair()
	m.Lineage(lineageName, old)
	live := m.Lineage(lineageName, next)
	m.Postcert("install-cert", live).Want(0)
	m.Serves(next)

	s.Step("the links are turned back")
	m.Sh("cd " + live + " && for f in cert chain fullchain privkey; do ln -sfn ../../archive/" + lineageName + "/${f}1.pem $f.pem; done")
	m.unchanged(next, func() {
		m.Postcert("install-cert", live).Want(3).WantProblem("downgrade")
		hook := m.Try("RENEWED_LINEAGE=" + live + " RENEWED_DOMAINS=" + lineageName + " postcert hook --json")
		if hook.Status != 3 || !strings.Contains(hook.Stdout, `"downgrade"`) {
			s.Errorf("the hook ends with %d and does not speak of a downgrade", hook.Status)
		}
	})
	m.Postcert("install-cert", "--allow-downgrade", live).Want(0)
	m.Serves(old)
}

func leafAlone(s *S) {
	m := s.Boot(Ready)
	next := s.Pair()
	live := m.Lineage(lineageName, next)
	files := []string{"install-cert", "--cert", live + "/cert.pem", "--key", live + "/privkey.pem"}
	m.unchanged(m.First, func() { m.Postcert(files...).Want(3).WantProblem("chain_incomplete") })
	m.Postcert(append(files, "--chain", live+"/chain.pem")...).Want(0)
	m.Serves(next)
}

func nameMissing(s *S) {
	m := s.Boot(Ready)
	both := s.Pair("mail.example.org", "mx.example.org")
	m.Postcert("install-cert", m.Lineage(lineageName, both)).Want(0)
	m.Serves(both)
	less := s.Pair("mail.example.org")
	live := m.Lineage(lineageName, less)
	m.unchanged(both, func() {
		m.Postcert("install-cert", live).Want(3).WantProblem("names_shrunk").says("mx.example.org")
		m.Postcert("install-cert", live, "--host", "imap.example.org", "--allow-fewer-names").Want(3).WantProblem("name_mismatch")
	})
	m.Postcert("install-cert", "--allow-fewer-names", live).Want(0)
	m.Serves(less)
}

// created are the files and directories that a traced program made: path and mode.
var created = regexp.MustCompile(`(?m)(?:openat\([^"]*|open\(|creat\(|mkdirat\([^"]*|mkdir\()"([^"]*)",? ?(?:[A-Z_|]*O_CREAT[A-Z_|]*, )?(0[0-7]*)\)`)

// openModes looks at the modes that every file was made with, not only at the last
// ones: a key that is world-readable for a moment is not private.
func openModes(s *S) {
	m := s.Boot(Ready)
	for round := range 2 { // the first makes the directories, the second finds them open
		next := s.Pair()
		live := m.Lineage(lineageName, next)
		m.Sh("chmod 0644 /etc/letsencrypt/archive/*/privkey*.pem && chmod 0755 /etc/letsencrypt/archive /etc/letsencrypt/live")
		m.Sh("umask 000 && strace -f -qq -o /root/trace -e trace=open,openat,creat,mkdir,mkdirat postcert install-cert " + live)
		m.Serves(next)
		seen := 0
		for _, made := range created.FindAllStringSubmatch(m.Read("/root/trace"), -1) {
			path, mode := made[1], made[2]
			if !strings.Contains(path, "/postcert/") && !strings.Contains(path, "/etc/postfix/tls") {
				continue
			}
			if seen++; strings.Contains(path, ".pem") && mode != "0600" {
				s.Errorf("round %d: %s was made in mode %s", round+1, path, mode)
			}
		}
		if seen == 0 {
			s.Errorf("the trace shows no file of ours")
		}
		if got := m.Sh("stat -L -c '%a %U %G %F' /etc/postfix/tls/" + lineageName + ".pem"); got != "600 root root regular file" {
			s.Errorf("our file is %s", got)
		}
		if open := m.Sh(`find /var/lib/postcert /etc/postfix/tls -type f -exec grep -l "PRIVATE KEY" {} + | xargs stat -c '%a %U %n' | grep -v '^600 root ' || :`); open != "" {
			s.Errorf("keys that others may read: %s", open)
		}
		if got := m.Sh("stat -c '%a %U %G' /var/lib/postcert"); round == 0 && got != "700 root root" {
			s.Errorf("the state directory is %s", got)
		}
		m.Sh("chmod 0644 /etc/postfix/tls/*.pem && chmod 0755 /etc/postfix/tls /var/lib/postcert /var/lib/postcert/generations")
	}
	// Where others can replace the key there is nothing to be saved.
	last := m.Sh("cd /etc/postfix/tls && chmod 0777 . && sha256sum *.pem")
	m.Postcert("install-cert", m.Lineage(lineageName, s.Pair())).Want(3).WantProblem("tls_directory_unfit")
	if now := m.Sh("cd /etc/postfix/tls && sha256sum *.pem"); now != last {
		s.Errorf("our file was replaced in a directory that anybody may write to")
	}
}

// noRoom gives the state directory a small file system of its own, which is full;
// then makes /etc read-only.
func noRoom(s *S) {
	m := s.Boot(Ready)
	first := s.Pair()
	m.Postcert("install-cert", m.Lineage(lineageName, first)).Want(0)
	live := m.Lineage(lineageName, s.Pair())
	// What it remembers and whom it told is meant to change.
	list := "find /var/lib/postcert /etc/postfix /run/postcert | grep -v -e /status -e /history -e /notify -e /lock | sort"

	s.Step("full")
	m.Sh(`cp -a /var/lib/postcert /root/state && mount -t tmpfs -o size=256k,mode=700 full /var/lib/postcert && cp -a /root/state/. /var/lib/postcert/
		dd if=/dev/zero of=/var/lib/postcert/ballast bs=1k status=none || :`)
	before := m.Sh(list)
	m.unchanged(first, func() { m.Postcert("install-cert", live).Want(1).WantProblem("disk_full") })
	if now := m.Sh(list); now != before {
		s.Errorf("files before:\n%s\nand after:\n%s", before, now)
	}
	m.Sh("umount /var/lib/postcert")

	s.Step("read-only")
	m.Sh("mount --bind /etc /etc && mount -o remount,bind,ro /etc")
	before = m.Sh(list)
	m.unchanged(first, func() {
		if r := m.Postcert("install-cert", live); r.Status != 3 && r.Status != 1 {
			r.Want(3)
		} else {
			r.says("read-only")
		}
	})
	if now := m.Sh(list); now != before {
		s.Errorf("files before:\n%s\nand after:\n%s", before, now)
	}
	m.Sh("umount -l /etc")
	m.Postcert("install-cert", live).Want(0)
}

func bareEnvironment(s *S) {
	m := s.Boot(Ready)
	bare := func(command string) Result {
		return m.Try(`rm -rf /tmp/gone && mkdir /tmp/gone && cd /tmp/gone && rmdir /tmp/gone &&
			exec env -i PATH=/usr/bin:/bin ` + command + ` </dev/null`)
	}
	next := s.Pair()
	live := m.Lineage(lineageName, next)
	if r := bare("setsid -w postcert install-cert " + live); r.Status != 0 {
		s.Errorf("install-cert: exit status %d", r.Status)
	}
	m.Serves(next)
	next = s.Pair()
	m.Lineage(lineageName, next)
	if r := bare("RENEWED_LINEAGE=" + live + " RENEWED_DOMAINS=" + lineageName + " setsid -w postcert hook"); r.Status != 0 {
		s.Errorf("hook: exit status %d", r.Status)
	}
	m.Serves(next)
	// A relative path has no meaning there: one clear error, and nothing is changed.
	m.unchanged(next, func() {
		if r := bare("setsid -w postcert install-cert fullchain.pem --json"); r.Status != 3 || !strings.Contains(r.Stdout, `"input_missing"`) {
			s.Errorf("exit status %d, want 3 and input_missing", r.Status)
		}
	})
}
