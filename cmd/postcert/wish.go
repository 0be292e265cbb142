package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postcert/acme"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy/atomicfile"
	"postcert/deploy/generation"
	"postcert/verify/problem"
)

// wish is one certificate that this host shall have: of the configuration, or
// obtained once by flags and remembered since.
type wish struct {
	name    string
	source  config.Source
	spec    acme.Spec        // source acme; normal
	account acme.AccountSpec // source acme
	lineage string           // source watch, and hook
	files   pairFiles        // source hook; zero: those of lineage

	// remembered wishes are of flags: the instance they were obtained for is kept
	// with them, "" if for none.
	remembered bool
	instance   string
	chosen     bool // this run describes it, and leaves the instance to us

	// hooked are the services, "" for all, by configuration directory, that a hook
	// or install-cert deployed to.
	hooked map[string]string
}

// remembered is a wish of flags, as it is on disk. It holds no secret: of an
// account binding the key identifier, of a DNS provider the path of a file.
type remembered struct {
	Version  int       `json:"version"`
	Spec     acme.Spec `json:"spec"`
	Email    string    `json:"email"`
	AgreeTOS bool      `json:"agree_tos"`
	EABKeyID string    `json:"eab_kid,omitempty"`
	EABFile  string    `json:"eab_file,omitempty"`
	Instance string    `json:"instance"` // configuration directory; "" is none
}

// maxRemembered is more than any of these files has, in bytes.
const maxRemembered = 1 << 20

func (a *app) rememberedDir() string { return filepath.Join(a.conf.StateDir, "obtained") }

func (a *app) rememberedPath(name string) string {
	return filepath.Join(a.rememberedDir(), generation.FileName(name)+".json")
}

// manager is what keeps accounts and certificates: one for a run of the program,
// so that its orders share what they ask of the CA. The daemon, which runs for long
// and asks no CA, and may be given another state directory, has a new one each time.
func (a *app) manager() (*acme.Manager, error) {
	if a.ca != nil {
		return a.ca, nil
	}
	store, err := acme.Open(filepath.Join(a.conf.StateDir, "acme"))
	if err != nil {
		return nil, err
	}
	if a.keyless {
		store = store.Keyless()
	}
	m := &acme.Manager{Store: store, UserAgent: "postcert/" + versionString(), Now: a.now, TLSA: acme.LookupTLSA}
	if a.flags.verbose > 0 { // else what went wrong is said once, as a problem
		m.Log = a.log
	}
	if !a.keyless {
		a.ca = m
	}
	return m, nil
}

// turns remember the passes over each certificate.
func (a *app) turns() status.Turns {
	return status.Turns{Path: func(name string) (string, error) {
		return filepath.Join(a.conf.StateDir, "turns", generation.FileName(name)+".json"), generation.ValidName(name)
	}}
}

// wishes are all certificates that are to be kept, or the named ones. What is
// wrong with one does not hide the others.
func (a *app) wishes(names []string) ([]wish, error) {
	var out []wish
	var wrong []error
	for _, c := range a.conf.Certificates {
		if len(names) > 0 && !slices.Contains(names, c.Name) {
			continue
		}
		w, err := a.configured(c)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		out = append(out, w)
	}
	old, err := a.rememberedWishes(names)
	if err != nil {
		wrong = append(wrong, err)
	}
	for _, w := range old {
		// The configuration knows better what is wanted now.
		if !slices.ContainsFunc(a.conf.Certificates, func(c config.Certificate) bool { return c.Name == w.name }) {
			out = append(out, w)
		}
	}
	for _, w := range a.hookWishes(names) {
		if !slices.ContainsFunc(out, func(o wish) bool { return o.name == w.name }) &&
			!slices.ContainsFunc(a.conf.Certificates, func(c config.Certificate) bool { return c.Name == w.name }) {
			out = append(out, w)
		}
	}
	return out, errors.Join(wrong...)
}

// configured makes a wish of a section of the configuration.
func (a *app) configured(c config.Certificate) (wish, error) {
	w := wish{name: c.Name, source: c.Source, lineage: c.Lineage}
	if c.Source != config.SourceACME {
		return w, nil
	}
	if len(c.Also) > 0 {
		// Half of what was asked for would look like all of it.
		return w, refuse("also_unsupported", problem.At{File: a.conf.File, Parameter: "certificates"},
			"%s asks for a second certificate with %s, which this version cannot keep beside the first", c.Name, c.Also[0])
	}
	ch := c.Challenge
	spec := acme.Spec{
		Name: c.Name, Identifiers: c.Domains, KeyType: acme.KeyType(c.Key.Type), KeyPolicy: acme.KeyPolicy(c.Key.Policy), Profile: c.Profile,
		PreferredChain: c.PreferredChain,
		Challenge: acme.Challenge{Type: string(ch.Type), Listen: ch.Listen, Webroot: ch.Webroot, Provider: ch.Provider,
			Credentials: ch.Credentials, Propagation: ch.Propagation},
	}
	var err error
	if w.spec, w.account, err = a.atCA(spec); err != nil {
		return w, err
	}
	w.spec, err = normal(w.spec)
	return w, err
}

// normal judges a specification; what is wrong with it is a matter of whoever
// wrote it.
func normal(s acme.Spec) (acme.Spec, error) {
	n, err := s.Normal()
	if err != nil {
		return s, usageError{err}
	}
	return n, nil
}

// atCA adds to a specification where it is to be ordered, and by which account.
func (a *app) atCA(s acme.Spec) (acme.Spec, acme.AccountSpec, error) {
	account, err := a.accountSpec()
	s.Directory, s.Roots = account.Directory, account.Roots
	return s, account, err
}

// accountSpec is the account that the configuration describes.
func (a *app) accountSpec() (acme.AccountSpec, error) {
	c := a.conf.ACME
	s := acme.AccountSpec{AgreeTerms: c.AgreeTOS, EABKeyID: c.EAB.KID, EABFile: c.EAB.HMACFile}
	if c.Email != "" {
		s.Contact = []string{c.Email}
	}
	var err error
	if s.Directory, err = directoryURL(c.Directory); err != nil {
		return s, err
	}
	if c.Trust != "" {
		if s.Roots, err = atomicfile.Read(c.Trust, maxRemembered); err != nil {
			return s, refuse("acme_trust_unreadable", problem.At{File: c.Trust, Parameter: "acme.trust"}, "the CA of the ACME directory's TLS: %v", err)
		}
	}
	return s, nil
}

// directoryURL is where a CA is: by its name, or as it was written.
func directoryURL(name string) (string, error) {
	if strings.Contains(name, "://") {
		return name, nil
	}
	url, _, ok := acme.DirectoryURL(name)
	if !ok {
		return "", refuse("acme_directory_unknown", problem.At{Parameter: "acme.directory"}, "no CA is known by the name %q", name)
	}
	return url, nil
}

// rememberedWishes are those of flags, or the named ones of them.
func (a *app) rememberedWishes(names []string) ([]wish, error) {
	entries, err := os.ReadDir(a.rememberedDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []wish
	var wrong []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		w, err := readRemembered(filepath.Join(a.rememberedDir(), e.Name()))
		if err != nil {
			wrong = append(wrong, err)
		} else if len(names) == 0 || slices.Contains(names, w.name) {
			out = append(out, w)
		}
	}
	return out, errors.Join(wrong...)
}

func readRemembered(path string) (wish, error) {
	data, err := atomicfile.ReadFile(atomicfile.OS, path, maxRemembered)
	if err != nil {
		return wish{}, err
	}
	var r remembered
	if err := json.Unmarshal(data, &r); err != nil {
		return wish{}, fmt.Errorf("reading %s: %w", path, err)
	}
	w := wish{name: r.Spec.Name, source: config.SourceACME, spec: r.Spec, remembered: true, instance: r.Instance}
	w.account = acme.AccountSpec{
		Directory: r.Spec.Directory, Roots: r.Spec.Roots, Label: r.Spec.Account, AgreeTerms: r.AgreeTOS, EABKeyID: r.EABKeyID, EABFile: r.EABFile,
	}
	if r.Email != "" {
		w.account.Contact = []string{r.Email}
	}
	w.spec, err = normal(w.spec)
	return w, err
}

// remember keeps a wish of flags, so that renew and the daemon know it.
func (a *app) remember(w wish) error {
	r := remembered{Version: 1, Spec: w.spec, AgreeTOS: w.account.AgreeTerms, EABKeyID: w.account.EABKeyID, EABFile: w.account.EABFile, Instance: w.instance}
	if len(w.account.Contact) > 0 {
		r.Email = w.account.Contact[0]
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := generation.ValidName(w.name); err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(atomicfile.OS, a.rememberedDir()); err != nil {
		return err
	}
	return atomicfile.Write(atomicfile.OS, a.rememberedPath(w.name), append(data, '\n'), atomicfile.Attr{Mode: 0o600})
}

// forget drops a wish of flags that came to nothing: the next command line may be
// another one. If an order was begun, or there is a certificate, it stays.
func (a *app) forget(w wish) bool {
	m, err := a.manager()
	if err != nil {
		return false
	}
	if st, err := m.StateOf(w.spec); err != nil || st.Current != nil || st.Pending != nil {
		return false
	}
	if err := os.Remove(a.rememberedPath(w.name)); err != nil {
		a.log.Warn("forgetting what was not obtained", "err", err)
		return false
	}
	return true
}

// target is one place where a certificate is to be served.
type target struct{ directory string } // configuration directory of an instance

// targets are the instances that are to serve a certificate. known is false if
// that depends on which instances there are: the configuration does not say. An empty
// list there says that none is to.
func (a *app) targets(w wish) (list []target, known bool) {
	if w.source == sourceHook {
		for _, dir := range slices.Sorted(maps.Keys(w.hooked)) {
			list = append(list, target{dir})
		}
		return list, true
	}
	if w.remembered {
		if w.instance == "" {
			return nil, true
		}
		return []target{{w.instance}}, true
	}
	for _, in := range a.conf.Instances {
		if in.Certificate == w.name || slices.Contains(in.SNI, w.name) ||
			slices.ContainsFunc(in.Services, func(s config.Service) bool { return s.Certificate == w.name }) {
			list = append(list, target{in.ConfigDirectory})
		}
	}
	return list, a.conf.Instances != nil || len(a.conf.Certificates) > 1
}

// challengeWords are how a certificate's names are shown to the CA.
func challengeWords(c acme.Challenge) string {
	switch {
	case c.Provider != "":
		return c.Type + " by " + c.Provider
	case c.Webroot != "":
		return c.Type + " in " + c.Webroot
	case c.Listen != "":
		return c.Type + " on " + c.Listen
	}
	return c.Type
}

// hostOf is the host of a URL, for people.
func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	if h, _, err := net.SplitHostPort(host); err == nil {
		if _, err := netip.ParseAddr(h); err != nil {
			return h
		}
	}
	return host
}
