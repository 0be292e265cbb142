package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// write makes a configuration file in a directory that only we may write to.
func write(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "postcert.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	const file = "keep_generations: 4\nacme: {email: file@example.com, agree_tos: false}\nstate_dir: /file\n"
	env := map[string]string{
		"POSTCERT_STATE_DIR": "/env", "POSTCERT_KEEP_GENERATIONS": "5", "POSTCERT_ACME_EMAIL": "env@example.com",
		"POSTCERT_ACME_AGREE_TOS": "true", "POSTCERT_INSTANCE": "postfix-env",
	}
	tests := []struct {
		name       string
		file       string
		env, flags map[string]string
		key        string
		want       any
		origin     string
	}{
		{"default", "", nil, nil, "state_dir", "/var/lib/postcert", "default"},
		{"file over default", file, nil, nil, "state_dir", "/file", "file, line 3"},
		{"environment over file", file, env, nil, "state_dir", "/env", "environment POSTCERT_STATE_DIR"},
		{"flag over environment", file, env, map[string]string{"state_dir": "/flag"}, "state_dir", "/flag", "flag --state-dir"},
		{"flag over file", file, nil, map[string]string{"state_dir": "/flag"}, "state_dir", "/flag", "flag --state-dir"},
		{"an empty variable is not set", file, map[string]string{"POSTCERT_STATE_DIR": ""}, nil, "state_dir", "/file", "file, line 3"},
		{"number from the environment", file, env, nil, "keep_generations", 5, "environment POSTCERT_KEEP_GENERATIONS"},
		{"number from the file", file, nil, nil, "keep_generations", 4, "file, line 1"},
		{"below a section", file, env, nil, "acme.email", "env@example.com", "environment POSTCERT_ACME_EMAIL"},
		{"below an empty section", "acme:\n", env, nil, "acme.email", "env@example.com", "environment POSTCERT_ACME_EMAIL"},
		{"default below an empty section", "acme:\n", nil, nil, "acme.directory", "letsencrypt", "default"},
		{"the rest of a section stays", file, map[string]string{"POSTCERT_ACME_DIRECTORY": "buypass"}, nil, "acme.email", "file@example.com", "file, line 2"},
		{"truth", file, env, nil, "acme.agree_tos", true, "environment POSTCERT_ACME_AGREE_TOS"},
		{"a flag takes truth back", file, env, map[string]string{"acme.agree_tos": "false"}, "acme.agree_tos", false, "flag --agree-tos"},
		{"not in the file at all", file, env, nil, "instance", "postfix-env", "environment POSTCERT_INSTANCE"},
		{"a program is not for the environment", file, map[string]string{"POSTCERT_COMMAND_DIRECTORY": "/evil"}, nil, "command_directory", "", "default"},
		{"nor is a list", good, map[string]string{"POSTCERT_CERTIFICATES": "x", "CERTIFICATES": "x"}, nil, "certificates", 1, "file, line 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flags := map[string]string{"config": write(t, tt.file)}
			for k, v := range tt.flags {
				flags[k] = v
			}
			c, list := Load(Input{Flags: flags, Environment: tt.env})
			if list != nil {
				t.Fatal(messages(list))
			}
			got := map[string]any{
				"state_dir": c.StateDir, "keep_generations": c.KeepGenerations, "acme.email": c.ACME.Email, "acme.agree_tos": c.ACME.AgreeTOS,
				"acme.directory": c.ACME.Directory, "instance": c.Instance, "command_directory": c.CommandDirectory, "certificates": len(c.Certificates),
			}[tt.key]
			if got != tt.want || c.origin(tt.key).String() != tt.origin {
				t.Errorf("%s is %v (%s), want %v (%s)", tt.key, got, c.origin(tt.key), tt.want, tt.origin)
			}
		})
	}
}

// TestProcessEnvironmentHasNoPart: what main did not hand over does not count.
func TestProcessEnvironmentHasNoPart(t *testing.T) {
	for _, s := range Scalars() {
		t.Setenv(s.Variable, "/process")
	}
	c, list := Load(Input{Flags: map[string]string{"config": write(t, "")}})
	if list != nil {
		t.Fatal(messages(list))
	}
	if c.StateDir != "/var/lib/postcert" || c.Instance != "" {
		t.Errorf("state_dir %q, instance %q came from the process environment", c.StateDir, c.Instance)
	}
}

func TestScalarsAreConvertedStrictly(t *testing.T) {
	tests := []struct{ name, variable, value, want string }{
		{"a word for a number", "POSTCERT_KEEP_GENERATIONS", "many", `POSTCERT_KEEP_GENERATIONS must be a whole number, not "many"`},
		{"1 for true", "POSTCERT_ACME_AGREE_TOS", "1", `POSTCERT_ACME_AGREE_TOS must be true or false, not "1"`},
		{"out of range", "POSTCERT_KEEP_GENERATIONS", "1", `POSTCERT_KEEP_GENERATIONS: 1 is not between 2 and 100`},
		{"relative path", "POSTCERT_STATE_DIR", "x", `POSTCERT_STATE_DIR: "x" is not an absolute path`},
		{"not an address", "POSTCERT_ACME_EMAIL", "x", `POSTCERT_ACME_EMAIL: "x" is not a mail address`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, list := Load(Input{Flags: map[string]string{"config": write(t, "")}, Environment: map[string]string{tt.variable: tt.value}})
			if len(list) != 1 || list[0].Message != tt.want {
				t.Errorf("got %q, want %q", messages(list), tt.want)
			}
		})
	}
	_, list := Load(Input{Flags: map[string]string{"config": write(t, ""), "state_dir": ""}})
	if len(list) != 1 || !strings.HasPrefix(list[0].Message, "--state-dir: is empty") {
		t.Errorf("empty flag: got %q", messages(list))
	}
}

func TestWhereTheFileIs(t *testing.T) {
	one, two := write(t, "state_dir: /one\n"), write(t, "state_dir: /two\n")
	c, list := Load(Input{Environment: map[string]string{"POSTCERT_CONFIG": one}})
	if list != nil || c.StateDir != "/one" || c.File != one || !c.Found {
		t.Errorf("by variable: %q from %q (%v)", c.StateDir, c.File, list)
	}
	c, list = Load(Input{Environment: map[string]string{"POSTCERT_CONFIG": one}, Flags: map[string]string{"config": two}})
	if list != nil || c.StateDir != "/two" {
		t.Errorf("flag over variable: %q (%v)", c.StateDir, list)
	}
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if _, list = Load(Input{Flags: map[string]string{"config": missing}}); !list.Has("config_unreadable") {
		t.Errorf("a named file that is not there: %v", list)
	}
	if list = Check(missing); !list.Has("config_unreadable") {
		t.Errorf("check of a file that is not there: %v", list)
	}
	if _, err := os.Lstat(DefaultFile); err == nil {
		return // this host has a configuration of its own
	}
	if c, list = Load(Input{}); list != nil || c.Found || c.File != DefaultFile || c.KeepGenerations != 3 {
		t.Errorf("no file: %+v %v", c, list)
	}
}

func TestOnlyRootMayWrite(t *testing.T) {
	tests := []struct {
		name  string
		stage func(t *testing.T, path string)
		want  string // an id; "" is accepted
	}{
		{"as it should be", func(t *testing.T, path string) {}, ""},
		{"file for the group", func(t *testing.T, path string) { chmod(t, path, 0o664) }, "config_writable"},
		{"file for all", func(t *testing.T, path string) { chmod(t, path, 0o646) }, "config_writable"},
		{"directory for the group", func(t *testing.T, path string) { chmod(t, filepath.Dir(path), 0o775) }, "config_writable"},
		{"directory for all, sticky", func(t *testing.T, path string) { chmod(t, filepath.Dir(path), 0o777|os.ModeSticky) }, "config_writable"},
		{"the directory above, for all", func(t *testing.T, path string) { chmod(t, filepath.Dir(filepath.Dir(path)), 0o777) }, "config_writable"},
		{"behind a symlink, for all", func(t *testing.T, path string) {
			target := write(t, "")
			chmod(t, filepath.Dir(target), 0o777)
			must(t, os.Remove(path))
			must(t, os.Symlink(target, path))
		}, "config_writable"},
		{"behind a good symlink", func(t *testing.T, path string) {
			target := write(t, "")
			must(t, os.Remove(path))
			must(t, os.Symlink(target, path))
		}, ""},
		{"a FIFO", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, syscall.Mkfifo(path, 0o644))
		}, "config_unreadable"},
		{"a directory", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o755))
		}, "config_unreadable"},
		{"a device", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Symlink("/dev/zero", path))
		}, "config_unreadable"},
		{"too large", func(t *testing.T, path string) { must(t, os.Truncate(path, MaxSize+1)) }, "config_unreadable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, "state_dir: /x\n")
			tt.stage(t, path)
			start := time.Now()
			list := Check(path)
			if tt.want == "" && list != nil || tt.want != "" && (len(list) != 1 || list[0].ID != tt.want) {
				t.Errorf("got %q, want %q", messages(list), tt.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// TestOthersFile: the owner of a file may write to it whatever its mode says.
func TestOthersFile(t *testing.T) {
	if os.Geteuid() != 0 {
		needRoot(t)
	}
	for _, above := range []int{0, 1} {
		path := write(t, "")
		owned := path
		if above == 1 {
			owned = filepath.Dir(path)
		}
		must(t, os.Chown(owned, 65534, 0))
		if list := Check(path); len(list) != 1 || list[0].ID != "config_writable" {
			t.Errorf("%s of another user: %q", owned, messages(list))
		}
	}
}

func TestShow(t *testing.T) {
	path := write(t, good+"acme: {email: a@example.com}\nnotify: none\n")
	c, list := Load(Input{Flags: map[string]string{"config": path, "instance": "postfix-out"}, Environment: map[string]string{"POSTCERT_STATE_DIR": "/env"}})
	if list != nil {
		t.Fatal(messages(list))
	}
	out, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# " + `"` + path + `": read (flag --config)` + "\n",
		`# instance: "postfix-out" (flag --instance)` + "\n",
		"  - name: m # file, line 1\n",
		"    source: acme # default\n",
		"      listen: :80 # default\n",
		"  email: a@example.com # file, line 2\n",
		"  agree_tos: false # default\n",
		"notify: none # file, line 3\n",
		"state_dir: /env # environment POSTCERT_STATE_DIR\n",
		"keep_generations: 3 # default\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	again, list := Parse("postcert.yaml", out)
	if list != nil {
		t.Fatalf("what Show printed is refused: %q\n%s", messages(list), out)
	}
	again.File, again.Found, again.Instance, again.origins, again.raw = c.File, c.Found, c.Instance, c.origins, c.raw
	if !reflect.DeepEqual(normal(again), normal(c)) {
		t.Errorf("read again it is\n%+v, not\n%+v", again, c)
	}
	entries := c.Entries()
	if len(entries) == 0 || entries[0] != (Entry{"certificates[0].name", "m", Origin{FromFile, "", 1}}) {
		t.Errorf("entries %+v", entries)
	}
}

// normal makes an empty list nil, which mean the same.
func normal(c Config) Config {
	clean(reflect.ValueOf(&c).Elem())
	return c
}

func clean(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		if v.Len() == 0 && v.CanSet() {
			v.SetZero()
		}
		for i := range v.Len() {
			clean(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				clean(v.Field(i))
			}
		}
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	must(t, os.Chmod(path, mode))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// FuzzLoad: no bytes and no variable make the reader panic or hang, no problem
// is without a place or an id, and what is accepted is accepted again as Show
// prints it, with the same meaning.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(good), "4")
	f.Add([]byte("acme:\n  eab: {kid: k, hmac_file: /h}\nnotify: none\n"), "x")
	f.Add([]byte("a: &a [*a]\ncertificates: *a\n"), "")
	f.Add([]byte("state_dir: !!binary aGk=\n---\n"), "1")
	f.Add([]byte("? [a]\n: b\n"), "")
	if data, err := os.ReadFile(example); err == nil {
		f.Add(data, "3")
	}
	f.Fuzz(func(t *testing.T, data []byte, keep string) {
		l := newLayers(map[string]string{"config": "postcert.yaml"}, map[string]string{"POSTCERT_KEEP_GENERATIONS": keep})
		c, list := l.parse("postcert.yaml", data)
		for _, p := range list {
			if p.ID == "" || p.Message == "" {
				t.Fatalf("a problem without words: %+v", p)
			}
		}
		if list.Err() != nil {
			return
		}
		out, err := c.Show()
		if err != nil {
			t.Fatalf("accepted, but not shown: %v", err)
		}
		again, list := Parse("postcert.yaml", out)
		if list.Err() != nil {
			t.Fatalf("what Show printed is refused: %v\n%s", list, out)
		}
		again.origins, again.raw = c.origins, c.raw
		if !reflect.DeepEqual(normal(again), normal(c)) {
			t.Fatalf("read again it is\n%+v, not\n%+v", again, c)
		}
	})
}

// What a file said is kept as it was, for a process that reads it later.
func TestRaw(t *testing.T) {
	data := []byte("# as it is\nkeep_generations: 5\n")
	c, found := Parse("postcert.yaml", data)
	if err := found.Err(); err != nil || string(c.Raw()) != string(data) {
		t.Errorf("%q, %v", c.Raw(), err)
	}
	none, found := Parse("postcert.yaml", nil)
	if err := found.Err(); err != nil || len(none.Raw()) != 0 {
		t.Errorf("of an empty file: %q, %v", none.Raw(), err)
	}
}
