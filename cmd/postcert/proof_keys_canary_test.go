package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// crashes are the signals that end a Go program with a dump of its goroutines,
// and the events at which each arrives: the key is in memory at all of them.
var crashes = []struct{ signal, event string }{
	{"QUIT", "stage begin"}, {"ABRT", "stage end"}, {"SEGV", "rehearse begin"}, {"QUIT", "rehearse end"},
	{"ABRT", "journal end"}, {"SEGV", "commit begin"}, {"QUIT", "commit end"}, {"ABRT", "prove begin"}, {"SEGV", "confirm begin"},
}

// stagedKey matches the files that may hold a key while a change is on its way.
var stagedKey = regexp.MustCompile(`^generations/.+/(postfix\.pem|000000/file-\d+|\.postcert-[0-9a-f]{32}\.tmp/(postfix\.pem|file-\d+))$`)

// R18: what a crash prints and leaves, in all detail that Go's runtime can be
// asked for, has no key in it: neither standard output and error, nor a core in
// the working directory, nor the logs, the journal and the history, nor the
// arguments and the environment of any program that was started.
func TestProofCrashesKeepTheKey(t *testing.T) {
	rounds := 1
	if long {
		rounds = 20
	}
	h := newHost(t, postfixtest.Options{Main: []string{"smtpd_tls_loglevel = 2"}})
	s := &scanner{t: t, forms: map[string]map[string][]byte{}}
	runs, files, holders := 0, 0, 0
	for round := range rounds {
		for i, c := range crashes {
			pair := h.leaf(certtest.Leaf{Key: []string{"ecdsa", "rsa"}[(round+i)%2]})
			s.forms["canary"] = traces(t, pair)
			work := t.TempDir()
			h.env = []string{"GOTRACEBACK=crash", testDeadline + "=30s", doAt + "=" + c.event + ": kill -" + c.signal + " $PPID; sleep 0.3"}
			cmd := h.command("install-cert", h.pairDir(pair), "-vv")
			cmd.Dir = work
			if i%2 == 0 {
				cmd.Args = append(cmd.Args, "--json")
			}
			a, _, programs := trace(h, cmd)
			if !panicked(a) {
				t.Fatalf("SIG%s at %s: it did not crash: exit status %d\n%s%s", c.signal, c.event, a.status, a.stdout, a.stderr)
			}
			what := fmt.Sprintf("SIG%s at %s", c.signal, c.event)
			s.clean(what+": standard output", []byte(a.stdout))
			s.clean(what+": standard error", []byte(a.stderr))
			s.clean(what+": arguments and environment of programs", []byte(programs))
			s.clean(what+": the mail log", []byte(h.pf.Log()))
			if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
				t.Errorf("%s: left in the working directory: %v, %v", what, left, err)
			}
			holders += s.tree(h.pf.ConfigDir, installedKey) + s.tree(h.state, stagedKey) + s.tree(h.run, nil) + s.tree(h.pf.QueueDir, nil)
			files += len(postfixtest.Tree(t, h.state)) + len(h.pf.Files())
			h.env = nil
			h.with(patient...).postcert("recover").want(0)
			holders += s.tree(h.pf.ConfigDir, installedKey) + s.tree(h.state, generationKey)
			runs++
		}
	}
	if holders == 0 {
		t.Error("the key was nowhere, so nothing was shown")
	}
	if left, _ := filepath.Glob("core*"); len(left) > 0 {
		t.Errorf("cores: %v", left)
	}
	t.Logf("R18: %d crashes, 0 keys in output, arguments, environments, logs and %d files; %d copies where they belong", runs, files, holders)
}
