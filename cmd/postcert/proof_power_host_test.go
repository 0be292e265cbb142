package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// powerHost is a host whose configuration and state lie on a disk of their own,
// from which a test takes the power. All else, the queue above all, is in
// memory and survives: it is none of our business.
type powerHost struct {
	*host
	disk     *disk
	boots    int
	pristine string          // a copy of the configuration before postcert came
	first    string          // the chain that was served then
	known    map[string]bool // each content that a certificate's file may have
	tally    tally
}

// newPowerHost makes one, without a disk of its own for a kind without a name.
func newPowerHost(t *testing.T, kind diskKind) *powerHost {
	t.Helper()
	postfixtest.Need(t, "postfix", "openssl")
	h := &host{t: t, dir: t.TempDir(), root: certtest.NewCA(t, certtest.Authority{})}
	h.env = []string{testDeadline + "=20s"} // of several shards, each is slow
	h.ca = h.root.Intermediate(t, certtest.Authority{})
	first := filepath.Join(h.dir, "first.pem")
	postfixtest.WritePair(t, first, hostName)
	h.pf = postfixtest.New(t, postfixtest.Options{MaxUse: 1, Cert: first, Address: "127.0.0.1"})
	h.trust = filepath.Join(h.dir, "root.pem")
	h.write(h.trust, certtest.EncodeCerts(h.root.Cert))
	var err error
	if h.exe, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	p := &powerHost{host: h, known: map[string]bool{}, tally: tally{}}
	p.disk = newDisk(t, kind, filepath.Join(h.pf.Dir, "disk"))
	p.pristine = h.pf.ConfigDir
	h.pf.ConfigDir, h.state, h.run = p.disk.dir+"/etc", p.disk.dir+"/state", filepath.Join(h.pf.Dir, "run")
	sh(t, "cp -a %s %s && sync -f %s", p.pristine, h.pf.ConfigDir, p.disk.dir)
	t.Cleanup(h.pf.Stop) // ahead of the disk's own
	p.newBoot()
	h.pf.Start()
	p.first = p.chain()
	return p
}

// in runs f as a subtest on this host.
func (p *powerHost) in(name string, f func()) {
	p.t.Helper()
	whole := p.host
	p.at(name, func(h *host) {
		p.host, p.disk.t = h, h.t
		defer func() { p.host, p.disk.t = whole, whole.t }()
		f()
	})
}

// bootID is where the kernel tells one boot from another; postcert looks there.
const bootID = "/proc/sys/kernel/random/boot_id"

// newBoot makes this another boot of the machine, as far as files can tell: the
// kernel's id of it, and /run, which is empty.
func (p *powerHost) newBoot() {
	p.t.Helper()
	p.boots++
	file := filepath.Join(p.dir, "boot_id")
	p.write(file, fmt.Appendf(nil, "00000000-0000-4000-8000-%012d\n", p.boots))
	if p.boots == 1 {
		if err := syscall.Mount(file, bootID, "", syscall.MS_BIND, ""); err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() {
			if err := syscall.Unmount(bootID, 0); err != nil {
				p.t.Error(err)
			}
		})
	}
	if err := os.RemoveAll(p.host.run); err != nil {
		p.t.Fatal(err)
	}
}

// killEverything ends every process but the test and the first one of its
// namespace, without a word: Postfix, what is left of a rehearsal, and children
// of a killed postcert. One that went on would meet the disk of the next boot:
// "postfix check" mends a main.cf that it could not read.
func (p *powerHost) killEverything() {
	p.t.Helper()
	first, err := os.Readlink("/proc/1/exe")
	if self, _ := os.Executable(); err != nil || !postfixtest.Isolated() || first != self {
		p.t.Fatalf("process 1 is %s (%v): this is not a namespace of our own", first, err)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		others := 0
		for _, pid := range running() {
			if pid != 1 && pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
				others++
			}
		}
		if others == 0 {
			return
		}
	}
	p.t.Fatal("processes do not end")
}

// running are all processes of this namespace that have not ended. One that is
// about to end has its sockets and locks until it is a zombie.
func running() []int {
	var out []int
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		stat, err := os.ReadFile(file) // proc(5): pid (comm) state ...
		if end := bytes.LastIndexByte(stat, ')'); err == nil && end > 0 && !bytes.HasPrefix(stat[end:], []byte(") Z")) {
			var pid int
			fmt.Sscanf(file, "/proc/%d/stat", &pid)
			out = append(out, pid)
		}
	}
	return out
}

// powerFails is what follows a cut: everything that ran has gone, and the
// machine comes up with what the disk has. Postfix is not started yet. It
// returns the files that are empty or torn.
func (p *powerHost) powerFails() []string {
	p.t.Helper()
	p.killEverything()
	p.disk.plug()
	p.newBoot()
	if p.disk.kind.copied {
		// What was half written has mode 0600: a run's own, which it sweeps.
		p.formerNames(p.pf.ConfigDir, func(name string, info fs.FileInfo) bool {
			return strings.HasSuffix(name, ".cf.tmp") && info.Mode().Perm() != 0o600
		})
	}
	return p.torn()
}

// formerNames removes temporary files that btrfs has brought back: one that was
// forced to disk, renamed to its own name, and replaced there, stands under its
// first name again when the log is replayed. It is whole, and nobody reads it.
func (p *powerHost) formerNames(dir string, which func(name string, info fs.FileInfo) bool) {
	p.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(d.Name(), ".tmp") {
			return err
		}
		info, err := d.Info()
		if err == nil && which(d.Name(), info) {
			p.tally["former names"]++
			err = os.Remove(path)
		}
		return err
	})
	if err != nil {
		p.t.Error(err)
	}
}

// powerFailsAfter takes the power away when a run has reported success, and
// returns what was there and is not there after it.
func (p *powerHost) powerFailsAfter(cut func()) []string {
	p.t.Helper()
	former := func() {
		if p.disk.kind.copied {
			for _, dir := range []string{p.pf.ConfigDir, p.state} {
				p.formerNames(dir, func(string, fs.FileInfo) bool { return true })
			}
		}
	}
	former()
	config, state := p.pf.Files(), p.stateTree()
	cut()
	torn := p.powerFails()
	former()
	lost := append(postfixtest.Compare(config, p.pf.Files()), postfixtest.Compare(state, p.stateTree())...)
	return append(torn, lost...)
}

// fresh makes a new lineage; it and the chain that it will present.
func (p *powerHost) fresh() (dir, chain string) {
	p.t.Helper()
	dir = p.lineage(certtest.Leaf{})
	key, err := os.ReadFile(filepath.Join(dir, "privkey.pem"))
	if err != nil {
		p.t.Fatal(err)
	}
	full, err := os.ReadFile(filepath.Join(dir, "fullchain.pem"))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, content := range [][]byte{key, full, append(key, full...)} {
		p.known[string(content)] = true
	}
	return dir, p.chainOf(dir)
}

// reset makes this a host that postcert never saw, all of it on disk.
func (p *powerHost) reset() {
	p.t.Helper()
	sh(p.t, "rm -rf %s %s %s && cp -a %s %s && sync -f %s",
		p.pf.ConfigDir, p.state, p.host.run, p.pristine, p.pf.ConfigDir, p.disk.dir)
	p.pf.Reload()
	leaf, _, _ := strings.Cut(p.first, " ")
	for addr, mode := range listeners {
		postfixtest.WaitServed(p.t, addr, mode, leaf)
	}
}

// installed makes sure that the host serves a certificate of postcert.
func (p *powerHost) installed() {
	p.t.Helper()
	if !bytes.Contains(p.pf.Main(), []byte(p.pf.ConfigDir+"/tls/")) {
		dir, _ := p.fresh()
		p.postcert("install-cert", dir, "--no-rehearsal").want(0)
	}
}

// former is the chain of the generation before the newest one.
func (p *powerHost) former() string {
	p.t.Helper()
	all := p.generations()
	if len(all) < 2 {
		p.t.Fatalf("only %d generations", len(all))
	}
	slices.Sort(all)
	data, err := os.ReadFile(all[len(all)-2])
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, postfixtest.Fingerprint(block.Bytes))
		}
	}
	return strings.Join(out, " ")
}

// torn are the files on the disk that are empty or torn. Content is compared
// with what may be there, and not judged by how it looks.
func (p *powerHost) torn() []string {
	p.t.Helper()
	var out []string
	err := filepath.WalkDir(p.disk.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err == nil && d.IsDir() && atomicfile.IsTemp(path):
			return fs.SkipDir // was to become a generation, or was one
		case err != nil || !d.Type().IsRegular() || atomicfile.IsTemp(path) || strings.HasSuffix(path, ".cf.tmp"):
			return err
		}
		data, err := os.ReadFile(path)
		if why := p.wrong(path, data); err == nil && why != "" {
			out = append(out, fmt.Sprintf("%s (%d bytes): %s", strings.TrimPrefix(path, p.disk.dir), len(data), why))
		}
		return err
	})
	if err != nil {
		p.t.Error(err)
	}
	return out
}

// wrong says what is wrong with the content of a file; "" is nothing.
func (p *powerHost) wrong(path string, data []byte) string {
	name := filepath.Base(path)
	switch {
	case name == "lock" || name == "staged":
		return "" // whose content says nothing
	case len(data) == 0:
		return "empty"
	case name == "main.cf":
		was, err := os.ReadFile(filepath.Join(p.pristine, name))
		if err != nil || !bytes.Equal(foreignLines(was), foreignLines(data)) {
			return fmt.Sprint("lines that are not ours differ ", err)
		}
	case filepath.Ext(name) == ".pem" && !p.known[string(data)]:
		return "not a pair that was ever given to postcert"
	case filepath.Ext(name) == ".json" && !json.Valid(data):
		return "no JSON"
	}
	if strings.HasPrefix(path, p.pf.ConfigDir+"/") && name != "main.cf" {
		was, err := os.ReadFile(filepath.Join(p.pristine, name))
		if err == nil && !bytes.Equal(was, data) {
			return "nobody changed it, and it differs"
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err.Error()
		}
	}
	return ""
}

// foreignLines is main.cf without the lines that postcert edits.
func foreignLines(main []byte) []byte {
	var out []byte
	for line := range bytes.Lines(main) {
		if !bytes.HasPrefix(line, []byte("smtpd_tls_cert_file")) && !bytes.HasPrefix(line, []byte("smtpd_tls_key_file")) {
			out = append(out, line...)
		}
	}
	return out
}
