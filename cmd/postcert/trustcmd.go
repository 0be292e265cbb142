package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

const trustHelp = `trust shows and sets whose certificates Postfix believes.

  --client   of the servers that this host sends mail to (smtp_tls_CAfile, CApath);
             the levels verify and secure need them
  --server   of the clients that connect with a certificate (smtpd_tls_CAfile,
             CApath); needed only where smtpd_tls_ask_ccert is on

  show                 what each service can read, from inside its chroot too
  set --system         the bundle of this host (ca-certificates)
  set FILE             PEM files; of several, one bundle is made beside main.cf
  set DIRECTORY        a directory of certificates; hash links are made in it
  set --none           take the CAfile out of main.cf

A file is read before a service goes into its chroot, a directory from inside it:
prefer files. It is a change like any other, and is undone if it fails.

EXIT STATUS
` + statusTable

// trustFlags choose a side of trust set, and what it is set to.
type trustFlags struct{ client, server, system, none bool }

// side is the beginning of the parameters' names.
func (f *trustFlags) side() string {
	if f.server {
		return "smtpd"
	}
	return "smtp"
}

func (a *app) trustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "trust", Short: "whose certificates Postfix believes", Long: trustHelp, Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var f trustFlags
	show := &cobra.Command{
		Use: "show", Short: "what each service can verify with", Long: trustHelp, Args: usageArgs(cobra.NoArgs),
		RunE: a.runE(func(ctx context.Context, _ []string, res *result) error { return a.trustShow(ctx, &f, res) }),
	}
	set := &cobra.Command{
		Use: "set --system | --none | FILE... | DIRECTORY", Short: "name the certificates to believe", Long: trustHelp, Args: usageArgs(cobra.ArbitraryArgs),
		Example: "  postcert trust set --client --system\n  postcert trust set --server /etc/ssl/our-clients.pem",
		RunE:    a.runE(func(ctx context.Context, args []string, res *result) error { return a.trustSet(ctx, &f, args, res) }),
	}
	for _, c := range []*cobra.Command{show, set} {
		c.Flags().BoolVar(&f.client, "client", false, "of servers that we send to (the default of set)")
		c.Flags().BoolVar(&f.server, "server", false, "of clients that connect to us")
	}
	set.Flags().BoolVar(&f.system, "system", false, "the trust anchors of this host")
	set.Flags().BoolVar(&f.none, "none", false, "take the CAfile out of main.cf")
	a.dryRunFlag(set, dryChange)
	cmd.AddCommand(show, set)
	return cmd
}

// servers are the services that clients connect to.
func servers(s cf.Snapshot) []cf.Service {
	var out []cf.Service
	for _, svc := range s.Services {
		if svc.Command == "smtpd" && !s.Disabled(svc.ID()) {
			out = append(out, svc)
		}
	}
	return out
}

func trusts(s cf.Snapshot, side string) []trust {
	out := []trust{}
	list := clients(s)
	if side == "smtpd" {
		list = servers(s)
	}
	for _, svc := range list {
		out = append(out, trustOf(s, svc, side))
	}
	return out
}

func (a *app) trustShow(ctx context.Context, f *trustFlags, res *result) error {
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	snap, err := s.engine.MTA.Snapshot(ctx)
	if err != nil {
		return err
	}
	for _, part := range []struct{ side, field, head string }{
		{"smtp", "client", "servers that mail is sent to"}, {"smtpd", "server", "clients that connect with a certificate"},
	} {
		if f.client != f.server && (part.side == "smtpd") != f.server {
			continue
		}
		list := trusts(snap, part.side)
		res.add(part.field, list)
		a.text.printf("  %s\n", a.text.paint(bold, part.head))
		tb := &table{head: []string{"service", "CAfile", "CApath", "chroot", "anchors", ""}}
		for _, t := range list {
			colour := green
			if t.Count == 0 {
				colour = yellow
			}
			tb.add(colour, t.Service, orText(t.CAfile, "-"), orText(t.CApath, "-"), map[bool]string{true: "yes", false: "no"}[t.Chroot], fmt.Sprint(t.Count), strings.Join(t.Faults, "; "))
		}
		a.text.table(tb)
		a.text.printf("\n")
	}
	return nil
}

func (a *app) trustSet(ctx context.Context, f *trustFlags, args []string, res *result) error {
	res.headline = untouched
	given := 0
	for _, b := range []bool{f.system, f.none, len(args) > 0} {
		if b {
			given++
		}
	}
	if given != 1 || f.client && f.server {
		return usagef("name one of --system, --none, files, or a directory; and one of --client and --server")
	}
	s, err := a.oneInstance(ctx)
	if err != nil {
		return err
	}
	return a.transact(ctx, s, func(ctx context.Context) (deploy.Change, error) {
		snap, err := s.engine.MTA.Snapshot(ctx)
		if err != nil {
			return deploy.Change{}, err
		}
		return a.trustChange(ctx, s, snap, f, args, res)
	}, res)
}

// trustChange is the edit that names the certificates, and the files that it needs.
func (a *app) trustChange(ctx context.Context, s *site, snap cf.Snapshot, f *trustFlags, args []string, res *result) (deploy.Change, error) {
	side := f.side()
	parameter, value, files, err := a.trustSource(ctx, s, snap, f, args)
	if err != nil {
		return deploy.Change{}, err
	}
	c := deploy.Change{Reason: "trust set " + parameter, Files: files}
	a.undoBy = "postcert trust set --none"
	if side == "smtpd" {
		a.undoBy = "postcert trust set --server --none"
	}
	if old := snap.Effective("", parameter); snap.Set[parameter] && old != "" {
		a.undoBy = strings.TrimSuffix(a.undoBy, "--none") + old
	}
	switch {
	case f.none && snap.Set[parameter]:
		c.Edits = []cf.Edit{snap.Edit("", parameter, nil)}
	case !f.none && (!snap.Set[parameter] || snap.Effective("", parameter) != value):
		c.Edits = []cf.Edit{snap.Edit("", parameter, &value)}
	}
	for _, svc := range append(clients(snap), servers(snap)...) {
		if overrides(svc, parameter) {
			res.problems = append(res.problems, problem.Warn("trust_overridden", where(snap, svc.ID(), parameter),
				"%s has one of its own, by master.cf: %s = %s; it stays", svc.ID(), parameter, snap.Effective(svc.ID(), parameter)))
		}
	}
	if side == "smtpd" && f.system {
		res.problems = append(res.problems, problem.Warn("trust_all_clients", where(snap, "", parameter),
			"each client certificate that any public CA has signed will count as verified: do not give rights by that alone (permit_tls_all_clientcerts)"))
	}
	if !f.none {
		c.Confirm = func(_ context.Context, now cf.Snapshot) error { return readable(now, side) }
	}
	return a.change(s, c), nil
}

// readable fails if a service can read none of its trust anchors.
func readable(s cf.Snapshot, side string) error {
	for _, t := range trusts(s, side) {
		if t.Count == 0 {
			return fmt.Errorf("%s can read no trust anchors: %s", t.Service, strings.Join(t.Faults, "; "))
		}
	}
	return nil
}

// trustSource is which parameter is set to what, and the files to be written first.
func (a *app) trustSource(ctx context.Context, s *site, snap cf.Snapshot, f *trustFlags, args []string) (parameter, value string, files []deploy.FileChange, err error) {
	parameter = f.side() + "_tls_CAfile"
	switch {
	case f.none:
		return parameter, "", nil, nil
	case f.system:
		path, ok := systemAnchors()
		if !ok {
			return "", "", nil, refuse("no_trust_anchors", problem.At{}, "this host has no bundle of trust anchors")
		}
		return parameter, path, nil, nil
	}
	for i, arg := range args {
		if args[i], err = absolute(arg); err != nil {
			return "", "", nil, err
		}
		if err := atomicfile.Private(filepath.Dir(args[i])); err != nil {
			return "", "", nil, refuse("directory_untrusted", problem.At{File: filepath.Dir(args[i])}, "who can write there decides whom Postfix believes: %v", err)
		}
	}
	if st, serr := os.Stat(args[0]); len(args) == 1 && serr == nil && st.IsDir() {
		files, err = a.hashLinkFiles(ctx, s, snap, f.side(), args[0])
		return f.side() + "_tls_CApath", args[0], files, err
	}
	bundle, err := readAnchors(args)
	if err != nil || len(args) == 1 {
		return parameter, args[0], nil, err
	}
	path := filepath.Join(snap.Dir, "trust-"+map[string]string{"smtp": "client", "smtpd": "server"}[f.side()]+".pem")
	before, err := atomicfile.Capture(s.engine.FS, path)
	if err != nil || before.Kind == atomicfile.File && bytes.Equal(before.Data, bundle) {
		return parameter, path, nil, err
	}
	return parameter, path, []deploy.FileChange{{Path: path, Before: before, After: atomicfile.NewFile(bundle, atomicfile.Attr{Mode: 0o644})}}, nil
}

// readAnchors reads PEM files with certificates and nothing else, and returns them in
// one, each certificate once.
func readAnchors(paths []string) ([]byte, error) {
	var out bytes.Buffer
	seen := map[string]bool{}
	for _, path := range paths {
		data, err := atomicfile.Read(path, 16<<20)
		certs := pemCertificates(data)
		switch {
		case err != nil:
			return nil, refuse("trust_invalid", problem.At{File: path}, "reading trust anchors: %v", err)
		case bytes.Contains(data, []byte("PRIVATE KEY")):
			return nil, refuse("trust_invalid", problem.At{File: path}, "%s holds a private key: that is no file of trust anchors", path)
		case len(certs) == 0:
			return nil, refuse("trust_invalid", problem.At{File: path}, "%s holds no certificate in PEM form", path)
		case !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, c.RawSubject) }):
			return nil, refuse("trust_invalid", problem.At{File: path}, "%s holds no root certificate: what another authority signed is no trust anchor", path)
		}
		for _, c := range certs {
			if !seen[string(c.Raw)] {
				seen[string(c.Raw)] = true
				fmt.Fprintf(&out, "# %s\n", strings.ToValidUTF8(strings.Map(printable, c.Subject.String()), "?"))
				if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
					return nil, err
				}
			}
		}
	}
	return out.Bytes(), nil
}

// printable takes line ends out of a subject.
func printable(r rune) rune {
	if r < ' ' {
		return ' '
	}
	return r
}

// pemCertificates are the certificates in PEM text.
func pemCertificates(data []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return out
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil && b.Type == "CERTIFICATE" {
			out = append(out, c)
		}
	}
}
