package maillog

import (
	"fmt"
	"slices"
)

// alert is one of RFC 8446 section 6. OpenSSL's names for them differ between
// versions ("sslv3 alert bad certificate", "ssl/tls alert bad certificate"); their
// numbers do not.
type alert struct {
	number int
	name   string // as in the RFC
	served string // what it means when a client sends it to us; "" if nothing in particular
	do     string
}

const (
	trustDo = "postcert probe: the whole chain must be served (fullchain.pem, not cert.pem), be valid now, and cover the name that clients use. If that is so, the client's list of CAs, or its clock, is old"
	nameDo  = "use the name that is in the certificate, or have the name added to it; postcert probe shows both"
)

var alerts = []alert{
	{40, "handshake_failure", "it found nothing in common: no cipher suite, group or signature algorithm that both have.", "for a client that you need: allow what it has, or serve a second certificate of the other key type"},
	{42, "bad_certificate", "it does not accept the certificate: damaged for its taste, not for its name, or not trusted by a client that says so with this number.", trustDo},
	{43, "unsupported_certificate", "it cannot use this kind of certificate or key.", "serve a second certificate of the other key type (RSA beside ECDSA)"},
	{44, "certificate_revoked", "it holds the certificate to be revoked.", "if that is true, have a new one issued now: postcert obtain, or your client's renewal by force"},
	{45, "certificate_expired", "the certificate it was shown is over, or its own clock is wrong.", "postcert status. If the installed certificate is good and the served one is old, postfix reload; if the client's clock is wrong, nothing helps here"},
	{46, "certificate_unknown", "it does not accept the certificate and does not say why. Mail programs send this when the name is another one, or when their user refused.", trustDo + ". " + nameDo},
	{47, "illegal_parameter", "something in the handshake is not allowed for it.", keepLook},
	{48, "unknown_ca", "it cannot find an issuer that it trusts: the intermediate is not served, the certificate is self-signed or of a private CA, or its list of CAs is old.", trustDo},
	{49, "access_denied", "the certificate is good and it will not go on.", keepLook},
	{50, "decode_error", "it could not read what it was sent.", keepLook},
	{51, "decrypt_error", "a signature in the handshake was wrong for it. With a certificate whose key is another one that happens too.", "postcert probe; if it fails as well, the pair is wrong: postcert verify"},
	{70, "protocol_version", "it does not have a version of TLS that this server allows.", "nothing for strangers; for a device that you need, smtpd_tls_protocols decides"},
	{71, "insufficient_security", "what this server offers is too weak for it.", "look at smtpd_tls_ciphers and smtpd_tls_protocols; medium or high, and TLS 1.2 at least, are right"},
	{80, "internal_error", "something failed inside it.", keepLook},
	{86, "inappropriate_fallback", "it refuses an older version than it knows the server to have.", keepLook},
	{90, "user_canceled", "its user stopped.", "nothing"},
	{109, "missing_extension", "the handshake lacks something that it needs.", keepLook},
	{112, "unrecognized_name", "it does not know the name that it was asked for.", nameDo},
	{116, "certificate_required", "it wants a certificate and got none.", "see smtp_tls_cert_file, and who asks for it"},
	{120, "no_application_protocol", "it asked for an application protocol that is not spoken here. Mail has none.", "nothing"},
	{0, "close_notify", "it ended TLS in good order.", "nothing"},
	{10, "unexpected_message", "a message came out of turn for it.", keepLook},
	{20, "bad_record_mac", "bytes were changed on the way.", "if it is often the same host, look at the network in between"},
	{22, "record_overflow", "a record was too long for it, or it is not TLS that it was sent.", keepLook},
}

// alertKinds are two rows for each alert: sent by a server to this client, and by a
// client to this server.
func alertKinds() []Kind {
	return slices.Concat(alertsOf(true), alertsOf(false), []Kind{{
		ID: "alert_other", Patterns: []string{`*SSL alert number {number...}`},
		Effect: PeerFailed,
		Means:  "the other side ended the TLS handshake with an alert that is not in this table.",
		Now:    oneOnly, Do: "look the number up in the IANA registry of TLS alerts", Source: "RFC 8446 section 6", Versions: "OpenSSL 1.1.1-3.6",
	}})
}

func alertsOf(sentByServer bool) []Kind {
	var out []Kind
	for _, a := range alerts {
		n := fmt.Sprint(a.number)
		k := Kind{
			ID:       "alert_" + n,
			Patterns: []string{"*SSL alert number " + n, "*SSL alert number " + n + ":*"},
			Effect:   PeerFailed,
			Means:    "the client ended the TLS handshake with alert " + n + ", " + a.name + ": " + a.served,
			Now:      oneOnly + " " + scanner + ".", Do: a.do,
			Source: "RFC 8446 section 6", Versions: "OpenSSL 1.1.1-3.6",
		}
		if sentByServer {
			k.ID, k.Programs = "alert_"+n+"_from_server", clients
			k.Means = "the server that mail was to be sent to ended the TLS handshake with alert " + n + ", " + a.name + ". It says that about this side: about what Postfix's client offers, or about the client certificate of smtp_tls_cert_file, if there is one."
			k.Now = "at the level may Postfix sends this mail in plain text; at encrypt and above it waits in the queue."
			k.Do = "postcert probe HOST:25 shows whether others fail as well; a client certificate that nobody asked for is best not configured: smtp_tls_cert_file empty"
			k.Effect = MailDelayed
		}
		out = append(out, k)
	}
	return out
}
