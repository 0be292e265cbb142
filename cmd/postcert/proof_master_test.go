package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// masterShards is how many hosts share the mutations among them.
const masterShards = 5

// R27: 300 damaged master.cf and main.cf, each on disk of a host whose master
// still runs with the good ones. A change is refused, or ends well, and at no
// time is the master asked to read what it would end at. The judge is the
// master itself: after a refusal it is sent a SIGHUP by hand.
func TestProofDamagedConfiguration(t *testing.T) {
	postfixtest.Shards(t, masterShards, func(t *testing.T, shard int) {
		h := newHost(t, postfixtest.Options{Main: damagedMain, Master: damagedMaster})
		r := &damageRun{host: h, main: string(h.pf.Main()), master: string(h.pf.Master()), counts: map[string]int{}}
		h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
		r.main = string(h.pf.Main())
		all := damages(r.main, r.master)
		if len(all) < 300 {
			t.Fatalf("%d mutations, want 300", len(all))
		}
		for i, d := range chosen(all) {
			if i%masterShards == shard {
				h.at(d.name, func(h *host) { r.run(h, d) })
			}
		}
		var said []string
		for _, k := range slices.Sorted(maps.Keys(r.counts)) {
			said = append(said, fmt.Sprintf("%s %d", k, r.counts[k]))
		}
		t.Logf("R27: shard %d: %s; the longest without a master %v", shard, strings.Join(said, ", "), r.away.Round(time.Millisecond))
	})
}

// chosen are one of five mutations, always the same; all with POSTCERT_LONG.
func chosen(all []damage) []damage {
	var out []damage
	for i, d := range all {
		if long || i%5 == 0 {
			out = append(out, d)
		}
	}
	return out
}

// damage is one mutation: what stands in the two files instead.
type damage struct{ name, main, master string }

// damageRun is one host and what was seen on it.
type damageRun struct {
	*host
	main, master string // the good ones
	counts       map[string]int
	away         time.Duration // the longest time without a master
}

// run installs a new pair with the damaged files on disk.
func (r *damageRun) run(h *host, d damage) {
	t := h.t
	t.Helper()
	defer r.repair(h)
	pid, leaf := h.pf.MasterPID(), h.served()
	lineage := h.lineage(certtest.Leaf{})
	h.pf.SetMain([]byte(d.main))
	h.pf.SetMaster([]byte(d.master))
	before, logged := h.pf.Files(), len(h.pf.Log())
	watch := watchMaster(h)
	a := h.postcert("install-cert", lineage)
	away := watch()
	r.away = max(r.away, away)
	reloads := strings.Count(h.pf.Log()[logged:], "reload -- version")
	switch {
	case h.pf.MasterPID() != pid:
		t.Errorf("the master is another one after our reload: exit status %d, without a master for %v\n%s%s", a.status, away, a.stdout, a.stderr)
		r.counts["master lost"]++
		return
	case a.status == 0 || a.status == 9:
		r.counts[fmt.Sprintf("installed (exit %d)", a.status)]++
		for addr, got := range h.answers() {
			if got != h.leafOf(lineage) {
				// What the damage took away is gone: a port that moved, a daemon
				// that does not exist. Another certificate is no excuse, but of
				// a process of before where it was said that nothing is proven.
				r.counts["of these with a listener that the damage takes away"]++
				t.Logf("exit status %d, %s: %s", a.status, addr, got)
				if !strings.HasPrefix(got, "no ") && !(a.status == 9 && got == leaf) {
					t.Errorf("%s serves %s", addr, got)
				}
			}
		}
		return
	case a.status == 3 && reloads == 0, a.status == 1 && reloads == 0:
		r.counts[fmt.Sprintf("refused (exit %d)", a.status)]++
	default:
		r.counts[fmt.Sprintf("exit %d", a.status)]++
		t.Errorf("exit status %d, %d reloads\n%s%s", a.status, reloads, a.stdout, a.stderr)
	}
	for _, diff := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("refused, and changed: %s", diff)
	}
	if d.main == r.main {
		h.serves(leaf)
	} else {
		// Each new smtpd reads the damaged main.cf, whatever we do.
		for addr, got := range h.answers() {
			if got != leaf && !strings.HasPrefix(got, "no ") {
				t.Errorf("refused, and %s serves %s, was %s", addr, got, leaf)
			}
		}
	}
	if h.masterAccepts() {
		r.counts["of these accepted by master"]++
		t.Logf("refused, though master accepts it: %s", a.stderr)
	}
}

// answers is what openssl is shown on each listener: a fingerprint, or why
// there is none, beginning with "no ".
func (h *host) answers() map[string]string {
	h.t.Helper()
	type answer struct{ addr, leaf string }
	got := make(chan answer)
	for addr, mode := range listeners {
		go func() {
			leaf, err := "no answer", error(nil)
			if talks(addr, mode) {
				leaf, err = postfixtest.ServedLeaf(h.t, addr, mode)
			}
			if err != nil {
				leaf = "no TLS"
			}
			got <- answer{addr, leaf}
		}()
	}
	out := map[string]string{}
	for range listeners {
		a := <-got
		out[a.addr] = a.leaf
	}
	return out
}

// talks tells whether somebody at addr says a word, of SMTP or TLS: openssl would
// wait for it for 30 s.
func talks(addr string, mode postfixtest.Mode) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return false
	}
	if mode == postfixtest.Implicit {
		hello := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		var silence net.Error
		err := hello.Handshake()
		return !errors.As(err, &silence) || !silence.Timeout()
	}
	n, err := conn.Read(make([]byte, 3))
	return err == nil && n > 0
}

// watchMaster measures how long no master runs, until the function returned is
// called.
func watchMaster(h *host) func() time.Duration {
	done, out := make(chan bool), make(chan time.Duration)
	go func() {
		var away time.Duration
		gone := time.Time{}
		for {
			select {
			case <-done:
				out <- away
				return
			case <-time.After(10 * time.Millisecond):
			}
			switch alive := h.pf.MasterPID() != 0; {
			case alive:
				gone = time.Time{}
			case gone.IsZero():
				gone = time.Now()
			default:
				away = max(away, time.Since(gone))
			}
		}
	}()
	return func() time.Duration { close(done); return <-out }
}

// masterAccepts sends the master a SIGHUP and waits for what becomes of it: the
// reload begins with a line in the log, and a master that does not like what
// it reads logs "fatal:" and ends a second later.
func (h *host) masterAccepts() bool {
	h.t.Helper()
	pid, logged := h.pf.MasterPID(), len(h.pf.Log())
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		h.t.Error(err)
	}
	begun := time.Now()
	for time.Since(begun) < 2500*time.Millisecond {
		if h.pf.MasterPID() != pid {
			return false
		}
		if log := h.pf.Log()[logged:]; strings.Contains(log, "postfix/master") && strings.Contains(log, "fatal:") {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// repair puts the good files back and lets a master run with them, until port 25
// serves what is installed.
func (r *damageRun) repair(h *host) {
	h.t.Helper()
	h.pf.SetMain([]byte(r.main))
	h.pf.SetMaster([]byte(r.master))
	h.pf.Stop()
	h.pf.Start()
	if open, err := filepath.Glob(filepath.Join(h.state, "journal", "*")); err != nil || len(open) > 0 {
		h.postcert("recover").want(0)
	}
	pair, err := os.ReadFile(filepath.Join(h.pf.ConfigDir, "tls", hostName+".pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	_, chain, _ := bytes.Cut(pair, []byte("-----BEGIN CERT"))
	leaf, _ := pem.Decode(append([]byte("-----BEGIN CERT"), chain...))
	postfixtest.WaitServed(h.t, postfixtest.SMTP, postfixtest.StartTLS, postfixtest.Fingerprint(leaf.Bytes))
}

// damagedMain and damagedMaster make a host that has one of each.
var (
	damagedMain   = []string{"policy_time_limit = 3600"}
	damagedMaster = []string{
		"127.0.0.1:10025 inet n - n - - smtpd",
		"  -o content_filter=",
		"  -o { mynetworks = 127.0.0.0/8 [::1]/128 }",
		"628 inet n - n - - qmqpd",
		"policy unix - n n - 0 spawn",
		"  user=nobody argv=/bin/false",
		"old fifo n - n 300 1 pickup",
		"smtpd pass - - n - - smtpd",
		"maildrop unix - n n - - pipe",
		"  flags=DRhu user=nobody argv=/bin/false -d ${recipient}",
	}
)

// damages are the mutations, in a fixed order.
func damages(main, master string) []damage {
	var out []damage
	entries := []string{"smtp inet", "submission inet", "127.0.0.1:10025 inet", "628 inet", "policy unix", "old fifo", "smtpd pass", "postlog unix-dgram", "pickup unix"}
	for _, e := range entries {
		for _, m := range fieldDamages {
			if m.inet && !strings.HasSuffix(e, " inet") {
				continue
			}
			name := fmt.Sprintf("%s: %s %s", e, fieldNames[m.field], m.value)
			if text, ok := withField(master, e, m.field, m.value); ok {
				out = append(out, damage{name, main, text})
			}
		}
	}
	for _, l := range lineDamages {
		out = append(out, damage{"line " + l, main, master + l + "\n"})
	}
	for _, w := range wholeDamages {
		out = append(out, damage{w.name, main, w.change(master)})
	}
	for _, l := range mainDamages {
		out = append(out, damage{"main.cf: " + l, main + l + "\n", master})
	}
	return out
}

var fieldNames = []string{"name", "type", "private", "unprivileged", "chroot", "wakeup", "maxproc", "command"}

// fieldDamages are values that a field gets in each of several entries; inet
// ones only in entries of that type.
var fieldDamages = []struct {
	field int
	value string
	inet  bool
}{
	{0, "nosuchport", true}, {0, "nosuch.host.invalid:25", true}, {0, "192.0.2.99:2525", true}, {0, "[2001:db8::99]:2525", true},
	{0, "127.0.0.1:", true}, {0, "[::1", true}, {0, "70000", true}, {0, "256.1.1.1:2525", true}, {0, "0", true}, {0, "127.0.0.1:nosuchport", true},
	{0, "no/such/dir", false},
	{1, "inett", false}, {1, "INET", false}, {1, "tcp", false}, {1, "-", false}, {1, "unix", true},
	{2, "x", false}, {2, "Y", false}, {2, "yes", false}, {2, "-", true}, {2, "y", true},
	{3, "1", false}, {3, "N", false},
	{4, "no", false}, {4, "?", false},
	{5, "soon", false}, {5, "-1", false}, {5, "60s", false}, {5, "?", false},
	{6, "many", false}, {6, "-5", false}, {6, "3x", false}, {6, "99999999999", false},
	{7, "", false}, {7, "-", false}, {7, "nosuchdaemon", false}, {7, "../../../../bin/true", false},
}

// withField replaces a field of the entry that begins with these words.
func withField(master, entry string, field int, value string) (string, bool) {
	lines := strings.Split(master, "\n")
	for i, l := range lines {
		f := strings.Fields(l)
		if len(f) < 8 || l[0] == ' ' || l[0] == '#' || f[0]+" "+f[1] != entry || f[field] == value {
			continue
		}
		f[field] = value
		lines[i] = strings.Join(f, " ")
		return strings.Join(lines, "\n"), true
	}
	return master, false
}

// lineDamages are lines added at the end of master.cf.
var lineDamages = []string{
	"x", "smtps inet", "smtps inet n - n - -", "smtps", "a b c d e f g", "smtps inet n - n - - smtpd -o", "smtps inet n - n - - smtpd -o { a = b",
	"smtps inet n - n - - smtpd -o {a=b}x", "smtps inet n - n - - smtpd {", "smtps inet n - n - - smtpd -o nothing", "smtps inet n - n - - smtpd -Q",
	"2526 inet n - n - - smtpd -o smtpd_tls_security_level=bogus", "2526 inet n - n - - smtpd -o smtpd_timeout=soon", "2526 inet n - n - - smtpd stray",
	"smtp inet n - n - - smtpd", "25 inet n - n - - smtpd", "127.0.0.1:25 inet n - n - - smtpd", "localhost:2526 inet n - n - - smtpd",
	"[::1]:2526 inet n - n - - smtpd", "::1:2526 inet n - n - - smtpd", "[ipv6:::1]:2526 inet n - n - - smtpd", "2526 inet n - n - - smtpd -v -v",
	"0.0.0.0:2526 inet n - n - - smtpd", "[127.0.0.1]:2526 inet n - n - - smtpd", "/tmp/x unix n - n - - smtpd", ". unix n - n - - smtpd",
	strings.Repeat("n", 120) + " unix n - n - - smtpd", "cleanup unix n - n - 0 cleanup", "defer fifo - - n - 0 bounce", "x inet n - n - - smtpd",
	"2526 inet n - n - - /usr/bin/env", "2526 inet n - n - - SMTPD", "ghost unix - - n - - pipe", "ghost unix - - n - - pipe argv=", "ghost unix - n n - - spawn",
	"\xff\xfe inet n - n - - smtpd", "2526 inet n - n - - smtpd \x01", "127.0.0.1:2526 inet n - n 60 0 smtpd", "127.0.0.1:10025 inet n - n - - cleanup",
	"192.0.2.99:2526 inet n - n - - qmqpd", "192.0.2.99:2526 inet n - n - - spawn", "nosuchport inet n - n - - spawn", "nosuch.host.invalid:99 inet n - n - - spawn",
	"10000000000 inet n - n - - spawn", "missing/dir unix - - n - - spawn",
}

// wholeDamages change the file as a whole.
var wholeDamages = []struct {
	name   string
	change func(master string) string
}{
	{"empty", func(string) string { return "" }},
	{"comments alone", func(string) string { return "# nothing\n" }},
	{"indented first line", func(m string) string { return "  -o a=b\n" + m }},
	{"all indented", func(m string) string { return " " + strings.ReplaceAll(m, "\n", "\n ") }},
	{"NUL byte", func(m string) string { return m + "\x00\n" }},
	{"NUL in a field", func(m string) string { return strings.Replace(m, "smtpd", "smt\x00d", 1) }},
	{"cut in the middle", func(m string) string { return m[:len(m)/2] }},
	{"cut in an entry", func(m string) string { return m[:strings.Index(m, "cleanup")+9] }},
	{"no newline at the end", func(m string) string { return strings.TrimSuffix(m, "\n") }},
	{"CRLF", func(m string) string { return strings.ReplaceAll(m, "\n", "\r\n") }},
	{"CR alone", func(m string) string { return strings.ReplaceAll(m, "\n", "\r") }},
	{"a byte order mark", func(m string) string { return "\xef\xbb\xbf" + m }},
	{"twice", func(m string) string { return m + m }},
	{"no port 25", func(m string) string { return strings.Replace(m, "smtp      inet", "#smtp      inet", 1) }},
	{"no cleanup", func(m string) string { return strings.Replace(m, "cleanup   unix", "#cleanup   unix", 1) }},
	{"no tlsmgr", func(m string) string { return strings.Replace(m, "tlsmgr    unix", "#tlsmgr    unix", 1) }},
	{"no rewrite", func(m string) string { return strings.Replace(m, "rewrite   unix", "#rewrite   unix", 1) }},
	{"no postlog", func(m string) string { return strings.Replace(m, "postlog   unix", "#postlog   unix", 1) }},
	{"a merge conflict", func(m string) string { return "<<<<<<< HEAD\n" + m + "=======\n>>>>>>> other\n" }},
	{"HTML", func(string) string { return "<html><body>404 Not Found</body></html>\n" }},
	{"a line of 100 kB", func(m string) string { return m + "  -o a=" + strings.Repeat("b", 100000) + "\n" }},
	{"ten thousand entries", func(m string) string {
		return m + strings.Repeat("ghost unix - - n - - pipe\n", 10000)
	}},
	{"trailing comment", func(m string) string { return strings.Replace(m, "1       pickup", "1       pickup # local mail", 1) }},
}

// mainDamages are lines added at the end of main.cf.
var mainDamages = []string{
	"no equals sign", "= value", "<<<<<<< HEAD", "a =", "inet_protocols = bogus", "inet_protocols =", "inet_protocols = ipv4", "inet_interfaces = nosuch.host.invalid",
	"inet_interfaces = 192.0.2.99", "inet_interfaces = all", "default_process_limit = many", "default_process_limit = 0", "default_process_limit = -1",
	"service_throttle_time = soon", "service_throttle_time = 0", "service_throttle_time = 1x", "mail_owner = nosuchuser", "mail_owner = root", "setgid_group = nosuchgroup",
	"setgid_group = postfix", "default_privs = nosuchuser", "default_privs = root", "daemon_directory = /nonexistent", "daemon_directory =", "data_directory = /nonexistent/data",
	"queue_directory = /nonexistent/queue", "command_directory = /nonexistent", "compatibility_level = bogus", "compatibility_level = 99", "compatibility_level = 3.x",
	"master_service_disable = inet", "master_service_disable = smtp.inet", "master_service_disable = bogus/", "master_service_disable = a.b.c", "message_size_limit = big",
	"message_size_limit = 1", "mailbox_size_limit = -1", "myhostname =", "myhostname = nodot", "myhostname = -bad-", "mydomain = a b", "mynetworks = 300.1.1.1", "mynetworks = 10.0.0.1/8",
	"mynetworks_style = bogus", "smtpd_tls_security_level = bogus", "smtpd_tls_loglevel = loud", "smtpd_tls_protocols = bogus", "smtpd_tls_mandatory_protocols = >=TLSv9", "tls_high_cipherlist =",
	"smtpd_use_tls = maybe", "smtpd_enforce_tls = 1", "biff = perhaps", "soft_bounce = x", "in_flow_delay = x", "max_idle = never", "max_use = 0", "max_use = x",
	"smtpd_timeout = 5y", "hash_queue_depth = 99", "line_length_limit = 1", "import_environment = a b", "export_environment = =", "multi_instance_name = bad name",
	"multi_instance_enable = maybe", "config_directory = /nonexistent", "alias_maps = bogus:/x", "smtpd_banner = $myhostname ${", "smtpd_banner = $(", "smtpd_banner = ${a?b", "myhostname = $myhostname",
	"mydomain = $myhostname", "syslog_name =", "syslog_facility = bogus", "maillog_file = relative", "maillog_file = /nonexistent/x", "maillog_file = /etc/x", "enable_long_queue_ids = maybe",
	"inet_interfaces =", "proxy_interfaces = x", "process_id_directory = /x", "process_id_directory = nosuch", "address_verify_map = bogus", "mail_release_date = x", "known_tcp_ports = smtp=99", "known_tcp_ports = x=",
	"smtpd_milters = bogus", "smtpd_sasl_type = bogus", "smtpd_sasl_auth_enable = maybe", "content_filter = a b", "policy_time_limit = soon", "transport_maps = regexp:/nonexistent",
}

// The mutations are 300 and more, and no two are the same files.
func TestDamagesAreDifferent(t *testing.T) {
	entries := "smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd\npostlog unix-dgram n - n - 1 postlogd\npickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\n"
	seen := map[string]string{}
	main, master := "a = b\n", strings.Join(damagedMaster, "\n")+"\n"+entries
	good := main + "\x00" + master // this one lacks what some are about
	all := damages(main, master)
	for _, d := range all {
		key := d.main + "\x00" + d.master
		if other, found := seen[key]; found && key != good {
			t.Errorf("%s is %s", d.name, other)
		}
		seen[key] = d.name
	}
	if n := len(all); n < 300 {
		t.Errorf("%d mutations, want 300", n)
	}
}

// Somebody breaks master.cf between our commit and our undo: the files are put
// back, and the master is not asked to read what it would end at.
func TestUndoSparesMaster(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	leaf, pid, main := h.served(), h.pf.MasterPID(), string(h.pf.Main())
	broken := func() { h.pf.AppendMaster("nosuchport inet n - n - - smtpd") }
	h.with(failAt+"=Reload 1").during("commit end", broken, "install-cert", h.lineage(certtest.Leaf{})).
		want(5).says("a reload would end Postfix").says("nosuchport")
	h.postcert("recover").want(5).says("nosuchport")
	if got := h.pf.MasterPID(); got != pid {
		t.Errorf("master is process %d, was %d", got, pid)
	}
	if got := string(h.pf.Main()); got != main {
		t.Errorf("main.cf is\n%s\nwas\n%s", got, main)
	}
	h.serves(leaf)
	h.pf.ReplaceMaster("nosuchport inet n - n - - smtpd\n", "")
	h.postcert("recover").want(0)
	h.serves(leaf)
}
