// Package postfix asks and moves one Postfix instance of this host: what its
// configuration means, whether a candidate configuration would be read, and
// the few commands that change what runs. It decides nothing. The decisions
// are in deploy (the transaction) and deploy/postfix/cf (main.cf and master.cf
// as values).
//
// # What Postfix does and does not promise
//
// postconf(1) is the only judge of a configuration before master(8) reads it,
// and it must be asked before a reload: a master that meets a syntax error at
// SIGHUP exits, and the mail system is down. postconf does not judge values,
// and "postfix check" judges neither values nor certificates.
//
// "postfix reload" is asynchronous. Status 0 means that a signal was sent. So
// Reload looks whether the same master lives on, and the proof is left to
// those who ask the listeners.
//
// A program that reads a main.cf younger than 2 s waits until it is 2 s old
// ("pausing to let F cool down"). Every new smtpd is such a program. Replace
// therefore sets the modification time 3 s back. Snapshot after somebody
// else's edit takes up to 2 s.
//
// Whoever edits main.cf or master.cf by postconf(1) holds a lock on FILE.tmp
// meanwhile. Replace holds the same lock, so that neither loses an edit.
//
// Programs of Postfix print to standard error only if it is a terminal;
// otherwise they log. The errors of this package carry both.
//
// # Instances
//
// One host can run several instances (postmulti(1)), each with a configuration
// directory of its own. Find lists them, and every command here is for one:
// "postfix -c DIR" never acts on another instance, whatever
// multi_instance_wrapper says (postfix(1)).
package postfix
