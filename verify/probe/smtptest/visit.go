package smtptest

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"time"
)

// early is how long the server listens, before it speaks, for a client that
// does not wait for its turn.
const early = 5 * time.Millisecond

// proxyV2 is the signature of a PROXY protocol version 2 header.
const proxyV2 = "\r\n\r\n\x00\r\nQUIT\n"

// visit is one session as the server lives it.
type visit struct {
	server  *Server
	script  Script
	config  *tls.Config
	session *Session
	raw     net.Conn
	conn    net.Conn // raw, or TLS on it
	rawIn   *bufio.Reader
	in      *bufio.Reader // rawIn, or what TLS makes of it
}

func (v *visit) note(f func(*Session)) {
	v.server.mu.Lock()
	defer v.server.mu.Unlock()
	f(v.session)
}

func (v *visit) run() {
	v.rawIn = bufio.NewReader(v.raw)
	v.in = v.rawIn
	if v.script.WantProxy && !v.proxy() {
		return
	}
	if v.script.Implicit && !v.startTLS() {
		return
	}
	if !v.say(Greeting, v.script.Greeting, "220 smtptest.invalid ESMTP") {
		return
	}
	for v.command() {
	}
}

// proxy reads the header, or declines as Postfix does.
func (v *visit) proxy() bool {
	head := make([]byte, 16)
	_ = v.raw.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, err := io.ReadFull(v.in, head)
	_ = v.raw.SetReadDeadline(time.Time{})
	if err != nil || string(head[:12]) != proxyV2 || string(head[12:]) != "\x20\x00\x00\x00" {
		_, _ = io.WriteString(v.raw, "421 4.3.0 smtptest.invalid Server local error\r\n")
		return false
	}
	v.note(func(s *Session) { s.Proxy = true })
	return true
}

// command reads one command and answers it. It tells whether the session goes
// on.
func (v *visit) command() bool {
	line, err := v.in.ReadString('\n')
	if err != nil {
		return false
	}
	line = strings.TrimRight(line, "\r\n")
	inTLS := v.conn != v.raw
	v.note(func(s *Session) {
		if inTLS {
			s.Commands = append(s.Commands, "tls:"+line)
		} else {
			s.Commands = append(s.Commands, line)
		}
	})
	verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
	switch verb {
	case "EHLO":
		return v.say(Hello, v.script.Hello, "250-smtptest.invalid\n250-PIPELINING\n250-STARTTLS\n250 8BITMIME")
	case "STARTTLS":
		reply := v.script.StartTLS
		if !v.say(StartTLS, reply, "220 2.0.0 Ready to start TLS") {
			return false
		}
		return reply != "" && !strings.HasPrefix(reply, "220") || v.startTLS()
	case "QUIT":
		v.note(func(s *Session) { s.Quit, s.QuitTLS = true, inTLS })
		v.say(Quit, "", "221 2.0.0 Bye")
		return false
	}
	return v.write("502 5.5.2 Error: command not recognized")
}

// say performs the fault of point p, or sends text, or what is usual.
func (v *visit) say(p Point, text, usual string) bool {
	v.listenEarly()
	if f := v.script.Faults[p]; f != nil {
		f(v.conn, v.server.stop)
		return false
	}
	if text == "" {
		text = usual
	}
	return v.write(text)
}

func (v *visit) write(text string) bool {
	_, err := io.WriteString(v.conn, strings.ReplaceAll(text, "\n", "\r\n")+"\r\n")
	return err == nil
}

// listenEarly notes a client that talks before the server has spoken. Inside
// TLS it listens below TLS, where a record that comes is enough to know: a read
// through TLS that times out would break the connection.
func (v *visit) listenEarly() {
	talk := v.in.Buffered() > 0
	if !talk {
		_ = v.raw.SetReadDeadline(time.Now().Add(early))
		_, err := v.rawIn.Peek(1)
		talk = err == nil
		_ = v.raw.SetReadDeadline(time.Time{})
	}
	if talk {
		v.note(func(s *Session) { s.EarlyTalk = true })
	}
}

func (v *visit) startTLS() bool {
	if f := v.script.Faults[Handshake]; f != nil {
		f(&buffered{Conn: v.raw, in: v.rawIn}, v.server.stop)
		return false
	}
	// The reader may hold the first bytes of a client that did not wait.
	c := tls.Server(&buffered{Conn: v.raw, in: v.rawIn}, v.config)
	if c.Handshake() != nil {
		return false
	}
	state := c.ConnectionState()
	v.note(func(s *Session) {
		s.Handshake, s.Resumed, s.SNI = true, state.DidResume, state.ServerName
	})
	v.conn, v.in = c, bufio.NewReader(c)
	return true
}

// buffered is a connection that is read through a reader.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }
