package maillog

const (
	waits    = "mail to this destination waits in the queue and is tried again, until maximal_queue_lifetime (5 days) is over."
	byLevel  = "at the levels may and encrypt the mail went out nevertheless; at verify, secure and dane it waits in the queue."
	testDo   = "postcert probe HOST:25 shows what that server presents. If it is wrong there, tell its postmaster; until then the level for that domain can be lowered in smtp_tls_policy_maps, knowing what is given up"
	levelDoc = "postconf(5) smtp_tls_security_level, smtp_tls_policy_maps"
	daneDoc  = "postconf(5) smtp_tls_security_level; RFC 7672"
	clientNo = "Postfix sends without TLS where it may (level may); what needs TLS waits in the queue."
)

// clientKinds are what smtp(8) and lmtp(8) say when mail goes out; and what both
// sides say about a certificate, which from smtpd(8) is about a client's.
var clientKinds = []Kind{
	{
		ID: "client_cert_unusable",
		Patterns: []string{
			`cannot get {type} certificate from file "{file...}": disabling TLS support`, `cannot get {type} private key from file "{file...}": disabling TLS support`,
			`{type} private key in {file...} does not match public key in {certificate...}: disabling TLS support`, `error loading private keys and certificates from: {file...}: disabling TLS support`,
		},
		Programs: clients, Effect: MailDelayed,
		Means: "the client certificate (smtp_tls_cert_file, smtp_tls_key_file, smtp_tls_chain_files) cannot be used.",
		Now:   clientNo,
		Do:    "empty these parameters, unless some server demands a client certificate: most do not. Then postfix reload", Source: "postconf(5) smtp_tls_cert_file", Versions: all,
	}, {
		ID: "client_tls_disabled", Patterns: []string{`disabling TLS support`, `{reason...}: disabling TLS support`, `{reason...}, disabling TLS support`},
		Programs: clients, Effect: MailDelayed,
		Means: "Postfix's client could not set up TLS, for the reason at the beginning of the line: often smtp_tls_CAfile or smtp_tls_CApath names nothing that can be read.",
		Now:   clientNo,
		Do:    "correct what the line names, or the parameter with the prefix smtp_tls_; then postfix reload", Source: "postconf(5) smtp_tls_CAfile; TLS_README, Client-side TLS", Versions: all,
	}, {
		ID: "client_protocols_invalid", Patterns: []string{`{peer}: Invalid TLS protocol list "{list...}": aborting TLS session`},
		Effect: MailDelayed,
		Means:  "smtp_tls_protocols, smtp_tls_mandatory_protocols or an entry of smtp_tls_policy_maps has a list of protocols that this Postfix does not understand.",
		Now:    "no TLS to this destination. " + waits,
		Do:     "correct it; the form >=TLSv1.2 needs Postfix 3.6", Source: "postconf(5) smtp_tls_mandatory_protocols", Versions: all,
	}, {
		ID: "client_cert_of_peer", Patterns: []string{
			`certificate verification failed for {peer}: {reason...}`, `{side} certificate verification failed for {peer}: {reason...}`,
		},
		Programs: []string{"smtpd", "tlsproxy"}, Effect: None,
		Means: "a client showed a certificate that is not vouched for here. Since 2026 public CAs issue none for clients, so \"not designated for use as a client certificate\" is usual.",
		Now:   "the client is let in like one without a certificate, unless smtpd_tls_req_ccert = yes.",
		Do:    "nothing; to be rid of the lines, do not ask for certificates (smtpd_tls_ask_ccert = no)", Source: "postconf(5) smtpd_tls_ask_ccert", Versions: all,
	}, {
		ID: "peer_untrusted_issuer", Patterns: []string{`certificate verification failed for {peer}: untrusted issuer {issuer...}`},
		Effect: MailDelayed,
		Means:  "the server's certificate comes from a CA that this Postfix does not know: smtp_tls_CAfile and smtp_tls_CApath are empty or do not have it, the chroot has no copy of them, or the server does not send its intermediate.",
		Now:    byLevel,
		Do:     "if it is so with all servers: smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt, which is read before the chroot. If with one: " + testDo, Source: "postconf(5) smtp_tls_CAfile", Versions: all,
	}, {
		ID: "peer_self_signed", Patterns: []string{`certificate verification failed for {peer}: self-signed certificate`},
		Effect: MailDelayed,
		Means:  "the server's certificate is self-signed.",
		Now:    byLevel, Do: testDo, Source: levelDoc, Versions: all,
	}, {
		ID: "peer_tlsa_mismatch", Patterns: []string{`certificate verification failed for {peer}: not trusted by local or TLSA policy`},
		Effect: MailDelayed,
		Means:  "the server's certificate matches none of its TLSA records (DANE), or no trust anchor or fingerprint that is set here. Mostly the other side renewed its certificate and forgot the records.",
		Now:    waits, Do: "tell the postmaster of the destination; until then a level below dane for that domain lets the mail out", Source: daneDoc, Versions: all,
	}, {
		ID: "peer_not_server", Patterns: []string{`certificate verification failed for {peer}: not designated for use as a {purpose} certificate`},
		Effect: MailDelayed,
		Means:  "the server's certificate, or one of its issuers, was issued for another purpose.",
		Now:    byLevel, Do: testDo, Source: "RFC 5280 section 4.2.1.12", Versions: all,
	}, {
		ID: "peer_expired", Patterns: []string{`{whose} certificate verification failed for {peer}: certificate has expired`},
		Effect: MailDelayed,
		Means:  "the server's certificate, or one of its issuers, has expired; or this host's clock is wrong.",
		Now:    byLevel, Do: "look at the clock; then " + testDo, Source: levelDoc, Versions: all,
	}, {
		ID: "peer_not_yet", Patterns: []string{`{whose} certificate verification failed for {peer}: certificate not yet valid`},
		Effect: MailDelayed,
		Means:  "the server's certificate is not valid yet; mostly this host's clock is wrong.",
		Now:    byLevel, Do: "look at the clock; then " + testDo, Source: levelDoc, Versions: all,
	}, {
		ID: "peer_cert_bad", Patterns: []string{`certificate verification failed for {peer}: {reason...}`, `{whose} certificate verification failed for {peer}: {reason...}`},
		Effect: MailDelayed,
		Means:  "the server's certificate was not accepted, for the reason at the end of the line.",
		Now:    byLevel, Do: testDo, Source: levelDoc, Versions: all,
	}, {
		ID: "not_verified", Patterns: []string{`*Server certificate not verified*`, `*Server certificate not trusted*`},
		Effect: MailDelayed,
		Means:  "the level for this destination (verify, secure, dane, fingerprint) demands a certificate that proves who the server is, and the one it showed does not: no trusted CA, another name, or no match with its TLSA records. A line above, \"certificate verification failed\", says which. If there is none, the name did not match.",
		Now:    waits,
		Do:     "if it happens with every server: smtp_tls_CAfile is empty or unreadable. If with one: " + testDo + "; for another name, match= in the policy entry", Source: levelDoc, Versions: "3.5-3.11, trusted: 3.5",
	}, {
		ID: "tls_not_offered", Patterns: []string{`*TLS is required, but was not offered by host {peer})*`, `*TLS is required, but was not offered by host {peer}`},
		Effect: MailDelayed,
		Means:  "the level for this destination demands TLS, and the server does not offer STARTTLS; or something in between takes it out of its answer.",
		Now:    waits, Do: "postcert probe HOST:25, from here and from elsewhere. If the server has no TLS, level may for that domain lets the mail out in plain text", Source: levelDoc, Versions: all,
	}, {
		ID: "tls_engine", Patterns: []string{`*TLS is required, but our TLS engine is unavailable*`, `*TLS is required, but unavailable*`},
		Effect: MailDelayed,
		Means:  "the level for this destination demands TLS, and this Postfix's own client could not set TLS up.",
		Now:    "all mail that needs TLS waits in the queue, to wherever it goes.",
		Do:     "look above for a line of smtp with \"disabling TLS support\": a client certificate, smtp_tls_CAfile, or tlsmgr is the cause", Source: levelDoc, Versions: all,
	}, {
		ID: "tls_refused", Patterns: []string{`*TLS is required, but host {peer} refused to start TLS: {reply...}`},
		Effect: MailDelayed,
		Means:  "the server offered STARTTLS and then declined it. The end of the line has its words; with 454 its own certificate is broken.",
		Now:    waits, Do: testDo, Source: "RFC 3207 section 4", Versions: all,
	}, {
		ID: "handshake_failure", Patterns: []string{`*Cannot start TLS: handshake failure*`},
		Effect: MailDelayed,
		Means:  "the TLS handshake with the server failed. Lines of the same process above this one have the reason.",
		Now:    "at the level may Postfix tries again without TLS; at encrypt and above " + waits, Do: testDo, Source: levelDoc, Versions: all,
	}, {
		ID: "connect_error", Patterns: []string{`SSL_connect error to {peer}: {reason...}`},
		Effect: MailDelayed,
		Means:  "the TLS handshake with this server failed. With a number at the end, the next line of the same process (\"TLS library problem\") has the reason; \"lost connection\" says that the server closed it.",
		Now:    "at the level may Postfix tries again without TLS; at encrypt and above " + waits, Do: testDo, Source: levelDoc, Versions: all,
	}, {
		ID: "starttls_offered", Patterns: []string{`Host offered STARTTLS: [{peer}]`},
		Effect: Weaker,
		Means:  "mail was sent in plain text to a server that offers TLS: smtp_tls_security_level is empty or none.",
		Now:    "mail goes out unencrypted.", Do: "set smtp_tls_security_level = may", Source: "postconf(5) smtp_tls_note_starttls_offer", Versions: all,
	}, {
		ID: "policy_lookup", Patterns: []string{`TLS policy lookup error for {destination}: {reason...}`, `TLS policy lookup for {destination}: {reason...}`, `{where...}: policy table lookup error`, `*client TLS configuration problem*`},
		Effect: MailDelayed,
		Means:  "what smtp_tls_policy_maps or smtp_tls_security_level has for this destination cannot be used. A line above this one says what is wrong with it, or that the table cannot be read.",
		Now:    waits, Do: "correct the entry, build its index (postmap FILE), and look at it: postmap -q DOMAIN TYPE:FILE", Source: "postconf(5) smtp_tls_policy_maps", Versions: all,
	}, {
		ID: "policy_entry", Patterns: []string{
			`{where...}: invalid security level "{level...}"`, `{where...}: invalid empty policy`, `{where...}: invalid attribute name: "{attribute...}"`,
			`{where...}: malformed attribute/value pair "{attribute...}": {reason...}`, `{where...}: attribute "{attribute...}" has empty value`,
			`{where...}: attribute "{attribute...}" is specified multiple times`, `{where...}: attribute "{attribute...}" invalid at security level "{level...}"`,
			`{where...}: attribute "{attribute...}" has bad value: "{value...}"`, `{where...}: attribute "{attribute...}" has a malformed value: "{value...}"`,
		},
		Effect: MailDelayed,
		Means:  "an entry of smtp_tls_policy_maps is not one that this version of Postfix understands. The line names the table and the entry.",
		Now:    waits, Do: "correct the entry and build its index (postmap FILE). servername= needs Postfix 3.4, enable_rpk= 3.9", Source: "postconf(5) smtp_tls_policy_maps", Versions: all,
	}, {
		ID: "policy_ignored", Patterns: []string{`{where...}: ignoring attribute "{attribute...}" with TLS disabled`},
		Effect: Weaker,
		Means:  "an entry of smtp_tls_policy_maps has the level none and attributes that only matter with TLS.",
		Now:    "mail to that destination goes out in plain text.", Do: "give the entry the level that is meant", Source: "postconf(5) smtp_tls_policy_maps", Versions: all,
	}, {
		ID: "dane_lookup", Patterns: []string{`DANE TLSA lookup problem: {reason...}`, `*TLSA lookup error for {host...}`, `DNSSEC status lookup error for {host}: {reason...}`},
		Effect: MailDelayed,
		Means:  "the TLSA records of the destination could not be looked up. Postfix does not take that for \"there are none\", because an attacker could make it look so.",
		Now:    waits, Do: "the resolver of this host, or the name servers of that domain, are at fault: look with dig +dnssec TLSA _25._tcp.HOST", Source: daneDoc, Versions: all,
	}, {
		ID: "dane_none", Patterns: []string{`*non DNSSEC destination*`, `*no TLSA records found*`, `*Verification not possible, MX RRset is insecure*`},
		Effect: MailDelayed,
		Means:  "the level dane-only was asked for, and the destination has no signed TLSA records. At the level dane this is no error.",
		Now:    waits, Do: "use dane for that domain, or may", Source: daneDoc, Versions: all,
	}, {
		ID: "dane_unusable", Patterns: []string{`{peer}: all TLSA records unusable`, `{peer}: all TLSA records unusable, fallback to unauthenticated TLS`, `*TLSA records unusable*`},
		Effect: Weaker,
		Means:  "the destination has TLSA records, and all are of kinds that mail does not use (only 2 and 3 do, RFC 7672 section 3.1.3) or are damaged.",
		Now:    "at the level dane mail goes out over TLS without proof; at dane-only it waits.", Do: "tell the postmaster of the destination", Source: daneDoc, Versions: "3.7-3.11",
	}, {
		ID: "dane_disabled", Patterns: []string{`{destination}: {level} configured with dnssec lookups disabled`, `{destination}: {level} configured, but no requisite library support`, `{destination}: {level} configured with MX lookup errors ignored`, `{destination}: dns resolver options incompatible with {level} TLS`},
		Effect: Weaker,
		Means:  "the level dane or dane-only is set, and the other settings do not let Postfix do DANE: it needs smtp_dns_support_level = dnssec and a resolver that validates.",
		Now:    "at dane, mail goes out as with the level may; at dane-only it waits.", Do: "set smtp_dns_support_level = dnssec and use a validating resolver on this host", Source: "postconf(5) smtp_dns_support_level", Versions: all,
	}, {
		ID: "dane_matched", Patterns: []string{`{peer}: Matched DANE {what...}`, `{peer}: depth={depth} matched {what...}`, `{peer}: Matched trust anchor at depth {depth}`, `{peer}: Matched fingerprint: {fingerprint...}`, `{peer}: matched peername: {name...}`},
		Effect: None,
		Means:  "the server's certificate is the one that its TLSA records, a trust anchor, a fingerprint or its name ask for.",
		Now:    "mail goes out over verified TLS.", Do: "nothing", Source: daneDoc, Versions: all,
	}, {
		ID: "sts_name", Patterns: []string{`MX name '{host}' does not match STS MX pattern for '{domain}'`},
		Effect: MailDelayed,
		Means:  "the destination's MTA-STS policy does not name this MX host: its MX records and its policy contradict each other.",
		Now:    "this MX host is passed over; if none is left, mail to the domain waits.", Do: "postcert probe --mx DOMAIN shows both; tell the postmaster of the destination", Source: "RFC 8461 section 4.1", Versions: "3.10-3.11",
	}, {
		ID: "tlsrpt_failure", Patterns: []string{`TLSRPT: status=failure, domain={domain}, receiving_mx={peer}, failure_type={type}, failure_reason={reason...}`, `TLSRPT: status=failure, domain={domain}, receiving_mx={peer}, failure_type={type}`},
		Effect: MailDelayed,
		Means:  "TLS with the destination failed, and that will be in the report that its domain asked for. The type of failure has the words of RFC 8460.",
		Now:    "at the level may mail may have gone out in plain text; above, it waits.", Do: testDo, Source: "TLSRPT_README; RFC 8460 section 4.3", Versions: "3.10-3.11",
	}, {
		ID: "tlsrpt_success", Patterns: []string{`TLSRPT: status=success, domain={domain}, receiving_mx={peer}`},
		Effect: None,
		Means:  "TLS with the destination was as its policy asks, and will be in the report that its domain asked for.",
		Now:    "mail goes out over TLS.", Do: "nothing", Source: "TLSRPT_README; RFC 8460", Versions: "3.10-3.11",
	}, {
		ID: "tlsrpt_library", Patterns: []string{`Could not report TLS handshake result to tlsrpt library: {reason...}`, `Cannot enable TLSRPT support: {reason...}`},
		Effect: Weaker,
		Means:  "reports about TLS (TLSRPT) cannot be handed to the program that collects them.",
		Now:    "mail is not affected; reports lack what happened.", Do: "start the collector, and let smtp_tlsrpt_socket_name name its socket below the queue directory", Source: "TLSRPT_README", Versions: "3.10-3.11",
	},
}
