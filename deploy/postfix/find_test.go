package postfix

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

// primary puts the configuration of an instance in the place of /etc/postfix,
// in the test's own mount namespace.
func primary(t *testing.T, o postfixtest.Options) *fixture {
	t.Helper()
	f := newFixture(t, o)
	if err := syscall.Mount(f.ConfigDir, "/etc/postfix", "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount("/etc/postfix", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return f
}

func multi(dirs ...string) string {
	return "multi_instance_directories = " + strings.Join(dirs, " ")
}

func TestFind(t *testing.T) {
	const enable = "multi_instance_enable = yes"
	null := []string{"master_service_disable = inet", enable}
	tests := []struct {
		name     string
		primary  []string              // added to main.cf of the primary instance
		master   []string              // added to its master.cf
		others   []postfixtest.Options // secondary instances
		stale    bool                  // one more directory, which is gone
		ask      string
		want     string // names found
		id       string // problem
		contains string // in its message
	}{
		{name: "the only one", want: "-"},
		{name: "the only one, multi_instance_enable unset", primary: []string{"multi_instance_enable = no"}, want: "-"},
		{name: "stale directory passed over", primary: []string{enable}, stale: true, want: "-"},
		{name: "stale directory named", primary: []string{enable}, stale: true, ask: "gone", id: "instance_unknown", contains: "/gone/main.cf"},
		{name: "null client and one that listens", primary: null, others: []postfixtest.Options{{Name: "postfix-in"}}, want: "postfix-in"},
		{name: "several", primary: []string{enable}, others: []postfixtest.Options{{Name: "postfix-in"}}, want: "-, postfix-in", id: "instance_ambiguous", contains: "postfix-in (/"},
		{name: "one disabled", primary: []string{enable}, others: []postfixtest.Options{{Name: "postfix-in", Main: []string{"multi_instance_enable = no"}}}, want: "-"},
		{name: "by name", primary: []string{enable}, others: []postfixtest.Options{{Name: "postfix-in"}}, ask: "postfix-in", want: "postfix-in"},
		{name: "primary by its sign", primary: []string{enable}, others: []postfixtest.Options{{Name: "postfix-in"}}, ask: "-", want: "-"},
		{name: "no such name", others: []postfixtest.Options{{Name: "postfix-in"}}, ask: "postfix-out", id: "instance_unknown", contains: `"postfix-out"; there are: /etc/postfix: disabled, postfix-in (/`},
		{name: "by directory", others: []postfixtest.Options{{Name: "postfix-in"}}, ask: "DIR0", want: "postfix-in"},
		{name: "no such directory", ask: "/nowhere", id: "instance_unknown", contains: "/nowhere/main.cf"},
		{name: "no TLS anywhere, one instance", primary: []string{"smtpd_tls_security_level = none", "master_service_disable = submission.inet submissions.inet"}, want: "-"},
		{name: "a secondary one is broken", primary: []string{enable}, others: []postfixtest.Options{{Name: "postfix-in", Main: []string{"no equals"}}}, want: "-", id: "config_broken", contains: "missing '='"},
		{name: "the master.cf of a secondary one is broken", primary: []string{enable}, others: []postfixtest.Options{{Name: "postfix-in", Master: []string{"smtps inet n"}}}, want: "-", id: "config_broken", contains: "master.cf"},
		{name: "the primary one is broken", primary: []string{"no equals"}, id: "config_broken", contains: "missing '='"},
		{name: "the master.cf of the primary one is broken", master: []string{"smtps inet n"}, id: "config_broken", contains: "master.cf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var dirs []string
			for _, o := range tt.others {
				dirs = append(dirs, newFixture(t, o).ConfigDir)
			}
			if tt.stale {
				dirs = append(dirs, filepath.Join(t.TempDir(), "gone"))
			}
			primary(t, postfixtest.Options{Main: append(tt.primary, multi(dirs...)), Master: tt.master})
			ask := tt.ask
			if ask == "DIR0" {
				ask = dirs[0]
			}
			found, err := Find(ctx(t), Options{Instance: ask})
			var names []string
			for _, i := range found {
				names = append(names, i.Name)
				if i.CommandDirectory != "/usr/sbin" {
					t.Errorf("command directory %q", i.CommandDirectory)
				}
			}
			if got := strings.Join(names, ", "); got != tt.want {
				t.Errorf("found %q, want %q (%v)", got, tt.want, err)
			}
			if tt.id == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if p := wantProblem(t, err, tt.id); !strings.Contains(p.Message, tt.contains) {
				t.Errorf("message %q, want %q in it", p.Message, tt.contains)
			}
		})
	}
}

func TestFindWithoutPostfix(t *testing.T) {
	_, err := Find(ctx(t), Options{CommandDirectory: t.TempDir()})
	wantProblem(t, err, "postfix_missing")

	f := primary(t, postfixtest.Options{})
	if err := os.Remove(f.i.MainPath()); err != nil {
		t.Fatal(err)
	}
	_, err = Find(ctx(t), Options{})
	wantProblem(t, err, "postfix_missing")
}

// One command for one instance, whatever the wrapper of the primary one is.
func TestOnlyThisInstance(t *testing.T) {
	second := newFixture(t, postfixtest.Options{Name: "postfix-two", Address: postfixtest.SecondAddress})
	first := primary(t, postfixtest.Options{Address: "127.0.0.1", Files: []string{"postfix-files", "dynamicmaps.cf"}, Main: []string{
		multi(second.ConfigDir), "multi_instance_enable = yes", "multi_instance_wrapper = ${command_directory}/postmulti -p --",
	}})
	first.Start()
	second.Start()
	second.WaitLog("daemon started")
	begin := second.Log()
	i := first.i
	i.ConfigDirectory = "/etc/postfix"
	if err := i.Reload(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Check(ctx(t)); err != nil {
		t.Fatal(err)
	}
	first.WaitLog("reload -- version")
	if second.Log() != begin {
		t.Errorf("the other instance heard of it:\n%s", second.Log())
	}
}
