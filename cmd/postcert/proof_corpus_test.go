package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// corpusShards is how many hosts share the corpus among them.
const corpusShards = 6

// R23: each pair of the corpus becomes the /etc/postfix of a host, byte for
// byte, and gets a certificate. Then only the planned lines differ, by a line
// differ that knows nothing of ours and by postconf; mode, owner, attributes,
// access lists and links stay. Afterwards one half is undone, by a reload that
// fails, and nothing differs; the other half is released, and only times do.
func TestProofCorpus(t *testing.T) {
	postfixtest.Shards(t, corpusShards, func(t *testing.T, shard int) {
		w := newCorpusWorld(t)
		for i, p := range corpus(t) {
			if i%corpusShards == shard {
				t.Run(p.name, func(t *testing.T) { w.try(t, p, i) })
			}
		}
		var said []string
		for _, k := range slices.Sorted(maps.Keys(w.counts)) {
			said = append(said, fmt.Sprintf("%s %d", k, w.counts[k]))
		}
		t.Logf("R23: shard %d: %s", shard, strings.Join(said, ", "))
	})
}

// corpusWorld is a machine whose /etc, /var and /opt are its own, so that the
// files of the corpus can name what they name on a real host.
type corpusWorld struct {
	root, ca *certtest.CA
	trust    string
	exe      string
	counts   map[string]int

	parameters map[string]string // those that Postfix itself has: postconf -d
	log        *syslog
}

// newCorpusWorld must be called in namespaces of its own: it mounts over the
// directories of the host.
func newCorpusWorld(t *testing.T) *corpusWorld {
	t.Helper()
	postfixtest.Need(t, "postfix", "postmap", "openssl")
	if !postfixtest.Isolated() {
		t.Fatal("no namespaces of our own")
	}
	sh(t, `
		set -e
		cp -a /etc /run/etc
		rm -f /run/etc/postfix/main.cf /run/etc/postfix/master.cf
		cp -a /run/etc/postfix /run/pristine
		mount --bind /run/etc /etc
		mkdir /run/dev && mount -t tmpfs -o mode=755 corpus /run/dev
		cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /run/dev
		ln -s /proc/self/fd /run/dev/fd
		mount --bind /run/dev /dev
		for d in /var /opt /home /usr/local/etc /usr/libexec; do mount -t tmpfs -o mode=755 corpus $d; done
		mkdir -p /var/lib /var/log /var/spool /var/db /var/mail
		ln -s /usr/lib/postfix/sbin /usr/libexec/postfix
		: >/etc/resolv.conf
		cp /run/etc/hosts /run/hosts
		echo '127.0.0.1 localhost' >/run/hosts
		echo '::1 localhost ip6-localhost' >>/run/hosts
		for n in mail mx lists out client relay bsd server1 box zimbra host; do echo "127.0.1.1 $n.example.test" >>/run/hosts; done
		cat /run/hosts >/etc/hosts`)
	w := &corpusWorld{root: certtest.NewCA(t, certtest.Authority{}), counts: map[string]int{}, trust: "/run/root.pem"}
	w.ca = w.root.Intermediate(t, certtest.Authority{})
	if err := os.WriteFile(w.trust, certtest.EncodeCerts(w.root.Cert), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.exe, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("postconf", "-d").Output()
	if err != nil {
		t.Fatal(err)
	}
	w.parameters = map[string]string{}
	for name, value := range settings(string(out)) {
		w.parameters[name] = value + "."
	}
	w.log = listenSyslog(t)
	return w
}

// syslog keeps what is logged to /dev/log, for when a pair fails.
type syslog struct {
	sync.Mutex
	lines []string
}

func listenSyslog(t *testing.T) *syslog {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/dev/log", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := os.Chmod("/dev/log", 0o666); err != nil {
		t.Fatal(err)
	}
	s := &syslog{}
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			s.Lock()
			s.lines = append(s.lines, string(buf[:n]))
			s.Unlock()
		}
	}()
	return s
}

// since is what was logged after the first n lines, and how many there are.
func (s *syslog) since(n int) (string, int) {
	s.Lock()
	defer s.Unlock()
	return strings.Join(s.lines[n:], "\n"), len(s.lines)
}

// corpusHost is a host with one pair of the corpus.
type corpusHost struct {
	*host
	pair         corpusPair
	world        *corpusWorld
	main, master string // the real files
	names        []string
}

// try is the life of one pair.
func (w *corpusWorld) try(t *testing.T, p corpusPair, number int) {
	_, logged := w.log.since(0)
	defer func() {
		if t.Failed() {
			text, _ := w.log.since(logged)
			t.Logf("Postfix logged:\n%s", text)
		}
	}()
	h := w.host(t, p)
	h.start()
	defer h.stop()
	lineage := h.lineage(certtest.Leaf{Names: h.names})
	args := append([]string{"install-cert", lineage, "--json"}, p.args...)
	before := h.look()
	tree := postfixtest.Tree(t, p.dir)
	nothing := func() {
		t.Helper()
		for _, d := range postfixtest.Compare(tree, postfixtest.Tree(t, p.dir)) {
			t.Errorf("differs: %s", d)
		}
		h.judgeNothing(before, h.look(), true)
	}
	switch {
	case p.refused != "":
		w.counts["refused"]++
		h.postcert(args...).want(3).says(`"` + p.refused + `"`)
		nothing()
	case number%2 == 0:
		w.counts["undone"]++
		var during sight
		a := h.committed(func() { during = h.look() }, args...).want(4)
		h.judge(a, before, during)
		nothing()
	default:
		w.counts["released"]++
		a := h.postcert(args...).want(p.exit)
		h.judge(a, before, h.look())
		h.postcert("release").want(p.exit)
		h.judgeNothing(before, h.look(), false)
	}
}

// committed runs postcert, calls f while it waits with everything committed, and
// lets the reload that follows fail.
func (h *corpusHost) committed(f func(), args ...string) answer {
	h.t.Helper()
	mark := filepath.Join(h.dir, "paused")
	var stdout, stderr bytes.Buffer
	cmd := h.with(failAt+"=Reload 1", pauseAt+"=commit end="+mark).command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan bool)
	go func() { _ = cmd.Wait(); close(done) }() // the status is in ProcessState
	for wait := true; wait; {
		select {
		case <-done:
			wait = false
		case <-time.After(5 * time.Millisecond):
			if _, err := os.Stat(mark); err == nil {
				f()
				if err := os.Remove(mark); err != nil {
					h.t.Error(err)
				}
				<-done
				wait = false
			}
		}
	}
	return answer{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), h.t}
}

// host lays the pair on a machine without anything of the one before.
func (w *corpusWorld) host(t *testing.T, p corpusPair) *corpusHost {
	t.Helper()
	sh(t, `rm -rf /etc/postfix /etc/postfix-out /etc/managed /etc/letsencrypt /usr/local/etc/* /var/spool/* /run/state /run/rehearse; cp -a /run/pristine /etc/postfix`)
	h := &corpusHost{pair: p, world: w}
	h.host = &host{t: t, root: w.root, ca: w.ca, state: "/run/state", run: "/run/rehearse", trust: w.trust, dir: t.TempDir(), exe: w.exe,
		pf: &postfixtest.Instance{ConfigDir: p.dir}, env: []string{testDeadline + "=20s"}}
	var err error
	if h.main, h.master, err = p.lay(""); err != nil {
		t.Fatal(err)
	}
	h.queue(h.value("queue_directory"), h.value("data_directory"))
	h.names = []string{h.value("myhostname")}
	h.certificates()
	h.tables()
	return h
}

// value is what a parameter is for postconf.
func (h *corpusHost) value(name string) string {
	h.t.Helper()
	return strings.TrimSpace(h.postconf("-xh", name))
}

// postconf asks the real postconf, the witness of what the files mean.
func (h *corpusHost) postconf(args ...string) string {
	h.t.Helper()
	cmd := exec.Command("postconf", append([]string{"-c", h.pair.dir}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("postconf %q: %v", args, err)
	}
	return string(out)
}

// queue makes the directories that Postfix needs.
func (h *corpusHost) queue(queue, data string) {
	h.t.Helper()
	for _, dir := range []string{queue, data} {
		if !strings.HasPrefix(dir, "/var/") {
			h.t.Fatalf("%s is not in a place of our own", dir)
		}
	}
	if _, err := user.Lookup("postfix"); err != nil {
		h.t.Fatal(err)
	}
	sh(h.t, `
		set -e
		q=%s d=%s
		mkdir -p $q $d && chown postfix:root $d && chmod 700 $d
		mkdir -p $q/pid $q/etc
		for n in incoming active bounce corrupt defer deferred flush hold saved trace; do mkdir -p $q/$n; chown postfix:root $q/$n; chmod 700 $q/$n; done
		mkdir -p $q/private $q/public $q/maildrop
		chown postfix:root $q/private; chmod 700 $q/private
		chown postfix:postdrop $q/public $q/maildrop; chmod 2710 $q/public; chmod 1730 $q/maildrop`, queue, data)
	h.pf.QueueDir, h.pf.DataDir = queue, data
	if h.value("smtpd_sasl_type") == "dovecot" || strings.Contains(string(h.pair.master), "dovecot") {
		h.auth(filepath.Join(queue, "private/auth"))
	}
}

// auth answers smtpd as Dovecot's authentication service does: without one,
// smtpd ends.
func (h *corpusHost) auth(path string) {
	h.t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	if err := os.Chmod(path, 0o666); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintf(conn, "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t00\nDONE\n")
				_, _ = conn.Read(make([]byte, 1<<16)) // until smtpd hangs up
				for {
					if _, err := conn.Read(make([]byte, 1<<16)); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// start starts a master with the pair, and fails the test if it does not come.
func (h *corpusHost) start() {
	h.t.Helper()
	out, err := exec.Command("/usr/lib/postfix/sbin/master", "-c", h.pair.dir, "-w").CombinedOutput()
	if err != nil {
		h.t.Fatalf("master does not start: %v %s", err, out)
	}
}

func (h *corpusHost) stop() {
	pid := h.pf.MasterPID()
	if pid == 0 {
		h.t.Error("no master runs")
		return
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if syscall.Kill(-pid, 0) == syscall.ESRCH {
			return
		}
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	time.Sleep(50 * time.Millisecond)
}

// certificates makes the files that the configuration names. Those of
// certbot's directories are trusted, and of the name of the directory.
func (h *corpusHost) certificates() {
	h.t.Helper()
	contexts := []map[string]string{settings(h.postconf("-x"))}
	overrides := map[string]map[string]string{}
	for key, value := range settings(h.postconf("-Px")) {
		i := strings.LastIndexByte(key, '/')
		if overrides[key[:i]] == nil {
			overrides[key[:i]] = maps.Clone(contexts[0])
		}
		overrides[key[:i]][key[i+1:]] = value
	}
	for _, id := range slices.Sorted(maps.Keys(overrides)) {
		contexts = append(contexts, overrides[id])
	}
	made := map[string]*certtest.Pair{}
	for i, c := range contexts {
		if file := c["smtpd_tls_CAfile"]; file != "" && file != c["smtpd_tls_cert_file"] {
			h.put(file, certtest.EncodeCerts(h.root.Cert)) // without it TLS is off
		}
		chain := strings.FieldsFunc(c["smtpd_tls_chain_files"], func(r rune) bool { return r == ',' || r == ' ' })
		for k, file := range chain {
			kind := "ecdsa"
			if len(chain) > 1 && k == 0 {
				kind = "rsa"
			}
			if filepath.Base(file) == "privkey.pem" && k+1 < len(chain) {
				pair := h.made(made, chain[k+1], "ecdsa", i == 0)
				h.put(file, pair.KeyPEM())
				h.put(chain[k+1], pair.FullchainPEM())
				break
			}
			h.put(file, h.made(made, file, kind, i == 0).PostfixPEM())
		}
		for _, slot := range []struct{ cert, key, kind string }{{"cert", "key", "rsa"}, {"eccert", "eckey", "ecdsa"}} {
			cert, key := c["smtpd_tls_"+slot.cert+"_file"], c["smtpd_tls_"+slot.key+"_file"]
			switch pair := h.made(made, cert, slot.kind, i == 0); {
			case pair == nil:
			case cert == key:
				h.put(cert, pair.PostfixPEM())
			default:
				h.put(cert, pair.FullchainPEM())
				h.put(key, pair.KeyPEM())
			}
		}
	}
}

// made is the certificate of a path: one for each. Trusted ones of main.cf set
// what names the new one must have.
func (h *corpusHost) made(all map[string]*certtest.Pair, path, kind string, main bool) *certtest.Pair {
	h.t.Helper()
	if path == "" || path == "none" {
		return nil
	}
	if all[path] == nil {
		leaf := certtest.Leaf{Names: []string{h.names[0]}, Key: kind}
		rest, trusted := strings.CutPrefix(path, "/etc/letsencrypt/live/")
		if trusted {
			leaf.Names = []string{filepath.Dir(rest)}
			all[path] = h.ca.Leaf(h.t, leaf)
		} else {
			all[path] = certtest.SelfSigned(h.t, leaf)
		}
		if trusted && main && !slices.Contains(h.names, leaf.Names[0]) {
			h.names = append(h.names, leaf.Names[0])
		}
	}
	return all[path]
}

// put writes a file that Postfix reads; a relative path is one below the queue.
func (h *corpusHost) put(path string, data []byte) {
	h.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(h.pf.QueueDir, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.write(path, data)
}

// tables makes the tables of tls_server_sni_maps, for another name.
func (h *corpusHost) tables() {
	h.t.Helper()
	table := h.value("tls_server_sni_maps")
	kind, path, found := strings.Cut(table, ":")
	if !found {
		return
	}
	const own = "/etc/letsencrypt/live/shop.example.net/all.pem"
	h.put(own, h.ca.Leaf(h.t, certtest.Leaf{Names: []string{"shop.example.net"}}).PostfixPEM())
	h.put(path, []byte("shop.example.net "+own+"\n"))
	if kind == "hash" {
		sh(h.t, "postmap -c %s -F hash:%s", h.pair.dir, path)
	}
}

// settings reads what postconf prints, by name.
func settings(out string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ="); ok {
			all[name] = strings.TrimSpace(value)
		}
	}
	// $process_id is postconf's own; debugger_command names it on many hosts.
	if pid := all["process_id"]; pid != "" {
		for name, value := range all {
			all[name] = strings.ReplaceAll(value, " "+pid+" ", " PID ")
		}
		delete(all, "process_id")
	}
	return all
}

// sight is all that can be seen of the configuration at one moment.
type sight struct {
	laid
	other string              // what the second name of main.cf leads to
	asked []map[string]string // what postconf says, to each of views
}

// views are the questions to postconf: as written and expanded.
var views = [][]string{nil, {"-P"}, {"-x"}, {"-Px"}}

func (h *corpusHost) look() sight {
	h.t.Helper()
	s := sight{laid: readLaid(h.t, h.pair.dir, h.main, h.master)}
	if h.pair.hard {
		data, err := os.ReadFile(filepath.Join(h.pair.dir, "main.cf.linked"))
		if err != nil {
			h.t.Error(err)
		}
		s.other = string(data)
	}
	for _, v := range views {
		s.asked = append(s.asked, settings(h.postconf(v...)))
	}
	return s
}

// judge holds a change against its plan.
func (h *corpusHost) judge(a answer, before, after sight) {
	t := h.t
	t.Helper()
	var out struct {
		Plan struct {
			Edits      []plannedEdit
			Dependants []string
		}
	}
	if err := json.Unmarshal([]byte(a.stdout), &out); err != nil {
		t.Fatal(err)
	}
	edits := out.Plan.Edits
	h.world.counts["edits"] += len(edits)
	judgeEdits(t, edits, slices.Contains(h.pair.args, "--enable"))
	judgeMain(t, []byte(before.main), []byte(after.main), edits)
	judgeMaster(t, []byte(before.master), []byte(after.master), edits)
	h.judgeInodes(before, after, false)
	for i := range views {
		h.judgeView(i, before.asked[i], after.asked[i], edits, out.Plan.Dependants)
	}
	if t.Failed() {
		t.Logf("main.cf:\n%smaster.cf:\n%sthe plan: %s", diffWords(hunks([]byte(before.main), []byte(after.main))), diffWords(hunks([]byte(before.master), []byte(after.master))), a.planBytes())
	}
}

// judgeView compares two answers of postconf: the names that differ are those
// of the plan, and, expanded, those that follow by reference.
func (h *corpusHost) judgeView(view int, before, after map[string]string, edits []plannedEdit, dependants []string) {
	h.t.Helper()
	parameters := h.world.parameters
	overrides, expanded := view%2 == 1, view >= 2
	want := map[string]bool{}
	for _, e := range edits {
		if (e.Service != "") == overrides {
			want[strings.TrimPrefix(e.Service+"/"+e.Parameter, "/")] = true
		}
	}
	for _, d := range dependants {
		if service, name, found := strings.Cut(d, ":"); expanded && found == overrides {
			if found {
				d = service + "/" + name
			}
			want[d] = true
		}
	}
	got := map[string]bool{}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(before)), slices.Collect(maps.Keys(after))) {
		_, was := before[name]
		_, is := after[name]
		// postconf prints a parameter of the administrator's own only as long
		// as another one names it; judgeMain has looked at its line.
		own := was != is && parameters[name] == "" && !overrides
		if before[name] != after[name] && !own {
			got[name] = true
		}
	}
	if !maps.Equal(got, want) {
		h.t.Errorf("postconf %q: %v differ, planned are %v", views[view], slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// judgeInodes compares what the two files are beside their bytes.
func (h *corpusHost) judgeInodes(before, after sight, times bool) {
	h.t.Helper()
	for _, c := range []struct {
		name string
		a, b inode
	}{{"main.cf", before.mainAt, after.mainAt}, {"master.cf", before.masterAt, after.masterAt}, {"the file behind main.cf", before.real, after.real}} {
		if !times {
			c.a.mtime, c.b.mtime = time.Time{}, time.Time{}
		}
		if h.pair.hard {
			// A file is replaced, not written into: the second name keeps what
			// it had, and is a file of its own from then on.
			c.a.links, c.b.links = 0, 0
		}
		if c.a != c.b {
			h.t.Errorf("%s is %+v, was %+v", c.name, c.b, c.a)
		}
	}
	if before.other != after.other {
		h.t.Error("the second name of main.cf leads to other bytes")
	}
}

// judgeNothing fails the test if anything differs; times counts modification
// times too.
func (h *corpusHost) judgeNothing(before, after sight, times bool) {
	h.t.Helper()
	for _, c := range []struct{ name, a, b string }{{"main.cf", before.main, after.main}, {"master.cf", before.master, after.master}} {
		if c.a != c.b {
			h.t.Errorf("%s is not what it was: %s", c.name, diffWords(hunks([]byte(c.a), []byte(c.b))))
		}
	}
	h.judgeInodes(before, after, times)
	for i, v := range views {
		if !maps.Equal(before.asked[i], after.asked[i]) {
			h.t.Errorf("postconf %q is another one", v)
		}
	}
}
