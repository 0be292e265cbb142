package main

import (
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// stage is one deploy of the proof and the world that it meets.
type stage struct {
	name   string
	pair   *certtest.Pair
	args   []string
	before func() (after func()) // prepares the world; nil leaves it alone
	status int                   // exit status that is right
	says   string                // id of the problem that it must name
}

// good is a renewal as it should be.
func (s *site) good() stage { return stage{name: "good", pair: s.leaf(certtest.Leaf{})} }

// bad is the i-th bad deploy. A third are pairs that only the rehearsal can
// refuse, a third are committed and must be undone, and a third are bad
// certificates of all kinds. One in ten of those that are undone, but at least
// one, is undone by the proof, which gives a contradicting listener 20 s; for the
// others the reload fails, before or after Postfix has done it.
func (s *site) bad(i int) stage {
	s.t.Helper()
	turn := i / 3
	switch i % 3 {
	case 0:
		return stage{name: "refused by the rehearsal", pair: s.leaf(certtest.Leaf{Key: "rsa"}), status: 3, says: "rehearsal_refused"}
	case 1:
		return s.undone(turn)
	}
	return s.badCertificate(turn)
}

func (s *site) undone(turn int) stage {
	st := stage{pair: s.leaf(certtest.Leaf{}), status: 4, says: "rolled_back"}
	switch {
	case turn%10 == 0:
		st.name, st.before = "contradicted by an impostor", s.impostor
	case turn%2 == 0:
		st.name, st.before = "the reload fails", s.failReload("before")
		st.args = []string{"--config", filepath.Join(s.pf.Dir, "postcert.yaml")}
	default:
		st.name, st.before = "the reload is done and fails", s.failReload("after")
		st.args = []string{"--config", filepath.Join(s.pf.Dir, "postcert.yaml")}
	}
	return st
}

// badCertificate is a pair that no client would take.
func (s *site) badCertificate(turn int) stage {
	s.t.Helper()
	now, day := time.Now(), 24*time.Hour
	names := []string{hostName, "mx.example.test"}
	kinds := []struct {
		name, id string
		leaf     certtest.Leaf
		change   func(*certtest.Pair) *certtest.Pair
	}{
		{"another key", "key_mismatch", certtest.Leaf{}, func(p *certtest.Pair) *certtest.Pair { return p.WithKey(certtest.NewKey(s.t, "ecdsa")) }},
		{"expired", "cert_expired", certtest.Leaf{NotBefore: now.Add(-90 * day), NotAfter: now.Add(-day)}, nil},
		{"leaf alone", "chain_incomplete", certtest.Leaf{}, func(p *certtest.Pair) *certtest.Pair { return p.With() }},
		{"fewer names", "names_shrunk", certtest.Leaf{Names: names[:1]}, nil},
		{"not yet valid", "cert_not_yet_valid", certtest.Leaf{NotBefore: now.Add(day)}, nil},
		{"another name", "names_shrunk", certtest.Leaf{Names: []string{"www.example.test"}}, nil},
		{"for clients", "purpose_eku", certtest.Leaf{EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, nil},
		{"older", "downgrade", certtest.Leaf{NotBefore: now.Add(-40 * day)}, nil},
		{"self-signed", "self_signed", certtest.Leaf{}, func(*certtest.Pair) *certtest.Pair { return certtest.SelfSigned(s.t, certtest.Leaf{Names: names}) }},
	}
	k := kinds[turn%len(kinds)]
	p := s.leaf(k.leaf)
	if k.change != nil {
		p = k.change(p)
	}
	return stage{name: k.name, pair: p, status: 3, says: k.id}
}

// makeWrapper makes a directory of Postfix's commands in which "postfix reload"
// fails once if it is told to: without doing it, or after it did.
func (s *site) makeWrapper() {
	s.t.Helper()
	dir := filepath.Join(s.pf.Dir, "sbin")
	script := `#!/bin/sh
# postfix -c DIR reload fails once if FILE exists.
file=` + s.pf.Dir + `/fail-reload
if [ "$3" = reload ] && [ -e "$file" ]; then
	read -r when <"$file"
	rm "$file"
	[ "$when" = before ] || /usr/sbin/postfix "$@"
	echo "postfix: the reload fails in this test" >&2
	exit 1
fi
exec /usr/sbin/postfix "$@"
`
	commands, err := filepath.Glob("/usr/sbin/post*")
	if err := errors.Join(err, os.Mkdir(dir, 0o755)); err != nil {
		s.t.Fatal(err)
	}
	for _, path := range commands {
		if name := filepath.Base(path); name != "postfix" {
			if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	for _, err := range []error{
		os.WriteFile(dir+"/postfix", []byte(script), 0o755),
		os.WriteFile(s.pf.Dir+"/postcert.yaml", []byte("command_directory: "+dir+"\n"), 0o644),
	} {
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) failReload(when string) func() func() {
	file := filepath.Join(s.pf.Dir, "fail-reload")
	return func() func() {
		if err := os.WriteFile(file, []byte(when+"\n"), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return func() {
			if _, err := os.Stat(file); err == nil {
				s.t.Error("the reload was not asked for")
			}
		}
	}
}

// impostor answers beside the load, in front of Postfix, while postcert runs.
func (s *site) impostor() func() {
	s.t.Helper()
	file := filepath.Join(s.dir, "impostor.pem")
	leaf := postfixtest.WritePair(s.t, file, "impostor.invalid")
	cmd := exec.Command(filepath.Join(s.dir, "impostor"), "-listen", aside, "-pem", file, "-for", "5m")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	postfixtest.WaitServed(s.t, aside, postfixtest.StartTLS, leaf)
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			s.t.Error(err)
		}
	}
}
