package cf

import (
	"path/filepath"
	"slices"
	"strings"
)

// CertificateParameters are the parameters that name files with a server's
// certificates and keys (postconf(5)).
var CertificateParameters = []string{
	"smtpd_tls_chain_files",
	"smtpd_tls_cert_file", "smtpd_tls_key_file",
	"smtpd_tls_eccert_file", "smtpd_tls_eckey_file",
	"smtpd_tls_dcert_file", "smtpd_tls_dkey_file",
}

// CertificateFiles are the files that CertificateParameters name in main.cf or in
// an override of master.cf, set anywhere for any service, by the bytes of the two
// files alone: for one who must answer before a single postconf(1) could. ok is
// false if that is not enough, because a value depends on a built-in default, is
// relative to the queue directory, or a file cannot be understood; then only a
// Snapshot knows.
func CertificateFiles(dir string, main, master []byte) (files []string, ok bool) {
	settings, err := parseMain("main.cf", string(main))
	if err != nil {
		return nil, false
	}
	entries, err := parseMaster("master.cf", string(master))
	if err != nil {
		return nil, false
	}
	set := map[string]string{}
	for _, s := range settings {
		set[s.name] = s.value
	}
	ok = true
	take := func(own map[string]string) {
		value := func(name string) (string, bool) {
			if v, found := own[name]; found {
				return v, true
			}
			v, found := set[name]
			return v, found
		}
		lookup := func(name string) (string, bool) {
			if v, found := value(name); found {
				return v, true
			}
			if name == "config_directory" {
				return dir, true
			}
			// One of these that is not set is empty, or names another one of them.
			ok = ok && slices.Contains(CertificateParameters, name)
			return "", false
		}
		for _, name := range CertificateParameters {
			written, _ := value(name)
			expanded, err := expand(written, lookup)
			ok = ok && err == nil
			for _, f := range fileNames(name, expanded) {
				if !slices.Contains(files, f) {
					files = append(files, f)
				}
			}
		}
	}
	take(nil)
	for _, e := range entries {
		ok = ok && e.broken == "" && !e.service.garbled
		own := map[string]string{}
		for _, o := range e.service.Overrides {
			own[o.Name] = o.Value
		}
		take(own)
	}
	return files, ok && !slices.ContainsFunc(files, func(f string) bool { return !filepath.IsAbs(f) })
}

// CertificateFiles are the files that CertificateParameters name for any service,
// in effect.
func (s Snapshot) CertificateFiles() []string {
	var out []string
	services := []string{""}
	for _, e := range s.Services {
		services = append(services, e.ID())
	}
	for _, id := range services {
		for _, f := range s.certificateFiles(id) {
			if !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}

// CertificateServices are the services that read a file which match says yes to:
// "" for main.cf, then the ID of each entry that names one by itself.
func (s Snapshot) CertificateServices(match func(path string) bool) []string {
	var out []string
	ids := []string{""}
	for _, e := range s.Services {
		if slices.ContainsFunc(e.Overrides, func(o Override) bool { return slices.Contains(CertificateParameters, o.Name) }) {
			ids = append(ids, e.ID())
		}
	}
	for _, id := range ids {
		if slices.ContainsFunc(s.certificateFiles(id), match) {
			out = append(out, id)
		}
	}
	return out
}

// certificateFiles are the files that CertificateParameters name for one service.
func (s Snapshot) certificateFiles(id string) []string {
	var out []string
	for _, name := range CertificateParameters {
		for _, f := range fileNames(name, s.Effective(id, name)) {
			if !filepath.IsAbs(f) {
				f = filepath.Join(s.Effective("", "queue_directory"), f)
			}
			out = append(out, filepath.Clean(f))
		}
	}
	return out
}

// fileNames are the files that the value of a parameter names. smtpd_tls_chain_files
// is a list, the others are one name, in which a comma is a comma; "none" is
// Postfix's word for no file.
func fileNames(parameter, value string) []string {
	if parameter != "smtpd_tls_chain_files" {
		if value = strings.Trim(value, spaceSet); value == "" || value == "none" {
			return nil
		}
		return []string{value}
	}
	return slices.DeleteFunc(strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }),
		func(f string) bool { return f == "none" })
}
