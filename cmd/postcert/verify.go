package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postcert/verify"
	"postcert/verify/keypair"
)

func (a *app) verifyCommand() *cobra.Command {
	var f pairFlags
	cmd := &cobra.Command{
		Use:     "verify [LINEAGE_DIR | --cert FULLCHAIN --key PRIVKEY [--chain CHAIN]]",
		Short:   "say whether a pair would be accepted, and why not",
		Long:    verifyHelp,
		Example: verifyExample,
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: a.runE(func(ctx context.Context, args []string, res *result) error {
			return a.verify(ctx, &f, args, res)
		}),
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.tar, "tar", "", "tar `FILE` with fullchain.pem and privkey.pem; - is standard input")
	return cmd
}

func (a *app) verify(ctx context.Context, f *pairFlags, args []string, res *result) error {
	src, _, err := f.source(a, args)
	if err != nil {
		return err
	}
	pair, found, err := keypair.Read(ctx, src)
	if err != nil {
		res.problems = append(res.problems, found...)
		return err
	}
	pol, err := f.policy(a)
	if err != nil {
		return err
	}
	pol.At = a.now()
	res.problems = append(res.problems, found...)
	res.add("certificate", certificateOf(pair))
	a.showCertificate(pair)
	judged := verify.Pair(pair, pol)
	res.problems = append(res.problems, judged.Warnings()...)
	if err := judged.Err(); err != nil {
		res.headline = "refused: postcert would not install this pair."
		return judged.Errors()
	}
	res.headline = "accepted: this pair is fit for an SMTP server. Nothing was installed."
	return nil
}

// showCertificate prints who a certificate is for and how long it lasts.
func (a *app) showCertificate(p keypair.Pair) {
	leaf := p.Leaf()
	a.text.printf("  certificate  %s\n", a.text.paint(bold, strings.Join(leaf.DNSNames, ", ")))
	a.text.printf("               %s, issued by %s\n", keyWords(leaf), issuerName(leaf))
	a.text.printf("               %s\n", a.text.paint(faint, "sha256 "+p.Fingerprint()[:16]+"…, "+lifetime(leaf.NotBefore, leaf.NotAfter, a.now())))
}

// keyWords is a key's algorithm and size.
func keyWords(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	}
	return c.PublicKeyAlgorithm.String()
}

// lifetime says how long something is still valid.
func lifetime(from, until, now time.Time) string {
	switch {
	case now.Before(from):
		return fmt.Sprintf("valid from %s", from.UTC().Format(time.DateOnly))
	case now.After(until):
		return fmt.Sprintf("EXPIRED on %s", until.UTC().Format(time.DateOnly))
	}
	left := until.Sub(now)
	if left < 48*time.Hour {
		return fmt.Sprintf("%d hours left", int(left.Hours()))
	}
	return fmt.Sprintf("%d days left, until %s", int(left.Hours()/24), until.UTC().Format(time.DateOnly))
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
