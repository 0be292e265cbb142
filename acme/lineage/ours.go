package lineage

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"postcert/deploy/atomicfile"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// Rule says why a lineage is ours; "" if it is another's.
type Rule string

// The rules, in the order in which they are asked. Each of them is something that
// a person decided on this host: that a certificate is valid for our name says
// little, and counts only while nothing else does.
const (
	RuleConfigured Rule = "configured" // the configuration names it
	RuleRecorded   Rule = "recorded"   // what was deployed last came from it
	RuleParameter  Rule = "parameter"  // a parameter of Postfix names a file of it
	RuleArchived   Rule = "archived"   // it holds, or held, the leaf that is deployed
	RuleCovers     Rule = "covers"     // nothing is deployed yet, and it is valid for a name of this host
	RuleNamed      Rule = "named"      // somebody wrote its files into the call
)

// Facts are what one Postfix instance and its records say.
type Facts struct {
	Configured []string // directories that the configuration names
	Recorded   []string // directories or certificate files that deployed pairs came from
	Parameters []string // files that effective smtpd_tls_* parameters name
	Deployed   []string // fingerprints of the leaves that we have deployed; none: nothing is
	Names      []string // myhostname, and names that the listeners serve
}

// Seen is what was found in a lineage, links resolved.
type Seen struct {
	Dirs         []string // the directory, as given, and as it and its certificate file resolve
	Files        []string // certificate and key, as given and as they resolve
	Fingerprints []string // of the leaves that it holds and held, the present one first
	Leaf         *x509.Certificate
}

// Ours decides whether a lineage is ours. It looks at nothing but its arguments.
func Ours(l Lineage, s Seen, f Facts) Rule {
	switch {
	case slices.ContainsFunc(f.Configured, s.Is):
		return RuleConfigured
	case slices.ContainsFunc(f.Recorded, s.Is):
		return RuleRecorded
	case slices.ContainsFunc(f.Parameters, s.Holds):
		return RuleParameter
	case slices.ContainsFunc(f.Deployed, func(sum string) bool { return slices.Contains(s.Fingerprints, sum) }):
		return RuleArchived
	case len(f.Deployed) == 0 && slices.ContainsFunc(f.Names, s.covers):
		return RuleCovers
	case l.Named:
		return RuleNamed
	}
	return ""
}

// Is tells whether path is the lineage: its directory, or its certificate file.
func (s Seen) Is(path string) bool {
	real := resolved(path)
	return slices.Contains(s.Dirs, path) || slices.Contains(s.Dirs, real) || slices.Contains(s.Files, path) || slices.Contains(s.Files, real)
}

// Holds tells whether the file at path is one of the lineage's.
func (s Seen) Holds(path string) bool {
	real := resolved(path)
	return slices.Contains(s.Files, path) || slices.Contains(s.Files, real) ||
		slices.Contains(s.Dirs, filepath.Dir(path)) || slices.Contains(s.Dirs, filepath.Dir(real))
}

func (s Seen) covers(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return s.Leaf != nil && name != "" &&
		(slices.Contains(s.Leaf.DNSNames, name) || s.Leaf.VerifyHostname(name) == nil)
}

// resolved is the path without links; path itself if it leads nowhere.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// maxFormer is how many former certificates of a lineage are looked at, the
// youngest ones. certbot keeps all of them, for ever.
const maxFormer = 20

// Look finds out what there is to know of a lineage without reading its key. The
// certificate must be there: a client that names one that is not is not to be
// believed. What of it cannot be read otherwise leaves Seen as far as it came.
func (l Lineage) Look() (Seen, error) {
	var s Seen
	if l.Dir != "" {
		s.Dirs = append(s.Dirs, l.Dir, resolved(l.Dir))
	}
	for _, path := range []string{l.Source.Cert, l.Source.Key} {
		if path != "" {
			s.Files = append(s.Files, path, resolved(path))
		}
	}
	cert := resolved(l.Source.Cert)
	leaf, err := LeafOf(cert)
	if err != nil {
		if _, serr := os.Stat(cert); serr != nil {
			id := "input_missing"
			if !errors.Is(serr, fs.ErrNotExist) {
				id = "input_unreadable"
			}
			return s, problem.List{problem.New(id, problem.At{File: l.Source.Cert}, "reading %s: %v", l.Source.Cert, serr)}
		}
		return s, nil
	}
	s.Leaf, s.Fingerprints = leaf, []string{keypair.Fingerprint(leaf)}
	if l.Dir == "" {
		return s, nil
	}
	if archive := filepath.Dir(cert); !slices.Contains(s.Dirs, archive) {
		s.Dirs = append(s.Dirs, archive)
	}
	for _, path := range former(cert) {
		if c, err := LeafOf(path); err == nil {
			s.Fingerprints = append(s.Fingerprints, keypair.Fingerprint(c))
		}
	}
	return s, nil
}

// numbered is how clients name the versions that they keep of a certificate:
// fullchain3.pem (certbot), fullchain-1700000000.pem (dehydrated).
var numbered = regexp.MustCompile(`^fullchain-?[0-9]+\.pem$`)

// former are the other versions beside a certificate file, the youngest first.
func former(cert string) []string {
	if !numbered.MatchString(filepath.Base(cert)) {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(cert))
	if err != nil {
		return nil
	}
	var found []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && e.Name() != filepath.Base(cert) && numbered.MatchString(e.Name()) {
			found = append(found, info)
		}
	}
	slices.SortFunc(found, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var out []string
	for _, info := range found[:min(len(found), maxFormer)] {
		out = append(out, filepath.Join(filepath.Dir(cert), info.Name()))
	}
	return out
}

// LeafOf reads the first certificate of a file, and waits for nothing. A key that
// stands before it is not looked at.
func LeafOf(path string) (*x509.Certificate, error) {
	data, err := atomicfile.Read(path, keypair.MaxBytes)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fs.ErrNotExist
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
		clear(block.Bytes)
	}
}

// Complete is the source to read the pair from: with the file of intermediates if
// the certificate file turns out to hold the leaf alone, as after "lego --no-bundle".
func (l Lineage) Complete() keypair.Source {
	src := l.Source
	if src.Chain != "" || l.Issuer == "" {
		return src
	}
	data, err := atomicfile.Read(src.Cert, keypair.MaxBytes)
	if err != nil || strings.Count(string(data), "-----BEGIN CERTIFICATE-----") > 1 {
		return src
	}
	if _, err := os.Stat(l.Issuer); err == nil {
		src.Chain = l.Issuer
	}
	return src
}
