package main

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"postcert/acme/lineage"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify/keypair"
)

// found is a lineage of a call and what is in it.
type found struct {
	lineage.Lineage
	seen lineage.Seen
}

// hookTarget is one service, or all, of one instance that a lineage is ours in.
type hookTarget struct {
	site    *site
	rule    lineage.Rule
	name    string // of the certificate; "" lets the plan choose
	service string
	left    string // why it is left alone; "" if it is not
}

// defaultDirectory is where Postfix's configuration is unless it was built
// otherwise.
const defaultDirectory = "/etc/postfix"

// maxConfigFile is more than any main.cf or master.cf has, in bytes.
const maxConfigFile = 4 << 20

// surelyOthers tells, without running a program, that none of the lineages is
// ours: a client calls its hooks for every certificate, and most of those have
// nothing to do with mail. It says no wherever it does not know.
func (a *app) surelyOthers(all []found) bool {
	records := a.records().All()
	dirs, ok := a.quickDirectories()
	if !ok {
		return false
	}
	f := a.recordFacts(records, "")
	for _, dir := range dirs {
		if len(a.recordFacts(records, dir).Deployed) == 0 {
			return false // a name that is covered may be enough
		}
		files, ok := quickFiles(dir)
		if !ok {
			return false
		}
		f.Parameters = append(f.Parameters, files...)
	}
	return !slices.ContainsFunc(all, func(l found) bool { return lineage.Ours(l.Lineage, l.seen, f) != "" })
}

// quickDirectories are the configuration directories of all instances that a hook
// treats, and perhaps of some that are disabled.
func (a *app) quickDirectories() ([]string, bool) {
	switch {
	case strings.HasPrefix(a.conf.Instance, "/"):
		return []string{filepath.Clean(a.conf.Instance)}, true
	case a.conf.Instance != "" || a.conf.CommandDirectory != "":
		return nil, false
	}
	data, err := atomicfile.Read(filepath.Join(defaultDirectory, "main.cf"), maxConfigFile)
	if err != nil || strings.Contains(string(data), "multi_instance_directories") {
		return nil, false
	}
	return []string{defaultDirectory}, true
}

// quickFiles are the files that an instance's certificate parameters name.
func quickFiles(dir string) ([]string, bool) {
	main, err := atomicfile.Read(filepath.Join(dir, "main.cf"), maxConfigFile)
	if err != nil {
		return nil, false
	}
	master, err := atomicfile.Read(filepath.Join(dir, "master.cf"), maxConfigFile)
	if err != nil {
		return nil, false
	}
	return cf.CertificateFiles(dir, main, master)
}

// recordFacts are what the configuration and the records say, of one instance or,
// with "", of all.
func (a *app) recordFacts(records []*status.Record, dir string) lineage.Facts {
	var f lineage.Facts
	for _, c := range a.conf.Certificates {
		if c.Source == config.SourceWatch {
			f.Configured = append(f.Configured, filepath.Clean(c.Lineage))
		}
	}
	for _, r := range records {
		if dir != "" && r.Instance != dir || r.Released {
			continue
		}
		if r.Installed != "" {
			f.Deployed = append(f.Deployed, r.Installed)
		}
		f.Recorded = append(f.Recorded, placesOf(r)...)
	}
	return f
}

// placesOf are where a record's pair came from.
func placesOf(r *status.Record) []string {
	switch {
	case r.Lineage != "":
		return []string{r.Lineage}
	case r.Source != nil:
		return []string{r.Source.Cert}
	}
	return nil
}

// hookTargets are the places in one instance that a lineage is ours in.
func (a *app) hookTargets(ctx context.Context, s *site, l found) ([]hookTarget, error) {
	records, err := a.records().List(s.instance.ConfigDirectory)
	if err != nil {
		a.log.Warn("reading the status", "err", err)
	}
	f := a.recordFacts(records, s.instance.ConfigDirectory)
	f.Configured = slices.DeleteFunc(f.Configured, func(dir string) bool { return !a.configuredFor(s, dir) })
	// Mostly that is enough, and Postfix need not be asked: its plan does, again.
	known := lineage.Facts{Configured: f.Configured, Recorded: f.Recorded}
	if rule := lineage.Ours(l.Lineage, l.seen, known); rule == lineage.RuleConfigured || rule == lineage.RuleRecorded {
		return a.placed(hookTarget{site: s, rule: rule}, l, cf.Snapshot{}, records), nil
	}
	snap, err := s.instance.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	f.Parameters = snap.CertificateFiles()
	f.Deployed = append(f.Deployed, deployedIn(s, f.Parameters)...)
	f.Names = append([]string{snap.Effective("", "myhostname")}, namesIn(f.Parameters)...)
	t := hookTarget{site: s, rule: lineage.Ours(l.Lineage, l.seen, f)}
	if t.rule == "" {
		return nil, nil
	}
	given := slices.IndexFunc(records, func(r *status.Record) bool { return r.Released })
	if given >= 0 && len(f.Deployed) == 0 && t.rule != lineage.RuleNamed && t.rule != lineage.RuleConfigured {
		t.left = records[given].Name + " was given back (postcert release)"
		return []hookTarget{t}, nil
	}
	return a.placed(t, l, snap, records), nil
}

// placed says under which name, and for which services, a lineage is deployed.
func (a *app) placed(t hookTarget, l found, snap cf.Snapshot, records []*status.Record) []hookTarget {
	var out []hookTarget
	add := func(name, service string) { t.name, t.service = name, service; out = append(out, t) }
	switch t.rule {
	case lineage.RuleConfigured:
		for _, c := range a.conf.Certificates {
			if c.Source == config.SourceWatch && l.seen.Is(filepath.Clean(c.Lineage)) {
				add(c.Name, "")
			}
		}
	case lineage.RuleRecorded:
		for _, r := range records {
			if !r.Released && slices.ContainsFunc(placesOf(r), l.seen.Is) {
				add(r.Name, r.Service)
			}
		}
	case lineage.RuleArchived:
		for _, r := range records {
			if !r.Released && slices.Contains(l.seen.Fingerprints, r.Installed) {
				add(r.Name, r.Service)
			}
		}
	case lineage.RuleParameter:
		for _, id := range snap.CertificateServices(l.seen.Holds) {
			add("", id)
			if id == "" {
				break // who names a certificate besides is the plan's to judge
			}
		}
	}
	if len(out) == 0 {
		out = append(out, t)
	}
	return out
}

// configuredFor tells whether a lineage of the configuration is for this instance.
func (a *app) configuredFor(s *site, dir string) bool {
	for _, c := range a.conf.Certificates {
		if c.Source != config.SourceWatch || filepath.Clean(c.Lineage) != dir {
			continue
		}
		list, known := a.targets(wish{name: c.Name, source: c.Source})
		if !known || slices.ContainsFunc(list, func(t target) bool {
			return filepath.Clean(t.directory) == filepath.Clean(s.instance.ConfigDirectory)
		}) {
			return true
		}
	}
	return false
}

// deployedIn are the fingerprints of what Postfix reads from our own directory.
func deployedIn(s *site, files []string) []string {
	var out []string
	for _, path := range files {
		if filepath.Dir(path) != filepath.Join(s.instance.ConfigDirectory, deploy.Directory) {
			continue
		}
		if c, err := lineage.LeafOf(path); err == nil {
			out = append(out, keypair.Fingerprint(c))
		}
	}
	return out
}

// namesIn are the names that the certificates in files are valid for.
func namesIn(files []string) []string {
	var out []string
	for _, path := range files {
		if c, err := lineage.LeafOf(path); err == nil {
			out = append(out, c.DNSNames...)
		}
	}
	return out
}
