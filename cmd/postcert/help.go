package main

import "github.com/spf13/cobra"

// commands are all commands, in the order in which help lists them.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.installCommand(), a.verifyCommand(), a.probeCommand(), a.statusCommand(), a.auditCommand(),
		a.hookCommand(), a.obtainCommand(), a.renewCommand(), a.daemonCommand(), a.accountCommand(), a.revokeCommand(),
		a.historyCommand(), a.rollbackCommand(), a.recoverCommand(), a.releaseCommand(), a.explainCommand(),
		a.hardenCommand(), a.outboundCommand(), a.policyCommand(), a.trustCommand(), a.sendTestCommand(), a.tlsaCommand(),
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
  8  a question (status, probe, audit, policy test, send-test, tlsa, config check) is
     answered no
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

--mx asks every address of every MX host on port 25, from here. Each must present a
trusted certificate for the name of the MX host, that is not about to expire nor
older than what another host presents for the same names; if the domain has an
MTA-STS policy (RFC 8461) that is enforced, it must name the host. An IPv6 address
that this host has no route to is not asked, and that is said. Mail to port 25 is
mostly sent without looking at certificates: what fails here matters to senders that
check, by MTA-STS or a policy of their own.

EXIT STATUS
` + statusTable

const probeExample = `  postcert probe
  postcert probe mail.example.com:25 smtps://mail.example.com imaps://mail.example.com
  postcert probe --mx example.com
  postcert probe -v mail.example.com:587`

const statusHelp = `status compares what is wanted, what is installed and what every listener
serves, now, of all instances or of the one that --instance names. It answers no
(exit status 8) until they agree. What is wrong is said first, with what to do;
then, for each certificate, what every listener presents, how long it lasts, what
happened last, and what happens next by itself. Of more than three certificates,
those that are as they should be share a table; -v gives each its paragraph.

A deploy that failed is no longer a matter of whoever started it: status says no
until it was tried again and proven, or until somebody installs another
certificate. What can only be refused again, such as a key that does not match, is
tried again when the files or the configuration change. That somebody restored a
file, edited a parameter back or did not reload is found here, and by the daily
probe of "postcert renew" and of the daemon, which puts it right if the instance's
configuration says drift: repair.

--nagios prints one line with performance data: the days that are left, of each
certificate and of what each listener presents. Alarms are fractions of the
lifetime: a fifth left (at most 30 days) is a warning, a tenth (at most 15 days) is
critical. So a certificate of 90 days warns at 18 and is critical at 9; one of 160
hours, at 32 and at 16 hours.

EXIT STATUS
` + statusTable + `
With --nagios:
  0  OK: everything agrees, and there is time left
  1  WARNING: a certificate should have been renewed, or another warning
  2  CRITICAL: something does not agree, has expired or is about to; or nothing is
     installed
  3  UNKNOWN: it could not be found out: the command line, the configuration,
     Postfix's own configuration, a time limit`

const statusExample = `  postcert status
  postcert status --nagios --timeout 20s
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
that they named before install-cert took over, and that is rehearsed and proven
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

const obtainHelp = `obtain orders certificates at a CA by ACME (RFC 8555), and installs them as
install-cert does: judged, rehearsed, proven on every listener, or undone.

Without arguments it orders what is configured and missing; with names, those
certificates; with --domain, one that the flags describe. That one is remembered,
and "postcert renew" and the daemon keep it; it is installed on the instance that
--instance names, or on the only one, unless --no-deploy. A single certificate of a
configuration without instances is installed on the only one as well; "instances: []"
there says on none. On which one is said before the order.

An order is made once: what is not due is not ordered again, and an order that was
interrupted is resumed. Before an order it is looked whether it can succeed.

--dry-run makes a whole order at the CA's directory for trials, or at the one that
--directory names, and keeps nothing of it but the account there.

Flags of certbot are understood where they mean one of ours: --dns-PROVIDER,
--dns-PROVIDER-credentials, --dns-PROVIDER-propagation-seconds, --standalone,
--webroot-path, --cert-name, --server, -d, -m, -n.

EXIT STATUS
` + statusTable

const obtainExample = `  postcert obtain
  postcert obtain -d mail.example.com --challenge http-01 -m admin@example.com --agree-tos
  postcert obtain -d mail.example.com -d '*.example.com' --provider ovh --credentials /etc/postcert/ovh.env --propagation 60s --agree-tos
  postcert obtain -d mail.example.com --challenge http-01 --agree-tos --dry-run`

const renewHelp = `renew is one pass over every certificate that is configured or was obtained, or
over the named ones: an interrupted change is settled, what is due is renewed, and
each new certificate is taken to its listeners; the others are proven once more,
which changes nothing. Once a day it is looked whether the next order of each could
succeed. A certificate that another client obtains (source: watch, or deployed by a
hook) is never ordered.

A deploy that failed is tried again after waits that grow to six hours, without
another order; one that can only be refused again waits until the pair or the
configuration changes. What was proven before is compared with what is there: an
old file that somebody restored, a parameter edited back, a Postfix that was not
reloaded, a table of SNI names that is older than what it was made of. That is told
(exit status 8) and left as it is, or put right if the configuration says
drift: repair for that instance.

It is for timers; "postcert daemon" does the same by itself. Tell it with
--interval how long until the next pass, if that is not 12 hours. With --scheduled
it can be called as often as one likes: what failed is tried again when its wait is
over and not before, and what was proven is proven again once a day.

EXIT STATUS
` + statusTable

const renewExample = `  postcert renew
  postcert renew --force mail.example.com`

const accountHelp = `account register makes the account at the CA, whose key is kept in the state
directory; obtain does it too, when there is none. Without --agree-tos it names the
CA's terms of service, and registers nothing. account show asks the CA about it.
account rollover gives it a new key; certificates are not concerned.

--dry-run asks the CA whether it could be done, and changes nothing here or there.

EXIT STATUS
` + statusTable

const accountExample = `  postcert account register --email admin@example.com --agree-tos
  postcert account show --json`

const revokeHelp = `revoke revokes the live certificate of NAME at the CA that issued it. Postfix goes
on serving it until another one is installed: renew it next. With the reason
key-compromise its key is never used again. --dry-run names the certificate, and
asks nobody.

EXIT STATUS
` + statusTable

const revokeExample = `  postcert revoke mail.example.com --reason superseded`

const daemonHelp = `daemon keeps every certificate that is configured or was obtained: it renews each
at its time, takes it to the listeners, and tries again what failed. It runs until
SIGTERM. SIGHUP makes it read the configuration again; one that is not right is
refused, and the former one stays in force.

It holds no key: all work is done by "postcert renew NAME", as a process of its
own. When something is due is on disk, so that starting the daemon again, or
running renew beside it, makes no further orders. Under systemd (Type=notify) its
status line says what comes next.

It watches the files of certificates that another client renews (source: watch):
all directories on the way to them. What is renewed is deployed within seconds after
the last of its files was written; the same certificates written again are not. A
deploy that failed waits for its time, a new certificate does not. Where the kernel
tells nothing, as on network file systems, the files are looked at every minute.

EXIT STATUS
` + statusTable

const daemonExample = `  postcert daemon
  systemctl status postcert
  systemctl reload postcert`

const hookHelp = `hook is the deploy hook for every ACME client. It needs no configuration.

It finds out which client calls, and which certificate that is about, from the
arguments and the environment; asks whether that certificate is for this Postfix;
and if so does what install-cert does: verify, rehearse, install, reload, prove,
or undo. Names are taken from the certificate, never from the environment. With
several Postfix instances it treats each that the certificate is for.

  certbot      --deploy-hook "/usr/bin/postcert hook"; or, for all certificates:
               ln -s /usr/bin/postcert /etc/letsencrypt/renewal-hooks/deploy/
  lego         --renew-hook "/usr/bin/postcert hook"   (v5: --deploy-hook)
  acme.sh      --reloadcmd "/usr/bin/postcert hook"
  dehydrated   HOOK=/usr/local/bin/postcert-hook, a link to /usr/bin/postcert
  acmetool     ln -s /usr/bin/postcert /etc/acme/hooks/
  getssl       RELOAD_CMD="/usr/bin/postcert hook --cert FILE --key FILE"
  uacme        uacme ... issue NAME && postcert hook --cert FILE --key FILE
  step         step ca renew ... --exec "/usr/bin/postcert hook --cert FILE --key FILE"
  certmonger   getcert request ... -C "/usr/bin/postcert hook --cert FILE --key FILE --chain FILE"

Called under the name postcert-hook, or without arguments in the environment of
one of these clients, postcert is its hook, so that a link is enough.

A certificate is for this Postfix if the configuration names its directory, if
the last deployed one came from there, if a smtpd_tls_* parameter names a file of
it, if it holds the certificate that is deployed, or, while nothing is deployed
yet, if it is valid for myhostname or a name that is served. Files that are named
in the call itself always are. All others are left alone, with status 0. To adopt
one once: postcert install-cert DIRECTORY.

Clients forget how their hook ended. So every failure is remembered: "postcert
status" fails, and "postcert renew" (from a timer) or the daemon deploys the
certificate again, with growing pauses, from where the client keeps it and
without the client. The hook gives up after 80 s, before lego would kill it; the
deploy is then left to them too.

Nothing is printed unless something went wrong; -v says what is done.

EXIT STATUS
` + statusTable + `
  42  hook alone: the event is none of a deploy hook's, as acmetool wants to know`

const hookExample = `  certbot renew --deploy-hook "/usr/bin/postcert hook"
  RENEWED_LINEAGE=/etc/letsencrypt/live/mail.example.com postcert hook -v --dry-run
  postcert hook --cert /etc/step/mail.crt --key /etc/step/mail.key`
