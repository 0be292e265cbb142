package cf

import (
	"strings"
	"testing"
)

// Before Postfix 3.6 two entries for one address end the master.
func TestMasterFaultsOfOneAddress(t *testing.T) {
	need(t, "postconf")
	s := snapshotOf(t, "inet_interfaces = loopback-only\n", "2525 inet n - y - - smtpd\n127.0.0.1:2525 inet n - y - - smtpd\ntlsmgr unix - - y 1000? 1 tlsmgr\nrewrite unix - - y - - trivial-rewrite\n")
	for version, want := range map[string]int{"3.4.29": 1, "3.5.27": 1, "3.6.0": 0, "3.11.6": 0} {
		s.Version = version
		if got := s.MasterFaults(Host{Interfaces: []string{"127.0.0.1", "::1"}}); len(got) != want {
			t.Errorf("%s: %+v, want %d", version, got, want)
		}
	}
}

// What master(8) ends at, where postconf says nothing: each was seen on a
// running Postfix 3.7.11.
func TestMasterFaults(t *testing.T) {
	need(t, "postconf")
	host := Host{
		Interfaces: []string{"127.0.0.1", "::1"},
		Resolve: func(name string) []string {
			if name == "localhost" {
				return []string{"127.0.0.1", "::1"}
			}
			return nil
		},
		Services: func(string) int { return 0 },
	}
	const rest = "tlsmgr unix - - y 1000? 1 tlsmgr\nrewrite unix - - y - - trivial-rewrite\n"
	tests := []struct{ name, main, entry, want string }{
		{"stock", "", "smtp inet n - y - - smtpd", ""},
		{"a port's name nobody knows", "", "nosuchport inet n - y - - smtpd", `no such TCP port: "nosuchport"`},
		{"not smtpd's alone", "", "nosuchport inet n - y - - spawn", `no such TCP port: "nosuchport"`},
		{"a number is a port", "", "70000 inet n - y - - smtpd", ""},
		{"not quite a number", "", "25x inet n - y - - smtpd", "garbage after numerical service"},
		{"no port", "", "127.0.0.1: inet n - y - - smtpd", "missing service information"},
		{"bracket", "", "[::1 inet n - y - - smtpd", `missing "]"`},
		{"behind the bracket", "", "[::1]25 inet n - y - - smtpd", `garbage after "]"`},
		{"bracket without port", "", "[::1]: inet n - y - - smtpd", "missing service information"},
		{"a host nobody knows", "", "nosuch.invalid:25 inet n - y - - smtpd", "bad hostname or network address"},
		{"a host that is known", "", "localhost:2525 inet n - y - - smtpd", ""},
		{"no address at all", "", "256.1.1.1:25 inet n - y - - smtpd", "bad hostname or network address"},
		{"another protocol's address", "inet_protocols = ipv4\n", "[::1]:25 inet n - y - - smtpd", "bad hostname or network address"},
		{"private", "", "smtp inet y - y - - smtpd", "inet service cannot be private"},
		{"private by default", "", "smtp inet - - y - - smtpd", "inet service cannot be private"},
		{"no command", "", "smtp inet n - y - - -", "no default value"},
		{"text behind braces", "", "smtp inet n - y - - smtpd -o {a=b}x", "braces"},
		{"long name", "", strings.Repeat("n", 120) + " unix n - y - - smtpd", "name too long"},
		{"long fifo", "", strings.Repeat("n", 120) + " fifo n - y - - pickup", ""},
		{"two for one address", "", "127.0.0.1:2525 inet n - y - - smtpd\nlocalhost:2525 inet n - y - - smtpd", ""},
		{"two by a wildcard", "inet_interfaces = all\n", "2525 inet n - y - - smtpd\n127.0.0.1:2525 inet n - y - - smtpd", ""},
		{"one endpoint twice", "", "smtp inet n - y - - smtpd\n25 inet n - y - - smtpd", ""},
		{"two protocols", "inet_interfaces = all\n", "0.0.0.0:2525 inet n - y - - smtpd\n[::]:2525 inet n - y - - smtpd", ""},
		{"disabled", "master_service_disable = nosuchport/inet\n", "nosuchport inet y - y - - -", ""},
		{"throttle time", "service_throttle_time = soon\n", "smtp inet n - y - - smtpd", "service_throttle_time"},
		{"throttle time 0", "service_throttle_time = 0\n", "smtp inet n - y - - smtpd", "service_throttle_time"},
		{"throttle time in minutes", "service_throttle_time = 1m\n", "smtp inet n - y - - smtpd", ""},
		{"postlog", "maillog_file = /var/log/mail.log\n", "smtp inet n - y - - smtpd", "no entry postlog/unix-dgram"},
		{"tlsmgr", "master_service_disable = tlsmgr/unix\n", "smtp inet n - y - - smtpd", "no entry tlsmgr/unix"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := snapshotOf(t, "inet_interfaces = loopback-only\n"+tt.main, tt.entry+"\n"+rest)
			var got []string
			for _, f := range s.MasterFaults(host) {
				got = append(got, f.Text)
			}
			if all := strings.Join(got, "; "); len(got) > 1 || !strings.Contains(all, tt.want) || tt.want == "" && all != "" {
				t.Errorf("got %q, want %q", all, tt.want)
			}
		})
	}
}
