package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// ehloName is what a probe calls itself. An address literal is what RFC 5321
// section 4.1.4 wants from a client without a meaningful name, and it passes
// postconf(5) reject_invalid_helo_hostname and reject_non_fqdn_helo_hostname,
// which "localhost" does not. A fixed one gives nothing away and can be
// recognised in a log.
const ehloName = "[127.0.0.1]"

// goodbyeTime bounds QUIT and its reply: politeness does not delay an answer
// that is already known for longer.
const goodbyeTime = 5 * time.Second

// dialogue is one side of a conversation of lines, one command at a time.
type dialogue struct {
	protocol   Protocol
	conn       io.ReadWriter
	in         *lineReader
	transcript io.Writer
	tag        int // IMAP: number of the last command
}

func newDialogue(e Endpoint, conn io.ReadWriter) *dialogue {
	return &dialogue{protocol: e.Protocol, conn: conn, in: newLineReader(conn), transcript: e.Transcript}
}

func (d *dialogue) note(prefix, line string) {
	if d.transcript != nil {
		fmt.Fprintf(d.transcript, "%s %s\n", prefix, line)
	}
}

// answer is what one step of the dialogue came to.
type answer struct {
	reason Reason
	detail string
	inSync bool // the server waits for a command: QUIT is in order
	lines  []string
}

// step is a command and the phase it belongs to. The greeting is a step without
// a command.
type step struct {
	phase   Phase
	command string
}

// steps lead from the connection to the point where TLS starts.
func steps(p Protocol) []step {
	if p == IMAP {
		return []step{{Greeting, ""}, {StartTLS, "STARTTLS"}}
	}
	return []step{{Greeting, ""}, {Hello, "EHLO " + ehloName}, {StartTLS, "STARTTLS"}}
}

// ask performs one step. An error is one of reading or writing.
func (d *dialogue) ask(s step) (answer, error) {
	if d.protocol == IMAP {
		return d.askIMAP(s)
	}
	r, err := d.askSMTP(s.command)
	if err != nil {
		return answer{}, err
	}
	a := answer{reason: judge(s.phase, r), detail: brief(r.String()), inSync: r.code != 421, lines: r.lines}
	switch {
	case a.reason != OK:
	case s.phase == Hello && !r.offers("STARTTLS"):
		a.reason, a.detail = NotOffered, "no STARTTLS in the reply to EHLO"
	case d.in.buffered():
		// Text after a complete reply is either a server that talks out of turn
		// or, after STARTTLS, text injected in front of TLS (CVE-2011-0411 seen
		// from the client). It must not be taken for an answer.
		return answer{}, &protocolError{"text after the reply: " + a.detail}
	default:
		a.detail = ""
	}
	return a, nil
}

func (d *dialogue) askSMTP(command string) (reply, error) {
	werr := d.send(command)
	// A server that went away often said why before it did, so its words are
	// looked for also when our command could not be sent.
	r, err := readReply(d.in, func(line string) { d.note("<", line) })
	if err != nil && werr != nil {
		return r, werr
	}
	return r, err
}

func (d *dialogue) send(command string) error {
	if command == "" {
		return nil
	}
	d.note(">", command)
	_, err := io.WriteString(d.conn, command+"\r\n")
	return err
}

// askIMAP performs one step of RFC 9051: untagged lines, "* ...", come until
// the tagged one that ends the command. The greeting is an untagged line.
func (d *dialogue) askIMAP(s step) (answer, error) {
	tag := "*"
	if s.command != "" {
		d.tag++
		tag = fmt.Sprintf("p%d", d.tag)
		if err := d.send(tag + " " + s.command); err != nil {
			return answer{}, err
		}
	}
	for range maxLines {
		line, err := d.in.line()
		if err != nil {
			return answer{}, err
		}
		d.note("<", line)
		if a, final := judgeIMAP(s.phase, tag, line); final {
			if a.reason == OK && d.in.buffered() {
				return answer{}, &protocolError{"text after the reply: " + brief(line)}
			}
			return a, nil
		}
	}
	return answer{}, &protocolError{errManyLines.Error()}
}

// judgeIMAP reads one line; final is false for a line that is only on the way.
func judgeIMAP(p Phase, tag, line string) (a answer, final bool) {
	words := strings.Fields(line)
	if len(words) < 2 {
		return answer{reason: ProtocolError, detail: "not an IMAP reply: " + brief(line)}, true
	}
	a = answer{detail: brief(line), inSync: true}
	switch status := strings.ToUpper(words[1]); {
	case words[0] == "*" && status == "BYE" && p != Established:
		return answer{reason: ShuttingDown, detail: a.detail}, true
	case words[0] != tag && words[0] == "*":
		return a, false
	case words[0] != tag:
		return answer{reason: ProtocolError, detail: "not an IMAP reply: " + a.detail}, true
	case status == "OK":
		a.reason, a.detail = OK, ""
	case status == "PREAUTH":
		// RFC 9051 section 7.1.4: STARTTLS is not possible any more.
		a.reason = NotOffered
	case p == StartTLS && status == "NO":
		a.reason = TLSNotAvailable
	case p == StartTLS && status == "BAD":
		a.reason = NotOffered
	default:
		a.reason = ProtocolError
	}
	return a, true
}

// quit says goodbye and waits for the answer, so that the server's log shows a
// session that ended well. Whether it does is of no interest any more.
func (d *dialogue) quit() {
	if d.protocol == IMAP {
		_, _ = d.askIMAP(step{Established, "LOGOUT"})
		return
	}
	_, _ = d.askSMTP("QUIT")
}

// bind makes conn honour ctx: its deadline, and its end. release undoes it and
// returns only when nothing started here is running any more.
func bind(ctx context.Context, conn net.Conn) (release func()) {
	deadline, _ := ctx.Deadline() // the zero time is no deadline
	_ = conn.SetDeadline(deadline)
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		close(done)
	})
	return func() {
		if !stop() {
			<-done
		}
		_ = conn.SetDeadline(time.Time{})
	}
}

// judgeError names an error of connecting, reading or writing.
func judgeError(ctx context.Context, err error) (Reason, string) {
	var proto *protocolError
	var timeout net.Error
	switch {
	case errors.As(err, &proto):
		return ProtocolError, proto.text
	case errors.Is(ctx.Err(), context.Canceled):
		return Timeout, "canceled"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return Timeout, "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Closed, "connection closed by the server"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Closed, "connection reset by the server"
	}
	return Refused, brief(printable(err.Error()))
}
