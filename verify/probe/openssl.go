package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"postcert/deploy/program"
)

// Two questions are beyond crypto/tls: a certificate of a chosen type in TLS
// 1.3, and one that it cannot read. openssl s_client(1) can ask both. What it
// presents as the chain is read from its output; its opinion of the chain is
// not.

// sigalgs selects the type of the server's key in TLS 1.3 (RFC 8446 section
// 4.2.3), in the spelling that OpenSSL 1.1.1 and later read.
var sigalgs = map[string]string{
	RSA:   "RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512",
	ECDSA: "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512",
}

// askOpenSSL tells whether r, our own answer, leaves the question open.
func askOpenSSL(e Endpoint, r Result) bool {
	if e.KeyType != "" && r.Reason == HandshakeFailed {
		// protocol_version: no TLS 1.2 here. The other two: none of the suites
		// of this type, in TLS 1.2; the server may have the key all the same.
		switch r.alert {
		case alertProtocolVersion, alertHandshakeFailure, alertInsufficientSecurity:
			return true
		}
	}
	return r.Reason == Unreadable && len(r.Raw) == 0
}

// viaOpenSSL puts the question of e, which was answered by r as far as that is
// possible, to openssl(1).
func viaOpenSSL(ctx context.Context, e Endpoint, r Result) Result {
	why := ""
	switch {
	case e.OpenSSL == "":
		why = "there is no openssl program to ask with"
	case e.ProxyProtocol:
		why = "openssl s_client cannot send a PROXY protocol header"
	}
	if why != "" {
		if r.alert == alertProtocolVersion {
			r.Reason, r.Detail = NotAsked, "no TLS 1.2 here, and "+why
		}
		return r
	}
	limit := DefaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline)
	}
	args := sclientArgs(e)
	if e.Transcript != nil {
		fmt.Fprintf(e.Transcript, "* openssl %s\n", printable(strings.Join(args, " ")))
	}
	res, err := program.Run(ctx, program.Command{
		Path: e.OpenSSL, Args: args, Env: program.NoAuthorities, Timeout: max(limit, time.Millisecond),
		// s_client sends its input through TLS: so it leaves with QUIT, too.
		Stdin: strings.NewReader(goodbye(e.Protocol)),
	})
	out := parseSClient(res.Stdout, res.Stderr)
	// The chain stands in front of what the server says inside TLS. So output
	// that was cut, or a server that did not let go, takes nothing from it.
	if out.complete {
		return out.result(r)
	}
	if r.Reason == Unreadable {
		return r // what we know is still true
	}
	r.Phase = AskedOpenSSL
	switch {
	case out.alert != 0:
		r.Reason, r.Detail, r.alert = HandshakeFailed, "alert "+alertName(out.alert), out.alert
	case r.alert == alertProtocolVersion:
		// The server has just answered us, so even if openssl does not end, that
		// is no silence of the server's.
		r.Reason, r.Detail = NotAsked, "no TLS 1.2 here, and openssl s_client did not complete a handshake"
		if err != nil {
			r.Detail += ": " + brief(printable(err.Error()))
		}
	case ctx.Err() != nil:
		r.Reason, r.Detail = judgeError(ctx, ctx.Err())
	}
	return r
}

// goodbye is what ends a session politely, for s_client to send.
func goodbye(p Protocol) string {
	if p == IMAP {
		return "p9 LOGOUT\r\n"
	}
	return "QUIT\r\n"
}

// sclientArgs are the arguments of openssl(1) for the question of e.
func sclientArgs(e Endpoint) []string {
	// -ign_eof also switches off the meaning of Q and R at the start of a line
	// of input, which would keep QUIT from being sent.
	args := []string{"s_client", "-showcerts", "-ign_eof", "-no_ticket", "-cipher", "ALL:@SECLEVEL=0"}
	if e.Network == "unix" {
		args = append(args, "-unix", e.Address)
	} else {
		args = append(args, "-connect", e.Address)
	}
	switch e.Network {
	case "tcp4":
		args = append(args, "-4")
	case "tcp6":
		args = append(args, "-6")
	}
	if e.Mode == STARTTLS {
		args = append(args, "-starttls", string(e.Protocol))
		if e.Protocol == SMTP {
			args = append(args, "-name", ehloName)
		}
	}
	if e.ServerName != "" && net.ParseIP(e.ServerName) == nil {
		args = append(args, "-servername", e.ServerName)
	} else {
		args = append(args, "-noservername")
	}
	if e.KeyType != "" {
		args = append(args, "-tls1_3", "-sigalgs", sigalgs[e.KeyType])
	}
	return args
}

// sclient is what the output of openssl s_client says.
type sclient struct {
	complete bool     // the handshake was completed
	raw      [][]byte // DER, as presented
	protocol uint16
	cipher   uint16 // 0 for a suite that crypto/tls does not know by this name
	alert    uint8
}

var (
	sclientNew   = regexp.MustCompile(`(?m)^(?:New|Reused), (\S+), Cipher is (\S+)\s*$`)
	sclientAlert = regexp.MustCompile(`SSL alert number (\d+)`)
)

// parseSClient reads the output of openssl s_client -showcerts of OpenSSL 1.1.1
// and later.
func parseSClient(stdout, stderr []byte) sclient {
	var s sclient
	if m := sclientAlert.FindSubmatch(stderr); m != nil {
		n, _ := strconv.ParseUint(string(m[1]), 10, 8)
		s.alert = uint8(n)
	}
	_, rest, ok := cutLine(stdout, "Certificate chain")
	if !ok {
		return s
	}
	// The section ends with a line of three dashes; what follows repeats the
	// leaf and may contain what the server said after the handshake.
	section, rest, ok := cutLine(rest, "---")
	if !ok {
		return s
	}
	for {
		var block *pem.Block
		if block, section = pem.Decode(section); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			s.raw = append(s.raw, block.Bytes)
		}
	}
	m := sclientNew.FindSubmatch(rest)
	if m == nil || string(m[2]) == "(NONE)" {
		return s
	}
	s.protocol, s.cipher = versionByName(string(m[1])), cipherByName(string(m[2]))
	s.complete = len(s.raw) > 0
	return s
}

// cutLine splits b around the first line that is exactly want.
func cutLine(b []byte, want string) (before, after []byte, found bool) {
	for at := 0; at < len(b); {
		line, _, _ := bytes.Cut(b[at:], []byte("\n"))
		next := min(at+len(line)+1, len(b))
		if string(bytes.TrimRight(line, "\r")) == want {
			return b[:at], b[next:], true
		}
		at = next
	}
	return b, nil, false
}

func versionByName(name string) uint16 {
	return map[string]uint16{
		"TLSv1": tls.VersionTLS10, "TLSv1.0": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11,
		"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13,
	}[name]
}

// cipherByName knows the suites of TLS 1.3, whose names are the same
// everywhere.
func cipherByName(name string) uint16 {
	for _, s := range tls.CipherSuites() {
		if s.Name == name {
			return s.ID
		}
	}
	return 0
}

// result is the answer of openssl in place of ours.
func (s sclient) result(ours Result) Result {
	r := Result{
		Reason: OK, Phase: AskedOpenSSL, Raw: s.raw, Chain: parseAll(s.raw),
		Protocol: s.protocol, Cipher: s.cipher,
	}
	if !readable(s.raw) {
		r.Reason, r.Detail = Unreadable, ours.Detail
		if ours.Reason != Unreadable {
			r.Detail = fmt.Sprintf("openssl completed the handshake; crypto/tls would not read this chain of %d", len(s.raw))
		}
	}
	return r
}
