package generation

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// maxName is the longest name, in bytes: a file name has 255 and gets a suffix.
const maxName = 200

var namePattern = regexp.MustCompile(`^(_wildcard\.|\*\.)?[a-z0-9][a-z0-9._-]*(\+[a-z0-9]+)?$`)

// NameError says that something can't be the name of a certificate. A name
// becomes a file name and part of main.cf, so it is one only if it can't be
// misread in either.
type NameError struct {
	Name string
	Rule string
}

func (e *NameError) Error() string { return fmt.Sprintf("%q can't be a name: %s", e.Name, e.Rule) }

// ValidName tells whether name can name a certificate: lower-case letters,
// digits, '.', '_' and '-', beginning with a letter or digit; "*." or
// "_wildcard." in front of it; "+type" behind it for a further key type. The
// error is a *[NameError].
func ValidName(name string) error {
	switch {
	case name == "":
		return &NameError{name, "it is empty"}
	case len(name) > maxName:
		return &NameError{name[:32] + "...", fmt.Sprintf("it is longer than %d bytes", maxName)}
	case strings.Contains(name, ".."):
		return &NameError{name, `it contains ".."`}
	case !namePattern.MatchString(name):
		return &NameError{name, "it may contain a-z, 0-9, '.', '_', '-' and end in +type"}
	}
	return nil
}

// FileName is a valid name as it is written on disk: a wildcard's '*' becomes
// "_wildcard", because Postfix and shells read a '*' as something else.
func FileName(name string) string {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		return "_wildcard." + rest
	}
	return name
}

// InstanceKey is the name of an instance's directory in the store: the
// configuration directory with '/' written '-', and any byte that is not a
// letter, digit, '_' or inner '.' written %XX. Two directories never share one.
// The path must be absolute and clean.
func InstanceKey(configDirectory string) (string, error) {
	if !filepath.IsAbs(configDirectory) || filepath.Clean(configDirectory) != configDirectory {
		return "", fmt.Errorf("generation: %q is not an absolute, clean path", configDirectory)
	}
	var b strings.Builder
	for i, c := range []byte(configDirectory[1:]) {
		switch {
		case c == '/':
			b.WriteByte('-')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() == 0 {
		return "-", nil
	}
	if b.Len() > maxName {
		return "", fmt.Errorf("generation: the path of the configuration directory is longer than %d bytes", maxName)
	}
	return b.String(), nil
}
