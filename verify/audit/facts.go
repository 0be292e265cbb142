package audit

import (
	"io/fs"
	"time"

	"postcert/deploy/postfix/cf"
)

// Facts are what a configuration does not say by itself.
type Facts struct {
	// TableTypes are the types of lookup table of this build, as postconf -m
	// prints them; nil if that is not known.
	TableTypes []string
	// Files are what lies at the paths that NeedsOf names.
	Files map[string]File
	// Hashed is, for each directory of NeedsOf, how many certificates OpenSSL
	// would find in it: names such as 5ed36f99.0 that lead to a file.
	Hashed map[string]int
	// Backups are files beside a key, or in the configuration directory, that
	// hold a private key and that nothing names.
	Backups []Backup
	// Bundle is the host's file of trust anchors; "" if there is none.
	Bundle string
	// Greetings are what each listener said, by the ID of its service; nil if
	// nobody was asked.
	Greetings map[string]Greeting
}

// File is a regular file as it was found.
type File struct {
	Err      string // why it cannot be read; "" if it could
	Mode     fs.FileMode
	UID, GID int
	Modified time.Time
	Loose    []string // directories above it that another user than root may change
	PEM      PEM      // of files that hold keys or certificates
	Entries  []Entry  // of the source of a lookup table
}

// Backup is a copy of a private key that no parameter names.
type Backup struct {
	Path string
	Mode fs.FileMode
}

// Greeting is what one listener said.
type Greeting struct {
	Endpoint string   // address:port
	Before   []string // lines of the reply to EHLO before TLS; nil where TLS comes first
	After    []string // and inside TLS; nil if TLS was not reached
	Failed   string   // why TLS was not reached: the listener's words
	Unknown  bool     // it could not be asked, so Failed is about us, not about TLS
}

// Needs are the files and directories that the rules want to know about, as
// absolute paths.
type Needs struct {
	PEM    []string // keys, certificates and trust anchors
	Text   []string // sources of policy tables
	Stat   []string // files whose owner, mode and age matter
	Hashed []string // directories of trust anchors
}

// NeedsOf reads from a snapshot what has to be gathered for it.
func NeedsOf(s cf.Snapshot) Needs {
	v := newView(s, Facts{})
	var n Needs
	for _, id := range v.tlsServers() {
		for _, p := range v.pairs(id, "smtpd_tls_") {
			n.PEM = add(n.PEM, p.files()...)
		}
	}
	for _, id := range append([]string{""}, v.clients()...) {
		for _, p := range v.pairs(id, v.clientPrefix(id)+"tls_") {
			n.PEM = add(n.PEM, p.files()...)
		}
	}
	for _, t := range v.trusts() {
		n.PEM = add(n.PEM, t.file)
		n.Hashed = add(n.Hashed, t.path, t.jailed)
	}
	for _, t := range v.tables() {
		if t.policy {
			n.Text = add(n.Text, t.source)
		} else {
			n.Stat = add(n.Stat, t.source)
		}
		n.Stat = add(n.Stat, t.index)
	}
	return n
}

// add appends what is neither empty nor there.
func add(list []string, more ...string) []string {
	for _, m := range more {
		if m != "" && !contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}
