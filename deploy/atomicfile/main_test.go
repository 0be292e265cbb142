package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const (
	envStage  = "ATOMICFILE_TEST_STAGE"
	envAttack = "ATOMICFILE_TEST_ATTACK"
)

// TestMain runs the tests in a mount namespace of their own where it may, so
// that they can mount small, read-only and bound file systems that nobody else
// sees and nobody has to unmount. It is also the attacker of attack_test.go.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envAttack); dir != "" {
		os.Exit(attack(dir))
	}
	if os.Getenv(envStage) == "" && os.Geteuid() == 0 {
		os.Exit(inNamespace())
	}
	if os.Geteuid() == 0 {
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "making mounts private:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func inNamespace() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envStage+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "a mount namespace:", err)
	return 1
}

// needRoot skips for an ordinary user, and fails in CI, where nothing skips.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// tmpfs mounts one with these options and returns its directory.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mine are attributes that a file of ours can have without being root.
func mine(mode uint32) Attr {
	return Attr{Mode: mode, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

// reason is why err refuses; "" if it does not.
func reason(err error) Reason {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return ""
}

func write(t *testing.T, path, data string, mode uint32) {
	t.Helper()
	if err := Write(OS, path, []byte(data), mine(mode)); err != nil {
		t.Fatal(err)
	}
}
