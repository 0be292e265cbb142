package delivery

import (
	"bytes"
	"strings"
)

// Received is a Received header (RFC 5321 section 4.4) as Postfix writes it.
type Received struct {
	Text     string `json:"text"`     // unfolded
	By       string `json:"by"`       // host
	With     string `json:"with"`     // ESMTP, ESMTPS, ESMTPSA, ... (RFC 3848); "" if it did not come by SMTP
	QueueID  string `json:"queue_id"` // id
	Protocol string `json:"protocol"` // TLSv1.3; "" without TLS, or without smtpd_tls_received_header
	Cipher   string `json:"cipher"`
}

// ReceivedOf reads the Received headers of a mail, the latest first. It stops at
// the end of the headers.
func ReceivedOf(mail []byte) []Received {
	out := []Received{}
	for _, h := range headers(mail) {
		name, value, _ := strings.Cut(h, ":")
		if strings.EqualFold(name, "Received") {
			out = append(out, parseReceived(strings.Join(strings.Fields(value), " ")))
		}
	}
	return out
}

// HasID tells whether the headers of a mail have this Message-ID.
func HasID(mail []byte, id string) bool {
	for _, h := range headers(mail) {
		name, value, _ := strings.Cut(h, ":")
		if strings.EqualFold(name, "Message-ID") && strings.TrimSpace(value) == id {
			return true
		}
	}
	return false
}

// headers are the header lines of a mail, each with its continuations (RFC 5322
// section 2.2.3).
func headers(mail []byte) []string {
	var out []string
	for line := range bytes.Lines(mail) {
		text := strings.TrimRight(string(line), "\r\n")
		switch {
		case text == "":
			return out
		case (text[0] == ' ' || text[0] == '\t') && len(out) > 0:
			out[len(out)-1] += text
		default:
			out = append(out, text)
		}
	}
	return out
}

func parseReceived(text string) Received {
	r := Received{Text: text}
	after := func(word string) string {
		_, rest, ok := strings.Cut(" "+text, " "+word+" ")
		if !ok {
			return ""
		}
		rest, _, _ = strings.Cut(rest, " ")
		return strings.Trim(rest, ";")
	}
	r.By, r.QueueID = after("by"), after("id")
	if _, rest, ok := strings.Cut(text, "(using "); ok {
		r.Protocol, rest, _ = strings.Cut(rest, " with cipher ")
		r.Cipher, _, _ = strings.Cut(rest, " ")
	}
	// The first "with" may be that of the cipher.
	if _, rest, ok := strings.Cut(text, ") with "); ok {
		r.With, _, _ = strings.Cut(rest, " ")
	}
	return r
}
