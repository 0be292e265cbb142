package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postcert/deploy"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// pauseAt is "EVENT=FILE": at the event the process makes FILE and waits until
// it is gone, so that a test can do something in the middle of a transaction.
const pauseAt = "POSTCERT_TEST_PAUSE"

func pausing(a *app) {
	at, file, ok := strings.Cut(a.env[pauseAt], "=")
	delete(a.env, pauseAt)
	if !ok {
		return
	}
	next := a.seams.progress
	a.seams.progress = func(e deploy.Event) {
		if eventName(e) == at {
			_ = os.WriteFile(file, nil, 0o600)
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if _, err := os.Stat(file); err != nil {
					break
				}
			}
		}
		if next != nil {
			next(e)
		}
	}
}

// during runs postcert and calls f while it waits at an event, such as "commit
// end". The test fails if the event does not come.
func (h *host) during(event string, f func(), args ...string) answer {
	h.t.Helper()
	mark := filepath.Join(h.t.TempDir(), "paused")
	var stdout, stderr bytes.Buffer
	cmd := h.command(args...)
	cmd.Env = append(cmd.Env, pauseAt+"="+event+"="+mark)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(mark); err == nil {
			break
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			h.t.Fatalf("the event %q did not come\n%s%s", event, &stdout, &stderr)
		}
	}
	f()
	if err := os.Remove(mark); err != nil {
		h.t.Error(err)
	}
	_ = cmd.Wait() // the status is in ProcessState
	return answer{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), h.t}
}

// impostor answers at an address in front of Postfix, with a certificate of
// its own, until the test ends.
func (h *host) impostor(addr string) (leaf string) {
	h.t.Helper()
	pem := filepath.Join(h.t.TempDir(), "pair.pem")
	leaf = postfixtest.WritePair(h.t, pem, "impostor.invalid")
	h.impostorWith(addr, pem, leaf)
	return leaf
}

// impostorWith is an impostor with the key and chain of a file.
func (h *host) impostorWith(addr, pem, leaf string) {
	h.t.Helper()
	dir := h.t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/impostor", "postcert/contrib/impostor")
	if out, err := build.CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(dir+"/impostor", "-listen", addr, "-implicit", "-pem", pem)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	postfixtest.WaitServed(h.t, addr, postfixtest.Implicit, leaf)
}

// appendPlainly adds a line to main.cf as an editor does that knows no locks.
func (h *host) appendPlainly(line string) {
	h.t.Helper()
	f, err := os.OpenFile(filepath.Join(h.pf.ConfigDir, "main.cf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		h.t.Error(err)
	}
	if err := f.Close(); err != nil {
		h.t.Error(err)
	}
}

// badProtocols are lines that "postfix check" accepts and that switch TLS off.
var badProtocols = []string{"smtpd_tls_protocols = !SSLv3 #", "smtpd_tls_protocols = >=TLSv1.9"}

// S21: a typo that switches TLS off is found by the rehearsal, which quotes
// what Postfix logs about it.
func TestS21TypoBefore(t *testing.T) {
	for _, line := range badProtocols {
		t.Run(line, func(t *testing.T) {
			h := newHost(t, postfixtest.Options{Main: []string{line}})
			before := h.pf.Files()
			h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(3).says("rehearsal_refused").says("Invalid TLS protocol list")
			for _, d := range postfixtest.Compare(before, h.pf.Files()) {
				t.Errorf("changed: %s", d)
			}
		})
	}
}

// S21: a typo that somebody makes while we work is never a silent success.
func TestS21TypoMeanwhile(t *testing.T) {
	for _, event := range []string{"rehearse end", "commit end"} {
		t.Run(event, func(t *testing.T) {
			h := newHost(t, postfixtest.Options{})
			first := h.served()
			l := h.lineage(certtest.Leaf{})
			a := h.during(event, func() { h.appendPlainly(badProtocols[1]) }, "install-cert", l)
			if a.status == 0 || a.status == 9 {
				t.Fatalf("exit status %d\n%s%s", a.status, a.stdout, a.stderr)
			}
			t.Logf("exit status %d", a.status)
			if !strings.Contains(string(h.pf.Main()), badProtocols[1]) {
				t.Error("somebody else's line was taken away")
			}
			// Without the typo the host serves what it served before.
			h.pf.ReplaceMain(badProtocols[1], "")
			h.pf.Reload()
			if a.status == 5 {
				h.postcert("recover").want(0)
			}
			postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, first)
			h.serves(first)
		})
	}
}

// S30: three installs at once take turns, each succeeds, and the last one's
// pair is served.
func TestS30AtOnce(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	type run struct {
		lineage string
		cmd     *exec.Cmd
		out     bytes.Buffer
	}
	var runs [3]run
	for i := range runs {
		r := &runs[i]
		r.lineage = h.lineage(certtest.Leaf{})
		r.cmd = h.command("install-cert", r.lineage, "--json", "--allow-downgrade")
		r.cmd.Stdout = &r.out
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	last, leaf := 0.0, ""
	for i := range runs {
		r := &runs[i]
		_ = r.cmd.Wait()
		a := answer{stdout: r.out.String(), status: r.cmd.ProcessState.ExitCode(), t: t}.want(0)
		if n := a.json()["transaction"].(map[string]any)["generation"].(float64); n > last {
			last, leaf = n, h.leafOf(r.lineage)
		}
	}
	if last != 3 {
		t.Errorf("the last generation is %v, want 3", last)
	}
	h.serves(leaf)
}

// readOnly makes the configuration directory a mount of its own and returns
// what switches it to read-only and back.
func (h *host) readOnly() (on, off func()) {
	h.t.Helper()
	dir := h.pf.ConfigDir
	remount := func(flags uintptr) {
		if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|flags, ""); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
	return func() { remount(syscall.MS_RDONLY) }, func() { remount(0) }
}

// S32: the undo meets a read-only file system: exit status 5, with what to do;
// recover ends it once the file system can be written again.
func TestS32RollbackFails(t *testing.T) {
	h := newHost(t, postfixtest.Options{Address: "all"})
	on, off := h.readOnly()
	first, before := h.served(), h.pf.Files()
	other := h.impostor("127.0.0.1:465")
	h.during("commit end", on, "install-cert", h.lineage(certtest.Leaf{})).
		want(5).says("rollback_incomplete").says("read-only").says("postcert recover").says("postfix -c " + h.pf.ConfigDir)
	if names, err := filepath.Glob(filepath.Join(h.state, "journal", "*")); err != nil || len(names) == 0 {
		t.Error("the journal was not kept")
	}
	h.postcert("status").want(8)
	var j struct {
		Transaction struct {
			ByHand []string `json:"by_hand"`
		} `json:"transaction"`
	}
	if a := h.postcert("recover", "--json").want(5); json.Unmarshal([]byte(a.stdout), &j) != nil || len(j.Transaction.ByHand) != 3 || !strings.Contains(j.Transaction.ByHand[1], "recover --instance "+h.pf.ConfigDir) {
		t.Errorf("by hand: %q\n%s", j.Transaction.ByHand, a.stdout)
	}
	off()
	h.postcert("recover").want(0)
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("changed: %s", d)
	}
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, first)
	h.wantServed("[::1]:465", postfixtest.Implicit, first)
	h.wantServed("127.0.0.1:465", postfixtest.Implicit, other)
	h.postcert("recover").want(0)
}

// S32: even then a master that was lost is started again: mail matters more
// than which of two good certificates it is served with.
func TestS32MasterLostToo(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	on, off := h.readOnly()
	first := h.served()
	l := h.lineage(certtest.Leaf{})
	h.during("commit end", func() {
		on()
		if err := syscall.Kill(h.pf.MasterPID(), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}, "install-cert", l).want(5)
	h.serves(h.leafOf(l))
	off()
	h.postcert("recover").want(0)
	h.serves(first)
}

// S33: the same pair again: nothing is written, nothing reloaded.
func TestS33Unchanged(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(0)
	reloads := strings.Count(h.pf.Log(), "refreshing")
	h.untouched(func() { h.postcert("install-cert", l).want(0).says("unchanged") })
	if n := strings.Count(h.pf.Log(), "refreshing"); n != reloads {
		t.Errorf("%d reloads, want %d", n, reloads)
	}
	h.serves(h.leafOf(l))
}

// planBytes is the "plan" of an answer, byte for byte.
func (a answer) planBytes() string {
	a.t.Helper()
	var v struct{ Plan json.RawMessage }
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		a.t.Fatalf("%v in %q (%s)", err, a.stdout, a.stderr)
	}
	return string(v.Plan)
}

// S34: a dry run touches nothing, and its plan is that of the later run.
func TestS34DryRun(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	l := h.lineage(certtest.Leaf{})
	var dry, text answer
	h.untouched(func() {
		dry = h.postcert("install-cert", l, "--dry-run", "--json").want(0)
		text = h.postcert("install-cert", l, "--dry-run").want(0)
		h.postcert("install-cert", h.lineage(certtest.Leaf{Names: []string{"other.example.test"}}), "--dry-run", "--host", hostName).want(3)
	})
	text.says("+smtpd_tls_cert_file = " + h.ours()).says("nothing was changed")
	if _, err := os.Stat(h.state); !os.IsNotExist(err) {
		t.Errorf("the state directory was made: %v", err)
	}
	if rehearsed := dry.json()["transaction"].(map[string]any)["rehearsed"]; rehearsed != true {
		t.Errorf("rehearsed: %v", rehearsed)
	}
	if strings.Contains(h.pf.Log(), "refreshing") {
		t.Error("a dry run reloaded Postfix")
	}
	run := h.postcert("install-cert", l, "--json").want(0)
	if dry.planBytes() != run.planBytes() {
		t.Errorf("plans differ:\n%s\n%s", dry.planBytes(), run.planBytes())
	}
	state := postfixtest.Tree(t, h.state)
	h.untouched(func() { h.postcert("install-cert", h.lineage(certtest.Leaf{}), "--dry-run").want(0) })
	for _, d := range postfixtest.Compare(state, postfixtest.Tree(t, h.state)) {
		t.Errorf("state: %s", d)
	}
}

// What somebody else adds to main.cf at the last moment, after the plan was compared
// with what stands there, is not lost: the plan is overtaken.
func TestForeignEditBeforeJournal(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	first, before := h.served(), h.pf.Main()
	const line = "smtpd_banner = $myhostname"
	edit := "echo '" + line + "' >>" + filepath.Join(h.pf.ConfigDir, "main.cf")
	h.with(doAt+"=Unchanged end: "+edit).postcert("install-cert", h.lineage(certtest.Leaf{})).
		want(7).says("[plan_stale]").says("run it again")
	if got, want := string(h.pf.Main()), string(before)+line+"\n"; got != want {
		t.Errorf("main.cf is\n%s\nwant\n%s", got, want)
	}
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, first)
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	if !strings.Contains(string(h.pf.Main()), "\n"+line+"\n") {
		t.Error("the edit is lost")
	}
}

// A main.cf that is another one at each look is told as what it is.
func TestForeignEditsWithoutEnd(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	ctx, stop := context.WithCancel(t.Context())
	var somebody sync.WaitGroup
	defer somebody.Wait()
	defer stop()
	somebody.Go(func() {
		path, main := filepath.Join(h.pf.ConfigDir, "main.cf"), h.pf.Main()
		for n := 0; ctx.Err() == nil; n++ {
			text := fmt.Appendf(slices.Clip(main), "smtpd_banner = $myhostname %d\n", n)
			// Postfix waits for as long as main.cf is new.
			cool := time.Now().Add(-time.Minute)
			if err := errors.Join(os.WriteFile(path+".new", text, 0o644), os.Chtimes(path+".new", cool, cool), os.Rename(path+".new", path)); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(7).says("[plan_stale]").says("main.cf").says("run it again")
}

// What somebody else adds to main.cf between our commit and our undo is kept.
func TestForeignEditIsKept(t *testing.T) {
	h := newHost(t, postfixtest.Options{Address: "all"})
	first, before := h.served(), h.pf.Main()
	h.impostor("127.0.0.1:465")
	const line = "smtpd_banner = $myhostname"
	h.during("commit end", func() { h.appendPlainly(line) }, "install-cert", h.lineage(certtest.Leaf{})).
		want(4).says("kept").says("main.cf")
	if got, want := string(h.pf.Main()), string(before)+line+"\n"; got != want {
		t.Errorf("main.cf is\n%s\nwant\n%s", got, want)
	}
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, first)
}
