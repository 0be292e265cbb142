package maillog

// replyKinds are replies of an SMTP server to a client, as a mail program shows
// them, as Postfix quotes them ("... said: 454 ..."), or as a transcript has them.
var replyKinds = []Kind{
	{
		ID: "peer_454", Patterns: []string{`*454 4.7.0 TLS not available due to local problem*`, `*454 4.7.0 TLS not available*`},
		Programs: clients, Effect: MailDelayed,
		Means: "the server that mail was to be sent to cannot do TLS now: its certificate cannot be used.",
		Now:   "at the level may Postfix sends in plain text; above, " + waits, Do: "tell the postmaster of the destination", Source: "RFC 3207 section 4", Versions: all,
	}, {
		ID: "tls_not_available", Patterns: []string{`*454 4.7.0 TLS not available due to local problem*`, `*454 4.7.0 TLS not available*`},
		Effect: TLSOff,
		Means:  "the answer to STARTTLS of a Postfix that has no TLS now: the certificate or key could not be loaded when the process started, or a TLS setting is not valid.",
		Now:    "nobody gets TLS from that process. Mail programs on port 587 cannot send; other servers deliver in plain text, or later.",
		Do:     "look in the log of that server for \"disabling TLS support\"; " + chainDo, Source: "RFC 3207 section 4; smtpd(8)", Versions: all,
	}, {
		ID: "try_again_later", Patterns: []string{`*454 4.3.0 Try again later*`},
		Effect: PeerFailed,
		Means:  "the answer to STARTTLS or AUTH while a milter (smtpd_milters) cannot be asked. It looks like TLS and is not about TLS: the certificate may be good.",
		Now:    "the session goes on, or is tried again; nobody gets TLS while it lasts.",
		Do:     "look above for a line about the milter, and start it; milter_default_action says what to do without it", Source: "postconf(5) milter_default_action; MILTER_README", Versions: all,
	}, {
		ID: "auth_unavailable", Patterns: []string{`*454 4.7.0 Temporary authentication failure*`},
		Effect: PeerFailed,
		Means:  "the program that checks passwords (Dovecot, saslauthd) could not be asked.",
		Now:    "nobody can log in to send mail; TLS is not affected.", Do: "look at that program, and at smtpd_sasl_path", Source: "SASL_README", Versions: all,
	}, {
		ID: "starttls_first", Patterns: []string{`*530 5.7.0 Must issue a STARTTLS command first*`},
		Effect: PeerFailed,
		Means:  "this service demands TLS (smtpd_tls_security_level = encrypt), and the client went on without.",
		Now:    "this client cannot send here. On submission that is right; on a public port 25 it turns mail away (RFC 3207 section 4 forbids it there).",
		Do:     "on port 587: switch STARTTLS on in the mail program. On port 25: smtpd_tls_security_level = may", Source: "postconf(5) smtpd_tls_security_level; RFC 3207 section 4", Versions: all,
	}, {
		ID: "auth_not_enabled", Patterns: []string{`*503 5.5.1 Error: authentication not enabled*`},
		Effect: PeerFailed,
		Means:  "the client wanted to log in where that is not possible: before TLS (smtpd_tls_auth_only = yes), or on a service without smtpd_sasl_auth_enable = yes.",
		Now:    "this client cannot log in here.", Do: "in the mail program: port 587 with STARTTLS, or 465 with SSL/TLS", Source: "postconf(5) smtpd_tls_auth_only, smtpd_sasl_auth_enable", Versions: all,
	}, {
		ID: "auth_needs_tls", Patterns: []string{`*504 5.5.4 Encryption required for requested authentication mechanism*`},
		Effect: PeerFailed,
		Means:  "the kind of password exchange that the client chose is only allowed inside TLS.",
		Now:    "this client cannot log in so.", Do: "switch TLS on in the mail program", Source: "postconf(5) smtpd_sasl_security_options; RFC 4954 section 4", Versions: all,
	}, {
		ID: "tls_twice", Patterns: []string{`*554 5.5.1 Error: TLS already active*`},
		Effect: PeerFailed,
		Means:  "the client asked for STARTTLS inside TLS: on port 465 TLS is there from the beginning.",
		Now:    "this client cannot send here.", Do: "in the mail program, port 465 needs \"SSL/TLS\"; port 587 \"STARTTLS\"", Source: "RFC 3207 section 4.2; RFC 8314 section 3.3", Versions: all,
	}, {
		ID: "starttls_unknown", Patterns: []string{`*502 5.5.1 Error: command not implemented*`, `*521 5.5.1 Error: command not implemented*`, `*502 5.5.2 Error: command not recognized*`},
		Effect: PeerFailed,
		Means:  "Postfix does not take this command here. If it was STARTTLS: TLS is switched off on this service (smtpd_tls_security_level empty or none, or smtpd_discard_ehlo_keywords).",
		Now:    "if it was STARTTLS, this service has no TLS.", Do: "postcert probe; smtpd_tls_security_level = may, or postcert install-cert --enable", Source: "postconf(5) smtpd_tls_security_level", Versions: all,
	}, {
		ID: "starttls_ready", Patterns: []string{`*220 2.0.0 Ready to start TLS*`},
		Effect: None,
		Means:  "the server is ready for TLS. That alone does not prove that it has a certificate: Postfix says it also when a file of smtpd_tls_chain_files is missing.",
		Now:    "not known from this line.", Do: "postcert probe finishes the handshake", Source: "RFC 3207 section 4", Versions: all,
	},
}
