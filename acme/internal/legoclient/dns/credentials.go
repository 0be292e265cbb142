package dns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"

	"postcert/deploy/atomicfile"
)

// maxSecret is the longest file of credentials, in bytes.
const maxSecret = 64 << 10

// CredentialsError says what is wrong with a file of credentials, and where. It
// never holds a value of it.
type CredentialsError struct {
	File   string
	Line   int    // 0: the file as a whole
	Key    string // "" if it is not about a key
	Reason string
}

func (e *CredentialsError) Error() string {
	s := e.File
	if e.Line > 0 {
		s += fmt.Sprintf(":%d", e.Line)
	}
	if e.Key != "" {
		s += ": " + e.Key
	}
	return s + ": " + e.Reason
}

// ReadCredentials returns the values of a credentials file for the provider, by
// the Name of its Fields, for Options.Credentials.
//
// path has to be a regular file, no symbolic link, of at most 64 KiB, owned by
// root or the user that runs, without any permission for group and others, in
// directories that nobody else can write. Its lines are KEY = VALUE, where KEY is
// one of a field's names: ours, lego's variable, or certbot's key. Comments begin
// with # or ;, values may stand in quotes, and "export " may precede a variable.
//
// A file may hold the credentials of several providers; those of others are
// passed over. What belongs to nobody is an error, with near names. The error is
// an *Error of kind Configuration around a *CredentialsError.
func ReadCredentials(path, provider string) (map[string]string, error) {
	d := lookUp(provider)
	if d == nil {
		return nil, unknown(provider)
	}
	refuse := func(err error) error {
		return &Error{Provider: d.name, Op: "read credentials", Kind: Configuration, Err: err}
	}
	data, err := readSecret(path)
	if err != nil {
		return nil, refuse(err)
	}
	values, err := parseCredentials(path, data, d)
	if err != nil {
		return nil, refuse(err)
	}
	return values, nil
}

// statFile follows no symbolic link in the last element.
func statFile(path string) (fs.FileInfo, error) { return os.Lstat(path) }

// readSecret reads a file that holds secrets through one descriptor, and refuses
// one that somebody else can read, or could have put there.
func readSecret(path string) ([]byte, error) {
	refuse := func(format string, args ...any) error {
		return &CredentialsError{File: path, Reason: fmt.Sprintf(format, args...)}
	}
	if !filepath.IsAbs(path) {
		return nil, refuse("not an absolute path")
	}
	// O_NONBLOCK: a FIFO is not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, refuse("a symbolic link; name the file itself")
	case err != nil:
		return nil, &CredentialsError{File: path, Reason: errors.Unwrap(err).Error()}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, refuse("%v", errors.Unwrap(err))
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, refuse("not a regular file")
	case ok && st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return nil, refuse("owned by user %d, not by root", st.Uid)
	case info.Mode().Perm()&0o077 != 0:
		return nil, refuse("mode %04o lets others at it; it has to be 0600", info.Mode().Perm())
	case info.Size() > maxSecret:
		return nil, refuse("longer than %d bytes", maxSecret)
	}
	if err := atomicfile.Private(filepath.Dir(path)); err != nil {
		return nil, refuse("somebody else could replace it: %v", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, refuse("%v", errors.Unwrap(err))
	}
	if len(data) > maxSecret {
		return nil, refuse("longer than %d bytes", maxSecret)
	}
	return data, nil
}

// style is in whose way a key is written.
type style int

const (
	ours style = iota
	legos
	certbots
)

// parseCredentials reads the lines of a file. It is pure, so that it can be fuzzed.
func parseCredentials(file string, data []byte, d *definition) (map[string]string, error) {
	values, where, styles := map[string]string{}, map[string]int{}, map[string]style{}
	fields := d.all()
	text := strings.TrimPrefix(string(data), "\ufeff")
	for i, line := range strings.Split(text, "\n") {
		refuse := func(key, format string, args ...any) error {
			return &CredentialsError{File: file, Line: i + 1, Key: key, Reason: fmt.Sprintf(format, args...)}
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			return nil, refuse("", "sections are not read")
		}
		key, rest, found := strings.Cut(line, "=")
		if !found {
			return nil, refuse("", "not KEY = VALUE")
		}
		key = cleanKey(key)
		if !plainKey(key) {
			return nil, refuse("", "what is before = is no key")
		}
		field, how, err := d.meant(fields, key)
		if err != nil {
			return nil, refuse(key, "%v", err)
		}
		if field == "" { // another provider's
			continue
		}
		value, err := cleanValue(strings.TrimSpace(rest), how)
		if err != nil {
			return nil, refuse(key, "%v", err)
		}
		if at, again := where[field]; again && values[field] != value {
			return nil, refuse(key, "line %d says something else", at)
		}
		values[field], where[field], styles[field] = value, i+1, how
	}
	if d == rfc2136Definition && values["secret"] != "" && values["algorithm"] == "" && styles["secret"] == certbots {
		return nil, &CredentialsError{File: file, Key: "dns_rfc2136_algorithm", Reason: "missing, which means HMAC-MD5 to certbot; " + md5Reason}
	}
	for field, value := range values {
		if value == "" {
			delete(values, field)
		}
	}
	return values, nil
}

// cleanKey takes off what may stand before a key: "export " in a file for a
// shell, and the name of the plug-in that certbot before 1.7 wanted.
func cleanKey(key string) string {
	key = strings.TrimSpace(key)
	if rest, found := strings.CutPrefix(key, "export "); found {
		key = strings.TrimSpace(rest)
	}
	if plugin, rest, found := strings.Cut(key, ":"); found && strings.HasPrefix(plugin, "certbot") {
		key = rest
	}
	return key
}

func plainKey(key string) bool {
	return key != "" && len(key) <= 100 && strings.Trim(strings.ToLower(key), "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// meant is the field that a key is for; "" if it is another provider's.
func (d *definition) meant(fields []Field, key string) (field string, how style, err error) {
	var near []string
	for _, f := range fields {
		switch {
		case strings.EqualFold(key, f.Name):
			return f.Name, ours, nil
		case slices.Contains(f.Lego, strings.ToUpper(key)):
			return f.Name, legos, nil
		case slices.Contains(f.Certbot, strings.ToLower(key)):
			return f.Name, certbots, nil
		}
		near = append(append(append(near, f.Name), f.Lego...), f.Certbot...)
	}
	upper, lower := strings.ToUpper(key), strings.ToLower(key)
	if base, found := strings.CutSuffix(upper, "_FILE"); found {
		for _, f := range fields {
			if slices.Contains(f.Lego, base) {
				return "", 0, errors.New("the value itself has to be here, not in another file")
			}
		}
	}
	if !d.claims(upper, lower) && foreignKey(upper, lower) {
		return "", 0, nil
	}
	sort.Strings(near)
	return "", 0, fmt.Errorf("%s knows no such key%s", d.name, didYouMean(nearestKeys(key, near)))
}

// claims tells whether the key begins as this provider's keys do.
func (d *definition) claims(upper, lower string) bool {
	begins := func(key string) func(string) bool {
		return func(prefix string) bool { return strings.HasPrefix(key, prefix) }
	}
	return slices.ContainsFunc(d.lego, begins(upper)) || slices.ContainsFunc(d.certbot, begins(lower))
}

// foreignKey tells whether the key begins as one of another provider, of this
// package or of lego's, does.
func foreignKey(upper, lower string) bool {
	if strings.HasPrefix(lower, "dns_") {
		return true
	}
	for _, d := range definitions {
		if d.claims(upper, lower) {
			return true
		}
	}
	first, rest, found := strings.Cut(lower, "_")
	_, known := slices.BinarySearch(legoCodes, first)
	return found && rest != "" && (known || slices.Contains(legoPrefixes, strings.ToUpper(first)))
}

// legoPrefixes begin variables of lego's providers and are not their code.
var legoPrefixes = []string{"AWS", "AZURE", "GCE", "LEGO", "NAMEDOTCOM", "SCW", "TENCENTCLOUD", "ALICLOUD", "IBMCLOUD", "HUAWEICLOUD", "OCI", "ARVANCLOUD"}

// nearestKeys compares without regard to case.
func nearestKeys(key string, keys []string) []string {
	lower := make([]string, 0, len(keys))
	byLower := map[string]string{}
	for _, k := range keys {
		l := strings.ToLower(k)
		if byLower[l] == "" {
			lower = append(lower, l)
		}
		byLower[l] = k
	}
	near := nearest(strings.ToLower(key), lower)
	for i, n := range near {
		near[i] = byLower[n]
	}
	return near
}

// cleanValue takes off quotes, and, in certbot's files, comments after the value
// (https://configobj.readthedocs.io: what a value without quotes ends at).
func cleanValue(s string, how style) (string, error) {
	if i := strings.IndexFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }); i >= 0 {
		return "", errors.New("the value holds a control character")
	}
	for _, quote := range []string{`"""`, `'''`, `"`, `'`} {
		rest, found := strings.CutPrefix(s, quote)
		if !found {
			continue
		}
		value, after, closed := strings.Cut(rest, quote)
		after = strings.TrimSpace(after)
		if !closed || after != "" && after[0] != '#' {
			return "", errors.New("the quotes of the value do not match; it has to be on one line")
		}
		return value, nil
	}
	switch {
	case how == certbots:
		s, _, _ = strings.Cut(s, "#")
		return strings.TrimSpace(s), nil
	case strings.Contains(s, " #") || strings.Contains(s, "\t#"):
		return "", errors.New("put the value in quotes: it is not clear whether # begins a comment")
	}
	return s, nil
}
