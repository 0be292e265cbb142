package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"postcert/deploy"
	"postcert/deploy/postfix/cf"
	"postcert/verify/audit"
	"postcert/verify/probe"
)

const (
	maxAuditFile   = 4 << 20  // bytes of one file that is read: a bundle of trust anchors has 0.2 MiB
	maxAuditCopy   = 64 << 10 // bytes of a file that may be a copy of a key
	maxAuditNames  = 4096     // names of a directory that are looked at
	askTime        = 8 * time.Second
	maxAuditBackup = 50
)

// bundles are where distributions keep all trust anchors in one file.
var bundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}

// gatherFiles looks at what the configuration names. What this user may not read
// stays unknown: only root can audit all of it.
func gatherFiles(s cf.Snapshot, n audit.Needs) audit.Facts {
	f := audit.Facts{Files: map[string]audit.File{}, Hashed: map[string]int{}}
	for _, path := range n.PEM {
		look(f.Files, path, func(v *audit.File, data []byte) {
			v.PEM = audit.ReadPEM(data)
			if v.PEM.Keys > 0 {
				v.Loose = looseAbove(path)
			}
		})
	}
	for _, path := range n.Text {
		look(f.Files, path, func(v *audit.File, data []byte) { v.Entries = audit.ReadTable(data) })
	}
	for _, path := range n.Stat {
		look(f.Files, path, nil)
	}
	queue := s.Effective("", "queue_directory")
	for _, dir := range n.Hashed {
		f.Hashed[dir] = hashedIn(dir, queue)
	}
	f.Backups = keyCopies(s.Dir, f.Files)
	for _, path := range bundles {
		if st, err := os.Stat(path); f.Bundle == "" && err == nil && st.Mode().IsRegular() {
			f.Bundle = path
		}
	}
	return f
}

// look notes what lies at a path, and with read also what is in it.
func look(into map[string]audit.File, path string, read func(*audit.File, []byte)) {
	v := audit.File{}
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var data []byte
	if err == nil && read != nil {
		data, err = readUpTo(path, maxAuditFile)
	}
	if errors.Is(err, fs.ErrPermission) {
		return
	}
	if err != nil {
		v.Err = errorWords(err)
		into[path] = v
		return
	}
	v.Mode, v.Modified = st.Mode(), st.ModTime()
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		v.UID, v.GID = int(sys.Uid), int(sys.Gid)
	}
	if read != nil {
		read(&v, data)
		clear(data)
	}
	into[path] = v
}

// errorWords is the reason of an error without the path, which is said beside it.
func errorWords(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

func readUpTo(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

// looseAbove are the directories above a file, on the way that is written and on
// the real one, in which another user than root can put something in its place.
func looseAbove(path string) (out []string) {
	ways := []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
		ways = append(ways, real)
	}
	for _, way := range ways {
		for dir := filepath.Dir(way); ; dir = filepath.Dir(dir) {
			if why := loose(dir); why != "" && !slices.Contains(out, dir+why) {
				out = append(out, dir+why)
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return out
}

func loose(dir string) string {
	st, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return ""
	case sys.Uid != 0:
		return fmt.Sprintf(" (of user %d)", sys.Uid)
	case st.Mode()&fs.ModeSticky != 0:
		return "" // others cannot rename what is not theirs
	case st.Mode()&0o002 != 0, st.Mode()&0o020 != 0 && sys.Gid != 0:
		return fmt.Sprintf(" (mode %04o)", st.Mode().Perm())
	}
	return ""
}

// hashName is what OpenSSL looks up in a directory of trust anchors.
var hashName = regexp.MustCompile(`^[0-9a-f]{8}\.[0-9]+$`)

// hashedIn counts the certificates that OpenSSL would find in dir. Below the queue
// directory it is seen from inside a chroot: an absolute link begins there.
func hashedIn(dir, queue string) int {
	root := ""
	if rest, ok := strings.CutPrefix(dir, queue+"/"); ok && rest != "" {
		root = queue
	}
	n := 0
	for _, name := range entryNames(dir) {
		if hashName.MatchString(name) && leadsToFile(filepath.Join(dir, name), root) {
			n++
		}
	}
	return n
}

func leadsToFile(path, root string) bool {
	for range 8 {
		st, err := os.Lstat(path)
		if err != nil {
			return false
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			return st.Mode().IsRegular()
		}
		target, err := os.Readlink(path)
		if err != nil {
			return false
		}
		if filepath.IsAbs(target) {
			path = filepath.Join(root, target)
		} else {
			path = filepath.Join(filepath.Dir(path), target)
		}
	}
	return false
}

func entryNames(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(maxAuditNames) // what could be read counts
	slices.Sort(names)
	return names
}

// copyName is what editors, packages and people call a copy.
var copyName = regexp.MustCompile(`(?i)(~|\.(bak|old|orig|save|backup|copy|rpmsave|rpmnew|dpkg-old|dpkg-dist|dpkg-new|swp)|[._-](bak|old|orig|save|backup|copy)(\.\w+)?|[._-][0-9]{8}(\.\w+)?)$`)

// keyCopies are files beside the keys that are in use, and in the configuration
// directory, that are called like a copy and hold a private key.
func keyCopies(config string, known map[string]audit.File) (out []audit.Backup) {
	dirs := []string{config, filepath.Join(config, "tls")}
	for path, f := range known {
		if (f.PEM.Keys > 0 || f.Err != "") && !slices.Contains(dirs, filepath.Dir(path)) {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		for _, name := range entryNames(dir) {
			path := filepath.Join(dir, name)
			if _, used := known[path]; used || !copyName.MatchString(name) || len(out) == maxAuditBackup {
				continue
			}
			st, err := os.Lstat(path)
			if err != nil || !st.Mode().IsRegular() || st.Size() > maxAuditCopy {
				continue
			}
			data, err := readUpTo(path, maxAuditCopy)
			if err == nil && audit.ReadPEM(data).Keys > 0 {
				out = append(out, audit.Backup{Path: path, Mode: st.Mode()})
			}
			clear(data)
		}
	}
	return out
}

// greetings asks every listener that can be dialled for its extensions, before TLS
// and inside it, side by side.
func greetings(ctx context.Context, all []cf.Listener, p prober) map[string]audit.Greeting {
	out := map[string]audit.Greeting{}
	var mutex sync.Mutex
	var wg sync.WaitGroup
	for _, l := range all {
		if l.Network != "tcp" || len(l.Addresses) == 0 {
			continue
		}
		e := probe.Endpoint{Network: l.Network, Address: l.Addresses[0], Mode: probe.STARTTLS, ProxyProtocol: l.Proxy, Timeout: askTime}
		if l.Implicit {
			e.Mode = probe.Implicit
		}
		wg.Go(func() {
			g := greeting(ctx, p.detour(e))
			mutex.Lock()
			out[l.ID()] = g
			mutex.Unlock()
		})
	}
	wg.Wait()
	return out
}

func greeting(ctx context.Context, e probe.Endpoint) audit.Greeting {
	s, r := probe.Open(ctx, e)
	defer s.Close()
	g := audit.Greeting{Endpoint: e.Address, Before: r.Extensions}
	switch {
	case r.Reason == probe.OK, r.Reason == probe.Unreadable:
		// An error leaves what is offered inside TLS unknown.
		g.After, _ = s.Extensions(ctx)
	case r.Reason == probe.NotOffered, r.Reason == probe.TLSNotAvailable, r.Reason == probe.HandshakeFailed,
		r.Reason == probe.Closed && r.Phase == probe.Handshaking:
		g.Failed = deploy.Words(r)
	default:
		g.Failed, g.Unknown = deploy.Words(r), true
	}
	return g
}
