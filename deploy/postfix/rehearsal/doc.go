// Package rehearsal serves a candidate certificate from a private Postfix
// before production meets it.
//
// postfix check(1) never opens a certificate and postconf(1) judges no value,
// so whether this host's Postfix, with its OpenSSL and its TLS parameters, can
// serve a pair is known only when it does. A rehearsal lets it: it starts
// another master(8) of the same installation with a configuration made for the
// purpose, makes real handshakes, reads what that Postfix logs, and ends it.
//
// # What is private
//
// The configuration is made, not copied. It has the expanded values of the
// parameters that decide what TLS does on a server (see keeps), and what every
// daemon needs in order to start. Everything else is at Postfix's default or,
// where the default names a table, a limit or a service, at an inert value with
// its reason in the tables of inert.go. So SASL, milters, restrictions, lookup
// tables, the PROXY protocol and chroot cannot make a rehearsal fail, and
// nothing that production writes or locks is named.
//
// Each distinct set of effective TLS parameters gets one smtpd(8). It listens
// on a UNIX-domain socket below a directory that only root may enter: there is
// no port to choose or to lose, and no other user can talk to it. It accepts no
// mail: MAIL FROM is answered with a rejection.
//
// A postscreen(8) listener is rehearsed through tlsproxy(8), which serves the
// clients postscreen has not seen before. postscreen wants to know the client's
// address, which a UNIX-domain socket does not have; so it is told to expect
// the PROXY protocol, and a relay in this process introduces each connection
// as one from 192.0.2.0/24 (RFC 5737). An enabled "after 220" test keeps the
// session in postscreen's own SMTP engine, where TLS is tlsproxy's; without a
// greeting banner there is no wait of postscreen_greet_wait seconds.
//
// The log reaches neither syslog nor a file of production: the environment
// variable POSTLOG_SERVICE, by which Postfix tells its daemons where postlogd(8)
// listens before they have read main.cf, names a socket of this process, and
// maillog_file keeps it so afterwards. No postlogd runs.
//
// # What it leaves behind
//
// Nothing. The master is told by -e to exit by itself, so that a rehearsal
// whose parent was killed ends too; its daemons follow when their pipe to it
// closes. Every process of a rehearsal works below the rehearsal's own
// directory, as Postfix daemons work in queue_directory, and has the path of its
// log socket in the environment; that is how [Stage.Sweep] tells them, and why
// it cannot hit another program's process. A rehearsal that is under way holds
// a lock on its directory and is left alone.
package rehearsal
