package main

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// certbotNames are flags of certbot(1) that mean the same as one of ours.
func certbotNames(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if ours, ok := sameFlag[name]; ok {
		name = ours
	}
	return pflag.NormalizedName(name)
}

var sameFlag = map[string]string{
	"cert-name": "name", "server": "directory", "domains": "domain", "force-renewal": "force", "preferred-profile": "profile",
}

// dnsFlag is how certbot's DNS plugins spell their flags.
var dnsFlag = regexp.MustCompile(`^--dns-([a-z0-9]+)(?:-(credentials|propagation-seconds))?(?:=(.*))?$`)

// certbotSpelling rewrites, behind "obtain", the flags of certbot's DNS plugins and
// of its other authenticators, so that a line that worked there works here:
//
//	--dns-ovh --dns-ovh-credentials ovh.ini --dns-ovh-propagation-seconds 60
//	--provider ovh --credentials ovh.ini --propagation 60s
//
// What has no counterpart is left, and refused by name.
func certbotSpelling(args []string) []string {
	at := slices.Index(args, "obtain")
	if at < 0 {
		return args
	}
	out := slices.Clone(args[:at+1])
	rest := args[at+1:]
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		if arg == "--" {
			return append(out, rest[i:]...)
		}
		m := dnsFlag.FindStringSubmatch(arg)
		switch {
		case m != nil && m[2] == "":
			out = append(out, "--challenge", "dns-01", "--provider", m[1])
		case m != nil:
			value, ok := m[3], strings.Contains(arg, "=")
			if !ok && i+1 < len(rest) {
				i++
				value = rest[i]
			}
			if m[2] == "credentials" {
				out = append(out, "--credentials", value)
			} else {
				out = append(out, "--propagation", value+"s")
			}
		case arg == "--standalone":
			out = append(out, "--challenge", "http-01")
		case arg == "-w" || arg == "--webroot-path":
			out = append(out, "--webroot")
		case arg == "-n" || arg == "--non-interactive":
			// Nothing is ever asked.
		default:
			out = append(out, arg)
		}
	}
	return out
}

// absolute makes a path of the command line one that means the same to a later
// run; "" stays.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}
