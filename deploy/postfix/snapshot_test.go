package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/deploy/postfix/postfixtest"
)

func TestSnapshot(t *testing.T) {
	f := newFixture(t, postfixtest.Options{Main: []string{"here = $config_directory/x"}})
	before := f.Files()
	s, err := f.i.Snapshot(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ service, name, want string }{
		{"", "smtpd_tls_key_file", f.cert},
		{"", "here", f.ConfigDir + "/x"},
		{"", "mail_version", f.Postconf("-h", "mail_version")},
		{"submissions/inet", "smtpd_tls_wrappermode", "yes"},
	} {
		if got := s.Effective(tt.service, tt.name); got != tt.want {
			t.Errorf("%s %s is %q, want %q", tt.service, tt.name, got, tt.want)
		}
	}
	var tls []string
	for _, l := range s.Listeners(Host(ctx(t))) {
		if l.TLS {
			tls = append(tls, l.Addresses...)
		}
	}
	slices.Sort(tls)
	want := []string{"127.0.0.1:25", "127.0.0.1:465", "127.0.0.1:587", "[::1]:25", "[::1]:465", "[::1]:587"}
	if !slices.Equal(tls, want) {
		t.Errorf("TLS listeners at %q, want %q", tls, want)
	}
	if d := postfixtest.Compare(before, f.Files()); len(d) > 0 {
		t.Errorf("reading changed: %q", d)
	}
}

// Only an edit makes it slow, and the one hot-file pause is not paid for each
// question to postconf.
func TestSnapshotSpeed(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	took := func() time.Duration {
		begin := time.Now()
		if _, err := f.i.Snapshot(ctx(t)); err != nil {
			t.Fatal(err)
		}
		return time.Since(begin)
	}
	best := time.Hour
	for range 5 {
		best = min(best, took())
	}
	t.Logf("cool: best of 5 %v", best)
	if best > time.Second {
		t.Errorf("cool snapshot took %v", best)
	}
	best = time.Hour
	for range 3 {
		old := f.Main()
		if err := f.i.Replace(ctx(t), f.i.MainPath(), old, append(old, "a = b\n"...), time.Time{}); err != nil {
			t.Fatal(err)
		}
		best = min(best, took())
	}
	if best > 1500*time.Millisecond {
		t.Errorf("after our own edits: %v, which is a hot-file pause", best)
	}
	f.Postconf("-e", "c=d")
	if d := took(); d > 4*time.Second {
		t.Errorf("after somebody's edit: %v, which is more than one hot-file pause", d)
	}
}

// Somebody edits at each of the first looks: it goes on until it has one moment.
func TestSnapshotWhileEdited(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	f.i.CommandDirectory = t.TempDir()
	// Of the postconfs of a look one has -n.
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *' -n '*) echo x >>%[1]s/n; [ $(wc -l <%[1]s/n) -gt 6 ] || { echo '# edited' >>%[2]s; touch -d '1 minute ago' %[2]s; } ;; esac\nexec /usr/sbin/postconf \"$@\"\n",
		f.i.CommandDirectory, f.i.MainPath())
	if err := os.WriteFile(f.i.CommandDirectory+"/postconf", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/sbin/postmap", f.i.CommandDirectory+"/postmap"); err != nil {
		t.Fatal(err)
	}
	s, err := f.i.Snapshot(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(s.Main.Data, []byte("# edited")); n != 6 {
		t.Errorf("%d edits are in it, want 6", n)
	}
}

func TestBroken(t *testing.T) {
	tests := []struct {
		name, main, master string // what is added
		file               string
		line               func(main, master []byte) int
		words              string
	}{
		{"main.cf", "no equals sign\n", "", "main.cf", func(m, _ []byte) int { return lineCount(m) + 1 }, "missing '='"},
		{"master.cf fields", "", "x inet n\n", "master.cf", func(_, m []byte) int { return lineCount(m) + 1 }, "bad field count"},
		// Postfix 3.7 names no place for this one, but the entry.
		{"master.cf type", "", "x strange n - n - - smtpd\n", "", func(_, m []byte) int { return 0 }, `in "x strange n - n - - smtpd"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, postfixtest.Options{})
			main, master := append(f.Main(), tt.main...), append(f.Master(), tt.master...)
			want := tt.line(f.Main(), f.Master())

			before := f.Files()
			_, err := f.i.Candidate(ctx(t), main, master)
			p := wantProblem(t, err, "candidate_rejected")
			if p.At.File != filepath.Join(f.ConfigDir, tt.file) || p.At.Line != want || !strings.Contains(p.Message, tt.words) {
				t.Errorf("got %+v, want line %d of %s and %q", p, want, tt.file, tt.words)
			}
			if strings.Contains(p.Message, candidatePrefix) {
				t.Errorf("%q names the private copy", p.Message)
			}
			if d := postfixtest.Compare(before, f.Files()); len(d) > 0 {
				t.Errorf("judging changed: %q", d)
			}

			f.SetMain(main)
			f.SetMaster(master)
			_, err = f.i.Snapshot(ctx(t))
			p = wantProblem(t, err, "config_broken")
			if p.At.File != filepath.Join(f.ConfigDir, tt.file) || p.At.Line != want || !strings.Contains(p.Message, tt.words) {
				t.Errorf("got %+v, want line %d of %s and %q", p, want, tt.file, tt.words)
			}
			if _, err := Find(ctx(t), Options{Instance: f.ConfigDir}); tt.main != "" {
				wantProblem(t, err, "config_broken")
			}
		})
	}
}

func lineCount(data []byte) int { return bytes.Count(data, []byte("\n")) }

// A snapshot is the present one until a byte of either file changes, or Postfix
// itself; an edit that means the same is an edit.
func TestUnchanged(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	s, err := f.i.Snapshot(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	main, master := f.Main(), f.Master()
	other := s
	other.Version = "3.7.0"
	for _, tt := range []struct {
		name         string
		main, master string // added
		s            cf.Snapshot
		want         bool
	}{
		{"as it was", "", "", s, true},
		{"main.cf", "# by hand\n", "", s, false},
		{"master.cf", "", "# by hand\n", s, false},
		{"another Postfix", "", "", other, false},
	} {
		f.SetMain(append(slices.Clone(main), tt.main...))
		f.SetMaster(append(slices.Clone(master), tt.master...))
		if same, err := f.i.Unchanged(ctx(t), tt.s); err != nil || same != tt.want {
			t.Errorf("%s: %t, %v, want %t", tt.name, same, err, tt.want)
		}
	}
	f.SetMaster(append(slices.Clone(master), "broken\n"...))
	f.SetMain(append(slices.Clone(main), "broken\n"...))
	if _, err := f.i.Unchanged(ctx(t), s); err == nil {
		t.Error("a main.cf that Postfix cannot read is no error")
	}
}

// What Candidate says must be what Snapshot says once the files are in place.
func TestCandidateIsWhatComes(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	main := append(f.Main(), "here = ${config_directory}/x $queue_directory $data_directory\nsmtpd_tls_cert_file = $config_directory/tls/a.pem\n"...)
	master := append(f.Master(), "2525 inet n - n - - smtpd -o smtpd_tls_cert_file=$config_directory/b.pem\n"...)
	said, err := f.i.Candidate(ctx(t), main, master)
	if err != nil {
		t.Fatal(err)
	}
	f.SetMain(main)
	f.SetMaster(master)
	is, err := f.i.Snapshot(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if d := cf.Differences(said, is); len(d) > 0 {
		t.Errorf("the candidate was not what came: %+v", d)
	}
	if !said.IsOf(is.Version, is.Main.Data, is.Master.Data) || said.Dir != is.Dir || said.Main.Path != is.Main.Path {
		t.Errorf("candidate %s %s, snapshot %s %s", said.Dir, said.Main.Path, is.Dir, is.Main.Path)
	}
	for name, value := range said.Expanded {
		if is.Expanded[name] != value && name != "process_id" {
			t.Errorf("%s was said to be %q, is %q", name, value, is.Expanded[name])
		}
	}
	if got, want := said.Effective("2525/inet", "smtpd_tls_cert_file"), f.ConfigDir+"/b.pem"; got != want {
		t.Errorf("override is %q, want %q", got, want)
	}
}

func TestCandidateLeavesNothing(t *testing.T) {
	f := newFixture(t, postfixtest.Options{})
	run := f.i.RuntimeDirectory
	stale := run + "/" + candidatePrefix + "killed"
	young := run + "/" + candidatePrefix + "young"
	for _, d := range []string{stale, young} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(stale, long, long); err != nil {
		t.Fatal(err)
	}
	c, err := f.i.newCopy() // of another run, at work
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(c.dir, long, long); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(c.dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v, want 0700", fi.Mode(), err)
	}
	if _, err := f.i.Candidate(ctx(t), f.Main(), f.Master()); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx(t))
	cancel()
	if _, err := f.i.Candidate(ended, f.Main(), f.Master()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	left, _ := filepath.Glob(run + "/*")
	slices.Sort(left)
	want := []string{c.dir, young}
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	c.remove()
}

// A postconf that ends well and prints something else is no answer: a running
// Postfix would be taken for one that does not run.
func TestNonsense(t *testing.T) {
	pf := postfixtest.New(t, postfixtest.Options{})
	dir := t.TempDir()
	for _, print := range []string{"", "echo 'queue_directory_of_others = /tmp'", "head -c 10000 /dev/urandom", "yes 'a = b' | head -c 9000000"} {
		if err := os.WriteFile(filepath.Join(dir, "postconf"), []byte("#!/bin/sh\n"+print+"\nexit 0\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		i := Instance{ConfigDirectory: pf.ConfigDir, CommandDirectory: dir}
		if m, err := i.Master(t.Context()); err == nil {
			t.Errorf("%s: Master is %+v", print, m)
		} else {
			t.Log(err)
		}
		if _, err := i.Snapshot(t.Context()); err == nil {
			t.Errorf("%s: a snapshot", print)
		}
	}
}
