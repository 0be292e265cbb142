package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// smallDisk is a file system of its own, mounted on one of the directories
// that a run writes to. How much of it is free can be chosen to the block.
type smallDisk struct {
	h    *host
	kind string // tmpfs or ext4
	dir  string
}

// filler holds the files that take up the room of an ext4; a tmpfs is made
// smaller instead. No picture of the configuration shows it.
const filler = ".filler"

// newSmallDisk mounts a file system on dir, with what is in dir. Postfix is stopped
// meanwhile.
func (h *host) newSmallDisk(kind, dir string) *smallDisk {
	h.t.Helper()
	h.pf.Stop()
	aside := filepath.Join(h.t.TempDir(), "aside")
	sh(h.t, "mkdir -p %s; cp -a %s %s", dir, dir, aside)
	if kind == "ext4" {
		postfixtest.Need(h.t, "mkfs.ext4", "mount")
		image := filepath.Join(h.t.TempDir(), "image")
		// The mount gives its loop device back when it ends.
		sh(h.t, "truncate -s 4M %[1]s && mkfs.ext4 -q -m 0 -b 4096 -N 512 -O ^has_journal %[1]s && mount -o loop %[1]s %[2]s && rmdir %[2]s/lost+found", image, dir)
	} else if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,nr_inodes=1000"); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		h.pf.Stop()
		if err := syscall.Unmount(dir, 0); err != nil {
			h.t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	// A tmpfs of size 0 would be one without a limit, so something is in it.
	sh(h.t, "cp -a %s/. %[2]s; mkdir %[2]s/%[3]s; echo >%[2]s/%[3]s/large", aside, dir, filler)
	h.pf.Start()
	d := &smallDisk{h: h, kind: kind, dir: dir}
	d.roomy()
	return d
}

func (d *smallDisk) statfs() syscall.Statfs_t {
	d.h.t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		d.h.t.Fatal(err)
	}
	return st
}

// roomy frees all that can be free.
func (d *smallDisk) roomy() {
	d.h.t.Helper()
	if d.kind == "ext4" {
		sh(d.h.t, "rm -rf %[1]s/%[2]s/*", d.dir, filler)
		return
	}
	d.remount("size=8m,nr_inodes=1000")
}

func (d *smallDisk) remount(options string) {
	d.h.t.Helper()
	if err := syscall.Mount("", d.dir, "", syscall.MS_REMOUNT, options); err != nil {
		d.h.t.Fatalf("remounting %s with %s: %v", d.dir, options, err)
	}
}

// leave leaves so many free bytes, or so many free inodes, and enough of the
// other.
func (d *smallDisk) leave(free room) {
	d.h.t.Helper()
	d.roomy()
	st := d.statfs()
	switch {
	case d.kind == "tmpfs" && free.inodes:
		d.remount(fmt.Sprintf("nr_inodes=%d", st.Files-st.Ffree+uint64(free.n)))
	case d.kind == "tmpfs": // Bavail is Bfree there
		d.remount(fmt.Sprintf("size=%d", (st.Blocks-st.Bfree)*uint64(st.Bsize)+uint64(free.n)))
	case free.inodes:
		for i := range int(st.Ffree) - free.n {
			d.h.write(filepath.Join(d.dir, filler, fmt.Sprint(i)), nil)
		}
	default:
		d.fill(int64(free.n))
	}
	st = d.statfs()
	if got := int(st.Bavail) * int(st.Bsize); !free.inodes && got != free.n {
		d.h.t.Fatalf("%d bytes are free, want %d", got, free.n)
	}
	if got := int(st.Ffree); free.inodes && got != free.n {
		d.h.t.Fatalf("%d inodes are free, want %d", got, free.n)
	}
}

// fill leaves want bytes of an ext4, to the block. How many blocks a large file
// needs beside its content is not said, so it is made smaller until it fits, and
// what is left over goes to files of one block.
func (d *smallDisk) fill(want int64) {
	d.h.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, filler, "large"))
	if err != nil {
		d.h.t.Fatal(err)
	}
	defer f.Close()
	st := d.statfs()
	for size := int64(st.Bavail)*st.Bsize - want; size > 0; size -= st.Bsize {
		if err = f.Truncate(0); err == nil {
			err = syscall.Fallocate(int(f.Fd()), 0, 0, size)
		}
		if now := d.statfs(); err == nil && int64(now.Bavail)*now.Bsize >= want {
			break
		}
	}
	for i := 0; err == nil && int64(d.statfs().Bavail)*st.Bsize > want && i < 10; i++ {
		sh(d.h.t, "fallocate -l %d %s/%s/%d", st.Bsize, d.dir, filler, i)
	}
	if err != nil {
		d.h.t.Fatalf("filling %s: %v", d.dir, err)
	}
}

// room is how much of a file system is free: bytes or inodes.
type room struct {
	n      int
	inodes bool
}

func (r room) String() string {
	if r.inodes {
		return fmt.Sprintf("%d inodes", r.n)
	}
	return fmt.Sprintf("%d KiB", r.n>>10)
}

// allRooms are the steps of free space and of free inodes, someRooms and
// fewRooms the ones of a shorter form.
func allRooms() []room {
	var out []room
	for kib := 0; kib <= 128; kib += 4 {
		out = append(out, room{n: kib << 10})
	}
	for n := range 9 {
		out = append(out, room{n: n, inodes: true})
	}
	return out
}

var (
	someRooms = []room{{n: 0}, {n: 4 << 10}, {n: 12 << 10}, {n: 32 << 10}, {n: 128 << 10}, {0, true}, {1, true}, {2, true}, {8, true}}
	fewRooms  = []room{{n: 0}, {n: 12 << 10}, {n: 128 << 10}, {0, true}, {2, true}}
)

// diskPlaces are the directories that a run writes to, by what people call them.
var diskPlaces = map[string]func(*host) string{
	"certificates":  func(h *host) string { return filepath.Join(h.pf.ConfigDir, "tls") },
	"state":         func(h *host) string { return h.state },
	"configuration": func(h *host) string { return h.pf.ConfigDir },
	"runtime":       func(h *host) string { return h.run },
	"queue":         func(h *host) string { return h.pf.QueueDir },
}

// emptied removes what is below dir, but for what a mount needs.
func emptied(t *testing.T, dir string) {
	t.Helper()
	sh(t, "[ ! -d %[1]s ] || find %[1]s -depth -mindepth 1 ! -path '*/%[2]s*' -delete 2>/dev/null || true", dir, filler)
}

// originalOn is original for a host with a disk mounted somewhere.
func (h *host) originalOn() func() {
	h.t.Helper()
	saved := filepath.Join(h.t.TempDir(), "original")
	sh(h.t, "cp -a %s %s; rm -rf %s/%s", h.pf.ConfigDir, saved, saved, filler)
	leaf := h.served()
	return func() {
		h.t.Helper()
		for _, dir := range []string{h.pf.ConfigDir, h.state, h.run} {
			emptied(h.t, dir)
		}
		sh(h.t, "cp -a %s/. %s", saved, h.pf.ConfigDir)
		h.pf.Reload()
		for addr, mode := range listeners {
			postfixtest.WaitServed(h.t, addr, mode, leaf)
		}
	}
}

// live is what Postfix reads: the configuration with the certificates, filler
// and times of directories aside.
func (h *host) live() postfixtest.Files {
	h.t.Helper()
	files := h.pf.Files()
	for name := range files {
		if strings.Contains(name, filler) {
			delete(files, name)
		}
	}
	return files
}

// fullDisk is what a sweep over one disk has seen.
type fullDisk struct {
	*smallDisk
	status map[int]int    // runs by exit status
	says   map[string]int // ids of the errors
}

// meets installs the lineage with so much room, and judges it.
func (d *fullDisk) meets(h *host, free room, old, lineage string) {
	h.t.Helper()
	d.h = h
	before := h.live()
	d.leave(free)
	d.judge(h, before, old, lineage, h.postcert("install-cert", lineage, "--json"), true)
}

// fillMoments are the events at which a disk fills: between the commit and the
// end, and while the change is undone.
var fillMoments = []string{"journal begin", "commit begin", "commit end", "reload end", "confirm begin", "undo begin"}

// fills installs the lineage on a tmpfs that has no room left from an event on,
// and judges it. What is settled then has no open journal.
func (d *fullDisk) fills(h *host, event, old, lineage string) {
	h.t.Helper()
	d.h = h
	before := h.live()
	env := []string{doAt + "=" + event + ": n=$(df --output=used -B4096 " + d.dir + " | tail -n 1); mount -o remount,size=$((n*4096)) " + d.dir}
	if event == "undo begin" {
		env = append(env, failAt+"=Reload 1")
	}
	a := h.with(env...).postcert("install-cert", lineage, "--json")
	if strings.Contains(a.stderr, "test: ") {
		h.t.Errorf("it did not fill: %s", a.stderr)
	}
	open := filepath.Join(h.state, "journal", "open.json")
	if _, err := os.Lstat(open); err == nil && a.status != statusIncomplete {
		h.t.Errorf("exit status %d, and %s is left", a.status, open)
	}
	d.judge(h, before, old, lineage, a, event != "undo begin")
}

// judge fails the test unless the run did, with no room, what its exit status
// says: not a byte changed, or all of it; and unless it succeeds with room.
func (d *fullDisk) judge(h *host, before postfixtest.Files, old, lineage string, a answer, told bool) {
	h.t.Helper()
	next, expect := h.chainOf(lineage), "old"
	d.status[a.status]++
	switch a.status {
	case statusOK, statusNotVerified:
		expect = "new"
	case statusIncomplete:
		expect = ""
	case statusFailed, statusRefused, statusRolledBack:
		for _, diff := range postfixtest.Compare(before, h.live()) {
			h.t.Errorf("exit status %d, and changed: %s", a.status, diff)
		}
	default:
		h.t.Errorf("exit status %d", a.status)
	}
	if told && expect != "new" {
		d.tells(h, a)
	}
	if panicked(a) {
		h.t.Error("it crashed")
	}
	if got := h.shows(old, next); expect != "" && got != expect {
		h.t.Errorf("exit status %d, and the %s chain is served", a.status, got)
	}
	if h.t.Failed() {
		h.t.Logf("exit status %d, %s\n%s", a.status, a.summary(), a.stderr)
	}
	d.roomy()
	h.postcert("recover").want(0)
	if got := h.shows(old, next); expect != "" && got != expect {
		h.t.Errorf("the %s chain is served after the recovery, was %s", got, expect)
	}
	h.clean()
	h.postcert("install-cert", lineage).want(0)
	if got := h.shows(old, next); got != "new" {
		h.t.Error("the install with room again does not serve the new chain")
	}
}

// summary is what a JSON answer says for people.
func (a answer) summary() string {
	a.t.Helper()
	v := a.json()
	out, _ := json.MarshalIndent(v["problems"], "", " ")
	steps, _ := v["transaction"].(map[string]any)
	return fmt.Sprintf("%s\n%v", out, steps["steps"])
}

// tells fails the test unless the answer says that there is no room, and
// where.
func (d *fullDisk) tells(h *host, a answer) {
	h.t.Helper()
	problems, _ := a.json()["problems"].([]any)
	for _, p := range problems {
		m := p.(map[string]any)
		if m["severity"] != "error" {
			continue
		}
		d.says[fmt.Sprint(m["id"])]++
		said := fmt.Sprint(m["message"], " ", m["remedy"])
		full := strings.Contains(strings.ToLower(said), "no space left") || strings.Contains(said, "not enough free space") || strings.Contains(said, "no free inode")
		if !full || !strings.Contains(said, d.dir) {
			h.t.Errorf("the error does not say that %s is full: %s", d.dir, said)
		}
		if a.status != statusIncomplete && !strings.Contains(fmt.Sprint(m["remedy"]), "room") {
			h.t.Errorf("the remedy does not speak of room: %s", said)
		}
	}
}

func (d *fullDisk) String() string {
	total := 0
	for _, n := range d.status {
		total += n
	}
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(d.says)) {
		ids = append(ids, fmt.Sprintf("%s %d", id, d.says[id]))
	}
	return fmt.Sprintf("%d runs, by exit status %v; errors: %s", total, d.status, strings.Join(ids, ", "))
}

// diskJob is one sweep of R4: on a host with a disk at one place.
type diskJob struct {
	place, kind    string
	first, renewal []room
	fills          bool
}

// diskJobs are the sweeps, each for a shard; the state directory, on which most
// is written, has two.
func diskJobs() []diskJob {
	all := allRooms()
	if !long {
		return []diskJob{
			{place: "state", kind: "tmpfs", first: all[:len(all)/2]},
			{place: "state", kind: "tmpfs", first: all[len(all)/2:]},
			{place: "state", kind: "ext4", first: fewRooms, renewal: fewRooms},
			{place: "state", kind: "tmpfs", renewal: fewRooms, fills: true},
			{place: "configuration", kind: "tmpfs", first: fewRooms, renewal: fewRooms, fills: true},
			{place: "certificates", kind: "tmpfs", first: fewRooms},
			{place: "runtime", kind: "tmpfs", first: someRooms, renewal: fewRooms},
			{place: "queue", kind: "tmpfs", first: fewRooms},
		}
	}
	var out []diskJob
	for _, place := range []string{"state", "configuration", "certificates", "runtime", "queue"} {
		out = append(out,
			diskJob{place, "tmpfs", all, nil, true}, diskJob{place, "tmpfs", nil, all, false},
			diskJob{place, "ext4", all, nil, false}, diskJob{place, "ext4", nil, all, false})
	}
	return out
}

// run does one sweep.
func (j diskJob) run(t *testing.T) {
	h := newHost(t, postfixtest.Options{MaxUse: 1})
	h.env = patient
	d := &fullDisk{smallDisk: h.newSmallDisk(j.kind, diskPlaces[j.place](h)), status: map[int]int{}, says: map[string]int{}}
	reset := h.originalOn()
	old, first := h.chain(), h.lineage(certtest.Leaf{})
	for _, free := range j.first {
		h.at("first install "+free.String(), func(h *host) { d.meets(h, free, old, first) })
		reset()
	}
	for _, event := range fillMoments {
		if j.fills {
			h.at("first install, full at "+event, func(h *host) { d.fills(h, event, old, first) })
			reset()
		}
	}
	d.roomy()
	h.postcert("install-cert", first).want(0)
	for _, free := range j.renewal {
		old, renewal := h.chain(), h.lineage(certtest.Leaf{})
		h.at("renewal "+free.String(), func(h *host) { d.meets(h, free, old, renewal) })
	}
	for _, event := range fillMoments {
		if j.fills {
			old, renewal := h.chain(), h.lineage(certtest.Leaf{})
			h.at("renewal, full at "+event, func(h *host) { d.fills(h, event, old, renewal) })
		}
	}
	d.h = h
	t.Logf("R4 %s on %s: %v", j.place, j.kind, d)
}

// R4: each of the directories is on a disk that is nearly full, or fills during
// the run. Nothing that Postfix reads has changed unless the exit status is 0,
// the error says where there is no room, and the same install succeeds once
// there is some.
func TestProofDiskFull(t *testing.T) {
	jobs := diskJobs()
	shards := min(len(jobs), 8)
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		for i, j := range jobs {
			if i%shards == shard {
				t.Run(j.place+" "+j.kind, j.run)
			}
		}
	})
}
