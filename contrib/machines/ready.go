package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"postcert/verify/certtest"
)

// world is what the scenarios of a run share.
type world struct {
	releases []*Release
	forest   forest
	scratch  string // a directory in memory, of this run
	tools    string // the package and the programs for the machines
	parents  []string
	root, ca *certtest.CA
	verbose  bool
	keep     bool
	quiet    bool
	ctx      context.Context
	printing sync.Mutex

	count  atomic.Int64
	layers map[*Release]*layer
}

// layer is a file system above a tree, made once in a run.
type layer struct {
	once  sync.Once
	dir   string
	first *Pair
	err   error
}

// newWorld makes a CA and the place for the machines.
func newWorld(ctx context.Context, t testing.TB, o options, releases []*Release) *world {
	w := &world{releases: releases, forest: forest{dir: o.trees}, tools: o.tools, verbose: o.verbose, keep: o.keep, quiet: o.quiet, ctx: ctx, layers: map[*Release]*layer{}}
	for _, r := range releases {
		w.layers[r] = &layer{}
	}
	w.root = certtest.NewCA(t, certtest.Authority{Name: "Machines Root"})
	w.ca = w.root.Intermediate(t, certtest.Authority{Name: "Machines Intermediate"})
	w.scratch = t.TempDir()
	var own []string
	for _, h := range hierarchies() {
		own = append(own, ownCgroup(h))
	}
	var err error
	if w.parents, err = makeCgroups(own, o.group); err != nil {
		t.Fatal(err)
	}
	return w
}

// name is a new name for a machine.
func (w *world) name(r *Release) string { return fmt.Sprintf("%s-%d", r.Suite, w.count.Add(1)) }

func (w *world) cgroups(machine string) []string {
	out, err := makeCgroups(w.parents, machine)
	if err != nil {
		return nil // nspawn then says what it does not find
	}
	return out
}

// readyLayer makes the layer of Ready machines when the first one is wanted: it
// boots a raw machine, installs postcert and configures mail, and keeps what has
// changed. Its failure is the failure of every scenario that wants one.
func (w *world) readyLayer(r *Release) (*layer, error) {
	l := w.layers[r]
	l.once.Do(func() {
		// With a transcript and a time of its own, and machines that end when it is made.
		s := &S{Release: r, world: w, title: "the ready layer of " + r.String()}
		s.ctx = w.ctx
		s.perform(func(s *S) {
			m := s.newMachine(r, nil)
			l.first = s.Pair()
			s.equip(m, l.first)
			m.PowerOff()
			l.dir = filepath.Join(w.scratch, "ready-"+r.Suite)
			if err := os.Rename(m.upper(), l.dir); err != nil {
				s.Fatal(err)
			}
		})
		if s.verdict != passed {
			l.err = fmt.Errorf("%s: %s\n%s", s.title, s.reason, s.text.String())
		}
	})
	return l, l.err
}

// equip makes of a raw machine a mail server with postcert, as an operator does.
func (s *S) equip(m *Machine, first *Pair) {
	m.Boot()
	r := m.Release
	r.Postfix = Version(m.Sh("postconf -h mail_version"))
	r.OpenSSL = Version(word(m.Sh("openssl version"), 1))
	r.Systemd = Version(word(m.Sh("systemctl --version"), 1))
	r.Certbot = Version(word(m.Sh("certbot --version 2>&1"), 1))
	r.Dovecot = Version(word(m.Sh("dovecot --version"), 0))
	s.MailServer(m, first)
	s.InstallPackage(m)
	s.TrustCA(m)
	m.Serves(first)
}

func word(line string, n int) string {
	words := strings.Fields(line)
	if n < len(words) {
		return words[n]
	}
	return ""
}

// InstallPackage installs postcert, as Ready machines have it.
func (s *S) InstallPackage(m *Machine) {
	s.Helper()
	m.Sh("DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends " + toolsDir + "/postcert.deb")
}

// TrustCA puts the root of the run's CA among those that the machine trusts.
func (s *S) TrustCA(m *Machine) {
	s.Helper()
	m.Write("/usr/local/share/ca-certificates/machines.crt", string(certtest.EncodeCerts(s.world.root.Cert)), 0o644)
	m.Sh("update-ca-certificates")
}

// MailServer configures a raw machine as most hosts are: myhostname, submission
// and submissions beside port 25, all chrooted as Debian ships them, and a pair
// in two files that main.cf names.
func (s *S) MailServer(m *Machine, first *Pair) {
	s.Helper()
	m.Write("/etc/ssl/private/mail.key", string(first.KeyPEM()), 0o600)
	m.Write("/etc/ssl/certs/mail.pem", string(first.FullchainPEM()), 0o644)
	m.Sh(`postconf -e myhostname=mail.example.org mydestination='$myhostname, localhost' mynetworks=127.0.0.0/8 \
		smtpd_tls_cert_file=/etc/ssl/certs/mail.pem smtpd_tls_key_file=/etc/ssl/private/mail.key smtpd_tls_security_level=may
	postconf -M submission/inet='submission inet n - y - - smtpd' submissions/inet='submissions inet n - y - - smtpd'
	postconf -P submission/inet/syslog_name=postfix/submission submission/inet/smtpd_tls_security_level=encrypt \
		submissions/inet/syslog_name=postfix/submissions submissions/inet/smtpd_tls_wrappermode=yes
	newaliases
	systemctl restart postfix`)
	m.WaitServes(first, bootLimit)
}
