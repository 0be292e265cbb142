package smtptest

import (
	"io"
	"net"
	"strings"
	"time"
)

// Fault is what a server does in place of what it should. It has the connection
// to itself; the session ends when it returns. stop is closed when the server
// ends.
type Fault func(c net.Conn, stop <-chan struct{})

// Close ends the connection without a word.
func Close(net.Conn, <-chan struct{}) {}

// Reset ends the connection with a TCP reset.
func Reset(c net.Conn, _ <-chan struct{}) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0)
	}
}

// Silence says nothing and keeps the connection until the client gives up.
func Silence(c net.Conn, stop <-chan struct{}) { drain(c) }

func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// Say sends text, line ends as given, and ends the connection.
func Say(text string) Fault {
	return func(c net.Conn, _ <-chan struct{}) { _, _ = io.WriteString(c, text) }
}

// SayAndWait sends text, line ends as given, and then nothing more.
func SayAndWait(text string) Fault {
	return func(c net.Conn, stop <-chan struct{}) {
		_, _ = io.WriteString(c, text)
		drain(c)
	}
}

// Drip sends text one byte at a time.
func Drip(text string, each time.Duration) Fault {
	return func(c net.Conn, stop <-chan struct{}) {
		for i := range len(text) {
			if _, err := io.WriteString(c, text[i:i+1]); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(each):
			}
		}
		drain(c)
	}
}

// Endless repeats text until the client is gone.
func Endless(text string) Fault {
	block := strings.Repeat(text, 1+65536/len(text))
	return func(c net.Conn, _ <-chan struct{}) {
		for {
			if _, err := io.WriteString(c, block); err != nil {
				return
			}
		}
	}
}

// Answer reads the client's first TLS record, sends text and nothing more.
func Answer(text string) Fault {
	return func(c net.Conn, _ <-chan struct{}) {
		head := make([]byte, 5)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, c, int64(head[3])<<8|int64(head[4]))
		_, _ = io.WriteString(c, text)
		drain(c)
	}
}

// Alert answers the client's first TLS record with a fatal alert of this
// number.
func Alert(code byte) Fault {
	return Answer(string([]byte{21, 3, 3, 0, 2, 2, code}))
}

// Relay connects to another server and passes everything on, both ways. At the
// point Handshake it lets that server do the TLS, so that a program which knows
// no SMTP can be asked by STARTTLS.
func Relay(network, address string) Fault {
	return func(c net.Conn, stop <-chan struct{}) {
		up, err := net.Dial(network, address)
		if err != nil {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(up, c)
			_ = up.Close()
		}()
		_, _ = io.Copy(c, up)
		_, _ = c.Close(), up.Close()
		<-done
	}
}
