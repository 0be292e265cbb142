package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postcert/deploy/postfix/cf"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// trusted writes a pair of the host's CA as one file, as Postfix reads it, and
// returns the path and the leaf's fingerprint.
func (h *host) trusted(l certtest.Leaf) (path, leaf string) {
	h.t.Helper()
	p := h.leaf(l)
	return h.pairFile("trusted.pem", p.PostfixPEM()), postfixtest.Fingerprint(p.Cert.Raw)
}

// configured adds lines to main.cf, reloads, and waits until port 25 serves leaf.
func (h *host) configured(leaf string, lines ...string) {
	h.t.Helper()
	h.pf.AppendMain(lines...)
	h.pf.Reload()
	postfixtest.WaitServed(h.t, postfixtest.SMTP, postfixtest.StartTLS, leaf)
}

// changed are the lines that an edit took away and added, with their signs.
func changed(before, after []byte) []string {
	var out []string
	for line := range strings.Lines(cf.Diff("file", before, after)) {
		if strings.HasPrefix(line, "---") || strings.HasPrefix(line, "+++") || line[0] != '+' && line[0] != '-' {
			continue
		}
		out = append(out, strings.TrimSuffix(line, "\n"))
	}
	return out
}

// wantServed fails the test unless openssl is shown leaf at addr.
func (h *host) wantServed(addr string, mode postfixtest.Mode, leaf string, args ...string) {
	h.t.Helper()
	if got, err := postfixtest.ServedLeaf(h.t, addr, mode, args...); err != nil || got != leaf {
		h.t.Errorf("%s %q serves %s (%v), want %s", addr, args, got, err, leaf)
	}
}

// ours is the file that Postfix reads after an install.
func (h *host) ours() string { return filepath.Join(h.pf.ConfigDir, "tls", hostName+".pem") }

// settings writes a configuration file with a setting of the instance.
func (h *host) settings(lines ...string) string {
	h.t.Helper()
	text := "instances:\n  - config_directory: " + h.pf.ConfigDir + "\n"
	for _, l := range lines {
		text += "    " + l + "\n"
	}
	return h.pairFile("postcert.yaml", []byte(text))
}

// S15: chain files beside legacy parameters: those that Postfix heeds are set.
func TestS15ChainFilesBesideLegacy(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	old, leaf := h.trusted(certtest.Leaf{})
	h.configured(leaf, "smtpd_tls_chain_files = "+old)
	before := h.pf.Main()
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(0).says("legacy_ignored").says("+smtpd_tls_chain_files = " + h.ours())
	h.serves(h.leafOf(l))
	want := []string{"-smtpd_tls_chain_files = " + old, "+smtpd_tls_chain_files = " + h.ours()}
	if got := changed(before, h.pf.Main()); !slices.Equal(got, want) {
		t.Errorf("main.cf changed by %q, want %q", got, want)
	}
}

// S16: whatever way the parameters name the old pair, the diff is shown, and
// the old files stay as they are.
func TestS16Naming(t *testing.T) {
	tests := []struct {
		name  string
		lines func(dir string) []string // dir holds pair.pem
		want  []string                  // added lines; FILE is ours
	}{
		{"symlink", func(dir string) []string {
			return []string{"smtpd_tls_cert_file = " + dir + "/link.pem"}
		}, []string{"+smtpd_tls_cert_file = FILE"}},
		{"cert_file is key_file", func(dir string) []string {
			return []string{"smtpd_tls_cert_file = " + dir + "/pair.pem", "smtpd_tls_key_file = " + dir + "/pair.pem"}
		}, []string{"+smtpd_tls_cert_file = FILE", "+smtpd_tls_key_file = $smtpd_tls_cert_file"}},
		{"macro", func(dir string) []string {
			return []string{"smtpd_tls_cert_file = $config_directory/old/$mydomain.pem", "smtpd_tls_key_file = ${smtpd_tls_cert_file}"}
		}, []string{"+smtpd_tls_cert_file = FILE"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, postfixtest.Options{})
			dir := filepath.Join(h.pf.ConfigDir, "old")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			p := h.leaf(certtest.Leaf{})
			h.write(dir+"/pair.pem", p.PostfixPEM())
			h.write(dir+"/example.test.pem", p.PostfixPEM())
			if err := os.Symlink("pair.pem", dir+"/link.pem"); err != nil {
				t.Fatal(err)
			}
			h.configured(postfixtest.Fingerprint(p.Cert.Raw), tt.lines(dir)...)
			before, files := h.pf.Main(), postfixtest.Tree(t, dir)
			l := h.lineage(certtest.Leaf{})
			a := h.postcert("install-cert", l).want(0)
			h.serves(h.leafOf(l))
			var added []string
			for _, line := range changed(before, h.pf.Main()) {
				a.says(line)
				if line[0] == '+' {
					added = append(added, strings.ReplaceAll(line, h.ours(), "FILE"))
				}
			}
			if !slices.Equal(added, tt.want) {
				t.Errorf("added %q, want %q", added, tt.want)
			}
			for _, d := range postfixtest.Compare(files, postfixtest.Tree(t, dir)) {
				t.Errorf("old file: %s", d)
			}
		})
	}
}

// S16: what could not be put back byte by byte is not edited. What is kept for
// an undo and a release is JSON, which knows UTF-8 only.
// The trap of a full log socket is told before the reload. The socket has its
// size from the moment in which master made it.
func TestS16LogSocket(t *testing.T) {
	const limit = "/proc/sys/net/unix/max_dgram_qlen"
	before, err := os.ReadFile(limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(limit, []byte("10\n"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(limit, before, 0) })
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"mydestination = a.test", "mydestination = b.test"}})
	h.postcert("install-cert", h.lineage(certtest.Leaf{}), "--dry-run").want(0).says("[log_socket_small]")
}

func TestS16ValueNotUTF8(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	old, leaf := h.trusted(certtest.Leaf{})
	latin1 := filepath.Join(filepath.Dir(old), "caf\xe9.pem")
	if err := os.Rename(old, latin1); err != nil {
		t.Fatal(err)
	}
	h.configured(leaf, "smtpd_tls_chain_files = "+latin1)
	l := h.lineage(certtest.Leaf{})
	h.untouched(func() { h.postcert("install-cert", l).want(3).says("value_not_utf8").says("main.cf") })
}

// S16: of several chain files the one of the pair's key type is replaced, and
// main.cf that is a symbolic link stays one.
func TestS16TwoKeyTypes(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	oldRSA, _ := h.trusted(certtest.Leaf{Key: "rsa"})
	ecdsa, ecLeaf := h.trusted(certtest.Leaf{Key: "ecdsa"})
	main := filepath.Join(h.pf.ConfigDir, "main.cf")
	real := filepath.Join(h.pf.Dir, "main.real")
	if err := os.Rename(main, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../main.real", main); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "smtpd_tls_chain_files = "+oldRSA+",\n  "+ecdsa+"\n"...)
	if err := os.WriteFile(real, text, 0o644); err != nil {
		t.Fatal(err)
	}
	h.pf.Reload()
	postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, ecLeaf, "-sigalgs", "ecdsa_secp256r1_sha256")
	l := h.lineage(certtest.Leaf{Key: "rsa"})
	h.postcert("install-cert", l).want(0)
	for addr, mode := range listeners {
		h.wantServed(addr, mode, h.leafOf(l), "-sigalgs", "rsa_pss_rsae_sha256")
		h.wantServed(addr, mode, ecLeaf, "-sigalgs", "ecdsa_secp256r1_sha256")
	}
	if got, want := h.pf.Postconf("-xh", "smtpd_tls_chain_files"), h.ours()+", "+ecdsa; got != want {
		t.Errorf("smtpd_tls_chain_files = %s, want %s", got, want)
	}
	if target, err := os.Readlink(main); err != nil || target != "../main.real" {
		t.Errorf("main.cf points to %q, %v", target, err)
	}
}

// overridden gives the service on 465 a certificate of its own.
func (h *host) overridden(file string) {
	h.t.Helper()
	h.pf.ReplaceMaster("  -o smtpd_tls_wrappermode=yes\n", "  -o smtpd_tls_wrappermode=yes\n"+
		"  -o smtpd_tls_cert_file="+file+"\n  -o smtpd_tls_key_file=$smtpd_tls_cert_file\n  -o smtpd_client_connection_count_limit=40\n")
	h.pf.Reload()
}

// overrideLine is the line of master.cf that names file.
func (h *host) overrideLine(file string) int {
	before, _, _ := strings.Cut(string(h.pf.Master()), file)
	return strings.Count(before, "\n") + 1
}

// S17: an override that would go on naming the old pair is refused by service
// and line; with --adopt-overrides it, and nothing else, is changed.
func TestS17Override(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	stale := h.pairFile("stale.pem", nil)
	leaf := postfixtest.WritePair(t, stale, hostName)
	h.overridden(stale)
	postfixtest.WaitServed(t, postfixtest.Submissions, postfixtest.Implicit, leaf)
	l := h.lineage(certtest.Leaf{})
	before, master, first := h.pf.Files(), h.pf.Master(), h.served()
	h.postcert("install-cert", l).want(3).says("override_present").says("submissions/inet").
		says(fmt.Sprintf("line %d", h.overrideLine(stale))).says("--adopt-overrides")
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("changed: %s", d)
	}
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, first)
	h.wantServed(postfixtest.Submissions, postfixtest.Implicit, leaf)

	h.postcert("install-cert", l, "--adopt-overrides").want(0)
	h.serves(h.leafOf(l))
	for _, line := range changed(master, h.pf.Master()) {
		if !strings.Contains(line, "smtpd_tls_cert_file") {
			t.Errorf("master.cf: %s", line)
		}
	}
	if !strings.Contains(string(h.pf.Master()), "-o smtpd_tls_cert_file="+h.ours()) {
		t.Errorf("the override was not adopted:\n%s", h.pf.Master())
	}
}

// S17: a trusted certificate of other names is somebody's intent: left alone,
// and proven to be served as before.
func TestS17Intent(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	own, leaf := h.trusted(certtest.Leaf{Names: []string{"other.example.test"}})
	h.overridden(own)
	postfixtest.WaitServed(t, postfixtest.Submissions, postfixtest.Implicit, leaf)
	master := h.pf.Master()
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l).want(0).says("left alone").says(own)
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, h.leafOf(l))
	h.wantServed(postfixtest.Submission, postfixtest.StartTLS, h.leafOf(l))
	h.wantServed(postfixtest.Submissions, postfixtest.Implicit, leaf)
	if got := changed(master, h.pf.Master()); len(got) > 0 {
		t.Errorf("master.cf changed: %q", got)
	}
}

// S18: every service entry is asked where it listens, and none is added or
// removed; of two entries for one port the last holds.
func TestS18Services(t *testing.T) {
	const n = "      inet  n       -       n       -       -       smtpd"
	h := newHost(t, postfixtest.Options{Only25: true, Master: []string{
		"127.0.0.1:465" + n, "  -o smtpd_tls_wrappermode=yes",
		"[::1]:587" + n, "2525" + n,
		"2465" + n, "2465" + n, "  -o smtpd_tls_wrappermode=yes",
	}})
	master := h.pf.Master()
	l := h.lineage(certtest.Leaf{})
	a := h.postcert("install-cert", l, "--json").want(0)
	asked := map[string]string{}
	for _, v := range a.json()["plan"].(map[string]any)["listeners"].([]any) {
		m := v.(map[string]any)
		asked[m["endpoint"].(string)] = m["mode"].(string)
	}
	want := map[string]postfixtest.Mode{
		"127.0.0.1:25": postfixtest.StartTLS, "[::1]:25": postfixtest.StartTLS, "127.0.0.1:465": postfixtest.Implicit, "[::1]:587": postfixtest.StartTLS,
		"127.0.0.1:2525": postfixtest.StartTLS, "[::1]:2525": postfixtest.StartTLS, "127.0.0.1:2465": postfixtest.Implicit, "[::1]:2465": postfixtest.Implicit,
	}
	for addr, mode := range want {
		if asked[addr] != string(mode) {
			t.Errorf("%s was asked by %q, want %q", addr, asked[addr], mode)
		}
		h.wantServed(addr, mode, h.leafOf(l))
	}
	if len(asked) != len(want) {
		t.Errorf("asked %v", asked)
	}
	if got := changed(master, h.pf.Master()); len(got) > 0 {
		t.Errorf("master.cf changed: %q", got)
	}
}

// S18: layout pair keeps the key out of smtpd_tls_cert_file and switches both
// files by one replacement of main.cf; layout keep edits nothing.
func TestS18Layouts(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	conf := h.settings("layout: pair")
	for range 2 {
		l := h.lineage(certtest.Leaf{})
		h.postcert("install-cert", l, "--config", conf).want(0)
		h.serves(h.leafOf(l))
	}
	cert, key := h.pf.Postconf("-xh", "smtpd_tls_cert_file"), h.pf.Postconf("-xh", "smtpd_tls_key_file")
	data, err := os.ReadFile(cert)
	if err != nil || strings.Contains(string(data), "PRIVATE") {
		t.Errorf("%s holds a key, or %v", cert, err)
	}
	if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 || key == cert {
		t.Errorf("%s: %v, %v", key, st, err)
	}
	left, err := filepath.Glob(filepath.Join(h.pf.ConfigDir, "tls", "*.pem"))
	if err != nil || len(left) != 2 {
		t.Errorf("%q, want one pair", left)
	}

	// keep: the pair lies where main.cf points to, and is only proven.
	keep := h.settings("layout: keep")
	l := h.lineage(certtest.Leaf{})
	h.untouched(func() { h.postcert("install-cert", l, "--config", keep).want(3).says("keep_differs") })
	h.configured(h.leafOf(l), "smtpd_tls_cert_file = "+l+"/fullchain.pem", "smtpd_tls_key_file = "+l+"/privkey.pem")
	h.untouched(func() { h.postcert("install-cert", l, "--config", keep).want(0) })
}

// S18: --service gives the pair to one service.
func TestS18OneService(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	first := h.served()
	l := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", l, "--service", "submissions/inet").want(0)
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, first)
	h.wantServed(postfixtest.Submission, postfixtest.StartTLS, first)
	h.wantServed(postfixtest.Submissions, postfixtest.Implicit, h.leafOf(l))
	h.postcert("install-cert", l, "--service", "imaps/inet").want(3).says("service_unknown")
}

// S18: where TLS is off, it is switched on only when asked for.
func TestS18Enable(t *testing.T) {
	h := newHost(t, postfixtest.Options{Only25: true, Main: []string{"smtpd_tls_security_level ="}})
	l := h.lineage(certtest.Leaf{})
	before := h.pf.Files()
	h.postcert("install-cert", l).want(3).says("tls_not_enabled").says("--enable")
	for _, d := range postfixtest.Compare(before, h.pf.Files()) {
		t.Errorf("changed: %s", d)
	}
	h.postcert("install-cert", l, "--enable").want(0).says("+smtpd_tls_security_level = may")
	h.wantServed(postfixtest.SMTP, postfixtest.StartTLS, h.leafOf(l))
}

// S19, S20: a table that answers for a name of the pair would go on serving
// its own copy, so the change is refused; a table of other names is proven to
// go on answering as before.
func TestS19SNIMaps(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	own, ownLeaf := h.trusted(certtest.Leaf{Names: []string{"shop.example.test"}})
	old, oldLeaf := h.trusted(certtest.Leaf{})
	table := filepath.Join(h.pf.ConfigDir, "sni")
	put := func(lines ...string) {
		t.Helper()
		h.write(table, []byte(strings.Join(lines, "\n")+"\n"))
		if out, err := exec.Command("postmap", "-c", h.pf.ConfigDir, "-F", "hash:"+table).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	put("shop.example.test "+own, hostName+" "+old)
	h.pf.AppendMain("tls_server_sni_maps = hash:" + table)
	h.pf.Reload()
	postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, oldLeaf, "-servername", hostName)
	l := h.lineage(certtest.Leaf{})
	h.untouched(func() {
		h.postcert("install-cert", l).want(3).says("sni_maps_present").says(hostName)
	})
	put("shop.example.test " + own)
	h.pf.Reload()
	h.postcert("install-cert", l).want(0)
	h.serves(h.leafOf(l))
	for addr, mode := range listeners {
		h.wantServed(addr, mode, ownLeaf, "-servername", "shop.example.test")
		h.wantServed(addr, mode, h.leafOf(l), "-servername", hostName)
	}
}
