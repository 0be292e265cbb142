package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postcert/deploy"
	"postcert/deploy/postfix/cf"
	"postcert/deploy/postfix/rehearsal"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// saslParameters are those that decide which mechanisms smtpd(8) offers, and where
// it asks for them (SASL_README).
var saslParameters = []string{
	"smtpd_sasl_type", "smtpd_sasl_path", "smtpd_sasl_service", "smtpd_sasl_local_domain", "cyrus_sasl_config_path",
	"smtpd_sasl_security_options", "smtpd_sasl_tls_security_options", "smtpd_sasl_mechanism_filter",
}

// saslOf are the parameters with which a service of a private Postfix offers AUTH as
// the real one will: Dovecot's socket is named by the path at which the real one
// finds it, from inside its chroot if it runs in one.
func saslOf(s cf.Snapshot, svc cf.Service) map[string]string {
	out := map[string]string{"smtpd_sasl_auth_enable": "yes", "smtpd_sasl_exceptions_networks": ""}
	for _, name := range saslParameters {
		if _, known := s.Parameters[name]; known {
			out[name] = s.Effective(svc.ID(), name)
		}
	}
	path := strings.TrimPrefix(out["smtpd_sasl_path"], "unix:")
	if out["smtpd_sasl_type"] != "dovecot" || path == "" || strings.HasPrefix(path, "inet:") {
		return out
	}
	if chrooted(s, svc) || !filepath.IsAbs(path) {
		path = filepath.Join(s.Effective("", "queue_directory"), path)
	}
	out["smtpd_sasl_path"] = path
	return out
}

// offersAuth recognises the AUTH keyword in a reply to EHLO (RFC 4954 section 3).
func offersAuth(lines []string) bool { return authOf(lines) != "" }

// saslMissing says of which services a rehearsal has not shown that they offer AUTH
// inside TLS and not before; nil if it has.
func saslMissing(r deploy.Rehearsal, rep rehearsal.Report) error {
	var out problem.List
	for _, act := range r.Services {
		i := slices.IndexFunc(rep.Served, func(p rehearsal.Served) bool { return p.Service == act.Service.ID() })
		if !act.Auth || i < 0 {
			continue
		}
		if r := rep.Served[i].Result.Reason; r != probe.OK && r != probe.Unreadable && saslLine(rep.Log) == "" {
			continue // there is no inside, which has another reason
		}
		p, at := rep.Served[i], problem.At{File: r.Candidate.Master.Path, Service: act.Service.ID(), Parameter: "smtpd_sasl_path"}
		switch {
		case offersAuth(p.Before):
			out = append(out, problem.New("auth_before_tls", at, "in the rehearsal %s offers AUTH before TLS", p.Service))
		case !offersAuth(p.Inside):
			out = append(out, problem.New("sasl_missing", at, "in the rehearsal %s offers no AUTH inside TLS: %s", p.Service, saslWords(r.Candidate, act, rep.Log)))
		case bareCyrus(saslOf(r.Candidate, act.Service)):
			out = append(out, problem.New("sasl_missing", at, "%s would offer AUTH and let nobody in: smtpd_sasl_type = cyrus, and there is neither a %s.conf of Cyrus SASL nor a sasldb", p.Service, orText(saslOf(r.Candidate, act.Service)["smtpd_sasl_path"], "smtpd")))
		}
	}
	if out == nil {
		return nil
	}
	return out
}

// saslWords is why there is no AUTH: what the private Postfix logged, or where it
// looked.
func saslWords(s cf.Snapshot, act deploy.Act, log []string) string {
	if l := saslLine(log); l != "" {
		_, text, _ := strings.Cut(l, ": ")
		return text
	}
	p := saslOf(s, act.Service)
	return fmt.Sprintf("smtpd_sasl_type = %s, smtpd_sasl_path = %s gives no mechanism", p["smtpd_sasl_type"], p["smtpd_sasl_path"])
}

// saslLine is the first line of a log that is about SASL; "" if there is none.
func saslLine(log []string) string {
	if i := slices.IndexFunc(log, func(l string) bool { return strings.Contains(l, "SASL") }); i >= 0 {
		return log[i]
	}
	return ""
}

// cyrusPlaces are where Cyrus SASL looks for the configuration of a service, beside
// cyrus_sasl_config_path (SASL_README).
const cyrusPlaces = "/etc/postfix/sasl:/etc/sasl2:/usr/lib/sasl2:/usr/lib64/sasl2:/usr/local/lib/sasl2:/var/lib/sasl2"

// bareCyrus tells that Cyrus SASL, which is Postfix's default, is not set up: its
// library offers all mechanisms that it has, and knows no user.
func bareCyrus(p map[string]string) bool {
	if p["smtpd_sasl_type"] != "cyrus" {
		return false
	}
	for _, dir := range strings.Split(p["cyrus_sasl_config_path"]+":"+cyrusPlaces, ":") {
		if _, err := os.Stat(filepath.Join(dir, orText(p["smtpd_sasl_path"], "smtpd")+".conf")); dir != "" && err == nil {
			return false
		}
	}
	_, err := os.Stat("/etc/sasldb2")
	return err != nil
}
