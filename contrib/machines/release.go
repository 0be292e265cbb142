package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Version is a version such as Postfix's mail_version: numbers with dots; what
// follows the first other character does not count.
type Version string

// AtLeast tells whether v is other or newer: "3.10.1" is at least "3.9".
func (v Version) AtLeast(other Version) bool { return compareVersions(v, other) >= 0 }

func compareVersions(a, b Version) int {
	x, y := a.numbers(), b.numbers()
	for i := range max(len(x), len(y)) {
		if c := cmp.Compare(at(x, i), at(y, i)); c != 0 {
			return c
		}
	}
	return 0
}

func at(n []int, i int) int {
	if i < len(n) {
		return n[i]
	}
	return 0
}

func (v Version) numbers() []int {
	var out []int
	for part := range strings.SplitSeq(string(v), ".") {
		end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		digits := part
		if end >= 0 {
			digits = part[:end]
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			return out
		}
		out = append(out, n)
		if end >= 0 {
			return out
		}
	}
	return out
}

// Release is a Debian release. The versions are those of the machine, asked in
// it; they are empty until its first machine has booted.
type Release struct {
	Number                                      int    // 11
	Suite                                       string // bullseye
	Postfix, OpenSSL, Systemd, Certbot, Dovecot Version
}

func (r *Release) String() string { return "Debian " + strconv.Itoa(r.Number) }

// releases are those that the machines are made of, the oldest first.
func releases() []*Release {
	return []*Release{
		{Number: 11, Suite: "bullseye"},
		{Number: 12, Suite: "bookworm"},
		{Number: 13, Suite: "trixie"},
		{Number: 14, Suite: "forky"},
	}
}

// chosen are the releases that words name, by number or suite; all without one.
func chosen(words []string) ([]*Release, error) {
	all := releases()
	if len(words) == 0 {
		return all, nil
	}
	var out []*Release
	for _, word := range words {
		i := slices.IndexFunc(all, func(r *Release) bool { return r.Suite == word || strconv.Itoa(r.Number) == word })
		if i < 0 {
			return nil, fmt.Errorf("no release %q: 11 12 13 14, or bullseye bookworm trixie forky", word)
		}
		if !slices.Contains(out, all[i]) {
			out = append(out, all[i])
		}
	}
	slices.SortFunc(out, func(a, b *Release) int { return cmp.Compare(a.Number, b.Number) })
	return out, nil
}

// packages is what every tree holds beside Debian's essential packages: what
// postcert meets, and what scenarios stage situations with.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "iproute2", "procps", "ca-certificates", "openssl",
	"postfix", "postfix-lmdb", "postfix-cdb", "postfix-pcre",
	"dovecot-core", "dovecot-imapd", "certbot", "rsyslog", "libsasl2-modules",
	"strace", "acl", "attr", "e2fsprogs", "nftables", "socat", "rpm",
}
