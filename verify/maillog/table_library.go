package maillog

// libraryKinds are reasons that OpenSSL gives, in lines of the form
//
//	TLS library problem: error:0A0000C1:SSL routines::no shared cipher:FILE:LINE:
//
// OpenSSL 1.1.1 names the function between the third and the fourth colon, and has
// other codes; the reasons are the same.
var libraryKinds = []Kind{
	{
		ID: "no_shared_cipher", Patterns: []string{`*:no shared cipher*`},
		Effect: PeerFailed,
		Means:  "client and server have no cipher suite in common. Either the client is very old, or the kind of certificate does not suit it (an ECDSA certificate and a client that has RSA only), or this server has no certificate at all: smtpd_tls_chain_files names a file that cannot be opened.",
		Now:    oneOnly + " If postcert probe fails too, nobody has TLS.",
		Do:     "postcert probe. If that is good, the settings of ciphers or a second certificate (also: rsa2048) let the client in",
		Source: "postconf(5) smtpd_tls_ciphers, smtpd_tls_exclude_ciphers", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "unsupported_protocol", Patterns: []string{`*:unsupported protocol*`, `*:version too low*`, `*:no protocols available*`},
		Effect: PeerFailed,
		Means:  "client and server have no version of TLS in common: one of them has TLS 1.0 or 1.1 only, and the other refuses it, by Postfix's setting or by OpenSSL's (MinProtocol, security level).",
		Now:    oneOnly, Do: "nothing for strangers; TLS 1.2 is what RFC 8996 asks for. For a device that you need: smtpd_tls_protocols on port 25, and perhaps openssl.cnf, decide", Source: "postconf(5) smtpd_tls_protocols; RFC 8996", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "not_tls", Patterns: []string{`*:wrong version number*`, `*:unknown protocol*`, `*:http request*`, `*:https proxy request*`, `*:packet length too long*`, `*:record layer failure*`},
		Effect: PeerFailed,
		Means:  "what came was not TLS. On the implicit-TLS port a client spoke plain SMTP or HTTP; after STARTTLS it went on in plain text; or a program in between changed the bytes.",
		Now:    oneOnly, Do: "nothing, if it is a scanner. A mail program on port 465 must use \"SSL/TLS\"; on ports 587 and 25, \"STARTTLS\"", Source: "RFC 8314 section 3.3; postconf(5) smtpd_tls_wrappermode", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "no_common_signature", Patterns: []string{`*:no suitable signature algorithm*`, `*:no shared signature algorithms*`, `*:wrong signature type*`, `*:no suitable key share*`, `*:no shared groups*`, `*:unsupported elliptic curve*`},
		Effect: PeerFailed,
		Means:  "client and server have no signature algorithm or key exchange group in common: the client cannot use the kind of key that the certificate has.",
		Now:    oneOnly, Do: "if such a client matters, serve a second certificate of the other key type (RSA beside ECDSA)", Source: "postconf(5) tls_eecdh_auto_curves, smtpd_tls_eccert_file", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "unexpected_eof", Patterns: []string{`*:unexpected eof while reading*`},
		Effect: PeerFailed,
		Means:  "the other side closed the connection without ending TLS. OpenSSL 3 calls that an error, older ones did not.",
		Now:    "no mail is lost: what was not confirmed is sent again.", Do: "nothing", Source: "RFC 8446 section 6.1", Versions: "OpenSSL 3.0-3.6",
	}, {
		ID: "fallback", Patterns: []string{`*:inappropriate fallback*`},
		Effect: PeerFailed,
		Means:  "the client came back with an older version of TLS after a first attempt failed, and said so. The server refuses, because an attacker could have forced it.",
		Now:    oneOnly, Do: "look why its first attempt failed: the lines before, with the same address", Source: "RFC 7507 section 3", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "bad_record", Patterns: []string{`*:decryption failed or bad record mac*`, `*:bad record mac*`, `*:block cipher pad is wrong*`, `*:digest check failed*`},
		Effect: PeerFailed,
		Means:  "bytes arrived that were not what was sent: a damaged connection, a broken network card or middle box, or an attack.",
		Now:    oneOnly, Do: "if it is often the same host, look at the network in between", Source: "RFC 8446 section 5.2", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "key_too_small", Patterns: []string{`*:ee key too small*`, `*:ca key too small*`, `*:ca md too weak*`},
		Effect: TLSOff,
		Means:  "OpenSSL's security level refuses a key or a signature as too weak: RSA below 2048 bits, SHA-1, or what openssl.cnf asks for beyond that.",
		Now:    "where it is about the own certificate, TLS is off; where it is about the other side, only it is affected.",
		Do:     "have the certificate issued with RSA 2048 or ECDSA P-256 and SHA-256", Source: "SSL_CTX_set_security_level(3)", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "dh_too_small", Patterns: []string{`*:dh key too small*`},
		Effect: PeerFailed,
		Means:  "the other side offers Diffie-Hellman parameters below what OpenSSL's security level here allows (2048 bits at level 2).",
		Now:    oneOnly, Do: "the other side must be upgraded, or use elliptic curves; for a destination that you need, smtp_tls_exclude_ciphers = kDHE in its policy entry", Source: "SSL_CTX_set_security_level(3)", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "pem_damaged", Patterns: []string{`*:PEM routines:*:no start line*`, `*:PEM routines:*:bad base64 decode*`, `*:PEM routines:*:bad end line*`, `*:PEM lib*`, `*:DECODER routines:*:unsupported:*`},
		Effect: TLSOff,
		Means:  "a file is not the PEM that was expected: it is empty, cut off, in another format, or holds a certificate where a key should be.",
		Now:    offNow, Do: "the line before this one names the file; " + chainDo, Source: certText, Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "key_encrypted", Patterns: []string{`*:bad decrypt*`, `*:problems getting password*`, `*:bad password read*`, `*:interrupted or cancelled*`},
		Effect: TLSOff,
		Means:  "the private key is encrypted, and nobody is there to give the passphrase.",
		Now:    offNow, Do: "store it without one, for root only: openssl pkey -in KEY -out privkey.pem, mode 0600", Source: "postconf(5) smtpd_tls_key_file", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "file_unreadable", Patterns: []string{`TLS library problem: *:system library:*:No such file or directory:*`, `TLS library problem: *:BIO routines:*:no such file:*`},
		Effect: TLSOff,
		Means:  "a file of certificates or keys does not exist. The line before this one names it.",
		Now:    offNow, Do: chainDo, Source: certText, Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "file_failed", Patterns: []string{`TLS library problem: *:system lib:*`},
		Effect: TLSOff,
		Means:  "a file of certificates or keys could not be opened. OpenSSL says it once more in each of its layers; the line of the same process with \"system library\" has the reason.",
		Now:    offNow, Do: chainDo, Source: certText, Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "file_forbidden", Patterns: []string{`TLS library problem: *:system library:*:Permission denied:*`},
		Effect: TLSOff,
		Means:  "a file of certificates or keys may not be read. Postfix reads it as root, before it gives its rights up: so a directory above it, or SELinux or AppArmor, forbids it.",
		Now:    offNow, Do: "look at the audit log; keep the file below the configuration directory, as postcert does", Source: certText, Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "peer_cert_refused", Patterns: []string{`*:certificate verify failed*`},
		Effect: PeerFailed,
		Means:  "the other side's certificate was not accepted. A line before this one, \"certificate verification failed\", says why.",
		Now:    oneOnly, Do: "look at that line", Source: "TLS_README", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "peer_no_cert", Patterns: []string{`*:peer did not return a certificate*`},
		Effect: PeerFailed,
		Means:  "this server insists on client certificates (smtpd_tls_req_ccert) and the client had none.",
		Now:    "this client cannot send mail through this service.", Do: "give it one, or do not insist", Source: "postconf(5) smtpd_tls_req_ccert", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "renegotiation", Patterns: []string{`*:unsafe legacy renegotiation disabled*`, `*:no renegotiation*`},
		Effect: PeerFailed,
		Means:  "the other side only has the old, unsafe form of renegotiation, which OpenSSL 3 refuses.",
		Now:    oneOnly, Do: "the other side must be upgraded", Source: "RFC 5746", Versions: "OpenSSL 1.1.1-3.6",
	}, {
		ID: "unexpected_message", Patterns: []string{`*:unexpected message*`, `*:tls_process_client_hello:*`, `*:bad extension*`, `*:length mismatch*`, `*:unexpected record*`},
		Effect: PeerFailed,
		Means:  "the other side sent a handshake that is out of order or badly formed. Scanners do.",
		Now:    oneOnly, Do: keepLook, Source: "RFC 8446 section 4", Versions: "OpenSSL 1.1.1-3.6",
	},
}
