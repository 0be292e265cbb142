// Package cf holds main.cf and master.cf as values: what is in effect, for
// which service and from which line; which sockets the services listen on;
// which edits put a certificate in place; and an editor that carries them out
// and touches nothing else. It opens no file and runs no program: callers hand
// in bytes and what postconf(1) printed, and get values back.
//
// # How Postfix reads the two files
//
// A logical line begins with a line that starts with text, and goes on with
// every following line that starts with white space. Comment lines (first text
// is #) and blank lines are skipped wherever they stand, also inside a logical
// line. In main.cf a logical line is "name = value"; when a name is set twice
// the last one holds. Text after a value is part of it: there are no trailing
// comments. In master.cf a logical line is a service entry: eight fields and
// the daemon's arguments, among them "-o name=value" overrides, which beat
// main.cf for that service alone ("-o { name = value }" since Postfix 3.0,
// where a value with blanks needs the braces). When two entries name the same
// endpoint, the last one holds.
//
// A value is expanded late: "$name" in main.cf means what name holds in the
// service that reads it, overrides included. So the parameter that names the
// certificate of a port is a question per service: Snapshot.Effective.
//
// # What to call
//
// Parse makes a Snapshot. Snapshot.Effective and Snapshot.Source answer what
// is in effect and where it was set; Snapshot.Listeners, what can be asked for
// its certificate. Snapshot.CertificateEdits decides what has to change for a
// new pair to be served, as a Scheme with Edits, and Apply writes Edits into
// the bytes of the two files. Differences says what two snapshots differ in,
// for the invariant that a plan changes what it says and nothing else.
//
// postconf is the judge of the editor, not its tool: "postconf -e" and "-P"
// reindent entries, drop continuation lines, move comments, and glue a setting
// to a last line without a newline (before 3.7.15, 3.8.10, 3.9.4, 3.10.2).
//
// Sources: postconf(1), postconf(5), master(5), and what Postfix 3.4 to 3.11
// do where the manual is silent; the tests compare with the installed postconf.
package cf
