// Package audit says what is wrong with the TLS settings of a Postfix, and which
// edits would put it right.
//
// What is asked is data: a [Rule] has an id, a sentence on why it matters, the
// document that says so, a severity, the versions of Postfix it holds for, and a
// function that looks at a configuration. A [Profile] is a named list of rules.
// [Run] answers a list of rules with findings, each with its place (parameter,
// service, file and line) and, where a change is safe without knowing more about
// the host, with a remedy as edits whose inverse undoes them.
//
// # How Postfix decides about TLS
//
// The level of a server (smtpd_tls_security_level) is none, may or encrypt. On
// port 25, where strangers deliver, it must be may: RFC 3207 section 4 forbids a
// publicly referenced server to insist. Where users submit mail it is encrypt on
// port 587, and TLS from the first byte (smtpd_tls_wrappermode) on port 465, as
// RFC 8314 has it. Each service entry of master.cf may differ from main.cf with
// -o, so each question is asked for each service.
//
// What Postfix cannot use, it mostly does not refuse: an unknown word in
// smtpd_tls_protocols or a CA file that is missing makes smtpd log "disabling
// TLS support" and go on without. STARTTLS stays in its greeting and is answered
// with 454. An unknown level ends the process instead. So the parsers here accept
// what the parsers of that version of Postfix accept, and no more.
//
// # What is given
//
// The package opens no file, runs no program and asks no server. It judges a
// [cf.Snapshot] and [Facts], which are plain values that the caller gathered:
// [NeedsOf] names the files that are of interest. A fact that is not there is not
// known, and rules that depend on it say nothing. What past peers used, once the
// log is read, is one more field of Facts.
//
// Sources: postconf(5), master(5), TLS_README, DEPRECATION_README, and for what
// they leave open the source of Postfix 3.5 to 3.11 (tls_misc.c, smtpd.c,
// smtp_tls_policy.c).
package audit
