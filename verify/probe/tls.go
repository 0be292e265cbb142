package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
)

// maxRSA is the longest RSA key, in bits, that crypto/tls accepts from a server.
const maxRSA = 8192

// handshake completes TLS on conn. The connection is nil unless the Reason is
// OK; what was presented is in the Result in any case.
func handshake(ctx context.Context, e Endpoint, conn net.Conn) (*tls.Conn, Result) {
	r := Result{Phase: Handshaking}
	rec := &recorder{Conn: conn}
	keys := &keyLog{}
	cfg := config(e)
	cfg.KeyLogWriter = keys
	cfg.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		for _, der := range raw {
			r.Raw = append(r.Raw, append([]byte(nil), der...))
		}
		return nil
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		r.Chain, r.Protocol, r.Cipher = cs.PeerCertificates, cs.Version, cs.CipherSuite
		return nil
	}
	c := tls.Client(rec, cfg)
	// The deadline is on the connection; HandshakeContext would only add a
	// goroutine for it.
	err := c.Handshake()
	seen := rec.stop()
	if err == nil {
		r.Reason, r.Phase = OK, Established
		return c, r
	}
	judgeHandshake(ctx, &r, err, seen)
	if len(r.Raw) == 0 {
		fromWire(&r, seen, keys.serverHandshake)
	}
	return nil, r
}

// config is how we ask: everything that crypto/tls can do is enabled, because
// the aim is to see the certificate, not to protect anything.
func config(e Endpoint) *tls.Config {
	cfg := &tls.Config{
		ServerName: e.ServerName,
		// The probe reports what is presented, trusted or not: the expired or
		// foreign certificate is the answer. Nothing confidential is sent over
		// the connection. Signatures of the handshake are still checked.
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS10,
		// On a resumed session no certificate is presented.
		SessionTicketsDisabled: true,
		ClientSessionCache:     nil,
	}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if t := suiteKeyType(s); e.KeyType == "" || t == e.KeyType {
			cfg.CipherSuites = append(cfg.CipherSuites, s.ID)
		}
	}
	if e.KeyType != "" {
		// In TLS 1.3 the suite says nothing about the key, and crypto/tls has no
		// setting for the signature algorithms, which do.
		cfg.MaxVersion = tls.VersionTLS12
	}
	return cfg
}

// suiteKeyType is the type of key a server needs for a suite: of those in
// crypto/tls the ECDHE_ECDSA ones need ECDSA, the other TLS 1.2 ones RSA. It is
// "" for the suites of TLS 1.3.
func suiteKeyType(s *tls.CipherSuite) string {
	switch {
	case len(s.SupportedVersions) == 1 && s.SupportedVersions[0] == tls.VersionTLS13:
		return ""
	case strings.Contains(s.Name, "_ECDSA_"):
		return ECDSA
	}
	return RSA
}

// judgeHandshake names the error of a handshake. seen is what the server sent.
func judgeHandshake(ctx context.Context, r *Result, err error, seen []byte) {
	var header tls.RecordHeaderError
	if code, ok := alertCode(err); ok {
		r.Reason, r.Detail, r.alert = HandshakeFailed, "alert "+alertName(code), code
		return
	}
	if errors.As(err, &header) {
		r.Reason, r.Detail = judgePlainText(seen)
		return
	}
	if text := err.Error(); refusesToRead(text) {
		r.Reason, r.Detail = Unreadable, brief(printable(strings.TrimPrefix(text, "tls: ")))
		return
	}
	r.Reason, r.Detail = judgeError(ctx, err)
	if r.Reason == Refused {
		// None of the errors of the network, so one of crypto/tls.
		r.Reason = HandshakeFailed
	}
}

// refusesToRead tells whether an error of crypto/tls is about a certificate
// that it does not accept from anybody, before the question of trust. There is
// no type for these errors; a test produces each of them from real bytes.
func refusesToRead(text string) bool {
	for _, s := range []string{
		"failed to parse certificate from server",  // a negative serial number, ...
		"certificate containing RSA key larger",    // more than 8192 bits
		"certificate contains an unsupported type", // Ed448, ML-DSA, ...
		"-bit keys are insecure",                   // RSA, fewer than 1024 bits
	} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// judgePlainText names what a server sent in place of a TLS record. A listener
// that expects STARTTLS greets, and one that expects a PROXY header, or is
// overloaded, declines in plain text.
func judgePlainText(seen []byte) (Reason, string) {
	line, _, _ := strings.Cut(string(seen[:min(len(seen), maxDetail)]), "\n")
	line = printable(strings.TrimSuffix(line, "\r"))
	detail := "plain text in place of TLS: " + line
	code, _, text, ok := parseLine(line)
	if !ok || code < 400 {
		return ProtocolError, detail
	}
	return judge(Greeting, reply{code: code, lines: []string{text}}), detail
}

// alertCode is the number of the alert the server sent, if err is about one.
// crypto/tls reports it as a net.OpError around an unexported uint8 type.
func alertCode(err error) (uint8, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return 0, false
	}
	v := reflect.ValueOf(op.Err)
	if v.Kind() != reflect.Uint8 {
		return 0, false
	}
	return uint8(v.Uint()), true
}

// The alerts that say: none of the protocol versions, none of the cipher suites
// you offer.
const (
	alertHandshakeFailure     = 40
	alertProtocolVersion      = 70
	alertInsufficientSecurity = 71
)

// alertName is the name of an alert in the TLS registry of IANA.
func alertName(code uint8) string {
	if s, ok := alertNames[code]; ok {
		return s
	}
	return fmt.Sprintf("%d", code)
}

var alertNames = map[uint8]string{
	0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 21: "decryption_failed",
	22: "record_overflow", 30: "decompression_failure", alertHandshakeFailure: "handshake_failure",
	41: "no_certificate", 42: "bad_certificate", 43: "unsupported_certificate",
	44: "certificate_revoked", 45: "certificate_expired", 46: "certificate_unknown",
	47: "illegal_parameter", 48: "unknown_ca", 49: "access_denied", 50: "decode_error",
	51: "decrypt_error", 60: "export_restriction", alertProtocolVersion: "protocol_version",
	alertInsufficientSecurity: "insufficient_security", 80: "internal_error",
	86: "inappropriate_fallback", 90: "user_canceled", 100: "no_renegotiation",
	109: "missing_extension", 110: "unsupported_extension", 111: "certificate_unobtainable",
	112: "unrecognized_name", 113: "bad_certificate_status_response",
	114: "bad_certificate_hash_value", 115: "unknown_psk_identity", 116: "certificate_required",
	120: "no_application_protocol", 121: "ech_required",
}
