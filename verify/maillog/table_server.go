package maillog

const (
	readme   = "TLS_README, Server-side TLS"
	scanner  = "If one client does it, it is that client's affair, and on a public port often a scanner; if all do, look at the certificate"
	oneOnly  = "only this client is affected. One that may use plain text tries again without TLS; one that must have TLS goes away."
	keepLook = "nothing, if it is rare. If a sender you need cannot come in: postcert probe shows what is offered, and what that client can do is in its own log"
)

// serverKinds are what smtpd(8), postscreen(8) and tlsproxy(8) say about one client.
var serverKinds = []Kind{
	{
		ID:       "wrapper_dropped",
		Patterns: []string{`Wrapper-mode request dropped from {peer} for service {service}. TLS context initialization failed.*`, `Wrapper-mode request dropped from {peer} for service {service}.*`},
		Effect:   TLSOff,
		Means:    "a client came to the implicit-TLS port, and this smtpd has no TLS: it could not load the certificate when it started.",
		Now:      "the connection was closed without a word, and so will be the next ones. Nobody can send mail through this port.",
		Do:       "look for \"cannot get\" or \"error loading\" above this line; " + chainDo, Source: "postconf(5) smtpd_tls_wrappermode", Versions: all,
	}, {
		ID:       "accept_lost",
		Patterns: []string{`SSL_accept error from {peer}: lost connection`, `SSL_accept error from {peer}: Connection reset by peer`, `SSL_accept error from {peer}: Broken pipe`},
		Effect:   PeerFailed,
		Means:    "the client closed the connection in the middle of the TLS handshake, without saying why. Port scanners do that, monitoring does, and clients that do not like the certificate and do not say so.",
		Now:      oneOnly, Do: keepLook, Source: readme, Versions: all,
	}, {
		ID:       "accept_timeout",
		Patterns: []string{`SSL_accept error from {peer}: Connection timed out`, `timeout after STARTTLS from {peer}`},
		Effect:   PeerFailed,
		Means:    "the client began a TLS handshake and then was silent until smtpd_starttls_timeout was over. A firewall that drops large packets looks like that too, and so does a client that speaks plain SMTP to the implicit-TLS port and waits for a greeting.",
		Now:      oneOnly, Do: keepLook + ". A client that was set to port 465 must use \"SSL/TLS\", not STARTTLS", Source: "postconf(5) smtpd_starttls_timeout; RFC 8314 section 3.3", Versions: all,
	}, {
		ID:       "accept_error",
		Patterns: []string{`SSL_accept error from {peer}: -1`, `SSL_accept error from {peer}: 0`, `SSL_accept error from {peer}: {reason...}`},
		Effect:   PeerFailed,
		Means:    "the TLS handshake with this client failed. The reason is in the next line of the same process, \"TLS library problem\".",
		Now:      oneOnly, Do: "look at the next line of the same process", Source: readme, Versions: all,
	}, {
		ID:       "lost_after_starttls",
		Patterns: []string{`lost connection after STARTTLS from {peer}`},
		Effect:   PeerFailed,
		Means:    "the connection ended after STARTTLS, before another command: the handshake failed, and then a line of the same process above this one says why; or it succeeded, and the client left without a word, as monitors do.",
		Now:      oneOnly, Do: keepLook, Source: readme, Versions: all,
	}, {
		ID:       "starttls_refused",
		Patterns: []string{`disconnect from {peer} *starttls=0/*`},
		Effect:   PeerFailed,
		Means:    "in this session STARTTLS was asked for and not one handshake was completed. Lines of the same process above this one say why: 454 because TLS is off here, or a handshake that failed.",
		Now:      oneOnly, Do: "look above for \"disabling TLS support\" (then TLS is off for all) or \"SSL_accept error\" (then it is about this client)", Source: "smtpd(8)", Versions: all,
	}, {
		ID:       "sni_unmatched",
		Patterns: []string{`TLS SNI {sni} from {peer} not matched, using default chain`},
		Effect:   None,
		Means:    "the client asked for a server name that tls_server_sni_maps does not have, and got the usual certificate.",
		Now:      "nothing is affected, unless the usual certificate does not cover that name and the client checks.",
		Do:       "if people use that name: put it into the certificate, or into tls_server_sni_maps", Source: "postconf(5) tls_server_sni_maps", Versions: all,
	}, {
		ID:       "sni_invalid",
		Patterns: []string{`TLS SNI from {peer} is invalid: {sni...}`, `TLS SNI changed from {peer} initially {sni}, *`},
		Effect:   PeerFailed,
		Means:    "the client asked for a server name that is no host name.",
		Now:      oneOnly, Do: "nothing: it is the client that is odd", Source: "RFC 6066 section 3", Versions: all,
	}, {
		ID:       "sni_lookup",
		Patterns: []string{`{map...}: {sni} map lookup problem`},
		Effect:   TLSOff,
		Means:    "tls_server_sni_maps could not be asked. Its index is missing or damaged, or was built without postmap -F.",
		Now:      "clients that send a server name get a TLS alert.",
		Do:       "rebuild it: postmap -F TYPE:FILE; then look at postcert probe --sni NAME", Source: "postconf(5) tls_server_sni_maps", Versions: all,
	}, {
		ID:       "session_rate",
		Patterns: []string{`New TLS session rate limit exceeded: {rate} from {peer} for service {service}`, `Refusing STARTTLS request from {peer} for service {service}`, `Refusing TLS service request from {peer} for service {service}`, `*too many new TLS sessions from {peer}`},
		Effect:   PeerFailed,
		Means:    "the client made more new TLS sessions in a minute than smtpd_client_new_tls_session_rate_limit allows.",
		Now:      "it is refused until the minute is over; others are not.",
		Do:       "if it is a relay or a monitor of yours: put it into smtpd_client_event_limit_exceptions, or let it reuse sessions", Source: "postconf(5) smtpd_client_new_tls_session_rate_limit", Versions: all,
	}, {
		ID:       "ccert_refused",
		Patterns: []string{`abort: TLS from {peer}: {reason...}`, `*421 4.7.1 {host} Error: Client certificate not trusted`, `*421 4.7.1 {host} Error: No client certificate presented`},
		Effect:   PeerFailed,
		Means:    "smtpd_tls_req_ccert = yes, and the client has shown no certificate, or one that smtpd_tls_CAfile and smtpd_tls_CApath do not vouch for. Public CAs no longer issue certificates for clients: one of theirs fails here since 2026.",
		Now:      "this client cannot send mail through this service.",
		Do:       "give it a certificate of your own CA, or let it in by its fingerprint: smtpd_tls_ask_ccert = yes with permit_tls_clientcerts", Source: "postconf(5) smtpd_tls_req_ccert", Versions: all,
	}, {
		ID:       "tlsproxy_unreachable",
		Patterns: []string{`connect to {socket}tlsproxy service: {reason...}`, `{event} receiving status from {socket}tlsproxy service`, `{event} receiving {attribute} attribute from {socket}tlsproxy service: {reason...}`, `{event} sending file handle to {socket}tlsproxy service`, `error sending request to {socket}tlsproxy service: {reason...}`},
		Effect:   TLSOff,
		Means:    "postscreen(8) cannot reach tlsproxy(8), which speaks TLS for it: tlsproxy is not in master.cf, cannot start, or ended.",
		Now:      "clients that postscreen still tests get 454 for STARTTLS; those that it passes on to smtpd have TLS.",
		Do:       "look for lines of tlsproxy and master; the line of tlsproxy in master.cf must not be a comment", Source: "POSTSCREEN_README", Versions: all,
	}, {
		ID:       "tlsproxy_settings",
		Patterns: []string{`request from tlsproxy client with unexpected settings`, `TLS client role is disabled by configuration`},
		Effect:   MailDelayed,
		Means:    "smtp(8) wants tlsproxy(8) to keep connections open for it (smtp_tls_connection_reuse), and the two do not have the same TLS settings.",
		Now:      "mail that should go out over such a connection waits.",
		Do:       "remove the -o overrides that only one of smtp and tlsproxy has in master.cf; then postfix reload", Source: "postconf(5) smtp_tls_connection_reuse; tlsproxy(8)", Versions: "3.5-3.11, role: 3.10-3.11",
	}, {
		ID:       "pipelining",
		Patterns: []string{`improper command pipelining after STARTTLS from {peer}: {reason...}`, `*554 5.5.0 Error: SMTP protocol synchronization*`},
		Effect:   PeerFailed,
		Means:    "the client spoke before it was its turn: before the greeting, or behind STARTTLS in the same packet. That is what an injection attack looks like, and a client that is set to plain text on the implicit-TLS port the other way round.",
		Now:      oneOnly, Do: "nothing, unless it is a client of yours; then correct its settings", Source: "RFC 3207 section 4; postconf(5) smtpd_forbid_unauth_pipelining", Versions: all,
	}, {
		ID:       "server_local_error",
		Patterns: []string{`*421 4.3.0 {host} Server local error`, `haproxy read: {reason...}`},
		Effect:   PeerFailed,
		Means:    "this listener expects the PROXY protocol of a load balancer (smtpd_upstream_proxy_protocol) and the connection came without it.",
		Now:      "who comes through the load balancer is served; who comes directly is not.",
		Do:       "let probes send it: postcert probe --proxy-protocol, or probe: in the configuration", Source: "postconf(5) smtpd_upstream_proxy_protocol", Versions: all,
	},
}
