package postfixtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"postcert/deploy/program"
)

// Main returns main.cf, Master master.cf.
func (i *Instance) Main() []byte   { i.t.Helper(); return i.read("main.cf") }
func (i *Instance) Master() []byte { i.t.Helper(); return i.read("master.cf") }

// SetMain replaces main.cf, SetMaster master.cf: the whole file, by rename,
// with the mode and owner it had, and a modification time long past, so that
// nothing pauses to let it "cool down".
func (i *Instance) SetMain(data []byte)   { i.t.Helper(); i.set("main.cf", data) }
func (i *Instance) SetMaster(data []byte) { i.t.Helper(); i.set("master.cf", data) }

// AppendMain adds lines to main.cf; the last line of a parameter wins.
func (i *Instance) AppendMain(line ...string) {
	i.t.Helper()
	i.SetMain(append(i.Main(), lines(line)...))
}

// AppendMaster adds lines to master.cf.
func (i *Instance) AppendMaster(line ...string) {
	i.t.Helper()
	i.SetMaster(append(i.Master(), lines(line)...))
}

// ReplaceMain replaces each old in main.cf, ReplaceMaster in master.cf. The
// test fails if there is none: it would not test what it says.
func (i *Instance) ReplaceMain(old, new string) {
	i.t.Helper()
	i.SetMain(i.replaced(i.Main(), old, new))
}

// ReplaceMaster is ReplaceMain for master.cf.
func (i *Instance) ReplaceMaster(old, new string) {
	i.t.Helper()
	i.SetMaster(i.replaced(i.Master(), old, new))
}

func (i *Instance) replaced(data []byte, old, new string) []byte {
	i.t.Helper()
	if !strings.Contains(string(data), old) {
		i.t.Fatalf("no %q to replace in:\n%s", old, data)
	}
	return []byte(strings.ReplaceAll(string(data), old, new))
}

// Postconf runs postconf -c ConfigDir with args and returns what it prints,
// without the last newline. It fails the test if postconf fails.
func (i *Instance) Postconf(args ...string) string {
	i.t.Helper()
	return i.run("postconf", append([]string{"-c", i.ConfigDir}, args...)...)
}

// Reload runs postfix reload and fails the test if that fails. It is
// asynchronous: see WaitLog and Served.
func (i *Instance) Reload() {
	i.t.Helper()
	i.run("postfix", "-c", i.ConfigDir, "reload")
}

func (i *Instance) run(name string, args ...string) string {
	i.t.Helper()
	r, err := program.Run(context.Background(), program.Command{Path: find(name), Args: args, Timeout: time.Minute})
	if err != nil {
		i.t.Fatalf("%v\n%s", err, i.Log())
	}
	return strings.TrimSuffix(string(r.Stdout), "\n")
}

func (i *Instance) read(name string) []byte {
	i.t.Helper()
	data, err := os.ReadFile(filepath.Join(i.ConfigDir, name))
	if err != nil {
		i.t.Fatal(err)
	}
	return data
}

func (i *Instance) set(name string, data []byte) {
	i.t.Helper()
	if err := i.write(name, data); err != nil {
		i.t.Fatal(err)
	}
}

func (i *Instance) write(name string, data []byte) error {
	path := filepath.Join(i.ConfigDir, name)
	mode, uid, gid := os.FileMode(0o644), 0, 0
	if fi, err := os.Stat(path); err == nil {
		st := fi.Sys().(*syscall.Stat_t)
		mode, uid, gid = fi.Mode().Perm(), int(st.Uid), int(st.Gid)
	}
	past := time.Now().Add(-time.Minute)
	tmp := path + ".new"
	return errors.Join(
		os.WriteFile(tmp, data, mode), os.Chmod(tmp, mode), os.Chown(tmp, uid, gid),
		os.Chtimes(tmp, past, past), os.Rename(tmp, path))
}
