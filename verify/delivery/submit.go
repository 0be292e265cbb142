package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"time"
)

// Submission is where and as whom a mail is handed in (RFC 6409, RFC 8314).
type Submission struct {
	Address  string // host:port
	Implicit bool   // TLS from the first byte (port 465); else STARTTLS
	Name     string // that we call ourselves, and the server name that is asked for
	User     string // "" does not log in
	Password []byte // it is sent inside TLS alone, and is in no error
}

// Submitted is what the server said to it.
type Submitted struct {
	Protocol string `json:"protocol"`  // "TLSv1.3"
	Cipher   string `json:"cipher"`    // as IANA calls it
	Mech     string `json:"mechanism"` // of AUTH, "" without
	Reply    string `json:"reply"`     // to the mail: "250 2.0.0 Ok: queued as ..."
}

// Step is where a submission failed.
type Step string

// The steps of a submission.
const (
	Connect  Step = "connect"
	TLS      Step = "tls"
	Auth     Step = "auth"
	Envelope Step = "envelope" // sender and recipient
	Data     Step = "data"
)

// SubmitError is a submission that was refused or broke off. The server took no
// mail, unless Step is Data and Reply is empty: then nobody knows.
type SubmitError struct {
	Step  Step
	Reply string // of the server, "" if it gave none
	Err   error
}

func (e *SubmitError) Error() string {
	if e.Reply != "" {
		return "the server answers: " + e.Reply
	}
	return e.Err.Error()
}

func (e *SubmitError) Unwrap() error { return e.Err }

// submitTime bounds a submission; a milter may look at the mail meanwhile.
const submitTime = 60 * time.Second

// Submit hands a mail in over TLS. Errors: *SubmitError.
//
// The certificate is not verified: the address is one of this host's own, and what
// is served there is what "postcert probe" looks at.
func Submit(ctx context.Context, s Submission, m Message) (Submitted, error) {
	ctx, cancel := context.WithTimeout(ctx, submitTime)
	defer cancel()
	var out Submitted
	fail := func(step Step, err error) (Submitted, error) {
		e := &SubmitError{Step: step, Err: err}
		if reply, ok := errors.AsType[*textproto.Error](err); ok {
			e.Reply = brief(fmt.Sprintf("%d %s", reply.Code, reply.Msg))
		}
		return out, e
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return fail(Connect, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, step, err := s.encrypted(conn)
	if err != nil {
		return fail(step, err)
	}
	st, _ := c.TLSConnectionState()
	out.Protocol, out.Cipher = strings.Replace(tls.VersionName(st.Version), "TLS 1.", "TLSv1.", 1), tls.CipherSuiteName(st.CipherSuite)
	if s.User != "" {
		if out.Mech, err = s.login(c); err != nil {
			return fail(Auth, err)
		}
	}
	if step, err = envelope(c, m); err == nil {
		step = Data
		out.Reply, err = data(c, m)
	}
	if err != nil {
		return fail(step, err)
	}
	_ = c.Quit() // the server has the mail
	return out, nil
}

// encrypted speaks until TLS is there, and EHLO once more inside.
func (s Submission) encrypted(conn net.Conn) (*smtp.Client, Step, error) {
	conf := &tls.Config{InsecureSkipVerify: true} // see Submit
	if net.ParseIP(s.Name) == nil {
		conf.ServerName = s.Name
	}
	if s.Implicit {
		t := tls.Client(conn, conf)
		if err := t.Handshake(); err != nil {
			return nil, TLS, err
		}
		conn = t
	}
	c, err := smtp.NewClient(conn, s.Name)
	if err != nil {
		return nil, Connect, err
	}
	if err := c.Hello(s.Name); err != nil {
		return nil, Connect, err
	}
	if s.Implicit {
		return c, "", nil
	}
	if ok, _ := c.Extension("STARTTLS"); !ok {
		return nil, TLS, errors.New("the server offers no STARTTLS, so nothing was sent")
	}
	if err := c.StartTLS(conf); err != nil {
		return nil, TLS, err
	}
	return c, "", nil
}

// login sends user and password with PLAIN (RFC 4616), or with LOGIN where there is
// nothing else.
func (s Submission) login(c *smtp.Client) (mech string, err error) {
	ok, offered := c.Extension("AUTH")
	list := strings.Fields(strings.ToUpper(offered))
	switch {
	case !ok:
		return "", errors.New("the server does not offer AUTH inside TLS, so the password was not sent")
	case slices.Contains(list, "PLAIN"):
		mech = "PLAIN"
	case slices.Contains(list, "LOGIN"):
		mech = "LOGIN"
	default:
		return "", fmt.Errorf("the server offers neither PLAIN nor LOGIN, but %s: the password was not sent", offered)
	}
	return mech, c.Auth(&credentials{s, mech})
}

// credentials is the client's side of PLAIN and LOGIN.
type credentials struct {
	s    Submission
	mech string
}

func (a *credentials) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if !server.TLS {
		return "", nil, errors.New("the password goes nowhere without TLS")
	}
	if a.mech == "LOGIN" {
		return a.mech, nil, nil
	}
	return a.mech, slices.Concat([]byte{0}, []byte(a.s.User), []byte{0}, a.s.Password), nil
}

func (a *credentials) Next(challenge []byte, more bool) ([]byte, error) {
	switch {
	case !more:
		return nil, nil
	case a.mech == "LOGIN" && bytes.HasPrefix(bytes.ToLower(challenge), []byte("user")):
		return []byte(a.s.User), nil
	case a.mech == "LOGIN" && bytes.HasPrefix(bytes.ToLower(challenge), []byte("pass")):
		return a.s.Password, nil
	}
	return nil, errors.New("the server asks for something that belongs to no login")
}

// envelope names sender and recipient. SMTPUTF8 is asked for only where an address
// needs it: a next hop without it could not be given the mail.
func envelope(c *smtp.Client, m Message) (Step, error) {
	mail := "MAIL FROM:<" + m.From.String() + ">"
	if m.From.UTF8() || m.To.UTF8() {
		if ok, _ := c.Extension("SMTPUTF8"); !ok {
			return Envelope, errors.New("the server does not offer SMTPUTF8, which an address with other letters than ASCII needs")
		}
		mail += " SMTPUTF8"
	}
	if _, err := ask(c, 250, mail); err != nil {
		return Envelope, fmt.Errorf("sender %s: %w", m.From, err)
	}
	if _, err := ask(c, 25, "RCPT TO:<"+m.To.String()+">"); err != nil {
		return Envelope, fmt.Errorf("recipient %s: %w", m.To, err)
	}
	return "", nil
}

// ask sends a command, "" for none, and returns the reply. An Address has no line
// break in it that would make it two.
func ask(c *smtp.Client, want int, command string) (string, error) {
	if command != "" {
		if err := c.Text.PrintfLine("%s", command); err != nil {
			return "", err
		}
	}
	code, reply, err := c.Text.ReadResponse(want)
	return brief(fmt.Sprintf("%d %s", code, reply)), err
}

// data sends the mail, and returns the reply, in which Postfix names the queue id.
func data(c *smtp.Client, m Message) (string, error) {
	if _, err := ask(c, 354, "DATA"); err != nil {
		return "", err
	}
	w := c.Text.DotWriter()
	if _, err := w.Write(m.Bytes()); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return ask(c, 250, "")
}

// brief is what a server said, as one line of printable text.
func brief(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
