package audit

import (
	"slices"
	"strconv"
	"strings"
)

// versions are the protocol versions that Postfix knows by name, with the number
// that OpenSSL gives them.
var versions = []struct {
	name   string
	number int64
}{
	{"SSLv2", 0x0002}, {"SSLv3", 0x0300}, {"TLSv1", 0x0301}, {"TLSv1.1", 0x0302}, {"TLSv1.2", 0x0303}, {"TLSv1.3", 0x0304},
}

// protocols is a list such as that of smtpd_tls_protocols.
type protocols struct {
	bad            string // the word at which Postfix gives up and switches TLS off; "" if there is none
	positive       bool   // names without "!": these alone are allowed
	include        []string
	exclude        []string
	floor, ceiling int64 // 0: none
	good           []string
}

// parseProtocols reads a list as Postfix of that version does (tls_misc.c,
// tls_proto_mask_lims; before 3.6 tls_protocol_mask, which knows no ">=").
func parseProtocols(value, version string) protocols {
	var p protocols
	for _, word := range words(value, ":") {
		ok := false
		bound, isFloor := strings.CutPrefix(word, ">=")
		if !isFloor {
			bound, _ = strings.CutPrefix(word, "<=")
		}
		switch {
		case bound != word && !before(version, "3.6"):
			var n int64
			if n, ok = protocolNumber(bound); isFloor {
				p.floor = n
			} else {
				p.ceiling = n
			}
		case bound != word:
		case strings.HasPrefix(word, "!"):
			var name string
			name, ok = protocolName(word[1:])
			p.exclude = append(p.exclude, name)
		default:
			var name string
			name, ok = protocolName(word)
			p.include, p.positive = append(p.include, name), true
		}
		if !ok {
			p.bad = word
			return p
		}
		p.good = append(p.good, word)
	}
	return p
}

func protocolName(s string) (string, bool) {
	for _, v := range versions {
		if strings.EqualFold(v.name, s) {
			return v.name, true
		}
	}
	return "", false
}

// protocolNumber reads a bound: a name of SSLv3 or later, or a number in
// hexadecimal, where nothing at all counts as none.
func protocolNumber(s string) (int64, bool) {
	for _, v := range versions[1:] {
		if strings.EqualFold(v.name, s) {
			return v.number, true
		}
	}
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(strings.ToLower(s), "0x"), 16, 32)
	return n, err == nil
}

// allows tells whether a version may be negotiated, as far as the list goes.
func (p protocols) allows(name string) bool {
	i := slices.IndexFunc(versions, func(v struct {
		name   string
		number int64
	}) bool {
		return v.name == name
	})
	n := versions[i].number
	return !(p.floor > 0 && n < p.floor) && !(p.ceiling > 0 && n > p.ceiling) &&
		!contains(p.exclude, name) && (!p.positive || contains(p.include, name))
}

func (p protocols) allowed() (out []string) {
	for _, v := range versions {
		if p.allows(v.name) {
			out = append(out, v.name)
		}
	}
	return out
}

// Protocols are the versions of TLS and SSL that a list such as the value of
// smtpd_tls_protocols allows, in the words of that parameter: "TLSv1.2". None, if
// Postfix of that version gives up at a word of it and switches TLS off.
func Protocols(value, version string) []string {
	p := parseProtocols(value, version)
	if p.bad != "" {
		return nil
	}
	return p.allowed()
}

// tls12 is the list that allows TLS 1.2 and later, as that version writes it.
func tls12(version string) string {
	if before(version, "3.6") {
		return "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"
	}
	return ">=TLSv1.2"
}

// mended is what the list was probably meant to be; "" if the default is best.
func (p protocols) mended(version string) string {
	if bound, ok := strings.CutPrefix(p.bad, ">="); ok {
		switch {
		case strings.EqualFold(bound, "TLSv1.2") || strings.EqualFold(bound, "TLSv1.3"):
			return tls12(version)
		default:
			return ""
		}
	}
	return strings.Join(p.good, ", ")
}
