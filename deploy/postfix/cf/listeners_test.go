package cf

import (
	"fmt"
	"strings"
	"testing"
)

func (l Listener) short() string {
	flags := ""
	for _, f := range []struct {
		on   bool
		name string
	}{{l.TLS, "tls"}, {l.Implicit, "implicit"}, {l.Postscreen, "postscreen"}, {l.Proxy, "proxy"}, {l.Pass, "pass"}, {l.Reason != "", "reason"}} {
		if f.on {
			flags += "," + f.name
		}
	}
	return fmt.Sprintf("%s %s [%s]", l.ID(), strings.Join(l.Addresses, " "), strings.TrimPrefix(flags, ","))
}

func TestListeners(t *testing.T) {
	need(t, "postconf")
	dual := []string{"127.0.0.1", "::1", "192.0.2.1", "2001:db8::1", "fe80::1%eth0"}
	may := "smtpd_tls_security_level = may\n"
	tests := []struct {
		name, main, master string
		interfaces         []string
		want               []string
	}{
		{"stock", may, stockMaster, dual, []string{"smtp/inet 127.0.0.1:25 [::1]:25 [tls]", "submission/inet 127.0.0.1:587 [::1]:587 [tls]", "submissions/inet 127.0.0.1:465 [::1]:465 [tls,implicit]"}},
		{"interfaces unknown", may, onePort, nil, []string{"smtp/inet 127.0.0.1:25 [::1]:25 [tls]"}},
		{"host without IPv6", may, onePort, []string{"127.0.0.1", "192.0.2.1"}, []string{"smtp/inet 127.0.0.1:25 [tls]"}},
		{"ipv4 only", may + "inet_protocols = ipv4\n", onePort, dual, []string{"smtp/inet 127.0.0.1:25 [tls]"}},
		{"ipv6 only", may + "inet_protocols = ipv6\n", onePort, dual, []string{"smtp/inet [::1]:25 [tls]"}},
		{"both named", may + "inet_protocols = ipv4, ipv6\n", onePort, dual, []string{"smtp/inet 127.0.0.1:25 [::1]:25 [tls]"}},
		{"loopback-only", may + "inet_interfaces = loopback-only\n", onePort, []string{"127.0.0.1", "127.0.0.2", "192.0.2.1"}, []string{"smtp/inet 127.0.0.1:25 127.0.0.2:25 [tls]"}},
		{"ALL", may + "inet_interfaces = ALL\n", onePort, dual, []string{"smtp/inet 127.0.0.1:25 [::1]:25 [tls]"}},
		{"addresses", may + "inet_interfaces = 192.0.2.1, [2001:db8::1]\n", onePort, dual, []string{"smtp/inet 192.0.2.1:25 [2001:db8::1]:25 [tls]"}},
		{"names", may + "myhostname = mx.example.com\ninet_interfaces = $myhostname, localhost\n", onePort, dual, []string{"smtp/inet 127.0.0.1:25 192.0.2.9:25 [2001:db8::9]:25 [::1]:25 [tls]"}},
		{"name nobody knows", may + "inet_interfaces = nowhere.example\n", onePort, dual, []string{"smtp/inet  [tls,reason]"}},
		{"no interface", may + "inet_interfaces =\n", onePort, dual, []string{"smtp/inet  [tls,reason]"}},
		{"no protocol: no inet service", may + "inet_protocols =\n", onePort + "x unix - - y - - smtpd\n", dual, []string{"x/unix /var/spool/postfix/private/x [tls]"}},
		{"addresses in names", may + "inet_interfaces = loopback-only\n", "192.0.2.1:smtp inet n - y - - smtpd\n[2001:db8::1]:465 inet n - y - - smtpd -o smtpd_tls_wrappermode=yes\n::1:10025 inet n - y - - smtpd\nlocalhost:587 inet n - y - - smtpd\n:2525 inet n - y - - smtpd\n0.0.0.0:26 inet n - y - - smtpd\n[::]:27 inet n - y - - smtpd\n", dual, []string{
			"192.0.2.1:smtp/inet 192.0.2.1:25 [tls]", "[2001:db8::1]:465/inet [2001:db8::1]:465 [tls,implicit]", "::1:10025/inet [::1]:10025 [tls]", "localhost:587/inet 127.0.0.1:587 [::1]:587 [tls]", ":2525/inet 127.0.0.1:2525 [::1]:2525 [tls]", "0.0.0.0:26/inet 127.0.0.1:26 [tls]", "[::]:27/inet [::1]:27 [tls]"}},
		{"service names", may + "known_tcp_ports = lmtp=24, smtp=25, smtps=submissions=465, submission=587\n", "smtps inet n - y - - smtpd\nlmtp inet n - y - - smtpd\nmyport inet n - y - - smtpd\nnoport inet n - y - - smtpd\n2525 inet n - y - - smtpd\n", dual, []string{
			"smtps/inet 127.0.0.1:465 [::1]:465 [tls]", "lmtp/inet 127.0.0.1:24 [::1]:24 [tls]", "myport/inet 127.0.0.1:4711 [::1]:4711 [tls]", "noport/inet  [tls,reason]", "2525/inet 127.0.0.1:2525 [::1]:2525 [tls]"}},
		{"disabled: type", may + "master_service_disable = inet\n", onePort + "x unix - - y - - smtpd\n", dual, []string{"x/unix /var/spool/postfix/private/x [tls]"}},
		{"disabled: dot", may + "master_service_disable = smtp.inet\n", stockMaster, dual, []string{"submission/inet 127.0.0.1:587 [::1]:587 [tls]", "submissions/inet 127.0.0.1:465 [::1]:465 [tls,implicit]"}},
		{"disabled: slash, case, list", may + "master_service_disable = foo, SMTP/INET submissions.inet\n", stockMaster, dual, []string{"submission/inet 127.0.0.1:587 [::1]:587 [tls]"}},
		{"disabled: negated first", may + "master_service_disable = !submission/inet, inet\n", stockMaster, dual, []string{"submission/inet 127.0.0.1:587 [::1]:587 [tls]"}},
		{"disabled: address", may + "master_service_disable = 127.0.0.1:25/inet\n", "127.0.0.1:25 inet n - y - - smtpd\n192.0.2.1:25 inet n - y - - smtpd\n", dual, []string{"192.0.2.1:25/inet 192.0.2.1:25 [tls]"}},
		{"the last entry of a port holds", may, "smtps inet n - y - - smtpd -o smtpd_tls_wrappermode=no\nsubmissions inet n - y - - smtpd\n465 inet n - y - - smtpd -o smtpd_tls_wrappermode=yes\n127.0.0.1:465 inet n - y - - smtpd\n", dual, []string{"465/inet 127.0.0.1:465 [::1]:465 [tls,implicit]", "127.0.0.1:465/inet 127.0.0.1:465 [tls]"}},
		{"the last of two entries alike", may, "smtp inet n - y - - smtpd -o smtpd_tls_wrappermode=yes\nsmtp inet n - y - - smtpd\n", dual, []string{"smtp/inet 127.0.0.1:25 [::1]:25 [tls]"}},
		{"levels", "smtpd_tls_security_level = $my_level\n", "1 inet n - y - - smtpd\n2 inet n - y - - smtpd -o my_level=may\n3 inet n - y - - smtpd -o smtpd_tls_security_level=NONE\n4 inet n - y - - smtpd -o smtpd_tls_security_level=none -o smtpd_tls_wrappermode=yes\n5 inet n - y - - smtpd -o smtpd_tls_security_level=bogus\n6 inet n - y - - smtpd -o smtpd_use_tls=yes\n7 inet n - y - - smtpd -o smtpd_enforce_tls=Yes\n8 inet n - y - - smtpd -o smtpd_tls_security_level=verify\n9 inet n - y - - smtpd -o smtpd_tls_security_level=dane\n", []string{"127.0.0.1"}, []string{
			"1/inet 127.0.0.1:1 [reason]", "2/inet 127.0.0.1:2 [tls]", "3/inet 127.0.0.1:3 [reason]", "4/inet 127.0.0.1:4 [tls,implicit]", "5/inet 127.0.0.1:5 [reason]", "6/inet 127.0.0.1:6 [tls]", "7/inet 127.0.0.1:7 [tls]", "8/inet 127.0.0.1:8 [tls]", "9/inet 127.0.0.1:9 [reason]"}},
		{"STARTTLS hidden", may, "smtp inet n - y - - smtpd -o smtpd_discard_ehlo_keywords=chunking,StartTLS\n465 inet n - y - - smtpd -o smtpd_discard_ehlo_keywords=starttls -o smtpd_tls_wrappermode=yes\n", []string{"127.0.0.1"}, []string{"smtp/inet 127.0.0.1:25 [reason]", "465/inet 127.0.0.1:465 [tls,implicit]"}},
		{"postscreen", may, "smtp inet n - y - 1 postscreen\n  -o postscreen_upstream_proxy_protocol=haproxy\nsmtpd pass - - y - - smtpd -o smtpd_tls_security_level=none\ntlsproxy unix - - y - 0 tlsproxy\nqmqp inet n - y - - qmqpd\n26 inet n - y - 1 /usr/lib/postfix/sbin/postscreen -o postscreen_tls_security_level=none\n", []string{"127.0.0.1"}, []string{"smtp/inet 127.0.0.1:25 [tls,postscreen,proxy]", "smtpd/pass  [pass,reason]", "26/inet 127.0.0.1:26 [postscreen,reason]"}},
		{"proxy and sockets", may + "queue_directory = /q\n", "smtp inet n - y - - smtpd -o smtpd_upstream_proxy_protocol=haproxy\na unix n - y - - smtpd\nb unix y - y - - smtpd\nc unix - - y - - smtpd\nd pass - - y - - smtpd\n", []string{"::1"}, []string{"smtp/inet [::1]:25 [tls,proxy]", "a/unix /q/public/a [tls]", "b/unix /q/private/b [tls]", "c/unix /q/private/c [tls]", "d/pass  [tls,pass,reason]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := snapshotElsewhere(t, test.main, test.master)
			var got []string
			for _, l := range s.Listeners(Host{Interfaces: test.interfaces, Resolve: resolve, Services: services}) {
				got = append(got, l.short())
				if (l.Network == "unix") != (l.Type != "inet") {
					t.Errorf("%s: network %q", l.ID(), l.Network)
				}
			}
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// snapshotElsewhere is a snapshot of another host: postconf here ends when
// inet_interfaces names what this host does not have, so it is asked without.
func snapshotElsewhere(t *testing.T, main, master string) Snapshot {
	t.Helper()
	var here strings.Builder
	for line := range strings.Lines(main) {
		if !strings.HasPrefix(line, "inet_interfaces") {
			here.WriteString(line)
		}
	}
	all := parameters(postconf(t, configuration(t, here.String(), master)))
	var printed strings.Builder
	for name, value := range all {
		if name != "inet_interfaces" {
			fmt.Fprintf(&printed, "%s = %s\n", name, value)
		}
	}
	if here.String() == main {
		fmt.Fprintf(&printed, "inet_interfaces = %s\n", all["inet_interfaces"])
	}
	s, err := Parse("/d", File{"/d/main.cf", []byte(main)}, File{"/d/master.cf", []byte(master)}, Outputs{All: []byte(printed.String())})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func resolve(name string) []string {
	return map[string][]string{"localhost": {"127.0.0.1", "::1"}, "mx.example.com": {"192.0.2.9", "2001:db8::9"}}[name]
}

func services(name string) int { return map[string]int{"myport": 4711, "smtp": 2525}[name] }

// TestPortsOfOldReleases: before 3.6 names come from services(5), and ours is
// the answer only where that has none.
func TestPortsOfOldReleases(t *testing.T) {
	s := Snapshot{Parameters: map[string]string{"mail_version": "3.4.29"}}
	for name, want := range map[string]int{"smtp": 2525, "submissions": 465, "lmtp": 24, "25": 25, "nothing": 0, "99999": 0} {
		if got := s.port(name, Host{Services: services}); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}
