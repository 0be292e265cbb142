package main

import (
	"net"
	"strings"
	"testing"

	"postcert/verify/probe"
)

// FuzzEndpoint: an argument of probe either is refused or names a host and a
// port that can be dialled, and says the same when it is given again.
func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{
		"mail.example.com:25", "127.0.0.1:465", "[::1]:993", "[fe80::1%eth0]:25", "smtp://mail.example.com", "smtps://mail.example.com:1465/", "imap://[::1]",
		"imaps://user@host.example", "submission://a.b?x", "http://a", "smtp://", ":25", "a", "a:", "smtp://a.b:99999", "://", "smtp://a%20b", "mail.example.com:smtps", "smtp://]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		e, err := parseEndpoint(arg)
		if err != nil {
			return
		}
		host, port, err := net.SplitHostPort(e.Address)
		if err != nil || port == "" {
			t.Fatalf("%q is dialled at %q: %v", arg, e.Address, err)
		}
		if e.Mode != probe.STARTTLS && e.Mode != probe.Implicit {
			t.Fatalf("%q is asked by %q", arg, e.Mode)
		}
		if e.ServerName != "" && (e.ServerName != host || net.ParseIP(host) != nil || !strings.Contains(host, ".")) {
			t.Fatalf("%q sends the name %q", arg, e.ServerName)
		}
		again, err := parseEndpoint(e.Address)
		if err != nil || again.Address != e.Address || again.ServerName != e.ServerName {
			t.Fatalf("%q is %q, which is %q, %v", arg, e.Address, again.Address, err)
		}
	})
}
