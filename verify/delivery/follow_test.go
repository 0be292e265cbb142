package delivery

import (
	"strings"
	"testing"
	"time"

	"postcert/verify/maillog"
)

const id = "<postcert-0123456789abcdef@mail.example.test>"

// track gives lines without their heads to a tracker: "smtp[7]: text".
func track(t *testing.T, text string) *Tracker {
	t.Helper()
	tr := NewTracker(id)
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			l, ok := maillog.ParseLine("Nov 20 21:00:00 mail postfix/"+line, time.Now())
			if !ok {
				t.Fatalf("%q is no line", line)
			}
			tr.Add(l)
		}
	}
	return tr
}

const taken = `
	pickup[1]: 1A2B3C4D: uid=0 from=<root>
	cleanup[2]: 1A2B3C4D: message-id=` + id + `
	qmgr[3]: 1A2B3C4D: from=<root@example.test>, size=333, nrcpt=1 (queue active)
`

const (
	untrusted = "smtp[7]: Untrusted TLS connection established to mx.example.org[192.0.2.1]:25: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)\n"
	sent      = "smtp[7]: 1A2B3C4D: to=<a@example.org>, relay=mx.example.org[192.0.2.1]:25, delay=0.1, delays=0/0/0.1/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 9F)\n"
)

// The line about TLS belongs to a delivery of the same process and next hop, and to
// one mail.
func TestTrackerOver(t *testing.T) {
	other := "smtp[7]: 5E6F7A8B: to=<b@example.org>, relay=mx.example.org[192.0.2.1]:25, delay=0.1, delays=0/0/0.1/0, dsn=2.0.0, status=sent (250 Ok)\n"
	tests := []struct {
		name, lines string
		logged      bool
		want        Over
	}{
		{"its own", untrusted + sent, true, OverTLS},
		{"none", sent, true, InClear},
		{"none, and none is logged", sent, false, OverUnknown},
		{"of another process", strings.Replace(untrusted, "[7]", "[8]", 1) + sent, true, InClear},
		{"with the same id, of another service", strings.Replace(untrusted, "smtp[7]", "relay/smtp[7]", 1) + sent, true, InClear},
		{"of another next hop", strings.Replace(untrusted, "mx.", "mx2.", 1) + sent, true, InClear},
		{"of another mail before", untrusted + other + sent, true, InClear},
		{"of another mail, and then its own", untrusted + other + untrusted + sent, true, OverTLS},
		{"reused", strings.Replace(untrusted, "established", "reused", 1) + sent, true, OverTLS},
		{"from a client", strings.ReplaceAll(strings.Replace(untrusted, "smtp[7]", "smtpd[7]", 1), " to ", " from ") + sent, true, InClear},
		{"3.11 says TLS", strings.Replace(sent, "dsn=", "tls=may, dsn=", 1), false, OverTLS},
		{"3.11 says none", untrusted + strings.Replace(sent, "dsn=", "tls=may:none, dsn=", 1), true, InClear},
		{"3.11 says none was asked for", strings.Replace(sent, "dsn=", "tls=none, dsn=", 1), false, InClear},
		{"3.11 with another feature", strings.Replace(sent, "dsn=", "tls=dane/requiretls:none, dsn=", 1), false, OverTLS},
		{"3.11 is undecided", strings.Replace(sent, "dsn=", "tls=may?, dsn=", 1), false, OverUnknown},
		{"a socket", "lmtp[7]: 1A2B3C4D: to=<a@example.org>, relay=mail.example.test[private/dovecot-lmtp], delay=0.1, dsn=2.0.0, status=sent (250 Saved)\n", true, Locally},
		{"local", "local[7]: 1A2B3C4D: to=<a@example.org>, relay=local, delay=0.1, dsn=2.0.0, status=sent (delivered to mailbox)\n", true, Locally},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ends := track(t, taken+tt.lines).Ends()
			if len(ends) != 1 {
				t.Fatalf("%d ends", len(ends))
			}
			if got := ends[0].Over(tt.logged); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// What is waited for: that the mail is gone, tried for all, on hold, or thrown away.
func TestTrackerDone(t *testing.T) {
	two := strings.Replace(taken, "nrcpt=1", "nrcpt=2", 1)
	tests := []struct {
		name, lines string
		done        bool
		ends        int
	}{
		{"nothing", "", false, 0},
		{"another's", strings.ReplaceAll(taken, id, "<x@y>") + sent, false, 0},
		{"queued", taken, false, 0},
		{"removed", taken + sent + "qmgr[3]: 1A2B3C4D: removed", true, 1},
		{"one of two", two + sent, false, 1},
		{"both", two + sent + strings.ReplaceAll(sent, "<a@", "<c@"), true, 2},
		{"deferred", taken + "smtp[7]: 1A2B3C4D: to=<a@example.org>, relay=none, delay=0.1, delays=0/0/0/0, dsn=4.4.1, status=deferred (connect to x: Connection refused)", true, 1},
		{"deferred, then sent", taken + "smtp[7]: 1A2B3C4D: to=<a@example.org>, relay=none, delay=0.1, dsn=4.4.1, status=deferred (x)\n" + sent, true, 1},
		{"on hold, which is said before the Message-ID", "cleanup[2]: 1A2B3C4D: hold: header Subject: x from local; for a look\n" + taken, true, 0},
		{"on hold by a milter", taken + "cleanup[2]: 1A2B3C4D: milter-hold: END-OF-MESSAGE from local: milter triggers HOLD action", true, 0},
		{"discarded", "cleanup[2]: 1A2B3C4D: discard: header Subject: x\n" + taken, true, 0},
		{"somebody else's is on hold", "cleanup[2]: 5E6F7A8B: hold: header Subject: x\n" + taken, false, 0},
		{"a list in quotes", taken + strings.Replace(sent, "to=<a@", `to=<"x>, y"@`, 1), true, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := track(t, tt.lines)
			if got, ends := tr.Done(), tr.Ends(); got != tt.done || len(ends) != tt.ends {
				t.Errorf("done %v, want %v; ends %+v", got, tt.done, ends)
			}
		})
	}
}

// A mail that comes back under another queue id is at its end only there.
func TestTrackerPassedOn(t *testing.T) {
	again := strings.ReplaceAll(strings.ReplaceAll(taken, "1A2B3C4D", "6B7C8D9E"), "pickup", "smtpd")
	end := strings.ReplaceAll(sent, "1A2B3C4D", "6B7C8D9E") + "qmgr[3]: 6B7C8D9E: removed\n"
	gone := "qmgr[3]: 1A2B3C4D: removed\n"
	hop := "smtp[8]: 1A2B3C4D: to=<a@example.org>, relay=127.0.0.1[127.0.0.1]:10024, delay=0.1, dsn=2.0.0, status=sent (250 2.0.0 from MTA: 250 2.0.0 Ok: queued as 6B7C8D9E)\n"
	for name, lines := range map[string]string{
		"by a filter that says so":    taken + again + hop + gone + end,
		"by a filter that does not":   taken + again + strings.Replace(hop, "queued as 6B7C8D9E", "thank you", 1) + gone + end,
		"by a program":                taken + again + "pipe[8]: 1A2B3C4D: to=<a@example.org>, relay=filter, delay=0.1, dsn=2.0.0, status=sent (delivered via filter service)\n" + gone + end,
		"forwarded":                   taken + again + "local[8]: 1A2B3C4D: to=<a@example.org>, relay=local, delay=0.1, dsn=2.0.0, status=sent (forwarded as 6B7C8D9E)\n" + gone + end,
		"with a notice to its sender": taken + again + hop + gone + strings.Replace(end, "qmgr", "bounce[9]: 6B7C8D9E: sender non-delivery notification: 77777777\nqmgr", 1),
	} {
		t.Run(name, func(t *testing.T) {
			tr := track(t, lines)
			ends, mails := tr.Ends(), tr.Mails()
			if len(ends) != 1 || ends[0].QueueID != "6B7C8D9E" || !tr.Done() || len(mails) != 2 || mails[0].PassedOn != "6B7C8D9E" || mails[1].PassedOn != "" {
				t.Errorf("ends %+v\nmails %+v", ends, mails)
			}
			if notice := mails[1].Notice; (notice != "") != strings.Contains(name, "notice") {
				t.Errorf("notice %q", notice)
			}
		})
	}
}

func TestParseAddress(t *testing.T) {
	for _, good := range []string{"a", "a@b", "a.b+c%d!e@example.org", `"a b"@example.org`, `"a\"b"@example.org`, "ä@exämple.org", "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]", "o'brien@example.org", "a@xn--exmple-cua.org"} {
		a, err := ParseAddress(good)
		if err != nil || a.String() != good {
			t.Errorf("%s: %v, %v", good, a, err)
		}
	}
	for _, bad := range []string{"", "@b", "a@", "a@b@c", "a b@c", "a,b@c", "a;b@c", "<a@b>", "A <a@b>", "a@b\n", "a\rb@c", "a\x00@b", "\xff@b", "-a@b", `"-a"@b`, ".a@b", "a.@b", "a..b@c", "a@b..c", "a@.b", "a@b.",
		"a@-b", "a@b-", "a@b c", "a@b,c", "a@[x]", "a@[192.0.2.1", "a@[2001:db8::1]", "a@[IPv6:192.0.2.1]", `"a@b`, `"a"b@c`, "a\u2028@b", strings.Repeat("a", 65) + "@b", "a@" + strings.Repeat("b", 256), "@a,@b:c@d"} {
		if a, err := ParseAddress(bad); err == nil {
			t.Errorf("%q is taken as %+v", bad, a)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("a@b")
	f.Add(`"a\" b"@[IPv6:::1]`)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if a.String() != s || strings.ContainsAny(s, "\r\n\x00") || strings.HasPrefix(s, "-") {
			t.Errorf("%q is taken as %+v", s, a)
		}
	})
}

func TestReceivedOf(t *testing.T) {
	mail := "X: y\nReceived: from c (unknown [127.0.0.1])\n\t(using TLSv1.3 with cipher TLS_AES_128_GCM_SHA256 (128/128 bits)\n\t key-exchange X25519)\n\t(No client certificate requested)\n\t" +
		"(Authenticated sender: u)\n\tby mail.example.test (Postfix) with ESMTPSA id 1A2B3C4D\n\tfor <a@b>; now\nreceived: by mail.example.test (Postfix, from userid 0)\n\tid 5E6F7A8B; now\nMessage-ID: " + id + "\n\nReceived: body\n"
	got := ReceivedOf([]byte(mail))
	if len(got) != 2 || got[0].Protocol != "TLSv1.3" || got[0].Cipher != "TLS_AES_128_GCM_SHA256" || got[0].With != "ESMTPSA" || got[0].QueueID != "1A2B3C4D" || got[0].By != "mail.example.test" {
		t.Fatalf("%+v", got)
	}
	if got[1].Protocol != "" || got[1].With != "" || got[1].QueueID != "5E6F7A8B" {
		t.Errorf("%+v", got[1])
	}
	if !HasID([]byte(mail), id) || HasID([]byte(mail), "<x>") || HasID([]byte("\nMessage-ID: "+id+"\n"), id) {
		t.Error("HasID")
	}
}

// Nothing that is in the mail can be found as another one's.
func TestMessage(t *testing.T) {
	m := Message{From: Address{"a", "b"}, To: Address{"c", "d"}, Mark: NewMark(), Host: "h", Time: time.Now()}
	if n := NewMark(); n == m.Mark || len(n) != 16 {
		t.Errorf("%s, %s", n, m.Mark)
	}
	if text := string(m.Bytes()); !HasID(m.Bytes(), m.ID()) || strings.Contains(text, "\r") || strings.Count(text, "\n\n") != 1 || !strings.Contains(text, "\nAuto-Submitted: auto-generated\n") {
		t.Errorf("%s", text)
	}
}
