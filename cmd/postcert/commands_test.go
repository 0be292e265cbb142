package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// within runs a command line in this process: for what needs no Postfix.
func within(t *testing.T, args ...string) answer {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{env: map[string]string{}, stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
	status := run(context.Background(), a, args)
	return answer{stdout.String(), stderr.String(), status, t}
}

// ids are the ids of the problems in a JSON answer.
func (a answer) ids() []string {
	a.t.Helper()
	var out []string
	list, ok := a.json()["problems"].([]any)
	if !ok {
		a.t.Fatalf("no list of problems in %s", a.stdout)
	}
	for _, p := range list {
		out = append(out, p.(map[string]any)["id"].(string))
	}
	return out
}

// refuses fails the test unless the command was refused with this id.
func (a answer) refuses(status int, id string) {
	a.t.Helper()
	if a.want(status); !slices.Contains(a.ids(), id) {
		a.t.Errorf("problems %v, want %s among them", a.ids(), id)
	}
}

func (h *host) installed() string { return filepath.Join(h.pf.ConfigDir, "tls", hostName+".pem") }

// Rollback: to the generation before, to a named one, and not into nothing.
func TestCommandRollback(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	h.untouched(func() { h.postcert("rollback", "--json").refuses(3, "name_unknown") })
	first, second := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	h.postcert("install-cert", first).want(0)
	h.untouched(func() { h.postcert("rollback", "--json").refuses(3, "generation_unknown") })
	h.postcert("install-cert", second).want(0)

	h.untouched(func() { h.postcert("rollback", "--dry-run").want(0).says("nothing was changed") })
	h.postcert("rollback").want(0)
	h.serves(h.leafOf(first))
	h.untouched(func() {
		h.postcert("rollback", "--json").refuses(3, "generation_unknown")
		h.postcert("rollback", "--to", "9", "--json").refuses(3, "generation_unknown")
		h.postcert("rollback", "--to", "-1", "--json").refuses(2, "usage")
		h.postcert("rollback", "other.example.test", "--json").refuses(3, "generation_unknown")
	})
	got := h.postcert("rollback", hostName, "--to", "2", "--json").want(0).json()
	if n := got["transaction"].(map[string]any)["generation"]; n != 2.0 {
		t.Errorf("generation %v, want the 2nd again", n)
	}
	h.serves(h.leafOf(second))
	h.postcert("status").want(0)

	h.pf.Stop()
	h.postcert("rollback").want(9).says("not running")
	h.postcert("status", "--json").refuses(8, "not_running")
	h.pf.Start()
	h.serves(h.leafOf(first))
	h.postcert("status").want(0)
	h.historySays(
		"install-cert installed", "install-cert installed", "rollback to 1 installed",
		"rollback to 2 installed", "rollback to 1 not_verified",
	)
}

// historySays compares the history with lines of reason and outcome.
func (h *host) historySays(want ...string) {
	h.t.Helper()
	var got []string
	for _, r := range h.postcert("history", "--json").want(0).json()["history"].([]any) {
		r := r.(map[string]any)
		got = append(got, fmt.Sprint(r["reason"], " ", r["outcome"]))
	}
	if !slices.Equal(got, want) {
		h.t.Errorf("history:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	text := h.postcert("history").want(0)
	for _, w := range want {
		text.says(w[strings.LastIndexByte(w, ' ')+1:])
	}
	if n := len(h.postcert("history", "other.example.test", "--json").want(0).json()["history"].([]any)); n != 0 {
		h.t.Errorf("%d records of a name that was never used", n)
	}
}

// Release gives back what stood there before the last adoption: between two of
// them the lines are the administrator's.
func TestCommandReleaseTwice(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	h.postcert("release").want(0)
	own, leaf := h.trusted(certtest.Leaf{})
	h.configured(leaf, "smtpd_tls_cert_file = "+own, "smtpd_tls_key_file = "+own)
	before := h.pf.Main()
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	h.postcert("release").want(0)
	h.serves(leaf)
	if got := h.pf.Main(); string(got) != string(before) {
		t.Errorf("main.cf after the second release:\n%s\nwant:\n%s", got, before)
	}
}

// Release gives the certificate back: the lines that were touched are what they
// were, and what others wrote since stays.
func TestCommandRelease(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{"# the administrator's own words", "smtpd_tls_eccert_file =", "smtpd_helo_required = no"}})
	before, leaf := h.pf.Main(), h.served()
	h.untouched(func() { h.postcert("release", "--json").refuses(3, "not_adopted") })
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)
	h.pf.ReplaceMain("smtpd_helo_required = no\n", "smtpd_helo_required = yes\n# added by someone\n")
	h.postcert("install-cert", h.lineage(certtest.Leaf{})).want(0)

	h.untouched(func() { h.postcert("release", "--dry-run").want(0) })
	h.postcert("release").want(0)
	h.serves(leaf)
	want := strings.Replace(string(before), "smtpd_helo_required = no\n", "smtpd_helo_required = yes\n# added by someone\n", 1)
	if got := string(h.pf.Main()); got != want {
		t.Errorf("main.cf after the release:\n%s\nwant:\n%s", got, want)
	}
	h.untouched(func() {
		h.postcert("release", "--json").refuses(3, "not_adopted")
		h.postcert("release", hostName, "--json").refuses(3, "not_adopted")
	})
	// What was released is nobody's wish any more.
	h.postcert("status").want(8).says("nothing is installed")
	// And it may be adopted again.
	again := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", again).want(0)
	h.serves(h.leafOf(again))
	h.postcert("status").want(0)
}

// Status fails until what is wanted is installed and served, and says why.
func TestCommandStatus(t *testing.T) {
	// A pair that only OpenSSL rejects: ECDSA where RSA alone is allowed. So a
	// deploy without rehearsal is contradicted, and undone.
	h := newHost(t, postfixtest.Options{Main: []string{
		"smtpd_tls_exclude_ciphers = aECDSA", "smtpd_tls_protocols = <=TLSv1.2", "smtpd_tls_mandatory_protocols = <=TLSv1.2",
	}})
	h.postcert("status").want(8).says("nothing is installed")
	first, second := h.lineage(certtest.Leaf{Key: "rsa"}), h.lineage(certtest.Leaf{Key: "rsa"})
	h.postcert("install-cert", first).want(0)
	old, err := os.ReadFile(h.installed())
	if err != nil {
		t.Fatal(err)
	}
	main := h.pf.Main()
	h.postcert("install-cert", second).want(0)
	good, err := os.ReadFile(h.installed())
	if err != nil {
		t.Fatal(err)
	}
	got := h.postcert("status", "--json").want(0).json()
	one := got["certificates"].([]any)[0].(map[string]any)
	if one["agrees"] != true || one["name"] != hostName {
		t.Errorf("status says %v of %v", one["agrees"], one["name"])
	}
	h.postcert("status", hostName).want(0)
	h.postcert("status", "other.example.test", "--json").refuses(3, "name_unknown")

	h.write(h.installed(), old) // somebody restores a backup, and does not reload
	h.postcert("status", "--json").refuses(8, "wanted_not_installed")
	h.pf.Reload()
	postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, h.leafOf(first))
	h.postcert("status", "--json").refuses(8, "wanted_not_installed")
	h.write(h.installed(), good) // now the file is right, and what is served is not
	h.postcert("status", "--json").refuses(8, "served_differs")
	h.pf.Reload()
	postfixtest.WaitServed(t, postfixtest.SMTP, postfixtest.StartTLS, h.leafOf(second))
	h.postcert("status").want(0)

	h.pf.SetMain(bytes.ReplaceAll(main, []byte(h.installed()), []byte(filepath.Join(h.dir, "first.pem"))))
	h.postcert("status", "--json").refuses(8, "wanted_not_installed") // somebody edits main.cf back
	h.postcert("status", hostName, "--json").refuses(8, "wanted_not_installed")
	h.pf.SetMain(main)

	h.pf.Reload()
	h.postcert("install-cert", h.lineage(certtest.Leaf{Key: "ecdsa"}), "--no-rehearsal", "--json").refuses(4, "rolled_back")
	h.serves(h.leafOf(second))
	h.postcert("status", "--json").refuses(8, "wanted_not_installed")
}

// Probe asks the instance, or what it is told to ask.
func TestCommandProbe(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	h.postcert("probe", "127.0.0.1:25").want(8).says("127.0.0.1:25") // self-signed
	first := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", first).want(0)
	trust := []string{"--trust", h.trust}
	ask := func(args ...string) answer {
		return h.postcert(append(append([]string{"probe"}, args...), trust...)...)
	}
	h.untouched(func() {
		all := ask("--json").want(0).json()["listeners"].([]any)
		if len(all) < 3 {
			t.Errorf("%d listeners asked, want at least 3", len(all))
		}
		for _, l := range all {
			if !strings.Contains(fmt.Sprint(l), h.leafOf(first)) {
				t.Errorf("not the leaf that openssl is shown: %v", l)
			}
		}
		ask("127.0.0.1:25", "127.0.0.1:465", "smtps://127.0.0.1", "smtp://127.0.0.1:587").want(0)
		ask("127.0.0.1:587", "--sni", hostName).want(0)
		ask("127.0.0.1:587", "--sni", "other.example.test").want(8).says("does not cover other.example.test")
		ask("127.0.0.1:26").want(8).says("no connection")
		ask("127.0.0.1:26", "127.0.0.1:25").want(8).says("1 of 2")
		ask("-v", "127.0.0.1:25").want(0).says("EHLO").says("STARTTLS")
		ask("127.0.0.1:25", "--key-type", "rsa").want(8)
		for _, wrong := range []string{"gopher://127.0.0.1", "nonsense", "smtp://", "smtp://127.0.0.1/path", "127.0.0.1:"} {
			ask(wrong, "--json").refuses(2, "usage")
		}
		ask("127.0.0.1:25", "--key-type", "dsa", "--json").refuses(2, "usage")
	})
	h.pf.Stop()
	ask().want(8).says("no connection")
}

// Several instances and none named: who changes refuses and lists them, who
// asks treats all.
func TestCommandSeveralInstances(t *testing.T) {
	h := newHost(t, postfixtest.Options{Main: []string{"multi_instance_enable = yes"}})
	cert := filepath.Join(h.dir, "second.pem")
	postfixtest.WritePair(t, cert, hostName)
	other := postfixtest.New(t, postfixtest.Options{Cert: cert, Name: "postfix-in", Address: postfixtest.SecondAddress})
	h.pf.AppendMain("multi_instance_directories = " + other.ConfigDir)
	if err := syscall.Mount(h.pf.ConfigDir, "/etc/postfix", "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount("/etc/postfix", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	unnamed := func(args ...string) answer {
		cmd := h.command(args...)
		i := slices.Index(cmd.Args, h.pf.ConfigDir) - 1
		cmd.Args = slices.Delete(cmd.Args, i, i+2)
		return h.finish(cmd)
	}
	for _, args := range [][]string{{"install-cert", h.lineage(certtest.Leaf{})}, {"rollback"}, {"release"}} {
		a := unnamed(append(args, "--json")...)
		a.refuses(2, "instance_ambiguous")
		a.says("postfix-in").says(other.ConfigDir).says("/etc/postfix")
	}
	unnamed("status").want(8).says("nothing is installed")
	unnamed("history").want(0)
	unnamed("status", "--instance", "postfix-in").want(8)
	unnamed("status", "--instance", "postfix-out", "--json").refuses(2, "instance_unknown")
	unnamed("install-cert", h.lineage(certtest.Leaf{}), "--instance", "/etc/postfix").want(0)
	unnamed("status").want(0).says("/etc/postfix")

	// One that Postfix cannot read does not keep the others from being asked.
	other.SetMain([]byte("this is no parameter\n"))
	unnamed("status").want(8).says("/etc/postfix").says("config_broken").says(hostName).says("yes")
	unnamed("history").want(3).says("config_broken").says("installed")
	unnamed("probe").want(3).says("config_broken").says(hostName)
	h.untouched(func() {
		unnamed("install-cert", h.lineage(certtest.Leaf{}), "--json").refuses(3, "config_broken")
	})
}

// Verify judges a pair and touches nothing.
func TestCommandVerify(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	good, other := h.lineage(certtest.Leaf{}), h.lineage(certtest.Leaf{})
	file := func(dir, name string) string { return filepath.Join(dir, name) }
	h.untouched(func() {
		h.postcert("verify", good).want(0).says("accepted")
		h.postcert("verify", "--cert", file(good, "fullchain.pem"), "--key", file(good, "privkey.pem"), "--host", hostName).want(0)
		h.postcert("verify", good, "--host", "other.example.test", "--json").refuses(3, "name_mismatch")
		h.postcert("verify", "--cert", file(good, "fullchain.pem"), "--key", file(other, "privkey.pem"), "--json").refuses(3, "key_mismatch")
		h.postcert("verify", "--cert", file(good, "cert.pem"), "--key", file(good, "privkey.pem"), "--json").refuses(3, "chain_incomplete")
		h.postcert("verify", filepath.Join(h.dir, "nothing"), "--json").refuses(3, "input_missing")
		h.postcert("verify", "--json").refuses(2, "usage")
		h.postcert("verify", good, "--cert", file(good, "cert.pem"), "--json").refuses(2, "usage")
		h.postcert("verify", good, other, "--json").refuses(2, "usage")
	})
	if _, err := os.Stat(h.state); !os.IsNotExist(err) {
		t.Errorf("verify made %s (%v)", h.state, err)
	}
}

// Config says with file and line what is wrong; every other command refuses to
// run with that.
func TestCommandConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postcert.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("state_dir: /srv/state\n")
	within(t, "config", "check", path).want(0).says("is right")
	within(t, "config", "show", "--config", path).want(0).says("/srv/state")
	within(t, "config", "check", "--config", path).want(0)

	write("state_dir: /srv/state\nstate_dri: /srv\n")
	within(t, "config", "check", path).want(8).says("postcert.yaml:2").says("state_dir")
	within(t, "config", "check", path, "--json").refuses(8, "config_unknown_key")
	within(t, "config", "show", "--config", path, "--json").refuses(2, "config_unknown_key")
	within(t, "status", "--config", path, "--json").refuses(2, "config_unknown_key")
	within(t, "config", "check", path+".none", "--json").refuses(8, "config_unreadable")
	within(t, "config").want(0).says("config check")
}

func TestCommandVersion(t *testing.T) {
	within(t, "version").want(0).says("postcert ")
	if v := within(t, "version", "--json").want(0).json()["version"]; v == "" || v == nil {
		t.Errorf("version %v", v)
	}
	// A broken configuration must not keep anybody from the version.
	within(t, "version", "--config", "/nowhere.yaml").want(0)
}

func TestCommandCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "complete -o default", "zsh": "#compdef postcert", "fish": "complete -c postcert"} {
		within(t, "completion", shell).want(0).says(want)
	}
	within(t, "__complete", "inst").want(0).says("install-cert")
}

// What cannot be understood is a usage error: exit status 2, and with --json an
// object on standard output too, wherever --json stands.
func TestCommandUsage(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"}, {"--nonsense"}, {"status", "--nonsense"}, {"status", "a", "b"}, {"install-cert", "a", "b"},
		{"rollback", "--to", "x"}, {"version", "x"}, {"config", "nonsense"}, {"recover", "x"}, {"--timeout", "5", "status"},
		{"completion", "nonsense"}, {"probe", "smtp://]"}, {"probe", "a"}, {"probe", "http://a"},
	} {
		text := within(t, args...).want(2)
		if text.stdout != "" || text.stderr == "" {
			t.Errorf("%v: standard output %q, error %q", args, text.stdout, text.stderr)
		}
		within(t, append(slices.Clone(args), "--json")...).refuses(2, "usage")
		within(t, append([]string{"--json"}, args...)...).refuses(2, "usage")
	}
}

// Help of every command tells the exit statuses; of those that take more than a
// name, examples too.
func TestCommandHelp(t *testing.T) {
	within(t).want(0).says("EXIT STATUS")
	for _, cmd := range (&app{}).commands() {
		help := within(t, cmd.Name(), "--help").want(0).says("EXIT STATUS").says("not in this list is a failure")
		within(t, "help", cmd.Name()).want(0).says("EXIT STATUS")
		if slices.Contains([]string{"install-cert", "verify", "probe", "rollback", "release", "status"}, cmd.Name()) {
			help.says("Examples:")
		}
		for _, sub := range cmd.Commands() {
			within(t, cmd.Name(), sub.Name(), "--help").want(0).says("EXIT STATUS")
		}
	}
}
