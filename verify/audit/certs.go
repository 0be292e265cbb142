package audit

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// The rules about certificates and their keys.
var certRules = []Rule{
	{
		ID: "cert_missing", Title: "a server offers TLS and has no certificate", Severity: Error,
		Why:  "STARTTLS is announced and answered with 454, and a wrapped port is closed at once",
		Cite: "postconf(5) smtpd_tls_cert_file", check: certMissing,
	},
	{
		ID: "cert_unusable", Title: "a file of the certificate cannot be used", Severity: Error,
		Why:  "Postfix switches TLS off, or aborts every handshake, and goes on without",
		Cite: "postconf(5) smtpd_tls_cert_file, smtpd_tls_chain_files; TLS_README", check: certUnusable,
	},
	{
		ID: "cert_slot_stale", Title: "two certificate parameters hold one kind of key", Severity: Error,
		Why:  "Postfix loads both and serves the later one, whichever was renewed",
		Cite: "postconf(5) smtpd_tls_eccert_file; TLS_README", check: certSlotStale,
	},
	{
		ID: "cert_legacy_ignored", Title: "certificate parameters without effect", Severity: Warning,
		Why:  "beside chain files they are ignored, and renewing what they name changes nothing",
		Cite: "postconf(5) smtpd_tls_chain_files", check: certLegacyIgnored,
	},
	{
		ID: "cert_override", Title: "a service has a certificate of its own", Severity: Info,
		Why:  "what main.cf names is not what that port serves, and a renewal must reach both",
		Cite: "master(5)", check: certOverride,
	},
	{
		ID: "key_encrypted", Title: "a private key asks for a passphrase", Severity: Error,
		Why:  "Postfix cannot ask anybody and switches TLS off",
		Cite: "postconf(5) smtpd_tls_key_file; TLS_README", check: keyEncrypted,
	},
	{
		ID: "key_readable", Title: "a private key can be read by every user", Severity: Error,
		Why:  "who has the key can pass for this server",
		Cite: "postconf(5) smtpd_tls_key_file; RFC 7525 section 4", check: keyReadable,
	},
	{
		ID: "key_group_readable", Title: "a private key can be read by a group", Severity: Warning,
		Why:  "Postfix reads it as root, before it drops its privileges, so nobody else needs to",
		Cite: "postconf(5) smtpd_tls_key_file", check: keyGroupReadable,
	},
	{
		ID: "key_directory", Title: "a private key lies where another user can replace it", Severity: Error,
		Why:  "who can rename files there decides what Postfix serves",
		Cite: "postconf(5) smtpd_tls_key_file; postfix check", check: keyDirectory,
	},
	{
		ID: "key_backup", Title: "a copy of a private key lies about", Severity: Warning,
		Why:  "copies are forgotten, keep the modes of the editor that made them, and get into backups",
		Cite: "postconf(5) smtpd_tls_key_file", check: keyBackup,
	},
	{
		ID: "client_cert_purpose", Title: "a client certificate that is none", Severity: Warning,
		Why:  "it has no clientAuth, so servers that ask for it refuse it; public CAs issue none with it any more",
		Cite: "postconf(5) smtp_tls_cert_file; RFC 5280 section 4.2.1.12", check: clientCertPurpose,
	},
}

func certMissing(v *view) (out []*Finding) {
	for _, id := range v.tlsServers() {
		// "none" is meant: anonymous TLS (TLS_README).
		none := strings.EqualFold(v.Effective(id, "smtpd_tls_cert_file"), "none")
		if len(v.pairs(id, "smtpd_tls_")) == 0 && !none {
			out = append(out, found(v.at(id, "smtpd_tls_cert_file"), "install one: postcert install-cert", "%s offers TLS, and no parameter names a certificate", id))
		}
	}
	return out
}

// material calls ask once for each pair that servers or, if asked for, clients
// read, with the first service that does.
func (v *view) material(clients bool, ask func(id string, p pair) []*Finding) (out []*Finding) {
	var seen []string
	take := func(id, prefix string) {
		for _, p := range v.pairs(id, prefix) {
			key := p.parameter + "\n" + p.cert + "\n" + p.key
			if !contains(seen, key) {
				seen = append(seen, key)
				out = append(out, ask(id, p)...)
			}
		}
	}
	for _, id := range v.tlsServers() {
		take(id, "smtpd_tls_")
	}
	for _, id := range v.clients() {
		if clients {
			take(id, v.clientPrefix(id)+"tls_")
		}
	}
	return out
}

// where is the place of a pair's parameter: main.cf, if that sets it for the
// service.
func (v *view) where(id string, p pair) problem.At {
	if v.overrides(id, p.parameter) {
		return v.at(id, p.parameter)
	}
	return v.at("", p.parameter)
}

func certUnusable(v *view) []*Finding {
	return v.material(true, func(id string, p pair) (out []*Finding) {
		at := v.where(id, p)
		say := func(path, why string) {
			out = append(out, found(at, "put the file there, or install a certificate: postcert install-cert", "%s, which %s names for %s: %s", path, p.parameter, id, why))
		}
		cert, known := v.file(p.cert)
		switch {
		case !known:
		case cert.Err != "":
			say(p.cert, cert.Err)
		case len(cert.PEM.Certs) == 0 && !strings.HasSuffix(p.parameter, "chain_files"):
			say(p.cert, "no certificate in it")
		case cert.PEM.Keys+len(cert.PEM.Certs) == 0:
			say(p.cert, "neither key nor certificate in it")
		}
		key, known := v.file(p.key)
		switch {
		case !known || p.key == p.cert && (cert.Err != "" || strings.HasSuffix(p.parameter, "chain_files")):
		case key.Err != "":
			say(p.key, key.Err)
		case key.PEM.Keys == 0:
			say(p.key, "no private key in it")
		}
		return out
	})
}

func certSlotStale(v *view) (out []*Finding) {
	for _, id := range v.tlsServers() {
		held := map[string]pair{}
		for _, p := range v.pairs(id, "smtpd_tls_") {
			f, _ := v.file(p.cert)
			if len(f.PEM.Certs) == 0 || strings.HasSuffix(p.parameter, "chain_files") {
				continue
			}
			kind := f.PEM.Certs[0].KeyType
			if first, twice := held[kind]; twice {
				at := v.where(id, p)
				if !slices.ContainsFunc(out, func(x *Finding) bool { return x.At == at }) {
					out = append(out, found(at, "leave one of them: postcert install-cert does", "%s (%s) and %s (%s) hold %s certificates; the second one is served", first.parameter, first.cert, p.parameter, p.cert, kind))
				}
			}
			held[kind] = p
		}
	}
	return out
}

func certLegacyIgnored(v *view) (out []*Finding) {
	var ids []string
	for _, id := range v.tlsServers() {
		if v.Effective(id, "smtpd_tls_chain_files") != "" {
			ids = append(ids, id)
		}
	}
	for _, s := range slots {
		name := "smtpd_tls_" + s[0]
		for _, g := range v.groups(name, ids) {
			_, line := v.Source(g.ids[0], name)
			if g.value == "" || line == 0 {
				continue
			}
			f := found(g.at, "take it away", "%s = %s is ignored: smtpd_tls_chain_files is set for %s", name, g.value, g.of())
			// For whom it still counts, or who follows it by reference, keeps it.
			if all := v.tlsServers(); len(all) == len(ids) && !v.referenced(name) && !v.referenced("smtpd_tls_"+s[1]) {
				f = f.with(v.unset(g.in, name))
			} else {
				f.Advice = "nothing, while other services or parameters use it"
			}
			out = append(out, f)
		}
	}
	return out
}

// referenced tells whether another parameter that is set has $name in its value.
// The key of a certificate's own slot, which names it by default, does not count.
func (v *view) referenced(name string) bool {
	uses := func(value string) bool {
		for _, form := range []string{"$" + name, "${" + name, "$(" + name} {
			if i := strings.Index(value, form); i >= 0 {
				rest := value[i+len(form):]
				if rest == "" || !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789_", rune(rest[0])) {
					return true
				}
			}
		}
		return false
	}
	for other := range v.Set {
		if uses(v.Parameters[other]) {
			return true
		}
	}
	for _, e := range v.Services {
		if slices.ContainsFunc(e.Overrides, func(o cf.Override) bool { return uses(o.Value) }) {
			return true
		}
	}
	return false
}

func certOverride(v *view) (out []*Finding) {
	main := v.pairs("", "smtpd_tls_")
	for _, id := range v.tlsServers() {
		own := v.pairs(id, "smtpd_tls_")
		same := slices.EqualFunc(main, own, func(a, b pair) bool { return a == b })
		if same || len(own) == 0 || len(main) == 0 {
			continue
		}
		out = append(out, found(v.where(id, own[0]), "nothing, if that is meant; otherwise postcert install-cert --adopt-overrides", "%s serves %s, not %s of main.cf", id, own[0].cert, main[0].cert))
	}
	return out
}

// keys calls ask once for each file that holds a private key, with its place.
func (v *view) keys(ask func(path string, f File) (advice, message string)) []*Finding {
	var seen []string
	return v.material(true, func(id string, p pair) (out []*Finding) {
		for _, path := range p.files() {
			f, known := v.file(path)
			if !known || f.Err != "" || f.PEM.Keys == 0 || contains(seen, path) {
				continue
			}
			if advice, message := ask(path, f); message != "" {
				seen = append(seen, path)
				out = append(out, found(v.where(id, p), advice, "%s", message))
			}
		}
		return out
	})
}

func keyEncrypted(v *view) []*Finding {
	return v.keys(func(path string, f File) (string, string) {
		if !f.PEM.Encrypted {
			return "", ""
		}
		return "openssl pkey -in " + path + " -out NEW, with umask 077, and name NEW", path + " is encrypted"
	})
}

const (
	groupRead fs.FileMode = 0o040
	otherRead fs.FileMode = 0o004
)

func keyReadable(v *view) []*Finding {
	return v.keys(func(path string, f File) (string, string) {
		if f.Mode&otherRead == 0 {
			return "", ""
		}
		return "chmod 600 " + path, fmt.Sprintf("%s has mode %04o", path, f.Mode.Perm())
	})
}

func keyGroupReadable(v *view) []*Finding {
	return v.keys(func(path string, f File) (string, string) {
		switch {
		case f.Mode&otherRead != 0:
			return "", "" // key_readable says it
		case f.UID != 0:
			return "chown root " + path, fmt.Sprintf("%s belongs to user %d", path, f.UID)
		case f.Mode&groupRead != 0 && f.GID != 0:
			return "chmod 600 " + path, fmt.Sprintf("%s has mode %04o and group %d", path, f.Mode.Perm(), f.GID)
		}
		return "", ""
	})
}

func keyDirectory(v *view) []*Finding {
	return v.keys(func(path string, f File) (string, string) {
		if len(f.Loose) == 0 {
			return "", ""
		}
		return "let root own it, and nobody else write: chown root and chmod go-w", fmt.Sprintf("%s lies in %s", path, strings.Join(f.Loose, ", which lies in "))
	})
}

func keyBackup(v *view) (out []*Finding) {
	for _, b := range v.facts.Backups {
		who := "only root reads it"
		if b.Mode&(groupRead|otherRead) != 0 {
			who = "others than root can read it"
		}
		out = append(out, found(problem.At{File: b.Path}, "remove it, or move it to where backups are protected", "%s holds a private key and no parameter names it; mode %04o, %s", filepath.Base(b.Path), b.Mode.Perm(), who))
	}
	return out
}

func clientCertPurpose(v *view) (out []*Finding) {
	var seen []string
	for _, id := range v.clients() {
		for _, p := range v.pairs(id, v.clientPrefix(id)+"tls_") {
			f, known := v.file(p.cert)
			if !known || len(f.PEM.Certs) == 0 || f.PEM.Certs[0].ClientAuth || contains(seen, p.cert) {
				continue
			}
			seen = append(seen, p.cert)
			out = append(out, found(v.where(id, p), "take it away, unless a partner asks for a certificate; then get one with clientAuth from their CA", "%s, which %s names, is for servers only", p.cert, p.parameter))
		}
	}
	return out
}
