// Package systemd_test checks the units offline: that systemd reads them without a
// word, how far each is confined, and that what they start exists. What they do is
// shown by booted machines.
package systemd_test

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// need skips without the program, and fails where everything must run.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
}

// units are all unit files, by pattern.
func units(t *testing.T, patterns ...string) []string {
	t.Helper()
	var out []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil || len(found) == 0 {
			t.Fatalf("no unit is like %s: %v", p, err)
		}
		out = append(out, found...)
	}
	return out
}

// setting is one line of a unit file.
type setting struct{ section, key, value string }

func read(t *testing.T, path string) []setting {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []setting
	section := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !ok {
			t.Errorf("%s: not a setting: %s", path, line)
		}
		out = append(out, setting{section, key, value})
	}
	return out
}

func values(list []setting, key string) []string {
	var out []string
	for _, s := range list {
		if s.key == key {
			out = append(out, s.value)
		}
	}
	return out
}

// TestVerify: systemd has nothing to say about them. It also wants the program to be
// installed; here another one is in its place.
func TestVerify(t *testing.T) {
	need(t, "systemd-analyze")
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range units(t, "*.service", "*.timer", "*.path") {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), "/usr/bin/postcert", "/bin/true")
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// exposure is the highest level that systemd-analyze(1) security may find: 0 is
// confined in every way, 10 is not at all. README.md says what each is made of.
var exposure = map[string]float64{
	"postcert.service":              3.1,
	"postcert-renew.service":        3.1,
	"postcert-recover.service":      2.7,
	"postcert-recover-boot.service": 2.7,
}

var levelPattern = regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`)

func TestExposure(t *testing.T) {
	need(t, "systemd-analyze")
	for _, name := range units(t, "*.service") {
		limit, ok := exposure[name]
		if !ok {
			t.Errorf("%s has no limit", name)
			continue
		}
		path, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager",
			"--threshold="+strconv.Itoa(int(math.Round(limit*10))), path).CombinedOutput()
		m := levelPattern.FindSubmatch(out)
		if m == nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		if level, perr := strconv.ParseFloat(string(m[1]), 64); err != nil || perr != nil || level > limit {
			t.Errorf("%s: exposure %s, at most %.1f: %v", name, m[1], limit, err)
		}
	}
}

// confining are the settings that decide what a service may do.
var confining = regexp.MustCompile(`^(NoNew|Capab|Protect|Private|Restrict|ReadWrite|System|Lock|Memory|Keyring|UMask|Limit|State|Runtime)`)

func confinement(t *testing.T, name string) string {
	var out []string
	for _, s := range read(t, name) {
		if confining.MatchString(s.key) {
			out = append(out, s.key+"="+s.value)
		}
	}
	if len(out) < 20 {
		t.Errorf("%s: only %d settings confine it", name, len(out))
	}
	return strings.Join(out, "\n")
}

// TestSameConfinement: the daemon and the timer's service do the same work, and so
// do the two recoveries. What one needs, the other needs.
func TestSameConfinement(t *testing.T) {
	for _, pair := range [][2]string{
		{"postcert.service", "postcert-renew.service"},
		{"postcert-recover.service", "postcert-recover-boot.service"},
	} {
		if a, b := confinement(t, pair[0]), confinement(t, pair[1]); a != b {
			t.Errorf("%s and %s differ:\n%s\n--\n%s", pair[0], pair[1], a, b)
		}
	}
}

// newer are settings that came after systemd 247, which Debian 11 has: there they
// are ignored with a warning at each start. The list is of those one could miss.
var newer = []string{
	"PrivateIPC", "PrivatePIDs", "ProtectProcSubset", "RestrictFileSystems", "RestrictNetworkInterfaces", "NoExecPaths", "ExecPaths",
	"SocketBindAllow", "SocketBindDeny", "LoadCredentialEncrypted", "ImportCredential", "OpenFile", "MemoryKSM", "RestartSteps",
	"RestartMaxDelaySec", "RestartMode", "ExitType", "TriggerLimitIntervalSec", "TriggerLimitBurst", "FixedRandomDelay",
	"SurviveFinalKillSignal", "ExtensionDirectories", "DelegateSubgroup", "ConditionCredential", "AssertCredential",
}

func TestOldestSystemd(t *testing.T) {
	for _, name := range units(t, "*.service", "*.timer", "*.path") {
		for _, s := range read(t, name) {
			if slices.Contains(newer, s.key) {
				t.Errorf("%s: systemd 247 does not know %s", name, s.key)
			}
		}
	}
}

// TestCommands: what the units start, postcert understands.
func TestCommands(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "postcert")
	if out, err := exec.Command("go", "build", "-o", binary, "postcert/cmd/postcert").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range units(t, "*.service") {
		started := values(read(t, name), "ExecStart")
		if len(started) != 1 {
			t.Errorf("%s starts %q", name, started)
			continue
		}
		words := strings.Fields(started[0])
		if words[0] != "/usr/bin/postcert" || len(words) < 2 {
			t.Errorf("%s starts %s", name, started[0])
			continue
		}
		// Flags are all read before --help has its effect.
		out, err := exec.Command(binary, append(words[1:], "--help")...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "postcert "+words[1]) {
			t.Errorf("%s: %s: %v\n%s", name, started[0], err, out)
		}
	}
}

// TestStop: whoever stops a service waits until an undo is finished, and only the
// run itself is told to end: the programs that its undo needs are not.
func TestStop(t *testing.T) {
	for _, name := range units(t, "*.service") {
		list := read(t, name)
		if v := values(list, "TimeoutStopSec"); !slices.Equal(v, []string{"90s"}) {
			t.Errorf("%s: TimeoutStopSec %q", name, v)
		}
		if v := values(list, "KillMode"); !slices.Equal(v, []string{"mixed"}) {
			t.Errorf("%s: KillMode %q", name, v)
		}
	}
}

// TestPostfixStarts: no unit is a condition for Postfix, and only the recovery at
// boot is one that it waits for. A recovery that ordered itself before Postfix at any
// time would wait for the restart that it asks for itself.
func TestPostfixStarts(t *testing.T) {
	for _, name := range units(t, "*.service", "*.timer", "*.path") {
		list := read(t, name)
		for _, key := range []string{"RequiredBy", "BindsTo", "PartOf", "Conflicts"} {
			if v := values(list, key); len(v) > 0 {
				t.Errorf("%s: %s=%s", name, key, v)
			}
		}
		before := strings.Fields(strings.Join(values(list, "Before"), " "))
		if name != "postcert-recover-boot.service" {
			if len(before) > 0 {
				t.Errorf("%s: Before=%s", name, before)
			}
			continue
		}
		for _, unit := range []string{"postfix.service", "postfix@-.service", "dovecot.service"} {
			if !slices.Contains(before, unit) {
				t.Errorf("%s is not before %s", name, unit)
			}
		}
	}
	for _, s := range read(t, "postfix@.service.d/50-postcert.conf") {
		if s != (setting{"Unit", "After", "postcert-recover-boot.service"}) {
			t.Errorf("the drop-in of the instances says %s=%s", s.key, s.value)
		}
	}
}
