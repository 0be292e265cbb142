package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// badReload is a way in which a reload goes wrong. shell is done at the event
// at, and what mends it at last; $MASTER, $QUEUE, $CONFIG and $DAEMONS stand for
// the instance's own, $IMPOSTOR for a program that answers on port 465.
type badReload struct {
	name    string
	o       postfixtest.Options
	first   string // shell, before the run
	at      string
	shell   string
	mend    string
	renewal bool // a file switch; else the first install, which edits main.cf
	real    bool // the released deadlines of the proof, not the shorter ones of tests
	want    []int
	says    []string
	limit   time.Duration
	long    bool
}

// later is shell that is done after a while, when the run goes on.
func later(seconds int, shell string) string {
	return fmt.Sprintf("( sleep %d; %s ) >/dev/null 2>&1 </dev/null &", seconds, shell)
}

// dying makes smtpd exit at once; living takes that back. master(8) starts it
// again only after service_throttle_time, 60 s.
const (
	dying  = "printf '#!/bin/sh\\nexit 1\\n' >$DAEMONS/smtpd.new; chmod 755 $DAEMONS/smtpd.new; cp -p $DAEMONS/smtpd $DAEMONS/smtpd.good; mv $DAEMONS/smtpd.new $DAEMONS/smtpd"
	living = "if [ -e $DAEMONS/smtpd.good ]; then mv $DAEMONS/smtpd.good $DAEMONS/smtpd; fi"
)

// badReloads are the kinds of R7, beside those of TestProofPrograms (reload
// exits 1, postfix is missing), and what a run makes of each. Where the world
// stays bad, the undo cannot be proven: 5, until somebody mends it.
var badReloads = []badReload{
	{name: "master is stopped", at: "reload begin", shell: "kill -STOP $MASTER", mend: "kill -CONT $MASTER", want: []int{5}, says: []string{"does not take notice", "kill -CONT"}, limit: 90 * time.Second},
	{name: "master is stopped for 5 s", at: "reload begin", shell: "kill -STOP $MASTER; " + later(5, "kill -CONT $MASTER"), want: []int{0}, limit: soon},
	{name: "master is stopped, renewal", at: "reload begin", shell: "kill -STOP $MASTER", mend: "kill -CONT $MASTER", renewal: true, want: []int{5}, says: []string{"kill -CONT"}, limit: 90 * time.Second},
	{name: "master dies at the reload", at: "reload begin", shell: "kill -KILL $MASTER; sleep 0.2", want: []int{4}, limit: soon},
	{name: "master dies after the reload, renewal", at: "prove begin", shell: "kill -KILL $MASTER", renewal: true, want: []int{4}, limit: soon},
	{name: "Postfix does not run", first: "kill -TERM $MASTER; while kill -0 $MASTER 2>/dev/null; do sleep 0.1; done", want: []int{9}, says: []string{"not running"}, limit: soon},
	{name: "the queue directory gets wrong permissions", at: "commit end", shell: "chmod 700 $QUEUE", mend: "chmod 755 $QUEUE", want: []int{0, 4, 5}, limit: twoAsks},
	{name: "private/ vanishes", at: "commit end", shell: "mv $QUEUE/private $QUEUE/private.away", mend: "mv $QUEUE/private.away $QUEUE/private", want: []int{5}, limit: twoAsks},
	{name: "private/ vanishes for 3 s", at: "commit end", shell: "mv $QUEUE/private $QUEUE/private.away; " + later(3, "mv $QUEUE/private.away $QUEUE/private"), want: []int{0, 4}, limit: twoAsks},
	{name: "a port does not listen yet", first: "echo '127.0.0.1:2525 inet n - n - - smtpd' >>$CONFIG/master.cf", want: []int{0}, says: []string{"broken_before", "127.0.0.1:2525"}, limit: soon},
	{name: "somebody else has the port", o: postfixtest.Options{Address: "all"}, at: "commit end", shell: "$IMPOSTOR", mend: "kill $(cat $IMPOSTORPID)", want: []int{5}, says: []string{"127.0.0.1:465"}, limit: twoAsks},
	{name: "the chroot jail lacks its files", o: postfixtest.Options{Chroot: true}, at: "commit end", shell: "mv $QUEUE/etc $QUEUE/etc.away", mend: "mv $QUEUE/etc.away $QUEUE/etc", want: []int{0}, limit: soon},
	{name: "the chroot jail lacks everything", o: postfixtest.Options{Chroot: true}, at: "commit end", shell: "mkdir -p $QUEUE.away; mv $QUEUE/etc $QUEUE/private $QUEUE.away", mend: "mv $QUEUE.away/* $QUEUE/", want: []int{5}, limit: twoAsks},
	{name: "smtpd dies, throttled for 60 s", at: "commit end", shell: dying + "; " + later(8, living), real: true, want: []int{0}, limit: 110 * time.Second},
	{name: "smtpd dies, throttled for 60 s, renewal", at: "commit end", shell: dying + "; " + later(8, living), real: true, renewal: true, want: []int{9}, says: []string{"not verified"}, limit: 60 * time.Second},
	{name: "smtpd dies for good", at: "commit end", shell: dying, mend: living, real: true, want: []int{5}, limit: 5 * time.Minute, long: true},
}

// R7, S24: what can go wrong with a reload does, and the run tells the truth
// about it within its time. A Postfix that ran before runs afterwards.
func TestProofReload(t *testing.T) {
	t.Parallel()
	const shards = 6
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		var figures statuses
		for i, b := range badReloads {
			if i%shards != shard || b.long && !long {
				continue
			}
			t.Run(b.name, func(t *testing.T) { figures.add(b.name, b.run(t)) })
		}
		t.Logf("R7, reload, shard %d: %s", shard, &figures)
	})
}

func (b badReload) run(t *testing.T) weathered {
	b.o.MaxUse = 1
	h := newHost(t, b.o)
	if b.renewal {
		h.with(patience).postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	}
	daemons := overlaid(t, strings.TrimSpace(h.pf.Postconf("-xh", "daemon_directory")))
	impostor, pidFile := h.impostorCommand("127.0.0.1:465")
	expand := strings.NewReplacer("$MASTER", fmt.Sprint(h.pf.MasterPID()), "$QUEUE", h.pf.QueueDir, "$CONFIG", h.pf.ConfigDir,
		"$DAEMONS", daemons, "$IMPOSTORPID", pidFile, "$IMPOSTOR", impostor).Replace
	old, lineage := h.chain(), h.lineage(certtest.Leaf{})
	sh(t, "%s", expand(b.first)+"\n:")
	mended := false
	f := facing{want: b.want, limit: b.limit, says: b.says, mend: func() {
		sh(t, "%s", expand(b.mend)+"\n:")
		if b.first != "" && h.pf.MasterPID() == 0 {
			h.pf.Start() // it did not run before: what is asked next needs one
		}
		if strings.Contains(b.shell, "smtpd") {
			h.throttled()
		}
		mended = true
	}}
	if b.at != "" {
		f.env = append(f.env, doAt+"="+b.at+": "+expand(b.shell))
	}
	if b.real {
		f.env = append(f.env, released)
	}
	ran := b.first == "" || !strings.Contains(b.first, "kill")
	if strings.Contains(b.shell, "IMPOSTOR") {
		f.known = pidFile
	}
	a := h.faces(f, old, h.chainOf(lineage), "install-cert", lineage)
	if ran && h.pf.MasterPID() == 0 || !mended {
		t.Error("Postfix does not run any more")
	}
	return a
}

// throttled waits until master starts smtpd again.
func (h *host) throttled() {
	h.t.Helper()
	for end := time.Now().Add(70 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		good := 0
		for addr, mode := range listeners {
			if _, err := postfixtest.ServedLeaf(h.t, addr, mode); err == nil {
				good++
			}
		}
		if good == len(listeners) {
			return
		}
	}
	h.t.Error("smtpd is still throttled")
}

// overlaid makes changes in a directory private to this process's mount
// namespace, until the test ends.
func overlaid(t *testing.T, dir string) string {
	t.Helper()
	scratch, err := os.MkdirTemp("/run", "over")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(scratch) })
	mountOverlay(t, dir, scratch)
	return dir
}

// impostorCommand is shell that starts an impostor and writes its process id
// into a file.
func (h *host) impostorCommand(addr string) (shell, pidFile string) {
	h.t.Helper()
	dir := h.t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+"/impostor", "postcert/contrib/impostor").CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	postfixtest.WritePair(h.t, dir+"/pair.pem", "impostor.invalid")
	pidFile = dir + "/pid"
	return fmt.Sprintf("%s/impostor -listen %s -implicit -pem %s/pair.pem >/dev/null 2>&1 </dev/null & echo $! >%s; sleep 0.2", dir, addr, dir, pidFile), pidFile
}
