package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"postcert/cmd/postcert/internal/config"
)

// What the help does not say, since it is about the program and not about a command.
const (
	manFiles = `/etc/postcert/postcert.yaml
The configuration, if there is one; see postcert.yaml(5). An example is in /usr/share/doc/postcert/examples.

<config_directory>/tls/NAME.pem
Key, leaf and intermediates in one file that only root reads, replaced by one rename: what Postfix serves. Mode 0600, in a directory of root:postfix, 0750.

<config_directory>/main.cf, master.cf
At the first install the parameters that name the certificate are changed, and nothing else; master.cf only if that is asked for.

/var/lib/postcert
Root only: lock, journal, history, status, generations (earlier pairs with their keys), and below acme the account at the CA and what it issued. Keep it, and the files in tls, out of backups that others can read.

/run/postcert
Rehearsals.

/etc/letsencrypt/renewal-hooks/deploy/postcert
If you make it, a link to /usr/bin/postcert: the deploy hook for all of certbot's certificates. No package makes it.`

	manUnits = `The packages enable postcert-renew.timer, which runs "postcert renew", postcert-recover.path, which runs "postcert recover" when a run ended and left its change open, and postcert-recover-boot.service, which does so at boot before Postfix. postcert.service runs the daemon. It replaces the timer and is not enabled:

  systemctl disable --now postcert-renew.timer
  systemctl enable --now postcert.service`

	manOtherVariables = `Beside these, hook reads what an ACME client tells it, such as certbot's RENEWED_LINEAGE, and the daemon reads NOTIFY_SOCKET (sd_notify(3)). The rest of the environment is discarded at the start: PATH, SSL_CERT_FILE, GODEBUG or a proxy change nothing.`

	manSeeAlso = "postcert.yaml(5), postconf(1), postfix(1), postconf(5), master(5), openssl-s_client(1), certbot(1), systemd.timer(5)"
)

// commandPage is postcert(1).
func commandPage(t *testing.T) string {
	root := documented()
	p := newPage(t, "POSTCERT", "1", "postcert - "+root.Short)
	p.heading("SH", "SYNOPSIS")
	for i, cmd := range leafCommands(root) {
		if i > 0 {
			p.line(".br")
		}
		p.WriteString(filled(cmd.UseLine()))
	}
	p.heading("SH", "DESCRIPTION")
	p.text(withoutStatus(root.Long))

	p.heading("SH", "OPTIONS")
	p.text("Every command has these.")
	p.flags(root.PersistentFlags())
	p.heading("SH", "COMMANDS")
	for _, cmd := range root.Commands() {
		p.command(cmd)
	}

	p.heading("SH", "EXIT STATUS")
	p.text(statusTable)
	p.heading("SH", "ENVIRONMENT")
	p.variables(root)
	p.text(manOtherVariables)
	p.heading("SH", "FILES")
	for file := range strings.SplitSeq(manFiles, "\n\n") {
		name, text, _ := strings.Cut(file, "\n")
		p.item(inItalic(name), text)
	}
	p.heading("SH", "UNITS")
	p.text(manUnits)
	p.heading("SH", "SEE ALSO")
	p.text(manSeeAlso)
	return p.String()
}

// documented are all commands, cobra's for completion too.
func documented() *cobra.Command {
	root := (&app{}).rootCommand()
	root.InitDefaultCompletionCmd()
	return root
}

// command describes a command, and those below it.
func (p *roff) command(cmd *cobra.Command) {
	p.heading("SS", commandName(cmd))
	p.shown([]string{cmd.UseLine()})
	long := withoutStatus(cmd.Long)
	if cmd.HasParent() && cmd.Long == cmd.Parent().Long {
		long = ""
	}
	if cmd.Name() == "completion" || cmd.Parent().Name() == "completion" {
		long = "" // cobra's, and about every program
	}
	p.text(cmd.Short + ".")
	p.text(long)
	cmd.InitDefaultHelpFlag()
	p.flags(cmd.NonInheritedFlags())
	if cmd.Example != "" {
		p.text("Examples:")
		p.text(cmd.Example)
	}
	for _, sub := range cmd.Commands() {
		p.command(sub)
	}
}

// withoutStatus leaves out the statuses that all commands have: the page lists
// them once. What a command adds to them stays.
func withoutStatus(long string) string {
	before, own, _ := strings.Cut(long, "EXIT STATUS\n"+statusTable)
	if own = strings.Trim(own, "\n"); own != "" && strings.HasPrefix(own, " ") {
		own = "Exit status, beside those of all commands:\n" + own
	}
	return strings.TrimRight(before, "\n") + "\n\n" + own
}

// leafCommands are the commands that do something, in the order of the help.
func leafCommands(root *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, cmd := range root.Commands() {
		if cmd.HasSubCommands() {
			list = append(list, leafCommands(cmd)...)
		} else {
			list = append(list, cmd)
		}
	}
	return list
}

func (p *roff) flags(set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		term := inBold("--" + f.Name)
		if f.Shorthand != "" {
			term = inBold("-"+f.Shorthand) + ", " + term
		}
		value, usage := pflag.UnquoteUsage(f)
		if kind := f.Value.Type(); kind != "bool" && kind != "count" {
			term += " " + inItalic(value)
		}
		switch f.DefValue {
		case "", "0", "0s", "false", "[]":
		default:
			usage += " (default " + f.DefValue + ")"
		}
		p.item(term, usage)
	})
}

// variables are what the environment can say instead of a flag or the file.
func (p *roff) variables(root *cobra.Command) {
	for _, s := range config.Scalars() {
		means := "the key " + s.Key + " of postcert.yaml(5)"
		if root.PersistentFlags().Lookup(s.Flag) != nil {
			means = "as --" + s.Flag
		}
		p.item(inBold(s.Variable), means+".")
	}
}
