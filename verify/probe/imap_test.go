package probe

import (
	"bufio"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// imapServer answers one client: greeting, then a reply to each command, TAG
// replaced by its tag. It returns the address and, at the end, the commands.
func imapServer(t *testing.T, greeting string, replies map[string]string, wrapped bool, cert tls.Certificate) (string, func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}}
		if wrapped {
			c = tls.Server(c, cfg)
		}
		_, _ = c.Write([]byte(greeting + "\r\n"))
		in := bufio.NewReader(c)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			tag, verb, _ := strings.Cut(strings.TrimSpace(line), " ")
			commands = append(commands, verb)
			reply := strings.ReplaceAll(replies[verb], "TAG", tag)
			_, _ = c.Write([]byte(reply))
			if verb == "STARTTLS" && strings.Contains(reply, " OK ") {
				c = tls.Server(c, cfg)
				in = bufio.NewReader(c)
			}
			if verb == "LOGOUT" {
				return
			}
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String(), func() []string { _ = l.Close(); wg.Wait(); return commands }
}

func TestIMAP(t *testing.T) {
	const bye = "* BYE logging out\r\nTAG OK done\r\n"
	ec := pair("mail.example.com", ecKey())
	for _, tt := range []struct {
		name     string
		greeting string
		starttls string
		mode     Mode
		reason   Reason
		commands string
	}{
		{"starttls", "* OK [CAPABILITY IMAP4rev1 STARTTLS] ready", "TAG OK begin TLS\r\n", STARTTLS, OK, "STARTTLS LOGOUT"},
		{"untagged line between", "* OK ready", "* CAPABILITY IMAP4rev1\r\nTAG OK begin TLS\r\n", STARTTLS, OK, "STARTTLS LOGOUT"},
		{"implicit", "* OK ready", "", Implicit, OK, "LOGOUT"},
		{"no certificate", "* OK ready", "TAG NO TLS is not available\r\n", STARTTLS, TLSNotAvailable, "STARTTLS LOGOUT"},
		{"no TLS", "* OK ready", "TAG BAD TLS support isn't enabled.\r\n", STARTTLS, NotOffered, "STARTTLS LOGOUT"},
		{"logged in already", "* PREAUTH hello root", "", STARTTLS, NotOffered, "LOGOUT"},
		{"bye", "* BYE overloaded", "", STARTTLS, ShuttingDown, ""},
		{"bye to STARTTLS", "* OK ready", "* BYE shutting down\r\n", STARTTLS, ShuttingDown, "STARTTLS"},
		{"not IMAP", "220 mail.example.com ESMTP", "", STARTTLS, ProtocolError, ""},
		{"other tag", "* OK ready", "zzz OK begin\r\n", STARTTLS, ProtocolError, "STARTTLS"},
		{"text injected before TLS", "* OK ready", "TAG OK begin\r\n* OK injected\r\n", STARTTLS, ProtocolError, "STARTTLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			replies := map[string]string{"STARTTLS": tt.starttls, "LOGOUT": bye}
			address, commands := imapServer(t, tt.greeting, replies, tt.mode == Implicit, ec)
			r := Handshake(t.Context(), Endpoint{Address: address, Mode: tt.mode, Protocol: IMAP, Timeout: 2 * time.Second})
			if r.Reason != tt.reason {
				t.Errorf("got %s in %s (%s), want %s", r.Reason, r.Phase, r.Detail, tt.reason)
			}
			if tt.reason == OK && r.Leaf() != fingerprint(ec.Certificate[0]) {
				t.Errorf("got leaf %q", r.Leaf())
			}
			if got := strings.Join(commands(), " "); got != tt.commands {
				t.Errorf("the server got %q, want %q", got, tt.commands)
			}
		})
	}
}
