package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// S22: TLS was broken before we came (454): that is said, and repaired.
func TestS22BrokenBefore(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	key := h.pairFile("other.pem", nil)
	postfixtest.WritePair(t, key, hostName)
	h.pf.AppendMain("smtpd_tls_key_file = " + key)
	h.pf.Reload()
	h.pf.WaitLog("reload --")
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := postfixtest.ServedLeaf(t, postfixtest.SMTP, postfixtest.StartTLS); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a key of another pair is no hindrance")
		}
	}
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(0).says("broken_before").says("454").says("127.0.0.1:25")
	h.serves(h.leafOf(l))
}

// S23: somebody else answers in front of 465: rolled back, and named.
func TestS23Impostor(t *testing.T) {
	h := newHost(t, postfixtest.Options{Address: "all"})
	first, before := h.served(), h.pf.Files()
	other := h.impostor("127.0.0.1:465")
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(4).says("impostor.invalid").says("127.0.0.1:465")
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("changed: %s", d)
	}
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, first)
	h.wantServed("[::1]:465", postfixtest.Implicit, first)

	h.postcert("install-cert", l, "--ignore-listener", "127.0.0.1:465").want(0).says("ignored")
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, h.leafOf(l))
	h.wantServed("[::1]:465", postfixtest.Implicit, h.leafOf(l))
	h.wantServed("127.0.0.1:465", postfixtest.Implicit, other)
}

// S23: one with a trusted certificate of other names: refused, and the place is
// named; once it is left out its names require nothing.
func TestS23TrustedImpostor(t *testing.T) {
	h := newHost(t, postfixtest.Options{Address: "all"})
	pem, leaf := h.trusted(certtest.Leaf{Names: []string{"shop.example.test"}})
	h.impostorWith("127.0.0.1:465", pem, leaf)
	l := h.lineage(certtest.Leaf{})
	before := h.pf.Files()
	h.postcert("install-cert", l).want(3).says("names_shrunk").says("served now at 127.0.0.1:465 is valid for \"shop.example.test\"")
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("changed: %s", d)
	}
	h.postcert("install-cert", l, "--ignore-listener", "127.0.0.1:465").want(0)
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, h.leafOf(l))
	h.wantServed("127.0.0.1:465", postfixtest.Implicit, leaf)
}

// S24: the master dies while we work: Postfix is started again, with what it
// served before, whenever it happens, and within the 10 s of R27.
func TestS24MasterDies(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	var killed time.Time
	kill := func() {
		killed = time.Now()
		if err := syscall.Kill(h.pf.MasterPID(), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	first := h.served()
	for _, event := range []string{"commit end", "reload end"} {
		before := h.pf.Files()
		h.during(event, kill, "install-cert", h.lineage(certtest.Leaf{})).want(4)
		if away := time.Since(killed); away > 10*time.Second {
			t.Errorf("%s: Postfix was away for %v", event, away)
		}
		for _, d := range postfixtest.Compare(before, h.pf.Files()) {
			t.Errorf("changed: %s", d)
		}
		h.serves(first)
		if event == "commit end" {
			// The second round is a renewal: a mere file switch.
			l := h.lineage(certtest.Leaf{})
			h.postcert("install-cert", l).want(0)
			first = h.leafOf(l)
		}
	}
}

// S24: a line of master.cf at which a reload would end the master is found
// before: an address of no interface, a port that another program holds.
func TestS24NotBindable(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	held, err := net.Listen("tcp", "127.0.0.1:2525")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	good := string(h.pf.Master())
	master := h.pf.MasterPID()
	for _, name := range []string{"192.0.2.7:2465", "127.0.0.1:2525"} {
		h.pf.SetMaster([]byte(good + name + " inet n - n - - smtpd\n"))
		h.untouched(func() {
			h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(3).says("listener_not_bindable").says(name).
				says(fmt.Sprintf("line %d", strings.Count(good, "\n")+1))
		})
	}
	h.pf.SetMaster([]byte(good))
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	if h.pf.MasterPID() != master {
		t.Error("the master is another one")
	}
}

// S25: Postfix does not run: rehearsed, installed, said; rollback works too.
func TestS25Stopped(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	h.pf.Stop()
	first, second := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	for _, l := range []string{first, second} {
		a := h.postcert("install-cert", l, "--json").want(9)
		if tx := a.json()["transaction"].(map[string]any); tx["rehearsed"] != true || tx["running"] != false {
			t.Errorf("rehearsed %v, running %v", tx["rehearsed"], tx["running"])
		}
	}
	h.postcert("install-cert", second).want(9).says("not running").says("[not_running]")
	h.postcert("rollback", hostName).want(9).says("not running")
	h.pf.Start()
	h.serves(h.leafOf(first))
	h.postcert("install-cert", second).want(0)
	h.serves(h.leafOf(second))
}

// S28: S01, S02, S17 and S21 in other surroundings.
func TestS28Surroundings(t *testing.T) {
	tests := []struct {
		name string
		o    postfixtest.Options
	}{
		{"chroot, compatibility_level 0", postfixtest.Options{Chroot: true, Main: []string{
			"compatibility_level = 0", "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination",
		}}},
		{"no chroot, compatibility_level 3.6, named interfaces", postfixtest.Options{Address: "127.0.0.1, [::1]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, tt.o)
			first := h.lineage(certtest.Leaf{})
			h.postcert("install-cert", first).want(0)
			second := h.lineage(certtest.Leaf{})
			h.postcert("install-cert", second).want(0)
			h.serves(h.leafOf(second))
			for _, addr := range []string{"[::1]:25", "[::1]:587"} {
				h.wantServed(addr, postfixtest.StartTLS, h.leafOf(second))
			}
			h.untouched(func() {
				h.postcert("install-cert", "--cert", first+"/fullchain.pem", "--key", second+"/privkey.pem").want(3).says("key_mismatch")
			})
			main := h.pf.Main()
			h.pf.AppendMain(badProtocols[1])
			h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(3).says("rehearsal_refused")
			h.pf.SetMain(main)

			stale := h.pairFile("stale.pem", nil)
			leaf := postfixtest.WritePair(t, stale, hostName)
			h.overridden(stale)
			postfixtest.WaitServed(t, postfixtest.Submissions, postfixtest.Implicit, leaf)
			third := h.lineage(certtest.Leaf{})
			h.postcert("install-cert", third).want(3).says("override_present").says("submissions/inet")
			h.postcert("install-cert", third, "--adopt-overrides").want(0)
			h.serves(h.leafOf(third))
		})
	}
}

// proxied is an address at which a proxy answers that leads to addr and sends
// the header of the PROXY protocol first.
func proxied(t *testing.T, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer server.Close()
				_, _ = io.WriteString(server, "PROXY TCP4 192.0.2.1 127.0.0.1 4000 25\r\n")
				go func() { _, _ = io.Copy(server, client) }()
				_, _ = io.Copy(client, server)
			}()
		}
	}()
	return l.Addr().String()
}

// S29: a listener that wants the PROXY protocol is proven through it.
func TestS29Proxy(t *testing.T) {
	h := newHost(t, postfixtest.Options{Master: []string{
		"127.0.0.1:2525 inet n - n - - smtpd", "  -o smtpd_upstream_proxy_protocol=haproxy",
	}})
	l := h.lineage(certtest.Leaf{})
	a := h.postcert("install-cert", l, "--json").want(0)
	asked := false
	for _, v := range a.json()["transaction"].(map[string]any)["listeners"].([]any) {
		m := v.(map[string]any)
		if m["endpoint"] == "127.0.0.1:2525" {
			asked = true
			if m["verdict"] != "proven" {
				t.Errorf("127.0.0.1:2525 is %v: %v", m["verdict"], m["reason"])
			}
		}
	}
	if !asked {
		t.Error("127.0.0.1:2525 was not asked")
	}
	h.serves(h.leafOf(l))
	h.wantServed(proxied(t, "127.0.0.1:2525"), postfixtest.StartTLS, h.leafOf(l))
}

// S29: a listener whose only process serves an idle client cannot be asked: the
// renewal is kept and not called a success.
func TestS29Busy(t *testing.T) {
	h := newHost(t, postfixtest.Options{Master: []string{"127.0.0.1:2525 inet n - n - 1 smtpd"}})
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	var idle net.Conn
	occupy := func() {
		var err error
		if idle, err = net.Dial("tcp", "127.0.0.1:2525"); err != nil {
			t.Fatal(err)
		}
		if _, err := idle.Read(make([]byte, 4)); err != nil {
			t.Error(err)
		}
	}
	l := h.lineage(certtest.Leaf{})
	a := h.during("reload begin", occupy, "install-cert", l).want(9).says("127.0.0.1:2525").says("not verified")
	if strings.Contains(a.stdout+a.stderr, "installed: ") {
		t.Errorf("it is called a success:\n%s%s", a.stdout, a.stderr)
	}
	h.serves(h.leafOf(l))
	idle.Close()
	h.postcert("status").want(0)
	h.wantServed("127.0.0.1:2525", postfixtest.StartTLS, h.leafOf(l))
}

// S27: postscreen answers on 25, and tlsproxy shows the certificate.
func TestS27Postscreen(t *testing.T) {
	h := newHost(t, postfixtest.Options{
		SMTPD: []string{
			"smtp inet n - n - 1 postscreen", "smtpd pass - - n - - smtpd",
			"dnsblog unix - - n - 0 dnsblog", "tlsproxy unix - - n - 0 tlsproxy",
		},
		// A deep test keeps postscreen itself in the conversation.
		Main: []string{"postscreen_access_list =", "postscreen_greet_wait = 1s", "postscreen_pipelining_enable = yes"},
	})
	first := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", first).want(0).says("127.0.0.1:25")
	h.serves(h.leafOf(first))
	second := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", second).want(0)
	h.serves(h.leafOf(second))
	if !strings.Contains(h.pf.Log(), "postfix/tlsproxy[") {
		t.Error("tlsproxy was never asked")
	}
}
