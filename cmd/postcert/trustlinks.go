package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

// maxLinked bounds the certificates of a directory: openssl(1) is asked for each.
const maxLinked = 1000

// hashLinkFiles are the links by which OpenSSL finds the certificates of a directory,
// as openssl-rehash(1) makes them: the hash of the subject, a dot, and a number that
// tells equal ones apart. Links that are right stay; nothing is taken away.
func (a *app) hashLinkFiles(ctx context.Context, s *site, snap cf.Snapshot, side, dir string) ([]deploy.FileChange, error) {
	if err := chrootSees(snap, side, dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, refuse("trust_invalid", problem.At{File: dir}, "%v", err)
	}
	if !openToAll(dir) {
		return nil, refuse("trust_invalid", problem.At{File: dir}, "%s cannot be read by %s, as whom Postfix looks for certificates there", dir, snap.Effective("", "mail_owner"))
	}
	taken, linked := map[string]bool{}, map[string]bool{} // names; hash and certificate
	var plain []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch ext := filepath.Ext(e.Name()); {
		case hashName.MatchString(e.Name()):
			taken[e.Name()] = true
			if data, err := atomicfile.Read(path, 1<<20); err == nil {
				linked[strings.SplitN(e.Name(), ".", 2)[0]+atomicfile.Digest(data)] = true
			}
		case slices.Contains([]string{".pem", ".crt", ".cer"}, ext):
			plain = append(plain, path)
		}
	}
	if len(plain) > maxLinked {
		return nil, refuse("trust_invalid", problem.At{File: dir}, "%s holds more than %d certificates; name a bundle instead", dir, maxLinked)
	}
	var out []deploy.FileChange
	for _, path := range plain {
		data, err := atomicfile.Read(path, 1<<20)
		if err != nil || len(pemCertificates(data)) != 1 || !openToAll(path) {
			a.log.Warn("passed over: not one certificate that all can read", "file", path, "err", err)
			continue
		}
		hash, err := subjectHash(ctx, path)
		if err != nil {
			return nil, err
		}
		if linked[hash+atomicfile.Digest(data)] {
			continue
		}
		n := 0
		for taken[fmt.Sprintf("%s.%d", hash, n)] {
			n++
		}
		name := fmt.Sprintf("%s.%d", hash, n)
		taken[name], linked[hash+atomicfile.Digest(data)] = true, true
		out = append(out, deploy.FileChange{Path: filepath.Join(dir, name), Before: atomicfile.State{Kind: atomicfile.Absent},
			After: atomicfile.State{Kind: atomicfile.Symlink, Target: filepath.Base(path)}})
	}
	if len(taken) == 0 {
		return nil, refuse("trust_invalid", problem.At{File: dir}, "%s holds no file with one certificate (.pem, .crt, .cer)", dir)
	}
	return out, nil
}

// chrootSees refuses a directory that a service in a chroot would not see.
func chrootSees(s cf.Snapshot, side, dir string) error {
	list := clients(s)
	if side == "smtpd" {
		list = servers(s)
	}
	for _, svc := range list {
		if !chrooted(s, svc) {
			continue
		}
		if n, _ := hashLinks(filepath.Join(s.Effective("", "queue_directory"), dir)); n == 0 {
			return refuse("trust_chroot", problem.At{Service: svc.ID(), File: dir},
				"%s runs in a chroot, below %s, where there is no %s with hash links: it would believe nobody", svc.ID(), s.Effective("", "queue_directory"), dir)
		}
	}
	return nil
}

var eightHex = regexp.MustCompile(`^[0-9a-f]{8}$`)

// subjectHash is the hash of a certificate's subject, as OpenSSL computes it.
func subjectHash(ctx context.Context, path string) (string, error) {
	exe := opensslPath()
	if exe == "" {
		return "", refuse("program_missing", problem.At{}, "hash links need openssl(1), which is not installed")
	}
	r, err := program.Run(ctx, program.Command{Path: exe, Args: []string{"x509", "-noout", "-subject_hash", "-in", path}})
	hash := strings.TrimSpace(string(r.Stdout))
	if err == nil && !eightHex.MatchString(hash) {
		err = &program.Error{Path: exe, Stderr: hash, Err: fmt.Errorf("no hash of %s", path)}
	}
	return hash, err
}
