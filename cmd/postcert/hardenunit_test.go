package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/audit"
	"postcert/verify/maillog"
)

// The order of the files, by what serves in between.
func TestHardenOrder(t *testing.T) {
	no := errors.New("no")
	for _, test := range []struct {
		mainFirst, masterFirst error
		want                   string
	}{{nil, nil, "both"}, {no, nil, "master.cf main.cf"}, {nil, no, "main.cf master.cf"}, {no, no, ""}} {
		if got, why := orderOf(test.mainFirst, test.masterFirst); strings.Join(got, " ") != test.want || why == "" {
			t.Errorf("%v, %v: %q (%s)", test.mainFirst, test.masterFirst, got, why)
		}
	}
}

// What a hardening owes to a client.
func TestHardenDemand(t *testing.T) {
	modern, old := clientKinds[0], clientKinds[len(clientKinds)-1]
	at := func(c client) cell { return cell{service: "smtp/inet", client: c} }
	all := allowance{[]string{"TLSv1", "TLSv1.2", "TLSv1.3"}, old.suites}
	none := allowance{}
	for _, test := range []struct {
		name   string
		c      cell
		before matrix
		now    allowance
		want   demand
	}{
		{"worked, and allowed", at(old), matrix{at(old).key(): true}, all, required},
		{"worked, and meant to go", at(old), matrix{at(old).key(): true}, none, excluded},
		{"its ciphers are gone", at(old), matrix{at(old).key(): true}, allowance{all.protocols, []string{"X"}}, excluded},
		{"did not work", at(old), matrix{at(old).key(): false}, all, optional},
		{"modern cannot be meant to go", at(modern), matrix{at(modern).key(): true}, none, required},
		{"a new service, as another one", cell{service: "new/inet", client: modern}, matrix{at(modern).key(): true}, all, required},
		{"a new service, and no other has it", cell{service: "new/inet", client: modern}, matrix{at(modern).key(): false}, all, optional},
		{"a new service owes nothing to old ones", cell{service: "new/inet", client: old}, matrix{at(old).key(): true}, all, optional},
	} {
		if got := demandOf(test.c, test.before, map[string]allowance{"smtp/inet": test.now, "new/inet": test.now}); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// Lines of the log, and whether their client would have been turned away.
func TestHardenPeers(t *testing.T) {
	q := &peerQuestion{tags: map[string][]string{"postfix/smtpd": {"smtp/inet"}}, found: map[string]*peer{}, open: map[string][]string{},
		services: map[string]allowance{"smtp/inet": {[]string{"TLSv1.2", "TLSv1.3"}, []string{"ECDHE-RSA-AES128-SHA"}}}}
	read := func(text string) {
		l, ok := maillog.ParseLine("2026-11-20T21:00:00Z mail "+text, time.Now())
		if !ok {
			t.Fatal(text)
		}
		q.add(l)
	}
	session := func(pid, who, tls, said string) {
		if tls != "" {
			read("postfix/smtpd[" + pid + "]: Anonymous TLS connection established from " + who + ": " + tls + " (128/128 bits)")
		}
		read("postfix/smtpd[" + pid + "]: disconnect from " + who + " " + said)
	}
	session("1", "old[192.0.2.1]", "TLSv1 with cipher ECDHE-RSA-AES128-SHA", "ehlo=2 starttls=1 mail=1 rcpt=1 data=1 quit=1 commands=7")
	session("1", "weak[192.0.2.2]", "TLSv1.2 with cipher AES128-SHA", "ehlo=2 starttls=1 mail=1 quit=1 commands=5")
	session("2", "good[192.0.2.3]", "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384", "ehlo=2 starttls=1 mail=1 quit=1 commands=5")
	session("2", "scanner[192.0.2.4]", "TLSv1 with cipher AES128-SHA", "ehlo=2 starttls=1 quit=1 commands=4")
	session("3", "scanner[192.0.2.5]", "TLSv1 with cipher AES128-SHA", "ehlo=2 starttls=1 auth=0/3 commands=6")
	session("3", "clear[192.0.2.6]", "", "ehlo=1 mail=1 quit=1 commands=3")
	var got []string
	for _, p := range q.found {
		got = append(got, p.Peer+" "+p.Did)
	}
	slices.Sort(got)
	want := []string{"old[192.0.2.1] TLSv1 with ECDHE-RSA-AES128-SHA", "weak[192.0.2.2] TLSv1.2 with AES128-SHA"}
	if !slices.Equal(got, want) || q.sessions != 3 {
		t.Errorf("%q, %d sessions; want %q", got, q.sessions, want)
	}
}

// Which edits a name of --undo means.
func TestHardenNamed(t *testing.T) {
	main, option, entry := cf.Edit{Parameter: "a"}, cf.Edit{Service: "submission/inet", Parameter: "a"}, cf.Edit{Service: "submission/inet"}
	for _, test := range []struct {
		name string
		want []bool // main, option, entry
	}{{"a", []bool{true, true, false}}, {"submission/inet", []bool{false, true, true}}, {"submission/inet/a", []bool{false, true, false}}, {"b", []bool{false, false, false}}, {"", []bool{false, false, false}}} {
		for i, e := range []cf.Edit{main, option, entry} {
			if got := named(e, []string{test.name}); got != test.want[i] {
				t.Errorf("%q, %s: %v", test.name, e, got)
			}
		}
	}
}

// What listeners say in the end, after the rehearsal has said the same: AUTH before
// TLS, and none inside it, are a failure.
func TestHardenAuthProven(t *testing.T) {
	const id = "submission/inet"
	s, err := cf.Parse("/d", cf.File{Path: "/d/main.cf"}, cf.File{Path: "/d/master.cf", Data: []byte("submission inet n - n - - smtpd\n")}, cf.Outputs{All: []byte("mail_version = 3.7.11\n")})
	if err != nil {
		t.Fatal(err)
	}
	plain, auth := []string{"mail.example.test", "SIZE 10"}, []string{"mail.example.test", "AUTH PLAIN"}
	for _, test := range []struct {
		name          string
		before, after []string
		want          string
	}{
		{"inside only", plain, auth, ""}, {"TLS comes first", nil, auth, ""},
		{"in clear", auth, auth, "before TLS"}, {"not at all", plain, plain, "no AUTH inside"}, {"no TLS", plain, nil, "no AUTH inside"},
	} {
		err := authProven(map[string]audit.Greeting{id: {Before: test.before, After: test.after}}, s, []string{id})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// What a listener allows is what the program says that speaks TLS there: tlsproxy(8)
// for postscreen(8), and smtpd(8) for itself.
func TestHardenLists(t *testing.T) {
	const master = "smtp inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\ntlsproxy unix - - n - 0 tlsproxy\n  -o tlsproxy_tls_security_level=encrypt\n587 inet n - n - - smtpd\n"
	const all = `mail_version = 3.7.11
inet_protocols = ipv4
smtpd_tls_security_level = may
smtpd_tls_protocols = TLSv1.3
smtpd_tls_ciphers = medium
smtpd_tls_exclude_ciphers = MD5
tlsproxy_tls_security_level = may
tlsproxy_tls_protocols = TLSv1.1
tlsproxy_tls_ciphers = medium
tlsproxy_tls_exclude_ciphers =
tlsproxy_tls_mandatory_protocols = TLSv1.2
tlsproxy_tls_mandatory_ciphers = high
tlsproxy_tls_mandatory_exclude_ciphers = 3DES
tls_medium_cipherlist = MEDIUM
tls_high_cipherlist = HIGH
`
	s, err := cf.Parse("/d", cf.File{Path: "/d/main.cf"}, cf.File{Path: "/d/master.cf", Data: []byte(master)}, cf.Outputs{All: []byte(all)})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"smtp/inet": "TLSv1.2 HIGH:!3DES:@SECLEVEL=0", "587/inet": "TLSv1.3 MEDIUM:!MD5:@SECLEVEL=0"}
	for _, l := range s.Listeners(cf.Host{}) {
		protocols, ciphers := listsOf(s, l)
		if want, ok := want[l.ID()]; ok && protocols+" "+ciphers != want {
			t.Errorf("%s: %s %s, want %s", l.ID(), protocols, ciphers, want)
		}
		delete(want, l.ID())
	}
	if len(want) > 0 {
		t.Errorf("no listeners %v", want)
	}
}
