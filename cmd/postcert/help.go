package main

import "github.com/spf13/cobra"

// commands are all commands, in the order in which help lists them.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.installCommand(), a.verifyCommand(), a.probeCommand(), a.statusCommand(),
		a.historyCommand(), a.rollbackCommand(), a.recoverCommand(), a.releaseCommand(),
		a.configCommand(), a.versionCommand(),
	}
}

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{.UsageString}}`

const rootHelp = `postcert keeps the certificate that Postfix serves valid, correct and proven.

It verifies a certificate, rehearses it on a private copy of this host's own
Postfix, installs key and chain in one file that only root reads, points the
smtpd_tls_* parameters at it, reloads, and proves by real handshakes on every
listener that it is served. If it is not, everything is put back, and that is
proven as well.

Start with a look, which changes nothing:

  postcert install-cert /etc/letsencrypt/live/mail.example.com --dry-run

EXIT STATUS
` + statusTable

// statusTable is part of the help of every command and of postcert(1).
const statusTable = `  0  done, or nothing to do
  1  another failure; nothing was changed
  2  the command line or the configuration is wrong
  3  refused: certificate, key, plan or rehearsal; nothing was changed
  4  failed and rolled back: the previous state is served, and proven
  5  failed, and the rollback is incomplete: a person must look now
  6  the CA or ACME failed; nothing new was stored
  7  another run holds the lock, or the plan was overtaken
  8  a question (status, probe, config check) is answered no
  9  installed, but not every listener could be verified
  130, 143  ended by a signal, after a clean stop or a completed rollback
A status that is not in this list is a failure.`

const installHelp = `install-cert takes a certificate and its key to every listener of Postfix.

The pair is read once and judged: chain for TLS servers, names, dates, key. A
private Postfix made from this host's own configuration must then serve it.
Only after that is anything changed: one file is renamed into
<config_directory>/tls/, and, at the first time, the parameters that name the
certificate are pointed at it; the diff is shown. Postfix is reloaded, and every
listener must present exactly the new certificates in three sessions held open
together. If one contradicts, the change is undone, and the undo is proven.

A name that is served until now must be covered by the new certificate. So must
each --host.

EXIT STATUS
` + statusTable

const installExample = `  postcert install-cert /etc/letsencrypt/live/mail.example.com
  postcert install-cert --cert fullchain.pem --key privkey.pem --host mail.example.com
  ssh ca tar c -C /srv/certs/mail fullchain.pem privkey.pem | postcert install-cert --tar -
  postcert install-cert /etc/letsencrypt/live/mail.example.com --dry-run --json`

const verifyHelp = `verify judges a certificate and its key as install-cert would, offline.

It asks for at least what "openssl verify -purpose sslserver" asks for, and
refuses what Postfix's own loader, OpenSSL and Go do not all read in the same
way. Every problem has a stable id, in brackets.

EXIT STATUS
` + statusTable

const verifyExample = `  postcert verify /etc/letsencrypt/live/mail.example.com
  postcert verify --cert fullchain.pem --key privkey.pem --host mail.example.com`

const probeHelp = `probe shows what is served: by every listener of this host's Postfix, by the
given servers, or by every MX host of a domain. Each is asked by one handshake;
-v prints the SMTP dialogue.

EXIT STATUS
` + statusTable

const probeExample = `  postcert probe
  postcert probe mail.example.com:25 smtps://mail.example.com imaps://mail.example.com
  postcert probe --mx example.com
  postcert probe -v mail.example.com:587`

const statusHelp = `status compares what is wanted, what is installed and what every listener
serves, now. It answers no (exit status 8) until they agree.

EXIT STATUS
` + statusTable

const statusExample = `  postcert status
  postcert status mail.example.com --json`

const historyHelp = `history lists what was done: installs, refusals, rollbacks, recoveries; the
newest last.

EXIT STATUS
` + statusTable

const rollbackHelp = `rollback installs an earlier generation again: the one before the present one,
or the one named by --to. It is a change like any other: rehearsed, proven, or
undone. It also works while Postfix is down; then nothing can be proven, and the
exit status is 9.

EXIT STATUS
` + statusTable

const rollbackExample = `  postcert rollback
  postcert rollback mail.example.com --to 3`

const recoverHelp = `recover settles a change that was interrupted by a kill, a crash or a power cut:
it is finished if it was proven already, and undone otherwise. Every command
that changes something does this first; a unit may do it at boot. A second
recover finds nothing to do.

EXIT STATUS
` + statusTable

const releaseHelp = `release gives the certificate back: main.cf and master.cf name the files again
that they named before the first install-cert, and that is rehearsed and proven
like any change. Generations stay in the state directory.

EXIT STATUS
` + statusTable

const releaseExample = `  postcert release --dry-run
  postcert release mail.example.com`

const versionHelp = `version prints which postcert this is, and what it was built with. It reads no
configuration, so it works where nothing else does.

EXIT STATUS
` + statusTable

const configHelp = `config check says whether the configuration file is right; config show prints
what is in effect and where each value comes from. See postcert.yaml(5).

EXIT STATUS
` + statusTable
