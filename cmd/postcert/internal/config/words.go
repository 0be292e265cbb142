package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// The check functions say what is wrong with a word, in words; "" is right.

// checkName judges the name of a certificate, which becomes a file name and a
// directory name: every name accepted here must be one for deploy/generation too.
// Lower case, no separator, no leading dot; `+` is reserved for
// the second key type (NAME+rsa).
func checkName(name string) string {
	if !nameForm.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Sprintf("%q is not a name of a-z, 0-9, -, _ and single dots", brief(name))
	}
	return ""
}

var nameForm = regexp.MustCompile(`^(_wildcard\.)?[a-z0-9][a-z0-9._-]{0,180}$`)

// checkDomain judges a DNS name as it stands in a certificate (RFC 5280 section
// 4.2.1.6): letters, digits and hyphens, as A-labels, perhaps with a wildcard as
// its whole first label (RFC 6125 section 6.4.3).
func checkDomain(name string) string {
	host, wildcard := strings.CutPrefix(name, "*.")
	switch {
	case name != strings.ToLower(name):
		return fmt.Sprintf("%q is not in lower case", brief(name))
	case strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }):
		return fmt.Sprintf("%q is not ASCII; write an internationalized name in its xn-- form", brief(name))
	case len(name) > 253 || !domainForm.MatchString(host):
		return fmt.Sprintf("%q is not a DNS name", brief(name))
	case wildcard && !strings.Contains(host, "."):
		return fmt.Sprintf("%q is a wildcard below a top-level domain", brief(name))
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return fmt.Sprintf("%q is an address, not a DNS name", brief(name))
	}
	return ""
}

var domainForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// isService tells whether s is service/type as postconf -M takes it. A service
// name may be host:port, and IPv6 addresses stand in brackets there (master(5)).
func isService(s string) bool { return serviceForm.MatchString(s) }

var serviceForm = regexp.MustCompile(`^[A-Za-z0-9_.:\[\]-]+/(inet|unix|unix-dgram|fifo|pass)$`)

// checkListener judges how a listener is named: by its service entry, or by what
// it is dialled at.
func checkListener(s string) string {
	if isService(s) || checkAddress(s) == "" {
		return ""
	}
	return fmt.Sprintf("%q is neither service/type nor IP:port nor the absolute path of a socket", brief(s))
}

// checkAddress judges what can be dialled: IP:port or the path of a socket.
func checkAddress(s string) string {
	if filepath.IsAbs(s) && !strings.ContainsFunc(s, isControl) {
		return ""
	}
	if addr, err := netip.ParseAddrPort(s); err == nil && addr.Port() > 0 {
		return ""
	}
	return fmt.Sprintf("%q is neither IP:port nor the absolute path of a socket", brief(s))
}

// checkListen judges an address to listen at: host:port, where the host may be
// empty, an address or a name.
func checkListen(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err == nil && isPort(port) {
		if _, ipErr := netip.ParseAddr(host); host == "" || ipErr == nil || domainForm.MatchString(host) {
			return ""
		}
	}
	return fmt.Sprintf("%q is not host:port with a port number", brief(s))
}

// checkLoopback judges an address at which only this host is to be heard. A name is
// refused: what it leads to is decided elsewhere, and later.
func checkLoopback(s string) string {
	if addr, err := netip.ParseAddrPort(s); err == nil && addr.Port() > 0 && addr.Addr().IsLoopback() {
		return ""
	}
	return fmt.Sprintf("%q is not a loopback address with a port, such as 127.0.0.1:9939 or [::1]:9939", brief(s))
}

// isRecipient tells whether s can stand for a recipient: an address of plain words,
// or the local part of one. What else RFC 5321 allows nobody needs here.
func isRecipient(s string) bool { return len(s) <= 254 && recipientForm.MatchString(s) }

var recipientForm = regexp.MustCompile(`^[A-Za-z0-9_+=][A-Za-z0-9_+=.-]{0,63}(@([A-Za-z0-9-]+\.)*[A-Za-z0-9-]+)?$`)

// checkProbeURL judges what a companion is asked at.
func checkProbeURL(s string) string {
	const want = "is not a URL such as imaps://127.0.0.1:993 (smtp, smtps, imap or imaps, host and port)"
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || !isPort(u.Port()) ||
		oneOf(u.Scheme, "smtp", "smtps", "imap", "imaps") != "" || checkListen(u.Host) != "" || u.Hostname() == "" {
		return fmt.Sprintf("%q %s", brief(s), want)
	}
	return ""
}

// checkDirectory judges where the CA is: a name, or the https URL of its
// directory (RFC 8555 section 6.1 requires https).
func checkDirectory(s string) string {
	if isWord(s) {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Sprintf("%q is neither the name of a CA nor an https URL", brief(s))
	}
	return ""
}

// oneOf judges a choice.
func oneOf[T ~string](got T, choices ...T) string {
	var names []string
	for _, c := range choices {
		if got == c {
			return ""
		}
		names = append(names, string(c))
	}
	hint := ""
	if near := nearest(string(got), names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	last := len(names) - 1
	return fmt.Sprintf("%q is not %s or %s%s", brief(string(got)), strings.Join(names[:last], ", "), names[last], hint)
}

func isWord(s string) bool { return wordForm.MatchString(s) }

var wordForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// isAccount tells whether s is the name or number of a user or group
// (useradd(8): 32 characters; a trailing $ is for machine accounts).
func isAccount(s string) bool { return accountForm.MatchString(s) }

var accountForm = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10})$`)

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n > 0 && n <= 65535 && strconv.Itoa(n) == s
}

func isControl(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }
