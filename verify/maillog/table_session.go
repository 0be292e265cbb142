package maillog

const (
	summaryDoc = "postconf(5) smtpd_tls_loglevel; FORWARD_SECRECY_README"
	sentDoc    = "postconf(5) smtp_tls_security_level; FORWARD_SECRECY_README"
	oldMeans   = "this session used TLS 1.0 or 1.1, which RFC 8996 has retired. It is in the log because this server still allows them."
)

// summary makes the pattern of the line that ends each successful handshake
// (smtpd_tls_loglevel, smtp_tls_loglevel 1 or more), with and without the server
// name that a table of tls_server_sni_maps had.
func summary(trust, direction, protocol string) []string {
	head := trust + " TLS connection {state} " + direction + " {peer}"
	tail := ": " + protocol + " with cipher {cipher} (*"
	if direction == "from" {
		return []string{head + tail, head + " to {sni}" + tail}
	}
	return []string{head + tail}
}

func summaries(trusts []string, direction string, protocols ...string) []string {
	var out []string
	for _, t := range trusts {
		for _, p := range protocols {
			out = append(out, summary(t, direction, p)...)
		}
	}
	return out
}

// sessionKinds are handshakes that succeeded, and how they were.
var sessionKinds = []Kind{
	{
		ID: "received_old_tls", Patterns: summaries([]string{"{trust}"}, "from", "TLSv1", "TLSv1.1"),
		Effect: None,
		Means:  oldMeans,
		Now:    "mail comes in, encrypted as well as that client can. Refusing the old versions on port 25 would mean plain text from it, or no mail.",
		Do:     "on ports 587 and 465, have the mail program upgraded; then TLS 1.2 and newer only. On port 25, leave it", Source: "RFC 8996; postconf(5) smtpd_tls_protocols", Versions: all,
	}, {
		ID: "received_anonymous", Patterns: summary("Anonymous", "from", "{protocol}"),
		Effect: None,
		Means:  "a client connected with TLS and showed no certificate of its own, as nearly all do: nobody asked for one. It says nothing about this server's certificate.",
		Now:    "the session is encrypted.", Do: "nothing", Source: summaryDoc, Versions: all,
	}, {
		ID: "received_untrusted", Patterns: summary("Untrusted", "from", "{protocol}"),
		Effect: None,
		Means:  "a client connected with TLS and showed a certificate that is not vouched for by smtpd_tls_CAfile or smtpd_tls_CApath. Public certificates are no longer issued for clients, so this is usual.",
		Now:    "the session is encrypted; the client's certificate gives it no rights.", Do: "nothing, unless this client is to be let in by its certificate: then by its fingerprint", Source: "postconf(5) smtpd_tls_ask_ccert", Versions: all,
	}, {
		ID: "received_trusted", Patterns: summaries([]string{"Trusted", "Verified"}, "from", "{protocol}"),
		Effect: None,
		Means:  "a client connected with TLS and showed a certificate of a CA that smtpd_tls_CAfile or smtpd_tls_CApath names.",
		Now:    "the session is encrypted, and the client may get rights by its certificate.", Do: "nothing", Source: "postconf(5) smtpd_tls_ask_ccert", Versions: all,
	}, {
		ID: "sent_anonymous", Patterns: summary("Anonymous", "to", "{protocol}"),
		Effect: None,
		Means:  "mail was sent over TLS to a server that showed no certificate.",
		Now:    "the session was encrypted, with whom is not known. At the level may that is enough.", Do: "nothing", Source: sentDoc, Versions: all,
	}, {
		ID: "sent_untrusted", Patterns: summary("Untrusted", "to", "{protocol}"),
		Effect: None,
		Means:  "mail was sent over TLS, and the server's certificate was not vouched for: it is self-signed, of a private CA, or Postfix has no list of CAs (smtp_tls_CAfile).",
		Now:    "the session was encrypted, with whom is not proven. At the levels may and encrypt that is enough.",
		Do:     "nothing at these levels. For certainty: smtp_tls_CAfile, and the level secure for that domain in smtp_tls_policy_maps", Source: sentDoc, Versions: all,
	}, {
		ID: "sent_trusted", Patterns: summary("Trusted", "to", "{protocol}"),
		Effect: None,
		Means:  "mail was sent over TLS, and a CA that Postfix trusts vouches for the server's certificate. Its name was not compared: the level did not ask for it.",
		Now:    "the session was encrypted.", Do: "nothing; the levels verify and secure compare the name too", Source: sentDoc, Versions: all,
	}, {
		ID: "sent_verified", Patterns: summary("Verified", "to", "{protocol}"),
		Effect: None,
		Means:  "mail was sent over TLS to the right server: its certificate has the right name and a trusted CA, or matches a TLSA record (DANE) or a fingerprint.",
		Now:    "the session was encrypted, and with whom is proven.", Do: "nothing", Source: sentDoc, Versions: all,
	}, {
		ID: "reused_untrusted", Patterns: []string{`{peer}: re-using session with untrusted certificate, look for details earlier in the log`, `{peer}: re-using session with untrusted peer credential, look for details earlier in the log`},
		Effect: None,
		Means:  "an earlier TLS session was gone on with, and its certificate was not trusted then.",
		Now:    "as in that earlier session.", Do: "look for that session above, with the same address", Source: "postconf(5) smtp_tls_session_cache_database", Versions: all,
	},
}
