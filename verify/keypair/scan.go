package keypair

import (
	"bytes"
	"encoding/base64"
	"strings"

	"postcert/verify/problem"
)

// PEM labels (RFC 7468) that are read. OpenSSL knows more; see refusedLabels.
const (
	labelCertificate = "CERTIFICATE"
	labelPKCS8       = "PRIVATE KEY"
	labelPKCS1       = "RSA PRIVATE KEY"
	labelSEC1        = "EC PRIVATE KEY"
	labelECParams    = "EC PARAMETERS"
)

// block is one PEM block and where it stands.
type block struct {
	label     string
	der       []byte
	encrypted bool // has a "Proc-Type: 4,ENCRYPTED" header (RFC 1421)
	at        problem.At
}

func (b block) isKey() bool {
	return b.label == labelPKCS8 || b.label == labelPKCS1 || b.label == labelSEC1
}

var utf8BOM = []byte("\xef\xbb\xbf")

// scan cuts data into PEM blocks. Text outside blocks is dropped, as all readers
// do (RFC 7468 section 2); everything else that is not a whole block is an
// error, since Go's encoding/pem skips a damaged block in silence and the next
// certificate then passes for the leaf.
func scan(name string, data []byte) ([]block, error) {
	at := problem.At{File: name}
	if err := encoding(name, data); err != nil {
		return nil, err
	}
	s := scanner{name: name, lines: strings.Split(string(data), "\n")}
	var blocks []block
	for s.next < len(s.lines) {
		line := s.line()
		if !strings.Contains(line, "-----BEGIN") && !strings.Contains(line, "-----END") {
			continue
		}
		b, err := s.block(line, len(blocks)+1)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
	}
	if len(blocks) == 0 {
		return nil, problem.New("pem_empty", at, "%s holds no PEM block", name)
	}
	return blocks, nil
}

// encoding refuses what is not PEM text at all, by its real name where known.
func encoding(name string, data []byte) error {
	at := problem.At{File: name}
	switch {
	case len(data) > MaxBytes:
		return problem.New("input_too_large", at, "%s is larger than %d bytes", name, MaxBytes)
	case len(bytes.TrimSpace(data)) == 0:
		return problem.New("pem_empty", at, "%s is empty", name)
	case bytes.HasPrefix(data, utf8BOM):
		return problem.New("pem_bom", at, "%s starts with a UTF-8 byte order mark, which hides its first PEM block from some readers", name)
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return problem.New("pem_encoding", at, "%s is UTF-16 text; PEM is ASCII", name)
	}
	if !bytes.Contains(data, []byte("-----BEGIN")) {
		if err := binary(name, data); err != nil {
			return err
		}
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return problem.New("pem_encoding", at, "%s holds NUL bytes; PEM is ASCII text", name)
	}
	return nil
}

type scanner struct {
	name  string
	lines []string
	next  int // index in lines
}

// line returns the next line without its line end and trailing blanks, as
// OpenSSL's reader takes it (crypto/pem/pem_lib.c sanitize_line).
func (s *scanner) line() string {
	s.next++
	return strings.TrimRight(s.lines[s.next-1], " \t\r")
}

func (s *scanner) truncated(at problem.At, what string) error {
	return problem.New("pem_truncated", at, "%s, line %d: PEM block %d is damaged: %s", s.name, at.Line, at.Block, what)
}

// block reads one block whose BEGIN line has just been read.
func (s *scanner) block(begin string, number int) (block, error) {
	b := block{at: problem.At{File: s.name, Block: number, Line: s.next}}
	label, ok := strings.CutPrefix(begin, "-----BEGIN ")
	label, end := strings.CutSuffix(label, "-----")
	switch {
	case strings.HasPrefix(begin, string(utf8BOM)):
		return b, problem.New("pem_bom", b.at, "%s, line %d: a UTF-8 byte order mark before BEGIN hides this block from some readers", s.name, b.at.Line)
	case strings.Contains(begin, "\r"):
		return b, problem.New("pem_encoding", b.at, "%s has lines that end in a bare carriage return", s.name)
	case strings.HasPrefix(begin, "-----END"):
		return b, s.truncated(b.at, "an END line without a BEGIN line")
	case !ok || !end || label == "" || strings.Contains(label, "-----"):
		return b, s.truncated(b.at, "the BEGIN or END line is not a line of its own")
	}
	b.label = label
	var body []string
	for s.next < len(s.lines) {
		line := s.line()
		if line == "-----END "+label+"-----" {
			return b, s.decode(&b, body)
		}
		if strings.Contains(line, "-----") {
			return b, s.truncated(b.at, "its END line is missing")
		}
		body = append(body, line)
	}
	return b, s.truncated(b.at, "the file ends inside it")
}

// decode fills b from the lines between BEGIN and END. OpenSSL takes lines of
// one width, of which only the last may be shorter, and no blank one; so do we.
func (s *scanner) decode(b *block, body []string) error {
	if len(body) > 0 && strings.Contains(body[0], ":") {
		if strings.HasPrefix(body[0], "Proc-Type:") && strings.Contains(body[0], "ENCRYPTED") {
			b.encrypted = true
			return nil
		}
		return problem.New("pem_header", b.at, "%s, line %d: PEM block %d has header lines, which not all readers skip", s.name, b.at.Line, b.at.Block)
	}
	for i, line := range body {
		if line == "" || len(line) > len(body[0]) || i < len(body)-1 && len(line) != len(body[0]) {
			return s.truncated(problem.At{File: s.name, Block: b.at.Block, Line: b.at.Line + 1 + i}, "a line of it is blank or of another length")
		}
	}
	der, err := base64.StdEncoding.Strict().DecodeString(strings.Join(body, ""))
	if err != nil || len(der) == 0 {
		// The error would quote a byte of the input, which may be a key.
		return s.truncated(b.at, "what it holds is not base64")
	}
	b.der = der
	return nil
}
