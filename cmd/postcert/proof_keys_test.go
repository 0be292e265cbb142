package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// testPart makes the test binary play another part than postcert's, as a
// process of its own: "watch DIR..." or "attack SCENARIO DIR".
const testPart = "POSTCERT_TEST_PART"

func init() {
	switch part, arg, _ := strings.Cut(os.Getenv(testPart), " "); part {
	case "watch":
		os.Exit(watchKeys(strings.Fields(arg)))
	case "attack":
		scenario, dir, _ := strings.Cut(arg, " ")
		os.Exit(attack(scenario, dir))
	}
}

// play starts this binary in another part and returns when it says that it is
// ready. It is ended with the test, or by the function returned, which gives
// all that it said.
func play(t *testing.T, part string) (stop func() string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{testPart + "=" + part}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	out, oerr := cmd.StdoutPipe()
	if err = errors.Join(err, oerr); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ready := make([]byte, len("ready\n"))
	if _, err := out.Read(ready); err != nil {
		t.Fatalf("%s did not start: %v", part, err)
	}
	return func() string {
		in.Close() // it ends
		var said bytes.Buffer
		_, _ = said.ReadFrom(out)
		return said.String()
	}
}

// keyWatch looks at files with a private key in them.
type keyWatch struct {
	inotify     int
	dirs        map[int]string // by watch descriptor
	looks, seen int
	inodes      map[uint64]bool // files with a key
}

// watchKeys tells of each file below the directories that holds a private key
// and that others than root can read, or own, until standard input ends. It is
// woken by each change of a file, before whoever made it can make the next.
func watchKeys(dirs []string) int {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w := &keyWatch{inotify: fd, dirs: map[int]string{}, inodes: map[uint64]bool{}}
	for _, dir := range dirs {
		w.add(dir)
	}
	fmt.Println("ready")
	ended := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(ended)
		// Wakes the loop below, which is in read(2).
		_ = os.WriteFile(filepath.Join(dirs[0], ".watched"), nil, 0o600)
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := syscall.Read(fd, buf)
		if err != nil && err != syscall.EINTR {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		w.events(buf[:max(n, 0)])
		select {
		case <-ended:
			fmt.Printf("%d looks, %d at a key, %d files with a key\n", w.looks, w.seen, len(w.inodes))
			return 0
		default:
		}
	}
}

// add watches a directory and what is below it.
func (w *keyWatch) add(dir string) {
	const mask = syscall.IN_CREATE | syscall.IN_MODIFY | syscall.IN_ATTRIB | syscall.IN_MOVED_TO | syscall.IN_CLOSE_WRITE
	wd, err := syscall.InotifyAddWatch(w.inotify, dir, mask|syscall.IN_ONLYDIR|syscall.IN_DONT_FOLLOW)
	if err != nil {
		return // gone again
	}
	w.dirs[wd] = dir
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			w.add(filepath.Join(dir, e.Name()))
		} else {
			w.look(filepath.Join(dir, e.Name()))
		}
	}
}

// events reads inotify(7) events: four numbers, the last being the length of
// the name that follows.
func (w *keyWatch) events(b []byte) {
	for len(b) >= syscall.SizeofInotifyEvent {
		number := func(i int) int {
			return int(int32(uint32(b[i]) | uint32(b[i+1])<<8 | uint32(b[i+2])<<16 | uint32(b[i+3])<<24))
		}
		wd, mask, length := number(0), number(4), number(12)
		end := syscall.SizeofInotifyEvent + length
		name := string(bytes.TrimRight(b[syscall.SizeofInotifyEvent:end], "\x00"))
		b = b[end:]
		dir, ok := w.dirs[wd]
		switch {
		case !ok:
		case mask&syscall.IN_ISDIR != 0 && name != "":
			w.add(filepath.Join(dir, name))
		default:
			w.look(filepath.Join(dir, name))
		}
	}
}

func (w *keyWatch) look(path string) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return // renamed since
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	buf := make([]byte, 16<<10)
	n, err := syscall.Read(fd, buf)
	if err != nil || syscall.Fstat(fd, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return
	}
	w.looks++
	if !bytes.Contains(buf[:n], []byte("PRIVATE KEY")) {
		return
	}
	w.seen++
	w.inodes[st.Ino] = true
	if st.Mode&0o077 != 0 || st.Uid != 0 {
		fmt.Printf("EXPOSED: %s holds a key, has mode %04o and belongs to user %d\n", path, st.Mode&0o7777, st.Uid)
	}
}

// R16: a process that is woken by each change sees no key that others may read,
// whatever the mask of those who call us.
func TestProofKeysAreNeverReadable(t *testing.T) {
	installs := 6
	if long {
		installs = 500
	}
	h := newHost(t, postfixtest.Options{})
	h.env = patient
	defer syscall.Umask(syscall.Umask(0))
	if err := errors.Join(os.Mkdir(h.state, 0o700), os.Mkdir(h.run, 0o700)); err != nil {
		t.Fatal(err)
	}
	stop := play(t, "watch "+strings.Join([]string{h.state, h.run, h.pf.ConfigDir}, " "))
	for i := range installs {
		h.postcert("install-cert", h.lineage(certtest.Leaf{Key: []string{"ecdsa", "rsa"}[i/2%2]})).want(0)
		if i%10 == 5 {
			h.postcert("rollback").want(0)
			h.postcert("release", hostName).want(0)
		}
	}
	said := stop()
	if strings.Contains(said, "EXPOSED") {
		t.Error(said)
	}
	var looks, seen, files int
	if _, err := fmt.Sscanf(said, "%d looks, %d at a key, %d files", &looks, &seen, &files); err != nil || files < 2*installs {
		t.Errorf("the watcher saw too little: %q, %v", said, err)
	}
	t.Logf("R16: %d installs, 0 of %d files with a key readable by others; the watcher took %d looks, %d at a key", installs, files, looks, seen)
}

var (
	keyWrite = regexp.MustCompile(`(?m)^(?:\d+ +)?(?:write|pwrite64|writev|sendto|sendmsg)\(\d+<([^>]*)>.*PRIVATE KEY`)
	created  = regexp.MustCompile(`(?m)^openat\(.*, ([A-Z_|]*O_CREAT[A-Z_|]*), (0\d*)\) = \d+<([^>]*)>`)
	newMode  = regexp.MustCompile(`(?m)^fchmod\(\d+<([^>]*)>, (0\d*)\)`)
	keyFile  = regexp.MustCompile(`/\.postcert-[0-9a-f]{32}\.tmp(/postfix\.pem|/file-\d+)?$`)
)

// R16: every file into which a key is written was made with mode 0600 by a call
// that follows no link and takes no file that is there; and no other file is
// made that others can read, but for the ones that are for others.
func TestProofKeyFilesAreMadePrivate(t *testing.T) {
	h := newHost(t, postfixtest.Options{})
	defer syscall.Umask(syscall.Umask(0))
	h.env = patient
	files, writes := 0, 0
	for _, args := range [][]string{
		{"install-cert", h.lineage(certtest.Leaf{})}, {"install-cert", h.lineage(certtest.Leaf{})},
		{"rollback"}, {"release", hostName},
	} {
		a, log := h.straced([]string{"-s", "200", "-e", "trace=openat,write,pwrite64,writev,fchmod"}, args...)
		a.want(0)
		made := map[string]string{}
		for _, m := range created.FindAllStringSubmatch(log, -1) {
			flags, mode, path := m[1], m[2], m[3]
			made[path] = flags + " " + mode
			files++
			if mode != "0600" {
				t.Errorf("%s: %s is made with mode %s", args[0], path, mode)
			}
		}
		modes := map[string]string{}
		for _, m := range newMode.FindAllStringSubmatch(log, -1) {
			modes[m[1]] = m[2]
		}
		for _, m := range keyWrite.FindAllStringSubmatch(log, -1) {
			writes++
			how := made[m[1]]
			if mode := modes[m[1]]; mode != "" && mode != "0600" {
				t.Errorf("%s: %s, with a key in it, gets mode %s", args[0], m[1], mode)
			}
			for _, flag := range []string{"O_EXCL", "O_NOFOLLOW", "O_CLOEXEC", " 0600"} {
				if !strings.Contains(how, flag) {
					t.Errorf("%s: a key is written to %s, which was opened by %q without %s", args[0], m[1], how, flag)
				}
			}
		}
	}
	if writes < 4 {
		t.Errorf("only %d writes of a key seen", writes)
	}
	writes += h.keyWritesOfAll()
	t.Logf("R16: %d files made, all with mode 0600; %d writes of a key, each into one made with O_EXCL and O_NOFOLLOW", files, writes)
}

// keyWritesOfAll fails the test if anybody who belongs to a run, thread or child,
// writes a key elsewhere than into a file made for it, and returns how many such
// writes there were.
func (h *host) keyWritesOfAll() int {
	h.t.Helper()
	cmd := h.command("install-cert", h.lineage(certtest.Leaf{}))
	log := filepath.Join(h.t.TempDir(), "all")
	flags := []string{"-f", "--seccomp-bpf", "-y", "-s", "200", "-e", "signal=none", "-e", "trace=write,pwrite64,writev,sendto,sendmsg", "-o", log}
	for _, kv := range cmd.Env {
		flags = append(flags, "-E", kv)
	}
	h.finish(exec.Command("/usr/bin/strace", append(append(flags, cmd.Path), cmd.Args[1:]...)...)).want(0)
	data, err := os.ReadFile(log)
	if err != nil {
		h.t.Fatal(err)
	}
	all := keyWrite.FindAllStringSubmatch(string(data), -1)
	for _, m := range all {
		if !keyFile.MatchString(m[1]) {
			h.t.Errorf("a key is written to %s", m[1])
		}
	}
	if len(all) == 0 {
		h.t.Error("no write of a key seen among all processes")
	}
	return len(all)
}
