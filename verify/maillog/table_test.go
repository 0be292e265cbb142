package maillog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// sample is a line as Postfix or OpenSSL writes it, and what is to be known of it.
type sample struct {
	line string
	kind string // "" is: not known
	want map[string]string
}

type fields = map[string]string

var samples = []sample{
	// loading certificates and settings
	{`Nov 20 21:00:00 mail postfix/smtpd[12]: warning: cannot get RSA certificate from file "/etc/postfix/a b.pem": disabling TLS support`, "cert_unusable", fields{"file": "/etc/postfix/a b.pem"}},
	{`postfix/tlsproxy[9]: warning: cannot get ECDSA private key from file "/etc/postfix/key.pem": disabling TLS support`, "key_unusable", nil},
	{`warning: RSA private key in /k.pem does not match public key in /c.pem: disabling TLS support`, "key_mismatch", fields{"file": "/k.pem", "certificate": "/c.pem"}},
	{`warning: key at index 1 in /k.pem does not match next certificate`, "key_mismatch", nil},
	{`warning: error loading certificate chain: key at index 1 in /k.pem does not match the certificate`, "key_mismatch", nil},
	{`warning: TLS library problem: error:0B080074:x509 certificate routines:X509_check_private_key:key values mismatch:../crypto/x509/x509_cmp.c:303:`, "key_mismatch", nil},
	{`warning: TLS library problem: error:05800074:x509 certificate routines::key values mismatch:../crypto/x509/x509_cmp.c:405:`, "key_mismatch", nil},
	{`warning: TLS library problem: error:0A000120:SSL routines::private key mismatch:../ssl/ssl_rsa.c:983:`, "key_mismatch", nil},
	{`warning: error opening chain file: /etc/x.pem: No such file or directory`, "chain_file_missing", fields{"file": "/etc/x.pem", "reason": "No such file or directory"}},
	{`warning: error loading private keys and certificates from: SNI data for b.example.test: aborting TLS handshake`, "sni_chain_bad", fields{"sni": "b.example.test"}},
	{`warning: error loading private keys and certificates from: /etc/x.pem: disabling TLS support`, "chain_file_bad", fields{"file": "/etc/x.pem"}},
	{`warning: error loading chain from /etc/x.pem: key not first`, "chain_form", nil},
	{`warning: No PEM data in /etc/x.pem`, "chain_form", nil},
	{`warning: No private key found in /etc/x.pem`, "chain_form", nil},
	{`warning: No certs for key at index 1 in /etc/x.pem`, "chain_form", nil},
	{`warning: error loading certificate chain: key at index 1 in /etc/x.pem not followed by a certificate`, "chain_form", nil},
	{`warning: error loading certificate (PEM object number 2) from /etc/x.pem`, "chain_form", nil},
	{`warning: error loading private key (PEM object number 1) from /etc/x.pem`, "chain_form", nil},
	{`warning: ignoring 2nd key at index 2 in /etc/x.pem after 1st at 1`, "chain_second_key", nil},
	{`warning: loading /etc/x.pem: ignoring PEM type: EC PARAMETERS`, "chain_pem_type", fields{"type": "EC PARAMETERS"}},
	{`warning: No server certs available. TLS won't be enabled`, "cert_none", nil},
	{`warning: No server certs available. TLS can't be enabled`, "cert_none", nil},
	{`warning: Invalid TLS protocol list ">=TLSv1.2": disabling TLS support`, "protocols_invalid", fields{"list": ">=TLSv1.2"}},
	{`cannot load Certification Authority data, CAfile="/etc/x.pem": disabling TLS support`, "ca_unreadable", nil},
	{`warning: error loading client CA names from: /etc/x.pem`, "ca_unreadable", nil},
	{`warning: x.example[192.0.2.1]: invalid cipher grade: "hihg"`, "cipher_setting", fields{"grade": "hihg"}},
	{`warning: x.example[192.0.2.1]: invalid unary '!+-@' in cipher exclusion: !RC4`, "cipher_setting", nil},
	{`warning: x.example[192.0.2.1]: error setting cipher grade: "high"`, "cipher_setting", nil},
	{`fatal: Invalid TLS level "encrpyt"`, "level_invalid", fields{"level": "encrpyt"}},
	{`fatal: invalid tls security level: "maybe"`, "level_invalid", nil},
	{`warning: smtpd_tls_security_level: unsupported TLS level "verify", using "encrypt"`, "level_unsupported", nil},
	{`warning: Both smtpd_tls_chain_files and one or more of the legacy  smtpd_tls_cert_file, smtpd_tls_eccert_file or smtpd_tls_dcert_file are non-empty; the legacy  parameters will be ignored`, "legacy_ignored", nil},
	{`warning: Both smtp_tls_chain_files and one or more of the legacy  smtp_tls_cert_file, x`, "legacy_ignored", nil},
	{`warning: Can't require client certs unless TLS is required`, "ccert_impossible", nil},
	{`warning: TLS has been selected, but TLS support is not compiled in`, "tls_not_built", nil},
	{`TLS support is not compiled in -- exiting`, "tls_not_built", nil},
	{`warning: run-time library vs. compile-time header version mismatch: OpenSSL 3.1.0 may not be compatible with OpenSSL 3.0.0`, "openssl_version", nil},
	{`warning: cannot load DH parameters from file /etc/dh.pem: No such file or directory -- using compiled-in defaults`, "dh_unreadable", nil},
	{`warning: cannot load 1024-bit DH parameters from file /etc/dh.pem: No such file or directory -- using compiled-in defaults`, "dh_unreadable", nil},
	{`warning: error opening DH parameter file "/etc/dh.pem": No such file or directory -- using compiled-in defaults`, "dh_unreadable", nil},
	{`warning: error decoding DH parameters from file "/etc/dh.pem" -- using compiled-in defaults`, "dh_unreadable", nil},
	{`warning: no entropy for TLS key generation: disabling TLS support`, "no_entropy", nil},
	{`warning: disabling TLS support`, "tls_disabled", nil},
	{`warning: cannot allocate server SSL_CTX: disabling TLS support`, "tls_disabled", fields{"reason": "cannot allocate server SSL_CTX"}},
	{`warning: error initializing the OpenSSL library, disabling TLS support`, "tls_disabled", nil},

	// one client
	{`warning: Wrapper-mode request dropped from localhost[127.0.0.1] for service submissions. TLS context initialization failed. For details see earlier warnings in your logs.`, "wrapper_dropped", fields{"peer": "localhost[127.0.0.1]", "service": "submissions"}},
	{`warning: Wrapper-mode request dropped from localhost[127.0.0.1] for service smtps. Other words.`, "wrapper_dropped", nil},
	{`Nov 20 21:00:00 mail postfix/submissions/smtpd[12]: SSL_accept error from unknown[2001:db8::1]: lost connection`, "accept_lost", fields{"peer": "unknown[2001:db8::1]"}},
	{`SSL_accept error from unknown[192.0.2.1]: Connection reset by peer`, "accept_lost", nil},
	{`SSL_accept error from unknown[192.0.2.1]: Broken pipe`, "accept_lost", nil},
	{`SSL_accept error from unknown[192.0.2.1]: Connection timed out`, "accept_timeout", nil},
	{`timeout after STARTTLS from unknown[192.0.2.1]`, "accept_timeout", nil},
	{`SSL_accept error from unknown[192.0.2.1]: -1`, "accept_error", nil},
	{`SSL_accept error from unknown[192.0.2.1]: 0`, "accept_error", nil},
	{`SSL_accept error from unknown[192.0.2.1]: Success`, "accept_error", fields{"reason": "Success"}},
	{`lost connection after STARTTLS from unknown[192.0.2.1]`, "lost_after_starttls", nil},
	{`postfix/smtpd[1]: NOQUEUE: lost connection after STARTTLS from unknown[192.0.2.1]`, "lost_after_starttls", nil},
	{`disconnect from unknown[192.0.2.1] ehlo=1 starttls=0/1 commands=1/2`, "starttls_refused", nil},
	{`disconnect from unknown[192.0.2.1] ehlo=2 starttls=1 quit=1 commands=4`, "", nil},
	{`TLS SNI b.example.test from unknown[192.0.2.1] not matched, using default chain`, "sni_unmatched", fields{"sni": "b.example.test"}},
	{`warning: TLS SNI from unknown[192.0.2.1] is invalid: a b`, "sni_invalid", nil},
	{`warning: TLS SNI changed from unknown[192.0.2.1] initially a.test, b.test after hello retry`, "sni_invalid", nil},
	{`warning: hash:/etc/postfix/sni: b.example.test map lookup problem`, "sni_lookup", nil},
	{`warning: New TLS session rate limit exceeded: 11 from x.test[192.0.2.1] for service smtp`, "session_rate", nil},
	{`warning: Refusing STARTTLS request from x.test[192.0.2.1] for service smtp`, "session_rate", nil},
	{`warning: Refusing TLS service request from x.test[192.0.2.1] for service smtps`, "session_rate", nil},
	{`454 4.7.0 Error: too many new TLS sessions from 192.0.2.1`, "session_rate", nil},
	{`NOQUEUE: abort: TLS from x.test[192.0.2.1]: No client certificate presented`, "ccert_refused", fields{"reason": "No client certificate presented"}},
	{`421 4.7.1 mail.example.test Error: Client certificate not trusted`, "ccert_refused", nil},
	{`421 4.7.1 mail.example.test Error: No client certificate presented`, "ccert_refused", nil},
	{`postfix/postscreen[3]: warning: connect to private/tlsproxy service: Connection refused`, "tlsproxy_unreachable", nil},
	{`postfix/postscreen[3]: warning: timeout receiving status from private/tlsproxy service`, "tlsproxy_unreachable", nil},
	{`postfix/postscreen[3]: warning: problem receiving stream protocol attribute from private/tlsproxy service: Success`, "", nil}, // two words: not Postfix's form
	{`postfix/postscreen[3]: warning: problem receiving stream_protocol attribute from private/tlsproxy service: Success`, "tlsproxy_unreachable", nil},
	{`postfix/postscreen[3]: warning: problem sending file handle to private/tlsproxy service`, "tlsproxy_unreachable", nil},
	{`postfix/postscreen[3]: warning: timeout sending file handle to private/tlsproxy service`, "tlsproxy_unreachable", nil},
	{`postfix/postscreen[3]: warning: error sending request to private/tlsproxy service: Broken pipe`, "tlsproxy_unreachable", nil},
	{`postfix/tlsproxy[3]: warning: request from tlsproxy client with unexpected settings`, "tlsproxy_settings", nil},
	{`postfix/tlsproxy[3]: warning: TLS client role is disabled by configuration`, "tlsproxy_settings", nil},
	{`improper command pipelining after STARTTLS from x.test[192.0.2.1]: EHLO x`, "pipelining", nil},
	{`554 5.5.0 Error: SMTP protocol synchronization`, "pipelining", nil},
	{`421 4.3.0 mail.example.test Server local error`, "server_local_error", nil},
	{`warning: haproxy read: time limit exceeded`, "server_local_error", nil},

	// OpenSSL's reasons
	{`warning: TLS library problem: error:1417A0C1:SSL routines:tls_post_process_client_hello:no shared cipher:../ssl/statem/statem_srvr.c:2283:`, "no_shared_cipher", nil},
	{`warning: TLS library problem: error:0A0000C1:SSL routines::no shared cipher:../ssl/statem/statem_srvr.c:2220:`, "no_shared_cipher", nil},
	{`warning: TLS library problem: error:14209102:SSL routines:tls_early_post_process_client_hello:unsupported protocol:../ssl/statem/statem_srvr.c:1685:`, "unsupported_protocol", nil},
	{`warning: TLS library problem: error:0A000102:SSL routines::unsupported protocol:../ssl/statem/statem_srvr.c:1657:`, "unsupported_protocol", nil},
	{`warning: TLS library problem: error:0A00018C:SSL routines::version too low:../ssl/statem/statem_lib.c:1:`, "unsupported_protocol", nil},
	{`error:0A0000BF:SSL routines:tls_setup_handshake:no protocols available:../ssl/statem/statem_lib.c:104:`, "unsupported_protocol", nil},
	{`warning: TLS library problem: error:1408F10B:SSL routines:ssl3_get_record:wrong version number:../ssl/record/ssl3_record.c:331:`, "not_tls", nil},
	{`warning: TLS library problem: error:0A00010B:SSL routines::wrong version number:../ssl/record/ssl3_record.c:354:`, "not_tls", nil},
	{`warning: TLS library problem: error:140760FC:SSL routines:SSL23_GET_CLIENT_HELLO:unknown protocol:s23_srvr.c:647:`, "not_tls", nil},
	{`warning: TLS library problem: error:0A00009C:SSL routines::http request:../ssl/record/ssl3_record.c:346:`, "not_tls", nil},
	{`warning: TLS library problem: error:0A00009B:SSL routines::https proxy request:../ssl/record/ssl3_record.c:350:`, "not_tls", nil},
	{`warning: TLS library problem: error:0A0000C6:SSL routines::packet length too long:../ssl/record/ssl3_record.c:1:`, "not_tls", nil},
	{`warning: TLS library problem: error:0A000139:SSL routines::record layer failure:../ssl/record/rec_layer_s3.c:645:`, "not_tls", nil},
	{`warning: TLS library problem: error:0A000076:SSL routines::no suitable signature algorithm:../ssl/t1_lib.c:3341:`, "no_common_signature", nil},
	{`warning: TLS library problem: error:0A000178:SSL routines::no shared signature algorithms:../ssl/t1_lib.c:1:`, "no_common_signature", nil},
	{`warning: TLS library problem: error:0A000172:SSL routines::wrong signature type:../ssl/t1_lib.c:1:`, "no_common_signature", nil},
	{`warning: TLS library problem: error:0A000065:SSL routines::no suitable key share:../ssl/statem/extensions.c:1:`, "no_common_signature", nil},
	{`warning: TLS library problem: error:0A00019A:SSL routines::no shared groups:../ssl/x.c:1:`, "no_common_signature", nil},
	{`warning: TLS library problem: error:0A00013B:SSL routines::unsupported elliptic curve:../ssl/x.c:1:`, "no_common_signature", nil},
	{`warning: TLS library problem: error:0A000126:SSL routines::unexpected eof while reading:../ssl/record/rec_layer_s3.c:308:`, "unexpected_eof", nil},
	{`warning: TLS library problem: error:0A000175:SSL routines::inappropriate fallback:../ssl/ssl_lib.c:1:`, "fallback", nil},
	{`warning: TLS library problem: error:0A000119:SSL routines::decryption failed or bad record mac:../ssl/record/ssl3_record.c:622:`, "bad_record", nil},
	{`warning: TLS library problem: error:x:SSL routines::bad record mac:x.c:1:`, "bad_record", nil},
	{`warning: TLS library problem: error:x:SSL routines::block cipher pad is wrong:x.c:1:`, "bad_record", nil},
	{`warning: TLS library problem: error:x:SSL routines::digest check failed:x.c:1:`, "bad_record", nil},
	{`warning: TLS library problem: error:140AB18F:SSL routines:SSL_CTX_use_certificate:ee key too small:../ssl/ssl_rsa.c:310:`, "key_too_small", nil},
	{`warning: TLS library problem: error:x:SSL routines::ca key too small:x.c:1:`, "key_too_small", nil},
	{`warning: TLS library problem: error:x:SSL routines::ca md too weak:x.c:1:`, "key_too_small", nil},
	{`warning: TLS library problem: error:x:SSL routines::dh key too small:x.c:1:`, "dh_too_small", nil},
	{`warning: TLS library problem: error:0909006C:PEM routines:get_name:no start line:../crypto/pem/pem_lib.c:745:Expecting: TRUSTED CERTIFICATE:`, "pem_damaged", nil},
	{`warning: TLS library problem: error:0480006C:PEM routines::no start line:../crypto/pem/pem_lib.c:763:Expecting: CERTIFICATE:`, "pem_damaged", nil},
	{`warning: TLS library problem: error:04800064:PEM routines::bad base64 decode:../crypto/pem/pem_lib.c:978:`, "pem_damaged", nil},
	{`warning: TLS library problem: error:04800066:PEM routines::bad end line:../crypto/pem/pem_lib.c:1:`, "pem_damaged", nil},
	{`warning: TLS library problem: error:0A080009:SSL routines::PEM lib:../ssl/ssl_rsa.c:307:`, "pem_damaged", nil},
	{`warning: TLS library problem: error:1E08010C:DECODER routines::unsupported:../crypto/encode_decode/decoder_lib.c:101:No supported data to decode.:`, "pem_damaged", nil},
	{`warning: TLS library problem: error:1C800064:Provider routines::bad decrypt:../providers/x.c:1:`, "key_encrypted", nil},
	{`warning: TLS library problem: error:0906A068:PEM routines:PEM_do_header:bad password read:../crypto/pem/pem_lib.c:1:`, "key_encrypted", nil},
	{`warning: TLS library problem: error:0907B068:PEM routines:x:problems getting password:../crypto/pem/pem_lib.c:1:`, "key_encrypted", nil},
	{`warning: TLS library problem: error:1400006B:UI routines::interrupted or cancelled:../crypto/ui/ui_lib.c:1:`, "key_encrypted", nil},
	{`warning: TLS library problem: error:02001002:system library:fopen:No such file or directory:../crypto/bio/bss_file.c:69:fopen('/etc/x.pem','r'):`, "file_unreadable", nil},
	{`warning: TLS library problem: error:80000002:system library::No such file or directory:../crypto/bio/bss_file.c:67:calling fopen(/etc/x.pem, r):`, "file_unreadable", nil},
	{`warning: TLS library problem: error:10000080:BIO routines::no such file:../crypto/bio/bss_file.c:75:`, "file_unreadable", nil},
	{`warning: TLS library problem: error:140B0002:SSL routines:SSL_CTX_use_PrivateKey_file:system lib:../ssl/ssl_rsa.c:521:`, "file_failed", nil},
	{`warning: TLS library problem: error:20074002:BIO routines:file_ctrl:system lib:../crypto/bio/bss_file.c:290:`, "file_failed", nil},
	{`warning: TLS library problem: error:0A080002:SSL routines::system lib:../ssl/ssl_rsa.c:411:`, "file_failed", nil},
	{`warning: TLS library problem: error:8000000D:system library::Permission denied:../crypto/bio/bss_file.c:67:calling fopen(/etc/x.pem, r):`, "file_forbidden", nil},
	{`warning: TLS library problem: error:0A000086:SSL routines::certificate verify failed:../ssl/statem/statem_clnt.c:1:`, "peer_cert_refused", nil},
	{`warning: TLS library problem: error:0A0000C7:SSL routines::peer did not return a certificate:../ssl/statem/statem_srvr.c:1:`, "peer_no_cert", nil},
	{`error:0A000152:SSL routines:final_renegotiate:unsafe legacy renegotiation disabled:ssl/statem/extensions.c:894:`, "renegotiation", nil},
	{`error:x:SSL routines::no renegotiation:x.c:1:`, "renegotiation", nil},
	{`warning: TLS library problem: error:0A0000F4:SSL routines::unexpected message:../ssl/statem/statem_srvr.c:314:`, "unexpected_message", nil},
	{`warning: TLS library problem: error:x:SSL routines:tls_process_client_hello:some fault:x.c:1:`, "unexpected_message", nil},
	{`warning: TLS library problem: error:0A00006E:SSL routines::bad extension:../ssl/statem/x.c:1:`, "unexpected_message", nil},
	{`warning: TLS library problem: error:0A00009F:SSL routines::length mismatch:../ssl/statem/x.c:1:`, "unexpected_message", nil},
	{`warning: TLS library problem: error:0A0000F5:SSL routines::unexpected record:../ssl/statem/x.c:1:`, "unexpected_message", nil},

	// alerts; alert_N of each number is in TestAlerts
	{`Nov 20 21:00:00 mail postfix/smtpd[12]: warning: TLS library problem: error:14094412:SSL routines:ssl3_read_bytes:sslv3 alert bad certificate:../ssl/record/rec_layer_s3.c:1544:SSL alert number 42:`, "alert_42", nil},
	{`Nov 20 21:00:00 mail postfix/smtpd[12]: warning: TLS library problem: error:0A000412:SSL routines::ssl/tls alert bad certificate:../ssl/record/rec_layer_s3.c:908:SSL alert number 42:`, "alert_42", nil},
	{`postfix/smtp[12]: warning: TLS library problem: error:0A000410:SSL routines::sslv3 alert handshake failure:../ssl/record/rec_layer_s3.c:1584:SSL alert number 40:`, "alert_40_from_server", nil},
	{`error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca:../ssl/record/rec_layer_s3.c:1584:SSL alert number 48`, "alert_48", nil},
	{`warning: TLS library problem: error:x:SSL routines::reason(1255):x.c:1:SSL alert number 255:`, "alert_other", nil},

	// sessions
	{`Nov 20 21:00:00 mail postfix/submission/smtpd[12]: Anonymous TLS connection established from c.test[192.0.2.1]: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature ECDSA (prime256v1) server-digest SHA256`, "received_anonymous", fields{"peer": "c.test[192.0.2.1]", "protocol": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "state": "established"}},
	{`Anonymous TLS connection reused from c.test[192.0.2.1]:4711 to b.example.test: TLSv1.2 with cipher ECDHE-RSA-AES128-SHA (128/128 bits)`, "received_anonymous", fields{"sni": "b.example.test", "protocol": "TLSv1.2"}},
	{`Anonymous TLS connection established from c.test[192.0.2.1]: TLSv1 with cipher ECDHE-RSA-AES128-SHA (128/128 bits)`, "received_old_tls", fields{"protocol": "", "trust": "Anonymous"}},
	{`Untrusted TLS connection established from c.test[192.0.2.1] to b.test: TLSv1.1 with cipher X (1/1 bits)`, "received_old_tls", nil},
	{`Anonymous TLS connection established from c.test[192.0.2.1]: TLSv1.1 with cipher X (1/1 bits)`, "received_old_tls", nil},
	{`Anonymous TLS connection established from c.test[192.0.2.1] to b.test: TLSv1 with cipher X (1/1 bits)`, "received_old_tls", nil},
	{`Untrusted TLS connection established from c.test[192.0.2.1]: TLSv1.3 with cipher X (1/1 bits)`, "received_untrusted", nil},
	{`Untrusted TLS connection established from c.test[192.0.2.1] to b.test: TLSv1.3 with cipher X (1/1 bits)`, "received_untrusted", nil},
	{`Trusted TLS connection established from c.test[192.0.2.1]: TLSv1.3 with cipher X (1/1 bits)`, "received_trusted", nil},
	{`Trusted TLS connection established from c.test[192.0.2.1] to b.test: TLSv1.3 with cipher X (1/1 bits)`, "received_trusted", nil},
	{`Verified TLS connection established from c.test[192.0.2.1]: TLSv1.3 with cipher X (1/1 bits)`, "received_trusted", nil},
	{`Verified TLS connection established from c.test[192.0.2.1] to b.test: TLSv1.3 with cipher X (1/1 bits)`, "received_trusted", nil},
	{`postfix/smtp[1]: Anonymous TLS connection established to m.test[192.0.2.1]:25: TLSv1.3 with cipher X (1/1 bits)`, "sent_anonymous", fields{"peer": "m.test[192.0.2.1]:25"}},
	{`postfix/smtp[1]: Untrusted TLS connection established to m.test[192.0.2.1]:25: TLSv1.3 with cipher X (1/1 bits)`, "sent_untrusted", nil},
	{`postfix/smtp[1]: Trusted TLS connection established to m.test[192.0.2.1]:25: TLSv1.3 with cipher X (1/1 bits)`, "sent_trusted", nil},
	{`postfix/smtp[1]: Verified TLS connection established to m.test[192.0.2.1]:25: TLSv1.3 with cipher X (1/1 bits)`, "sent_verified", nil},
	{`m.test[192.0.2.1]:25: re-using session with untrusted certificate, look for details earlier in the log`, "reused_untrusted", nil},
	{`m.test[192.0.2.1]:25: re-using session with untrusted peer credential, look for details earlier in the log`, "reused_untrusted", nil},

	// mail that goes out
	{`postfix/smtp[1]: warning: cannot get RSA certificate from file "/etc/c.pem": disabling TLS support`, "client_cert_unusable", nil},
	{`postfix/smtp[1]: warning: cannot get RSA private key from file "/etc/c.pem": disabling TLS support`, "client_cert_unusable", nil},
	{`postfix/lmtp[1]: warning: RSA private key in /k does not match public key in /c: disabling TLS support`, "client_cert_unusable", nil},
	{`postfix/smtp[1]: warning: error loading private keys and certificates from: /c: disabling TLS support`, "client_cert_unusable", nil},
	{`postfix/smtp[1]: warning: disabling TLS support`, "client_tls_disabled", nil},
	{`postfix/smtp[1]: warning: error initializing the OpenSSL library, disabling TLS support`, "client_tls_disabled", nil},
	{`postfix/smtp[1]: cannot load Certification Authority data, CAfile="/x": disabling TLS support`, "client_tls_disabled", fields{"reason": `cannot load Certification Authority data, CAfile="/x"`}},
	{`postfix/smtp[1]: warning: m.test[192.0.2.1]:25: Invalid TLS protocol list "TLSv9": aborting TLS session`, "client_protocols_invalid", nil},
	{`postfix/smtpd[1]: certificate verification failed for c.test[192.0.2.1]: not designated for use as a client certificate`, "client_cert_of_peer", nil},
	{`postfix/smtpd[1]: client certificate verification failed for c.test[192.0.2.1]: certificate has expired`, "client_cert_of_peer", nil},
	{`postfix/smtp[1]: certificate verification failed for m.test[192.0.2.1]:25: untrusted issuer /CN=Some CA`, "peer_untrusted_issuer", fields{"issuer": "/CN=Some CA"}},
	{`postfix/smtp[1]: certificate verification failed for m.test[192.0.2.1]:25: self-signed certificate`, "peer_self_signed", nil},
	{`postfix/smtp[1]: certificate verification failed for m.test[192.0.2.1]:25: not trusted by local or TLSA policy`, "peer_tlsa_mismatch", nil},
	{`postfix/smtp[1]: certificate verification failed for m.test[192.0.2.1]:25: not designated for use as a server certificate`, "peer_not_server", nil},
	{`postfix/smtp[1]: server certificate verification failed for m.test[192.0.2.1]:25: certificate has expired`, "peer_expired", nil},
	{`postfix/smtp[1]: CA certificate verification failed for m.test[192.0.2.1]:25: certificate not yet valid`, "peer_not_yet", nil},
	{`postfix/smtp[1]: certificate verification failed for m.test[192.0.2.1]:25: certificate chain longer than limit(9)`, "peer_cert_bad", nil},
	{`postfix/smtp[1]: server certificate verification failed for m.test[192.0.2.1]:25: num=62:hostname mismatch`, "peer_cert_bad", fields{"reason": "num=62:hostname mismatch"}},
	{`postfix/smtp[1]: 4XyZ1234567890: to=<a@b.test>, relay=m.test[192.0.2.1]:25, delay=1, delays=0/0/1/0, dsn=4.7.5, status=deferred (Server certificate not verified)`, "not_verified", nil},
	{`postfix/smtp[1]: 1A2B3C4D5E: Server certificate not trusted`, "not_verified", nil},
	{`postfix/smtp[1]: 1A2B3C4D5E: to=<a@b.test>, relay=m.test[192.0.2.1]:25, dsn=4.7.4, status=deferred (TLS is required, but was not offered by host m.test[192.0.2.1])`, "tls_not_offered", fields{"peer": "m.test[192.0.2.1]"}},
	{`TLS is required, but was not offered by host m.test[192.0.2.1]`, "tls_not_offered", nil},
	{`status=deferred (TLS is required, but our TLS engine is unavailable)`, "tls_engine", nil},
	{`status=deferred (TLS is required, but unavailable)`, "tls_engine", nil},
	{`status=deferred (TLS is required, but host m.test[192.0.2.1] refused to start TLS: 454 4.7.1 no)`, "tls_refused", fields{"peer": "m.test[192.0.2.1]"}},
	{`postfix/smtp[1]: 1A2B3C4D5E: Cannot start TLS: handshake failure`, "handshake_failure", nil},
	{`postfix/smtp[1]: SSL_connect error to m.test[192.0.2.1]:25: -1`, "connect_error", fields{"peer": "m.test[192.0.2.1]:25", "reason": "-1"}},
	{`postfix/smtp[1]: Host offered STARTTLS: [m.test]`, "starttls_offered", nil},
	{`postfix/smtp[1]: warning: TLS policy lookup error for b.test/m.test: client TLS configuration problem`, "policy_lookup", nil},
	{`postfix/smtp[1]: warning: TLS policy lookup for b.test/m.test: x`, "policy_lookup", nil},
	{`postfix/smtp[1]: warning: smtp_tls_policy_maps, next-hop destination "b.test": policy table lookup error`, "policy_lookup", nil},
	{`status=deferred (client TLS configuration problem)`, "policy_lookup", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": invalid security level "strong"`, "policy_entry", fields{"level": "strong"}},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": invalid empty policy`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": invalid attribute name: "macth"`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": malformed attribute/value pair "x": missing '='`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": attribute "match" has empty value`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": attribute "match" is specified multiple times`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": attribute "match" invalid at security level "may"`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": attribute "x" has bad value: "y"`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": attribute "x" has a malformed value: "y"`, "policy_entry", nil},
	{`warning: smtp_tls_policy_maps, next-hop destination "b.test": ignoring attribute "ciphers" with TLS disabled`, "policy_ignored", nil},
	{`warning: DANE TLSA lookup problem: Host or domain name not found. Name service error`, "dane_lookup", nil},
	{`status=deferred (TLSA lookup error for m.test:25)`, "dane_lookup", nil},
	{`warning: DNSSEC status lookup error for m.test: no longer a CNAME`, "dane_lookup", nil},
	{`status=deferred (non DNSSEC destination)`, "dane_none", nil},
	{`status=deferred (no TLSA records found)`, "dane_none", nil},
	{`status=deferred (Verification not possible, MX RRset is insecure)`, "dane_none", nil},
	{`warning: m.test[192.0.2.1]:25: all TLSA records unusable`, "dane_unusable", nil},
	{`warning: m.test[192.0.2.1]:25: all TLSA records unusable, fallback to unauthenticated TLS`, "dane_unusable", nil},
	{`status=deferred (TLSA records unusable)`, "dane_unusable", nil},
	{`b.test: dane configured with dnssec lookups disabled`, "dane_disabled", nil},
	{`b.test: dane configured, but no requisite library support`, "dane_disabled", nil},
	{`b.test: dane configured with MX lookup errors ignored`, "dane_disabled", nil},
	{`b.test: dns resolver options incompatible with dane TLS`, "dane_disabled", nil},
	{`m.test[192.0.2.1]:25: Matched DANE EE certificate at depth 0: 3 1 1 00AA`, "dane_matched", nil},
	{`m.test[192.0.2.1]:25: depth=0 matched end entity certificate sha256 digest 00AA`, "dane_matched", nil},
	{`m.test[192.0.2.1]:25: Matched trust anchor at depth 1`, "dane_matched", nil},
	{`m.test[192.0.2.1]:25: Matched fingerprint: 00:AA`, "dane_matched", nil},
	{`m.test[192.0.2.1]:25: matched peername: m.test`, "dane_matched", nil},
	{`warning: MX name 'm.test' does not match STS MX pattern for 'b.test'`, "sts_name", nil},
	{`TLSRPT: status=failure, domain=b.test, receiving_mx=m.test[192.0.2.1], failure_type=certificate_not_trusted`, "tlsrpt_failure", fields{"type": "certificate_not_trusted"}},
	{`TLSRPT: status=failure, domain=b.test, receiving_mx=m.test[192.0.2.1], failure_type=validation_failure, failure_reason=self-signed certificate`, "tlsrpt_failure", fields{"reason": "self-signed certificate"}},
	{`TLSRPT: status=success, domain=b.test, receiving_mx=m.test[192.0.2.1]`, "tlsrpt_success", nil},
	{`warning: Could not report TLS handshake result to tlsrpt library: x (error 1)`, "tlsrpt_library", nil},
	{`warning: Cannot enable TLSRPT support: DNS is disabled`, "tlsrpt_library", nil},

	// replies
	{`454 4.7.0 TLS not available due to local problem`, "tls_not_available", nil},
	{`454 4.7.0 TLS not available`, "tls_not_available", nil},
	{` Out: 454 4.7.0 TLS not available due to local problem`, "tls_not_available", nil},
	{`postfix/smtp[1]: 1A2B3C4D5E: host m.test[192.0.2.1] said: 454 4.7.0 TLS not available due to local problem`, "peer_454", nil},
	{`postfix/smtp[1]: 1A2B3C4D5E: host m.test[192.0.2.1] said: 454 4.7.0 TLS not available`, "peer_454", nil},
	{`454 4.3.0 Try again later`, "try_again_later", nil},
	{`454 4.7.0 Temporary authentication failure: x`, "auth_unavailable", nil},
	{`530 5.7.0 Must issue a STARTTLS command first`, "starttls_first", nil},
	{`503 5.5.1 Error: authentication not enabled`, "auth_not_enabled", nil},
	{`504 5.5.4 Encryption required for requested authentication mechanism`, "auth_needs_tls", nil},
	{`554 5.5.1 Error: TLS already active`, "tls_twice", nil},
	{`502 5.5.1 Error: command not implemented`, "starttls_unknown", nil},
	{`521 5.5.1 Error: command not implemented`, "starttls_unknown", nil},
	{`502 5.5.2 Error: command not recognized`, "starttls_unknown", nil},
	{`220 2.0.0 Ready to start TLS`, "starttls_ready", nil},

	// processes, tables and helpers
	{`postfix/master[1]: warning: /usr/lib/postfix/sbin/smtpd: bad command startup -- throttling`, "throttled", fields{"program": "/usr/lib/postfix/sbin/smtpd"}},
	{`postfix/master[1]: warning: process /usr/lib/postfix/sbin/smtpd pid 7 exit status 1`, "process_failed", nil},
	{`postfix/master[1]: warning: process /usr/lib/postfix/sbin/smtpd pid 7 killed by signal 9`, "process_killed", nil},
	{`postfix/smtpd[1]: fatal: no SASL authentication mechanisms`, "no_sasl", nil},
	{`postfix/smtpd[1]: fatal: SASL per-process initialization failed`, "no_sasl", nil},
	{`postfix/smtpd[1]: warning: SASL: Connect to Dovecot auth socket 'private/auth' failed: No such file or directory`, "sasl_socket", nil},
	{`postfix/smtpd[1]: warning: SASL: Connect to private/auth failed: No such file or directory`, "sasl_socket", nil},
	{`fatal: in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, specify at least one working instance of: reject_unauth_destination, defer`, "no_relay_restriction", nil},
	{`fatal: /etc/postfix/main.cf, line 3: missing '=' after attribute name: "x"`, "config_line", nil},
	{`fatal: /etc/postfix/master.cf: line 9: bad transport type: x`, "config_line", nil},
	{`postfix/master[1]: fatal: bind 0.0.0.0 port 465: Address already in use`, "bind_failed", nil},
	{`warning: problem talking to server private/tlsmgr: Connection refused`, "tlsmgr_unreachable", nil},
	{`warning: connect to private/tlsmgr: Connection refused`, "tlsmgr_unreachable", nil},
	{`postfix/tlsmgr[1]: fatal: btree:/var/lib/postfix/smtpd_scache: unable to get exclusive lock: Resource temporarily unavailable`, "lock_failed", nil},
	{`fatal: open lock file /var/lib/postfix/master.lock: unable to set exclusive lock: Resource temporarily unavailable`, "lock_failed", nil},
	{`postfix/tlsmgr[1]: fatal: do not use the same TLS cache file btree:/x for smtpd_tls_session_cache_database and smtp_tls_session_cache_database`, "cache_shared", nil},
	{`warning: request to update file /etc/postfix/smtpd_scache.db in non-postfix directory /etc/postfix`, "cache_place", nil},
	{`warning: redirecting the request to postfix-owned data_directory /var/lib/postfix`, "cache_place", nil},
	{`fatal: cannot open PRNG exchange file /x: Permission denied`, "prng_file", nil},
	{`fatal: cannot fstat() the PRNG exchange file: x`, "prng_file", nil},
	{`warning: cannot open entropy device /dev/urandom: No such file or directory`, "entropy_source", nil},
	{`warning: no entropy source specified with parameter tls_random_source`, "entropy_source", nil},
	{`warning: encryption keys etc. may be predictable`, "entropy_source", nil},
	{`postfix/smtpd[1]: table hash:/etc/postfix/sni(0,lock|fold_fix) has changed -- restarting`, "table_changed", nil},
	{`postfix/master[1]: reload -- version 3.7.11, configuration /etc/postfix`, "reloaded", nil},
	{`postfix/master[1]: daemon started -- version 3.7.11, configuration /etc/postfix`, "started", nil},
	{`postfix/master[1]: terminating on signal 15`, "stopped", nil},
	{`SSL3 alert read:fatal:unknown CA`, "alert_text", nil},

	// what is not known
	{``, "", nil},
	{`connect from unknown[192.0.2.1]`, "", nil},
	{`postfix/qmgr[1]: 4XyZ1234567890: removed`, "", nil},
	{`warning: TLS library problem: error:00000000:lib(0)::reason(0):x.c:1:`, "", nil},
	{`SSL_accept error from a b: -1`, "", nil}, // a peer is one word
	{`Anonymous TLS connection established from c.test[192.0.2.1]`, "", nil},
	{`250 2.0.0 Ok: queued as 4XyZ1234567890`, "", nil},
}

var testNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestSamples(t *testing.T) {
	for _, s := range samples {
		e, ok := Recognise(Parse(s.line, testNow))
		if ok != (s.kind != "") || e.Kind.ID != s.kind {
			t.Errorf("%s\n\tgot %q, want %q", s.line, e.Kind.ID, s.kind)
			continue
		}
		for name, want := range s.want {
			if got := e.Field(name); got != want {
				t.Errorf("%s\n\t%s: got %q, want %q", s.line, name, got, want)
			}
		}
	}
}

func TestAlerts(t *testing.T) {
	for _, a := range alerts {
		line := fmt.Sprintf("warning: TLS library problem: error:0A000400:SSL routines::some alert:x.c:1:SSL alert number %d:", a.number)
		for program, want := range map[string]string{"smtpd": "alert_%d", "tlsproxy": "alert_%d", "smtp": "alert_%d_from_server"} {
			e, _ := Recognise(Parse("postfix/"+program+"[1]: "+line, testNow))
			if got := e.Kind.ID; got != fmt.Sprintf(want, a.number) {
				t.Errorf("%s, alert %d: got %q", program, a.number, got)
			}
		}
		if e, _ := Recognise(Line{Program: "smtpd", Text: "SSL alert number " + fmt.Sprint(a.number)}); e.Kind.ID != fmt.Sprintf("alert_%d", a.number) {
			t.Errorf("alert %d at the end of a line: got %q", a.number, e.Kind.ID)
		}
	}
}

// TestKinds wants every row complete, and every spelling in it used by a sample.
func TestKinds(t *testing.T) {
	used := map[string]bool{}
	for _, s := range samples {
		l := Parse(s.line, testNow)
		if e, ok := Recognise(l); ok {
			for _, p := range e.Kind.Patterns {
				if _, ok := compile(p).match(l.Message()); ok {
					used[e.Kind.ID+p] = true
				}
			}
		}
	}
	seen := map[string]bool{}
	for _, k := range Kinds() {
		for name, v := range map[string]string{"ID": k.ID, "Means": k.Means, "Now": k.Now, "Do": k.Do, "Source": k.Source, "Versions": k.Versions} {
			if v == "" {
				t.Errorf("%s: no %s", k.ID, name)
			}
		}
		if k.Effect.Rank() < 0 {
			t.Errorf("%s: effect %q", k.ID, k.Effect)
		}
		if seen[k.ID] {
			t.Errorf("%s: twice", k.ID)
		}
		seen[k.ID] = true
		for _, p := range k.Patterns {
			if !used[k.ID+p] && !strings.HasPrefix(k.ID, "alert_") {
				t.Errorf("%s: no sample for %q", k.ID, p)
			}
			if strings.Contains(p, "}{") || strings.Contains(p, "}*") && !strings.Contains(p, ")*") || strings.Contains(p, "**") || strings.Contains(p, "*{") && !strings.HasPrefix(p, "*{") {
				t.Errorf("%s: %q: two places touch", k.ID, p)
			}
		}
	}
}
