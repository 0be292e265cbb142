package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
	"postcert/verify/probe/smtptest"
)

// gigabyte sends a reply of one line of 1 GiB.
func gigabyte(c net.Conn, _ <-chan struct{}) {
	block := bytes.Repeat([]byte("a"), 1<<16)
	_, _ = io.WriteString(c, "250 ")
	for range 1 << 14 {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

// misbehaviours of a peer, R8.
func misbehaviours() map[string]smtptest.Script {
	at := func(p smtptest.Point, f smtptest.Fault) smtptest.Script {
		return smtptest.Script{Faults: map[smtptest.Point]smtptest.Fault{p: f}}
	}
	return map[string]smtptest.Script{
		"accepts and says nothing":     at(smtptest.Greeting, smtptest.Silence),
		"drips a byte each 10 s":       at(smtptest.Greeting, smtptest.Drip("220 mail.example.test ESMTP\r\n", 10*time.Second)),
		"STARTTLS, then silence":       at(smtptest.Handshake, smtptest.Silence),
		"250- without end":             at(smtptest.Hello, smtptest.Endless("250-mail.example.test\r\n")),
		"a greeting without end":       at(smtptest.Greeting, smtptest.Endless("220-mail.example.test\r\n")),
		"a reply of 1 GiB":             at(smtptest.Hello, gigabyte),
		"a greeting of 1 GiB":          at(smtptest.Greeting, gigabyte),
		"a TLS alert":                  at(smtptest.Handshake, smtptest.Alert(40)),
		"a record without end":         at(smtptest.Handshake, smtptest.Endless("\x16\x03\x03\x40\x00"+strings.Repeat("\x00", 0x4000))),
		"a reset in the handshake":     at(smtptest.Handshake, smtptest.Reset),
		"closes at once":               at(smtptest.Greeting, smtptest.Close),
		"binary instead of a greeting": at(smtptest.Greeting, smtptest.SayAndWait(strings.Repeat("\x00\xff\x1b", 1000))),
	}
}

// beside listens at an address that Postfix has by the wildcard: both set
// SO_REUSEPORT, and the more specific address wins.
func beside(t *testing.T, address string) net.Listener {
	t.Helper()
	const soReusePort = 15
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) {
			err = errors.Join(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1))
		})
		return errors.Join(cerr, err)
	}}
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// inFront lets serve have what comes to an address, until it is ended; then
// Postfix has the address for itself again.
func inFront(t *testing.T, address string, serve func(net.Conn)) (end func()) {
	l := beside(t, address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return func() { _ = l.Close() }
}

// renegotiating gives each session an openssl s_server of its own that speaks
// TLS 1.2 at once, and asks for renegotiation after the handshake.
func renegotiating(t *testing.T) func(net.Conn) {
	t.Helper()
	pem := filepath.Join(t.TempDir(), "pair.pem")
	postfixtest.WritePair(t, pem, hostName)
	return func(c net.Conn) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return
		}
		address := l.Addr().String()
		l.Close()
		cmd := exec.Command("openssl", "s_server", "-accept", address, "-naccept", "1", "-tls1_2", "-cert", pem, "-key", pem)
		in, err := cmd.StdinPipe()
		if err != nil || cmd.Start() != nil {
			return
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		var up net.Conn
		for range 500 {
			if up, err = net.Dial("tcp", address); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			return
		}
		// Before its handshake is over, s_server stumbles over the command.
		time.AfterFunc(300*time.Millisecond, func() { _, _ = io.WriteString(in, "R\n") })
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(up, c)
			_ = up.Close()
		}()
		_, _ = io.Copy(c, up)
		_, _ = c.Close(), up.Close()
		<-done
	}
}

// The bounds of R8.
const (
	peerTime   = 120 * time.Second
	peerMemory = 64 << 20
)

// R8: a listener in front of Postfix hangs or floods, before a change and in the
// middle of one. The released program itself is measured.
func TestProofPeers(t *testing.T) {
	t.Parallel()
	const shards = 6
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		exe := plainBinary(t)
		var all []string
		for name := range misbehaviours() {
			all = append(all, name)
		}
		all = append(all, "renegotiates")
		slices.Sort(all)
		var memory int64
		var longest time.Duration
		runs := 0
		for i, name := range all {
			if i%shards != shard {
				continue
			}
			t.Run(name, func(t *testing.T) {
				for _, late := range []bool{false, true} {
					if late && !long && !slices.Contains(lateInShort, name) {
						continue
					}
					t.Run(map[bool]string{false: "before", true: "in the middle"}[late], func(t *testing.T) {
						took, rss := besidePeer(t, exe, name, late)
						memory, longest = max(memory, rss), max(longest, took)
						runs++
					})
				}
			})
		}
		t.Logf("R8, shard %d: %d runs; longest %v, most memory %d KiB, nothing left running", shard, runs, longest.Round(time.Second/10), memory>>10)
	})
}

// lateInShort are the peers that appear in the middle of a change in the short
// form too.
var lateInShort = []string{"accepts and says nothing", "drips a byte each 10 s", "STARTTLS, then silence", "250- without end", "a reply of 1 GiB"}

// plainBinary builds postcert as it is released.
func plainBinary(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "postcert")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", exe, "postcert/cmd/postcert")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return exe
}

// besidePeer renews the certificate of a host while a peer misbehaves in front
// of its port 25, or 465 for what needs implicit TLS.
func besidePeer(t *testing.T, exe, name string, late bool) (took time.Duration, rss int64) {
	h := newHost(t, postfixtest.Options{Address: "all", MaxUse: 1})
	first, second := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	h.with(patience).postcert("install-cert", first).want(0)
	front := postfixtest.SMTP
	var serve func(net.Conn)
	if name == "renegotiates" {
		front, serve = postfixtest.Submissions, renegotiating(t)
	} else {
		server := smtptest.Start(t, misbehaviours()[name]).Addr
		serve = func(c net.Conn) { smtptest.Relay("tcp", server)(c, nil) }
	}
	running := processes()
	cmd := h.command("install-cert", second)
	cmd.Path, cmd.Args[0] = exe, exe
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var end func()
	if !late {
		end = inFront(t, front, serve)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	if late {
		h.committed(h.leafOf(second), ended)
		end = inFront(t, front, serve)
	}
	<-ended
	took = time.Since(begin)
	left := h.strangers(running)
	end()
	for _, p := range left {
		t.Errorf("left running: %s", p)
	}
	rss = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	status := cmd.ProcessState.ExitCode()
	if took > peerTime || rss > peerMemory {
		t.Errorf("%v and %d KiB, limits %v and %d KiB", took, rss>>10, peerTime, peerMemory>>10)
	}
	h.truthful(status, h.chainOf(first), h.chainOf(second))
	t.Logf("late %v: exit status %d after %v, %d KiB", late, status, took.Round(time.Second/10), rss>>10)
	if t.Failed() {
		t.Log(out.String())
	}
	return took, rss
}

// committed waits until the file that Postfix reads holds a leaf, or the run has
// ended.
func (h *host) committed(leaf string, ended <-chan struct{}) {
	h.t.Helper()
	path := filepath.Join(h.pf.ConfigDir, "tls", hostName+".pem")
	for {
		data, err := os.ReadFile(path)
		if err == nil {
			if der, err := openssl(data, "x509", "-outform", "der"); err == nil && postfixtest.Fingerprint(der) == leaf {
				return
			}
		}
		select {
		case <-ended:
			h.t.Error("it ended before its commit was seen")
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// truthful fails the test unless an exit status of a renewal says what is
// served.
func (h *host) truthful(status int, old, next string) {
	h.t.Helper()
	if status == 5 {
		h.with(released).postcert("recover").want(0)
	}
	want, ok := map[int]string{0: "new", 9: "new", 3: "old", 4: "old", 5: "old"}[status]
	if got := h.shows(old, next); got != want || !ok {
		h.t.Errorf("exit status %d, and the %s chain is served", status, got)
	}
	h.clean()
}
