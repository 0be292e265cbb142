package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"
)

// Result is how a session ended.
type Result string

const (
	OK        Result = "ok"
	Refused   Result = "refused"   // no connection
	Handshake Result = "handshake" // TLS did not come about
	Dropped   Result = "dropped"   // the connection was lost, or a reply did not come in time
	Reply     Result = "reply"     // a reply was not the one for success
)

// Record is one session: a line of -sessions.
type Record struct {
	Kind    string    `json:"kind"`
	Address string    `json:"address"`
	Begin   time.Time `json:"begin"`
	Connect float64   `json:"connect_ms"`       // from dialling to the greeting; 0 if there was none
	Shook   time.Time `json:"shook,omitzero"`   // end of the TLS handshake
	Leaf    string    `json:"leaf,omitempty"`   // SHA-256 of the leaf certificate, in hex
	End     time.Time `json:"end"`              //
	Queued  []string  `json:"queued,omitempty"` // queue ids of the mails that were accepted
	Result  Result    `json:"result"`
	Said    string    `json:"said,omitempty"` // what was said or happened instead of success
}

// temporary tells of the reply that Postfix gives when it has no certificate.
func (r Record) temporary() bool { return r.Result == Reply && strings.Contains(r.Said, ": 454") }

// client is one session on its way.
type client struct {
	options
	conn net.Conn
	in   *bufio.Reader
	rec  *Record
}

// errEnded means that the session has ended for a reason which is in its record.
var errEnded = errors.New("the session has ended")

// fail puts down why the session ends.
func (c *client) fail(result Result, format string, args ...any) error {
	c.rec.Result, c.rec.Said = result, fmt.Sprintf(format, args...)
	return errEnded
}

// open connects and reads the greeting.
func (c *client) open(p plan) error {
	dialer := net.Dialer{Timeout: c.patience}
	conn, err := dialer.Dial("tcp", p.address)
	if err != nil {
		return c.fail(Refused, "connecting: %v", err)
	}
	c.use(conn)
	if p.mode == implicit {
		if err := c.shakeHands(); err != nil {
			return err
		}
	}
	if _, err := c.expect("greeting", 220); err != nil {
		return err
	}
	c.rec.Connect = milliseconds(time.Since(c.rec.Begin))
	return c.command("EHLO load.invalid", 250)
}

func (c *client) use(conn net.Conn) { c.conn, c.in = conn, bufio.NewReader(conn) }

// shakeHands begins TLS and puts down which certificate is presented.
func (c *client) shakeHands() error {
	_ = c.conn.SetDeadline(time.Now().Add(c.patience))
	// What is presented is the question here, not whether a client trusts it.
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true, ServerName: c.name})
	if err := conn.Handshake(); err != nil {
		return c.fail(Handshake, "TLS: %v", err)
	}
	sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw)
	c.rec.Leaf, c.rec.Shook = hex.EncodeToString(sum[:]), time.Now()
	c.use(conn) // RFC 3207 section 4.2: what came before is forgotten
	return nil
}

func (c *client) startTLS() error {
	if err := c.command("STARTTLS", 220); err != nil {
		return err
	}
	if err := c.shakeHands(); err != nil {
		return err
	}
	return c.command("EHLO load.invalid", 250)
}

// command sends one and fails the session unless it is answered by this code.
func (c *client) command(line string, code int) error {
	if err := c.write(line + "\r\n"); err != nil {
		return err
	}
	_, err := c.expect(line, code)
	return err
}

func (c *client) write(text string) error {
	_ = c.conn.SetDeadline(time.Now().Add(c.patience))
	if _, err := io.WriteString(c.conn, text); err != nil {
		verb, _, _ := strings.Cut(text, " ")
		return c.fail(Dropped, "writing %.20q: %v", verb, err)
	}
	return nil
}

// expect reads a reply (RFC 5321 section 4.2), of which it returns the last line.
func (c *client) expect(to string, code int) (string, error) {
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return "", c.fail(Dropped, "waiting for the reply to %s: %v", to, err)
		}
		line = strings.TrimRight(line, "\r\n")
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if n, err := strconv.Atoi(line[:min(3, len(line))]); err != nil || n != code {
			return "", c.fail(Reply, "%s: %.200s", to, line)
		}
		return line, nil
	}
}

// envelope says sender and recipient.
func (c *client) envelope() error {
	if err := c.command("MAIL FROM:<"+c.from+">", 250); err != nil {
		return err
	}
	c.pause()
	return c.command("RCPT TO:<"+c.to+">", 250)
}

// mail sends a message whose body takes some time: line by line until last says
// that this was the last one.
func (c *client) mail(last func() bool) error {
	if err := c.envelope(); err != nil {
		return err
	}
	c.pause()
	if err := c.command("DATA", 354); err != nil {
		return err
	}
	head := "From: <load@load.invalid>\r\nTo: <%s>\r\nSubject: load\r\nMessage-ID: <%x@load.invalid>\r\nDate: %s\r\n\r\n"
	if err := c.write(fmt.Sprintf(head, c.to, rand.Uint64(), time.Now().Format(time.RFC1123Z))); err != nil {
		return err
	}
	for n := 1; ; n++ {
		if err := c.write(fmt.Sprintf("line %d of a message that nobody reads\r\n", n)); err != nil {
			return err
		}
		if last() {
			break
		}
	}
	if err := c.write(".\r\n"); err != nil {
		return err
	}
	line, err := c.expect("the end of DATA", 250)
	if err != nil {
		return err
	}
	// "250 2.0.0 Ok: queued as 4XyZ": the id by which the log knows it.
	if _, id, found := strings.Cut(line, "queued as "); found {
		c.rec.Queued = append(c.rec.Queued, strings.TrimSpace(id))
	}
	return nil
}

// pause is what a client thinks between two commands.
func (c *client) pause() { time.Sleep(rand.N(2 * c.think)) }

// hold keeps the session alive by NOOPs until its time has come, or ctx ends.
func (c *client) hold(ctx context.Context, until time.Time) error {
	// postconf(5) smtpd_junk_command_limit: after 100 NOOPs the server begins to
	// count them as errors.
	every := max(c.options.hold/60, 200*time.Millisecond)
	for time.Now().Before(until) && ctx.Err() == nil {
		wait(ctx, min(every, time.Until(until)))
		if err := c.command("NOOP", 250); err != nil {
			return err
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
