package delivery

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Address is a mailbox that was checked: it is one, and nothing that is put behind
// it on a command line, in a header or in an SMTP command becomes a second one.
type Address struct {
	Local  string // as it is written, with quotes if it has some
	Domain string // "" for a local name, which Postfix completes with $myorigin
}

// String is the address as it is written in a header and in SMTP.
func (a Address) String() string {
	if a.Domain == "" {
		return a.Local
	}
	return a.Local + "@" + a.Domain
}

// UTF8 tells whether the address needs SMTPUTF8 (RFC 6531).
func (a Address) UTF8() bool {
	return strings.ContainsFunc(a.String(), func(r rune) bool { return r >= utf8.RuneSelf })
}

// The limits of RFC 5321 section 4.5.3.1, in bytes.
const (
	maxLocal  = 64
	maxDomain = 255
)

// ParseAddress reads one mailbox: local part and domain (RFC 5321 section 4.1.2,
// with the letters of RFC 6531), or a local part alone. Display names, routes, lists
// and comments are refused, and so is what begins with a dash, which Postfix refuses
// too (postconf(5) allow_min_user).
func ParseAddress(s string) (Address, error) {
	if !utf8.ValidString(s) {
		return Address{}, errors.New("it is not UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return Address{}, errors.New("it has a control character, such as a line break")
		}
	}
	local, domain, err := splitLocal(s)
	switch {
	case err != nil:
		return Address{}, err
	case local == "":
		return Address{}, errors.New("nothing is before the @")
	case strings.HasPrefix(strings.TrimPrefix(local, `"`), "-"):
		return Address{}, errors.New("it begins with a dash, which Postfix takes from nobody (allow_min_user)")
	case len(local) > maxLocal:
		return Address{}, fmt.Errorf("what is before the @ has more than %d bytes", maxLocal)
	case domain == "" && strings.HasSuffix(s, "@"):
		return Address{}, errors.New("nothing is behind the @")
	}
	return Address{local, domain}, checkDomain(domain)
}

// splitLocal takes the local part off: a quoted string, or words with dots between.
func splitLocal(s string) (local, domain string, err error) {
	end := strings.IndexByte(s, '@')
	if strings.HasPrefix(s, `"`) {
		if end, err = endOfQuoted(s); err != nil {
			return "", "", err
		}
	}
	if end < 0 {
		end = len(s)
	}
	local = s[:end]
	if !strings.HasPrefix(local, `"`) {
		if err := checkDotted(local); err != nil {
			return "", "", err
		}
	}
	return local, strings.TrimPrefix(s[end:], "@"), nil
}

// endOfQuoted is where a quoted local part ends: at an @, or at the end of s.
func endOfQuoted(s string) (int, error) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			if i+1 < len(s) && s[i+1] != '@' {
				return 0, errors.New("something is between the closing quote and the @")
			}
			return i + 1, nil
		}
	}
	return 0, errors.New("a quote is not closed")
}

// specials are the characters that a local part has only in quotes (RFC 5322
// section 3.2.3), and the space.
const specials = `()<>[]:;@\," `

func checkDotted(local string) error {
	if i := strings.IndexAny(local, specials); i >= 0 {
		return fmt.Errorf("%q stands before the @ without quotes", local[i])
	}
	if strings.HasPrefix(local, ".") || strings.HasSuffix(local, ".") || strings.Contains(local, "..") {
		return errors.New("a dot is where none can be")
	}
	return nil
}

// checkDomain takes names, also with letters of other scripts, and address literals
// (RFC 5321 section 4.1.3).
func checkDomain(domain string) error {
	if inner, ok := strings.CutPrefix(domain, "["); ok {
		inner, closed := strings.CutSuffix(inner, "]")
		text, is6 := strings.CutPrefix(inner, "IPv6:")
		addr, err := netip.ParseAddr(text)
		if !closed || err != nil || addr.Zone() != "" || addr.Is6() != is6 {
			return fmt.Errorf("%s is no address literal", domain)
		}
		return nil
	}
	if len(domain) > maxDomain {
		return fmt.Errorf("what is behind the @ has more than %d bytes", maxDomain)
	}
	for label := range strings.SplitSeq(domain, ".") {
		if domain == "" {
			break
		}
		if label == "" || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return fmt.Errorf("%s is no domain", domain)
		}
		for _, r := range label {
			if r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
				return fmt.Errorf("%q stands behind the @", r)
			}
		}
	}
	return nil
}
