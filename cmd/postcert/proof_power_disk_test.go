package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/postfixtest"
)

// The variables by which a test takes the power away from the program that it
// starts.
//
//	cut       "2 DIR"  where the program is to be killed, the file system at
//	                   DIR is shut down first, with that flag
//	careless  "files"  fsync(2) of a file is forgotten, but for main.cf, which
//	                   Postfix's own protocol replaces
//	          "dirs"   fsync(2) of a directory is forgotten
const (
	cutWith      = "POSTCERT_TEST_CUT"
	carelessWith = "POSTCERT_TEST_CARELESS"
)

// powered puts what the environment asks for into the seams. It comes after
// interrupted.
func powered(a *app) {
	if flag, dir, ok := strings.Cut(a.env[cutWith], " "); ok {
		n, _ := strconv.Atoi(flag)
		beforeDeath = func() {
			if err := shutDown(dir, shutdown(n)); err != nil {
				fmt.Fprintln(os.Stderr, "test:", err)
				os.Exit(99) // no cut: the test sees that nobody was killed
			}
		}
	}
	if which := a.env[carelessWith]; which != "" {
		a.seams.fs = carelessFS{a.seams.fs, which}
		// One fsync(2) by anybody brings all that was forgotten before it, as ext4
		// and xfs keep one log: so it is forgotten by all.
		atomicfile.OS = carelessFS{atomicfile.OS, which}
	}
	delete(a.env, cutWith)
	delete(a.env, carelessWith)
}

// carelessFS is a file system for a program that forgets to sync.
type carelessFS struct {
	atomicfile.FS
	which string
}

func (f carelessFS) Create(path string) (atomicfile.FileHandle, error) {
	h, err := f.FS.Create(path)
	if err == nil && f.which == "files" {
		h = neverSynced{h}
	}
	return h, err
}

func (f carelessFS) SyncDir(path string) error {
	if f.which == "dirs" {
		return nil
	}
	return f.FS.SyncDir(path)
}

type neverSynced struct{ atomicfile.FileHandle }

func (neverSynced) Sync() error { return nil }

// shutdown is a flag of FS_IOC_SHUTDOWN: what still reaches the disk.
type shutdown uint32

const (
	logLost  shutdown = 2 // nothing: the disk is as it is at this moment
	logSaved shutdown = 1 // the log: names and attributes, not the content of files
)

// shutDown is FS_IOC_SHUTDOWN, ioctl_xfs_goingdown(2), which ext4 has too: as if
// the disk were unplugged, every later call fails and nothing is written any
// more.
func shutDown(dir string, flag shutdown) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close() // opened for reading: nothing can be lost
	const request = 0x8004587d
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		return fmt.Errorf("shutting the file system at %s down: %w", dir, errno)
	}
	return nil
}

// diskKind is a file system that power is taken from.
type diskKind struct {
	name    string // for people
	size    int64
	mkfs    []string
	options string // mount options, harsher than the default where there is a choice
	// copied: there is no FS_IOC_SHUTDOWN. A cut is a copy of the device as it
	// is at that moment, taken when the program has been killed.
	copied bool
}

// On ext4, auto_da_alloc is a crutch for programs that forget fsync(2) before
// rename(2), and the log is written every 5 s: we want neither.
var diskKinds = []diskKind{
	{name: "ext4", size: 32 << 20, mkfs: []string{"mkfs.ext4", "-q", "-F"}, options: "noauto_da_alloc,commit=600"},
	{name: "ext4-writeback", size: 32 << 20, mkfs: []string{"mkfs.ext4", "-q", "-F"}, options: "noauto_da_alloc,commit=600,data=writeback"},
	{name: "xfs", size: 320 << 20, mkfs: []string{"mkfs.xfs", "-q"}},
	{name: "btrfs", size: 128 << 20, mkfs: []string{"mkfs.btrfs", "-q"}, options: "commit=600", copied: true},
}

// proofDisk names one of diskKinds that a proof is to use alone.
const proofDisk = "POSTCERT_TEST_DISK"

// proofDisks are those that a proof uses: ext4, and with POSTCERT_LONG all.
func proofDisks(t testing.TB) []diskKind {
	t.Helper()
	name := os.Getenv(proofDisk)
	switch {
	case name == "" && long:
		return diskKinds
	case name == "":
		return diskKinds[:1]
	}
	for _, kind := range diskKinds {
		if kind.name == name {
			return []diskKind{kind}
		}
	}
	t.Fatalf("%s=%s is no file system of this proof", proofDisk, name)
	return nil
}

// disk is a file system in a file, on a loop device. The device goes with the
// mount (losetup(8), autoclear), and the mount with the mount namespace, however
// the test ends.
type disk struct {
	t     testing.TB
	kind  diskKind
	image string
	dir   string // mounted here
}

// newDisk makes a file system and mounts it at dir. The test is skipped, or with
// CI failed, where that cannot be. A kind without a name is a mere directory.
func newDisk(t testing.TB, kind diskKind, dir string) *disk {
	t.Helper()
	if kind.name == "" {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return &disk{t: t, dir: dir}
	}
	postfixtest.Need(t, kind.mkfs[0], "mount", "umount")
	if !postfixtest.Isolated() {
		t.Fatal("no mounts outside of a namespace: postfixtest.Main makes one")
	}
	// In memory, as /run is: the disk of this machine has nothing to do with it.
	d := &disk{t: t, kind: kind, image: filepath.Join(filepath.Dir(dir), "disk.img"), dir: dir}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, kind.size), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	args := append(kind.mkfs[1:len(kind.mkfs):len(kind.mkfs)], d.image)
	if out, err := exec.Command(kind.mkfs[0], args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", kind.mkfs[0], err, out)
	}
	if err := d.mount(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { d.unmount() })
	return d
}

func (d *disk) mount() error {
	options := "loop"
	if d.kind.options != "" {
		options += "," + d.kind.options
	}
	fs, _, _ := strings.Cut(d.kind.name, "-")
	if out, err := exec.Command("mount", "-t", fs, "-o", options, d.image, d.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("mounting %s on a loop device: %v: %s", d.kind.name, err, out)
	}
	return nil
}

// unmount waits for those who still have a file open: the last children of
// somebody who was killed.
func (d *disk) unmount() {
	d.t.Helper()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = syscall.Unmount(d.dir, 0); !errors.Is(err, syscall.EBUSY) {
			break
		}
	}
	if err != nil {
		d.t.Fatalf("unmounting %s: %v", d.dir, err)
	}
}

// plug gives power back after a cut: what reached the disk is mounted, and the
// file system replays its log. cut is called before it if the disk has not
// been shut down by the program already.
func (d *disk) plug() {
	d.t.Helper()
	d.unmount()
	if d.kind.copied {
		if err := os.Rename(d.image+".cut", d.image); err != nil {
			d.t.Fatal(err)
		}
	}
	if err := d.mount(); err != nil {
		d.t.Fatal(err)
	}
}

// cut takes the power away now.
func (d *disk) cut(flag shutdown) {
	d.t.Helper()
	if !d.kind.copied {
		if err := shutDown(d.dir, flag); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	if out, err := exec.Command("cp", "--sparse=always", d.image, d.image+".cut").CombinedOutput(); err != nil {
		d.t.Fatalf("copying the device: %v: %s", err, out)
	}
}
