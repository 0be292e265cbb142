// Package maillog reads what Postfix writes to its log about TLS, and what it
// says to SMTP clients, and knows what it means.
//
// A mail log is text for people. Each line has a head (time, host, tag, process
// id) and a message; a message may begin with a severity ("warning: ") and a
// queue id. Parse reads the head, whatever wrote it: syslogd in its traditional
// form (RFC 3164 section 4.1) or with RFC 3339 times, Postfix's own postlogd
// (postconf(5) maillog_file), or a person who copied half a line.
//
//	line := maillog.Parse(text, time.Now())
//	event, ok := maillog.Recognise(line)
//	fmt.Println(event.Summary(), event.Kind.Means, event.Kind.Do)
//
// Recognise compares the message with one table of known messages, Kinds. Each
// row gives the words as Postfix's source has them, with places for what varies
// in {braces}; what it means; what state mail and TLS are in because of it; what
// to do; and where that can be read. Words that OpenSSL adds ("TLS library
// problem: ...") are known by the reason, which OpenSSL 1.1.1 and 3.x spell alike
// around code and function names that differ, and by the number of an alert
// (RFC 8446 section 6), whose names have changed between versions.
//
// What is not in the table is not known, and Recognise says so. It never guesses.
//
// The package is pure: it opens nothing and runs nothing. Who reads which log is
// the business of deploy/postfix.
//
// # What a log cannot tell
//
// No line names the certificate that was presented. A successful handshake leaves
// no line at all with smtpd_tls_loglevel = 0, Postfix's default. So a log explains
// trouble; that a certificate is served is proved by a handshake.
package maillog
