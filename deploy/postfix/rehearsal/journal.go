package rehearsal

import (
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// What is kept of a log that does not end.
const (
	maxLines = 2000
	maxLine  = 2000 // bytes; Postfix's own limit is the same
)

// journal is the socket where the private Postfix logs, in the place of
// postlogd(8), and what came there. A datagram is a line.
type journal struct {
	conn *net.UnixConn
	done chan struct{} // closed when the socket is

	needles []string // see blames

	mu    sync.Mutex
	lines []line
	died  map[string]chan struct{} // by syslog_name; closed when a daemon that has it died
	dead  map[string]bool          // those that are closed
}

func listen(path string, groups []group, needles []string) (*journal, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	j := &journal{conn: conn, done: make(chan struct{}), needles: needles,
		died: map[string]chan struct{}{}, dead: map[string]bool{}}
	for _, g := range groups {
		j.died[g.tag] = make(chan struct{})
	}
	go j.read()
	return j, nil
}

func (j *journal) read() {
	defer close(j.done)
	buf := make([]byte, 4096)
	for {
		n, err := j.conn.Read(buf)
		if err != nil {
			return
		}
		j.add(string(buf[:min(n, maxLine)]))
	}
}

func (j *journal) add(text string) {
	l := parse(text)
	l.blames = blames(l, j.needles)
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) < maxLines {
		j.lines = append(j.lines, l)
	}
	if l.severity != "fatal" && l.severity != "panic" {
		return
	}
	if died, ok := j.died[l.tag]; ok && !j.dead[l.tag] {
		close(died)
		j.dead[l.tag] = true
	}
}

// gone is closed when a daemon of g has died.
func (j *journal) gone(g group) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.died[g.tag]
}

func (j *journal) all() []line {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// settle bounds how long a line is waited for that explains what was seen.
const settle = 300 * time.Millisecond

// settled is the log when it explains what was seen, or when that did not
// happen in time: a daemon logs a failed handshake after its client saw it.
func (j *journal) settled(explained func([]line) bool) []line {
	for end := time.Now().Add(settle); ; time.Sleep(2 * time.Millisecond) {
		lines := j.all()
		if explained(lines) || time.Now().After(end) {
			return lines
		}
	}
}

func (j *journal) close() error {
	err := j.conn.Close()
	<-j.done
	return err
}

// line is a line of Postfix's log.
type line struct {
	tag      string // syslog_name: rehearsal, rehearsal/submission
	program  string // smtpd
	severity string // "" for information, warning, error, fatal, panic
	text     string
	blames   bool // it names TLS, the certificate or what the candidate says about them
}

// lineForm is the form of PREFIX TAG/PROGRAM[PID]: [SEVERITY: ]TEXT, where the
// prefix is a date and a host name.
var lineForm = regexp.MustCompile(`^(?:.* )?([^ ]+)/([^ /]+)\[\d+\]: (?:(warning|error|fatal|panic): )?(.*)$`)

func parse(s string) line {
	s = strings.TrimRight(strings.ToValidUTF8(s, "?"), "\r\n\x00")
	// The first "]: " ends the tag; a text may contain another.
	head, text, ok := strings.Cut(s, "]: ")
	if !ok {
		return line{text: s}
	}
	m := lineForm.FindStringSubmatch(head + "]: " + text)
	if m == nil {
		return line{text: s}
	}
	return line{tag: m[1], program: m[2], severity: m[3], text: m[4]}
}

func (l line) String() string {
	s := l.text
	if l.severity != "" {
		s = l.severity + ": " + s
	}
	if l.program != "" {
		s = l.tag + "/" + l.program + ": " + s
	}
	return s
}

// blame is what a line about TLS or a certificate says. Lower-case "tls" is not
// in it: tlsmgr and tlsproxy are services, and a trouble with ours is not the
// candidate's.
var blame = regexp.MustCompile(`TLS|SSL|X509|certificate|private key|chain file|cipher`)

// clientLeft is how a failed handshake ends that the client gave up: that is us,
// after Timeout, and says that this host is slow, nothing about the candidate.
var clientLeft = regexp.MustCompile(`: (lost connection|Broken pipe|Connection (reset by peer|timed out))$`)

// blames tells whether l is a complaint about the candidate: about TLS, or with
// one of the needles, the names of kept parameters and the files they name.
func blames(l line, needles []string) bool {
	if l.severity == "" {
		return strings.HasPrefix(l.text, "SSL_accept error") && !clientLeft.MatchString(l.text)
	}
	return blame.MatchString(l.text) || slices.ContainsFunc(needles, func(n string) bool { return strings.Contains(l.text, n) })
}

// needles are what a complaint about the candidate may name. Values that are
// neither paths nor long would match by accident.
func needles(c Candidate, groups []group) []string {
	kept, err := effective(c, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, m := range append([]map[string]string{kept}, overrides(groups)...) {
		for name, value := range m {
			out = append(out, name)
			for _, word := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(delimiters, r) }) {
				if strings.HasPrefix(word, "/") && len(word) > 1 {
					out = append(out, word)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func overrides(groups []group) []map[string]string {
	var out []map[string]string
	for _, g := range groups {
		out = append(out, g.override)
	}
	return out
}

// about are the lines that concern the service with this tag: its own, and
// those that no service of the candidate wrote, such as those of a daemon that
// had not read its syslog_name yet.
func about(lines []line, tag string) []line {
	var out []line
	for _, l := range lines {
		if l.tag == tag || !strings.HasPrefix(l.tag, tagPrefix) {
			out = append(out, l)
		}
	}
	return out
}

// blamed are the complaints about the candidate, each once.
func blamed(lines []line) []string {
	return pick(lines, func(l line) bool { return l.blames })
}

// complaints are the warnings and errors, each once.
func complaints(lines []line) []string {
	return pick(lines, func(l line) bool { return l.severity != "" || l.blames })
}

func pick(lines []line, want func(line) bool) []string {
	var out []string
	for _, l := range lines {
		if s := l.String(); want(l) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func text(lines []line) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l.String())
	}
	return out
}
