// Package packaging tests what contrib/package.sh builds. What a host is left
// with by an installation, an upgrade and a purge is asked in booted machines, by
// lifecycle-deb.sh and lifecycle-rpm.sh.
package packaging

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

const version = "0.1.0"

// source is what the packages are made of.
var source = []string{"LICENSE", "README.md", "acme", "cmd", "contrib", "deploy", "go.mod", "go.sum", "testdata", "verify"}

// TestReproducible builds the packages twice: from copies of the source in two
// directories, without git, with another umask, time zone, language, user, host
// name and home, and files of other times and modes. In the long form
// (POSTCERT_LONG=1) the second compiles every package again. The bytes must be the
// same.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("two builds; not with -short")
	}
	needBuild(t)
	here := built(t)
	there := filepath.Join(t.TempDir(), "another", "directory")
	copySource(t, there)
	old(t, there)
	cache := strings.TrimSpace(run(t, ".", "go env GOCACHE"))
	if os.Getenv("POSTCERT_LONG") != "" {
		cache = filepath.Join(there, "cache")
	}
	build(t, there, "umask 077; export TZ=Pacific/Kiritimati LC_ALL=C.UTF-8 USER=builder LOGNAME=builder HOME="+filepath.Join(there, "home")+
		" GOCACHE="+cache+" GOFLAGS=-buildvcs=true GOAMD64=v3; hostname elsewhere.example.net")
	for _, name := range []string{deb, rpm} {
		a, b := read(t, filepath.Join(here, name)), read(t, filepath.Join(there, "dist", name))
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two builds differ, %d and %d bytes", name, len(a), len(b))
		}
	}
}

// TestLintian asks Debian's own judge. What is on purpose is in lintian-overrides.
func TestLintian(t *testing.T) {
	needBuild(t)
	postfixtest.Need(t, "lintian")
	out, err := exec.Command("lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning", filepath.Join(built(t), deb)).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// TestContents holds both packages against each other and against the source: the
// same files with the same modes, all units, no configuration that is in force.
func TestContents(t *testing.T) {
	needBuild(t)
	postfixtest.Need(t, "rpm2cpio", "cpio", "dpkg-deb")
	inDeb, inRPM := unpacked(t, deb, `dpkg-deb -x "$0" .`), unpacked(t, rpm, `rpm2cpio "$0" | cpio -id --quiet --no-absolute-filenames`)
	only := map[string]bool{
		"usr/share/doc/postcert/changelog.gz":              true,
		"usr/share/lintian/overrides/postcert":             true,
		"usr/share/zsh/vendor-completions/_postcert":       true,
		"usr/share/zsh/site-functions/_postcert":           true,
		"usr/share/licenses/postcert/LICENSE":              true,
		"usr/lib/systemd/system-preset/80-postcert.preset": true,
	}
	for path, what := range inDeb {
		if inRPM[path] != what && !only[path] {
			t.Errorf("%s: %s in the .deb, %q in the .rpm", path, what, inRPM[path])
		}
		if !strings.HasPrefix(path, "usr/") && path != "etc/postcert" {
			t.Errorf("%s is in the package", path)
		}
	}
	for path, what := range inRPM {
		if inDeb[path] == "" && !only[path] {
			t.Errorf("%s: %s in the .rpm only", path, what)
		}
	}
	for _, unit := range glob(t, "../systemd/*.*") {
		switch filepath.Ext(unit) {
		case ".service", ".timer", ".path", ".socket", ".target":
			if inDeb["usr/lib/systemd/system/"+filepath.Base(unit)] != "-rw-r--r--" {
				t.Errorf("%s is not in the package, as a file for all to read", unit)
			}
		case ".d":
			for _, part := range glob(t, unit+"/*.conf") {
				if inDeb["usr/lib/systemd/system/"+filepath.Base(unit)+"/"+filepath.Base(part)] != "-rw-r--r--" {
					t.Errorf("%s is not in the package, as a file for all to read", part)
				}
			}
		}
	}
	for path, want := range map[string]string{"etc/postcert": "drwx------", "usr/bin/postcert": "-rwxr-xr-x"} {
		if inDeb[path] != want {
			t.Errorf("%s: %s, want %s", path, inDeb[path], want)
		}
	}
}

// TestThirdParty asks the program what is linked into it: each module has to be
// named in the package, in that version, with a licence.
func TestThirdParty(t *testing.T) {
	needBuild(t)
	postfixtest.Need(t, "dpkg-deb", "tar")
	dir := t.TempDir()
	run(t, dir, `dpkg-deb -x "$0" .`, filepath.Join(built(t), deb))
	linked := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(run(t, dir, `go version -m usr/bin/postcert`), -1)
	if len(linked) < 10 {
		t.Fatalf("%d modules are linked", len(linked))
	}
	texts := map[string]string{}
	for _, part := range strings.Split(run(t, dir, `zcat usr/share/doc/postcert/third-party.gz`), "\n==== ")[1:] {
		module, text, _ := strings.Cut(part, "\n")
		texts[module] = strings.TrimSpace(text)
	}
	for _, m := range linked {
		if text := texts[m[1]+" "+m[2]]; len(text) < 200 {
			t.Errorf("%s %s is linked, and its licence is not in the package", m[1], m[2])
		}
	}
	if len(texts) != len(linked)+1 {
		t.Errorf("%d modules are linked, and %d named beside Go itself", len(linked), len(texts)-1)
	}
}

// TestEnabled holds what the scripts of both packages enable, and what a purge
// forgets, against the units that can be enabled.
func TestEnabled(t *testing.T) {
	const preset, postinst, postrm, preun = "rpm/80-postcert.preset", "deb/postinst", "deb/postrm", "rpm/preun"
	for _, path := range glob(t, "../systemd/postcert*.*") {
		unit := filepath.Base(path)
		text := string(read(t, path))
		installable := strings.Contains(text, "\n[Install]\n")
		for _, script := range []string{postinst, postrm, preun} {
			if got := strings.Contains(string(read(t, script)), unit); installable && !got {
				t.Errorf("%s does not know %s, which can be enabled", script, unit)
			}
		}
		// The daemon is the administrator's choice.
		enabled := installable && unit != "postcert.service"
		if got := strings.Contains(string(read(t, preset)), "enable "+unit+"\n"); got != enabled {
			t.Errorf("%s enables %s: %v, want %v", preset, unit, got, enabled)
		}
	}
}

// TestScripts lets the shells that may run them read the scripts and completions.
func TestScripts(t *testing.T) {
	needBuild(t)
	postfixtest.Need(t, "dash", "bash", "dpkg-deb", "rpm")
	dir := t.TempDir()
	run(t, dir, `dpkg-deb -e "$0" deb && rm deb/control deb/md5sums`, filepath.Join(built(t), deb))
	out := run(t, dir, `rpm -qp --scripts "$0" 2>/dev/null`, filepath.Join(built(t), rpm))
	scripts := regexp.MustCompile(`(?m)^\w+ scriptlet \(using /bin/sh\):$`).Split(out, -1)
	if len(scripts) != 4 {
		t.Fatalf("%d scriptlets in the .rpm, want 3", len(scripts)-1)
	}
	if err := os.Mkdir(filepath.Join(dir, "rpm"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, script := range scripts[1:] {
		if err := os.WriteFile(filepath.Join(dir, "rpm", fmt.Sprint(i)), []byte(script), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(read) != 6 {
		t.Fatalf("scripts %q, %v; want 3 of each package", read, err)
	}
	for _, script := range read {
		for _, shell := range []string{"dash -n", "bash --posix -n"} {
			run(t, dir, shell+` "$0"`, script)
		}
	}
	run(t, dir, `dpkg-deb --fsys-tarfile "$0" | tar xO ./usr/share/bash-completion/completions/postcert | bash -n`, filepath.Join(built(t), deb))
	if out := run(t, dir, `grep -rl '#INCLUDE' . || :`); out != "" {
		t.Errorf("a part is missing in %s", out)
	}
}

// TestRPM lets rpm install and erase the package in an empty root, and judge what
// is there. Its scriptlets are run in a booted machine, by lifecycle-rpm.sh.
func TestRPM(t *testing.T) {
	needBuild(t)
	postfixtest.Need(t, "rpm")
	root := t.TempDir()
	rpmIn := func(args string) string {
		return run(t, root, `rpm --root "$PWD" --dbpath /var/lib/rpm `+args+` 2>/dev/null`, filepath.Join(built(t), rpm))
	}
	rpmIn(`--nodeps --noscripts -i "$0"`)
	if out := rpmIn(`--nodeps --noscripts -V postcert`); out != "" {
		t.Errorf("rpm -V: %s", out)
	}
	if got := rpmIn(`-q --qf '%{NAME} %{VERSION} %{ARCH} %{LICENSE}' postcert`); got != "postcert "+version+" x86_64 Apache-2.0" {
		t.Errorf("rpm -q: %q", got)
	}
	if got := run(t, root, `usr/bin/postcert version`); !strings.HasPrefix(got, "postcert "+version+" ") {
		t.Errorf("the program says %q", got)
	}
	rpmIn(`--noscripts -e postcert`)
	left := run(t, root, `find . -path ./var -prune -o ! -type d -print`)
	if left != "" {
		t.Errorf("rpm -e left %s", left)
	}
}

const (
	deb = "postcert_" + version + "_amd64.deb"
	rpm = "postcert-" + version + ".x86_64.rpm"
)

func needBuild(t *testing.T) {
	t.Helper()
	postfixtest.Need(t, "gzip", "sed", "date", "unshare")
}

// built is the directory of packages made once for all tests, from a copy: the
// tree of whoever runs them is left alone.
func built(t *testing.T) string {
	t.Helper()
	dir, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var buildDir string

var buildOnce = sync.OnceValues(func() (string, error) {
	err := copyTree(buildDir)
	if err != nil {
		return "", err
	}
	out, err := buildIn(buildDir, "umask 022")
	if err != nil {
		return "", fmt.Errorf("package.sh: %w\n%s", err, out)
	}
	return filepath.Join(buildDir, "dist"), nil
})

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "packaging"); err != nil {
		panic(err)
	}
	status := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(status)
}

func build(t *testing.T, dir, settings string) {
	t.Helper()
	if out, err := buildIn(dir, settings); err != nil {
		t.Fatalf("package.sh in %s: %v\n%s", dir, err, out)
	}
}

// buildIn runs package.sh in a copy of the source, in a host name's name space of
// its own where that may be had: as root.
func buildIn(dir, settings string) ([]byte, error) {
	// Where modules come from is no part of what is tested.
	env, err := exec.Command("go", "env", "GOMODCACHE", "GOPATH", "GOENV").Output()
	if err != nil {
		return nil, err
	}
	args := append([]string{"sh", "-c", settings + `; export GOMODCACHE="$0" GOPATH="$1" GOENV="$2"; exec sh contrib/package.sh ` + version}, strings.Fields(string(env))...)
	if os.Getuid() == 0 {
		args = append([]string{"unshare", "--uts"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

func copySource(t *testing.T, dir string) {
	t.Helper()
	if err := copyTree(dir); err != nil {
		t.Fatal(err)
	}
}

func copyTree(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("cp", append(append([]string{"-r"}, source...), dir)...)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// old gives the copy other times and modes than the original.
func old(t *testing.T, dir string) {
	t.Helper()
	run(t, dir, `find . -exec touch -h -d 2001-02-03T04:05:06Z {} + && chmod -R go= .`)
}

// unpacked is what is in a package: the modes by path, without the directories
// that other packages have too.
func unpacked(t *testing.T, name, command string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	run(t, dir, command, filepath.Join(built(t), name))
	modes := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !d.IsDir() || rel == "etc/postcert" {
			modes[rel] = info.Mode().String()
		}
		return nil
	})
	if err != nil || len(modes) == 0 {
		t.Fatalf("%s: %d files, %v", name, len(modes), err)
	}
	return modes
}

func run(t *testing.T, dir, command string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", slices.Concat([]string{"-c", command}, args)...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", command, err, out.String(), errs.String())
	}
	return out.String()
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("nothing like %s: %v", pattern, err)
	}
	return paths
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
