package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify"
	"postcert/verify/problem"
)

// levelFits refuses a level that would hold back all mail it is about: verify and
// secure without trust anchors, dane without DNSSEC. tafile are the anchors of a
// policy's own (tafile=), "" if it has none.
func (a *app) levelFits(ctx context.Context, s cf.Snapshot, level, tafile string) problem.List {
	switch level {
	case "verify", "secure":
		if tafile != "" {
			return a.fileFits(tafile)
		}
		return a.anchorsFit(s, level)
	case "dane", "dane-only":
		return daneFits(ctx, s, level)
	}
	return nil
}

func (a *app) fileFits(tafile string) problem.List {
	if n, err := certificatesIn(tafile); err != nil || n == 0 {
		return problem.List{problem.New("outbound_no_anchors", problem.At{File: tafile}, "tafile %s holds no certificate that can be read: %v", tafile, err)}
	}
	return nil
}

// anchorsFit asks for each service that sends mail whether it can verify anything.
func (a *app) anchorsFit(s cf.Snapshot, level string) problem.List {
	var out problem.List
	for _, c := range clients(s) {
		if overrides(c, levelParameter) && !mandatory(s.Effective(c.ID(), levelParameter)) {
			continue
		}
		if t := trustOf(s, c, "smtp"); t.Count == 0 {
			out = append(out, problem.New("outbound_no_anchors", problem.At{Service: c.ID(), Parameter: "smtp_tls_CAfile"},
				"at the level %s all mail that %s sends would stay in the queue, \"Server certificate not verified\": %s", level, c.ID(), strings.Join(t.Faults, "; ")))
		} else {
			for _, f := range t.Faults {
				out = append(out, problem.Warn("trust_unreachable", problem.At{Service: c.ID()}, "%s: %s", c.ID(), f))
			}
		}
	}
	return out
}

// trust is what one service can verify certificates with.
type trust struct {
	Service string   `json:"service"`
	Chroot  bool     `json:"chroot"`
	CAfile  string   `json:"ca_file"`
	CApath  string   `json:"ca_path"`
	Append  bool     `json:"append_default_ca"`
	Count   int      `json:"anchors"` // that the service can read
	Faults  []string `json:"faults"`  // why there are not more
}

// trustOf is what a service can verify with: side is smtp for servers that we send
// to, smtpd for clients that connect. A CAfile is read before the service goes into
// its chroot, a CApath whenever a certificate is looked for, from inside it
// (TLS_README). tls_append_default_CA adds OpenSSL's own places, by the same rule.
func trustOf(s cf.Snapshot, svc cf.Service, side string) trust {
	id := svc.ID()
	t := trust{Service: id, Chroot: chrooted(s, svc), Faults: []string{},
		CAfile: s.Effective(id, side+"_tls_CAfile"), CApath: s.Effective(id, side+"_tls_CApath"), Append: s.Effective(id, "tls_append_default_CA") == "yes"}
	files := []string{t.CAfile}
	if side == "smtp" {
		files = append(files, strings.FieldsFunc(s.Effective(id, "smtp_tls_trust_anchor_file"), func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	for _, f := range files {
		if f == "" {
			continue
		}
		n, err := certificatesIn(s.ResolvePath(f))
		if t.Count += n; err != nil || n == 0 {
			t.fault("no certificate can be read from %s: %v", f, err)
		}
	}
	paths := []string{t.CApath}
	if t.Append {
		paths = append(paths, openSSLCerts)
	}
	for _, p := range paths {
		if p != "" {
			t.directory(s, p)
		}
	}
	if t.Count == 0 && len(t.Faults) == 0 {
		t.fault("neither %s_tls_CAfile nor %s_tls_CApath is set", side, side)
	}
	return t
}

func (t *trust) fault(format string, args ...any) {
	t.Faults = append(t.Faults, strings.TrimSuffix(fmt.Sprintf(format, args...), ": <nil>"))
}

// openSSLCerts is where OpenSSL looks by itself on Debian.
const openSSLCerts = "/usr/lib/ssl/certs"

// directory counts what a service finds in a directory of hash links.
func (t *trust) directory(s cf.Snapshot, dir string) {
	seen := s.ResolvePath(dir)
	if t.Chroot {
		seen = filepath.Join(s.Effective("", "queue_directory"), dir)
	}
	n, plain := hashLinks(seen)
	t.Count += n
	switch {
	case n > 0:
	case isDir(seen) && !openToAll(seen):
		t.fault("%s cannot be read by %s, as whom certificates are looked for", seen, s.Effective("", "mail_owner"))
	case t.Chroot && plain == 0:
		t.fault("%s runs in a chroot and looks for certificates in %s, where there are none; a CAfile is read before that", t.Service, seen)
	case plain > 0:
		t.fault("%s holds certificates, but no hash links to them: openssl rehash %s", seen, seen)
	default:
		t.fault("%s holds no certificates", seen)
	}
}

// chrooted tells whether a service runs in the queue directory: as its entry says,
// or by default, which is no since Postfix 3.0, unless compatibility_level is 0
// (master(5)).
func chrooted(s cf.Snapshot, svc cf.Service) bool {
	if svc.Chroot == "-" {
		return s.Effective("", "compatibility_level") == "0"
	}
	return svc.Chroot == "y"
}

// certificatesIn counts the certificates in a PEM file.
func certificatesIn(path string) (int, error) {
	data, err := atomicfile.Read(path, 16<<20)
	if err != nil {
		return 0, err
	}
	return len(pemCertificates(data)), nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// openToAll tells whether everybody can read what is at a path: a directory of
// certificates is not read as root, but as mail_owner (TLS_README).
func openToAll(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	for want := fs.FileMode(0o004); ; want = 0o001 {
		st, err := os.Stat(path)
		if err != nil || st.Mode()&want == 0 || st.IsDir() && st.Mode()&0o001 == 0 {
			return false
		}
		if path == "/" {
			return true
		}
		path = filepath.Dir(path)
	}
}

// hashLinks counts in a directory the names by which OpenSSL finds a certificate
// that can be read, and the other files that look like certificates.
func hashLinks(dir string) (links, plain int) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		switch ext := filepath.Ext(e.Name()); {
		case hashName.MatchString(e.Name()):
			if openToAll(filepath.Join(dir, e.Name())) {
				links++
			}
		case ext == ".pem" || ext == ".crt" || ext == ".cer":
			plain++
		}
	}
	return links, plain
}

// daneFits refuses DANE where Postfix would not look for TLSA records, or could not
// believe what it finds (postconf(5), smtp_dns_support_level).
func daneFits(ctx context.Context, s cf.Snapshot, level string) problem.List {
	at := func(p string) problem.At { return where(s, "", p) }
	if v := s.Effective("", "smtp_dns_support_level"); v != "dnssec" {
		return problem.List{problem.New("dane_no_dnssec", at("smtp_dns_support_level"),
			"%s needs smtp_dns_support_level = dnssec, and it is %q: Postfix would not ask for DNSSEC", level, v)}
	}
	if hosts := s.Effective("", "smtp_host_lookup"); !strings.Contains(hosts, "dns") || s.Effective("", "disable_dns_lookups") == "yes" {
		return problem.List{problem.New("dane_no_dnssec", at("smtp_host_lookup"), "%s needs DNS, and this Postfix does not use it: smtp_host_lookup = %s", level, hosts)}
	}
	if server, err := validates(ctx); err != nil {
		return problem.List{problem.New("dane_no_dnssec", problem.At{File: "/etc/resolv.conf"},
			"%s needs a resolver that validates DNSSEC, on this host or on a network that nobody else can write to; %s does not: %v", level, orText(server, "the first nameserver"), err)}
	}
	return nil
}

// validates asks the first nameserver of resolv.conf for the root zone's SOA, and
// whether it says that it has validated it (the AD bit, RFC 6840 section 5.7).
func validates(ctx context.Context) (server string, err error) {
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return "", err
	}
	server = "127.0.0.1" // resolv.conf(5)
	for line := range strings.Lines(string(conf)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			server = f[1]
			break
		}
	}
	reply, err := exchange(ctx, server, soaOfRoot)
	if err == nil && (reply[3]&0x0f != 0 || reply[3]&0x20 == 0) {
		err = errors.New("its answer is not marked as validated")
	}
	return server, err
}

// soaOfRoot is a DNS query: header with RD and AD set, one question (RFC 1035
// section 4.1), one OPT record with DO (RFC 6891, RFC 3225).
var soaOfRoot = []byte{0x70, 0x63, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 6, 0, 1, 0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0}

// exchange sends one query to a nameserver, three times at most, and returns the
// answer to it.
func exchange(ctx context.Context, server string, query []byte) ([]byte, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	for range 3 {
		if _, err = conn.Write(query); err != nil {
			continue
		}
		if err = conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return nil, err
		}
		var n int
		if n, err = conn.Read(buf); err == nil && n >= 12 && binary.BigEndian.Uint16(buf) == binary.BigEndian.Uint16(query) && buf[2]&0x80 != 0 {
			return buf[:n], nil
		}
	}
	return nil, errors.Join(err, errors.New("no answer"))
}

// systemAnchors is the file with the trust anchors of this host.
func systemAnchors() (string, bool) { return verify.SystemBundle() }
