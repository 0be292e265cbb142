package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"postcert/deploy/postfix/cf"
	"postcert/verify/delivery"
	"postcert/verify/problem"
)

// door is the submission service that a mail is handed in at.
type door struct {
	service string // in master.cf
	at      delivery.Submission
}

// doorOf finds the submission service and reads the password, before anything is
// sent.
func (a *app) doorOf(ctx context.Context, t *trial, f sendTestFlags) (*door, error) {
	d, err := t.findDoor()
	if err != nil {
		return nil, err
	}
	d.at.Name, d.at.User = t.mail.Host, f.user
	if f.user == "" {
		return d, nil
	}
	if strings.ContainsAny(f.user, "\x00\r\n") {
		return nil, usagef("--user %q is no name of a user", f.user)
	}
	d.at.Password, err = a.password(ctx, f)
	return d, err
}

// findDoor is the first listener for mail programs: on port 587, else on 465 (RFC
// 8314 section 3.3).
func (t *trial) findDoor() (*door, error) {
	plain := ""
	list := t.snap.Listeners(t.site.engine.Host)
	for _, port := range []string{"587", "465"} {
		for _, l := range list {
			addr := addressOn(l, port)
			switch {
			case addr == "":
			case !l.TLS || l.Pass || l.Proxy || l.Postscreen:
				plain = fmt.Sprintf("%s cannot be used: %s", l.ID(), orText(l.Reason, "a proxy or postscreen stands before it"))
			default:
				return &door{service: l.ID(), at: delivery.Submission{Address: addr, Implicit: l.Implicit}}, nil
			}
		}
	}
	return nil, refuse("submission_missing", problem.At{File: t.site.instance.MasterPath()},
		"there is no service with TLS on port 587 or 465 that a mail could be handed to%s: nothing was sent", prefixed("; ", plain))
}

func prefixed(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

// addressOn is where a service listens on a port: on loopback, if it does there.
func addressOn(l cf.Listener, port string) string {
	var on []string
	for _, addr := range l.Addresses {
		if host, p, err := net.SplitHostPort(addr); err == nil && p == port {
			if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
				return addr
			}
			on = append(on, addr)
		}
	}
	return slices.Concat(on, []string{""})[0]
}

// maxPassword is more than any password has, in bytes.
const maxPassword = 1 << 10

// password is read from a file, standard input or the terminal: an argument or the
// environment can be seen by others.
func (a *app) password(ctx context.Context, f sendTestFlags) ([]byte, error) {
	var in io.Reader
	switch f.passwordFile {
	case "-":
		in = a.stdin
	case "":
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, usagef("there is no terminal to ask for the password on; name a file: --password-file FILE")
		}
		defer tty.Close()
		shown, err := silence(tty)
		if err != nil {
			return nil, fmt.Errorf("asking for the password: %w", err)
		}
		defer shown()
		fmt.Fprintf(tty, "password of %s: ", f.user)
		defer fmt.Fprintln(tty)
		in = tty
	default:
		file, err := os.OpenFile(f.passwordFile, os.O_RDONLY|openNonblock, 0)
		if err != nil {
			return nil, refuse("input_unreadable", problem.At{File: f.passwordFile}, "the password cannot be read: %v", err)
		}
		defer file.Close()
		if fi, err := file.Stat(); err != nil || !fi.Mode().IsRegular() {
			return nil, refuse("input_not_regular", problem.At{File: f.passwordFile}, "%s is not a regular file", f.passwordFile)
		}
		in = file
	}
	line, err := firstLine(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	if len(line) == 0 || bytes.IndexByte(line, 0) >= 0 {
		return nil, usagef("the password is empty, or not text")
	}
	return line, nil
}

// firstLine reads a line, or ends with ctx: a person who is asked may press Ctrl-C.
func firstLine(ctx context.Context, in io.Reader) ([]byte, error) {
	type read struct {
		line []byte
		err  error
	}
	c := make(chan read, 1)
	go func() { // ends with its line, or with the process
		line, err := bufio.NewReader(io.LimitReader(in, maxPassword)).ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		c <- read{bytes.TrimRight(line, "\r\n"), err}
	}()
	select {
	case r := <-c:
		return r.line, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// silence keeps a terminal from showing what is typed (termios(3), ECHO), and
// returns what undoes it.
func silence(tty *os.File) (undo func(), err error) {
	var was syscall.Termios
	set := func(request uintptr, to *syscall.Termios) error {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, tty.Fd(), request, uintptr(unsafe.Pointer(to))); e != 0 {
			return e
		}
		return nil
	}
	if err := set(syscall.TCGETS, &was); err != nil {
		return nil, err
	}
	quiet := was
	quiet.Lflag &^= syscall.ECHO
	return func() { _ = set(syscall.TCSETS, &was) }, set(syscall.TCSETS, &quiet)
}

// submit hands the mail in at the door.
func (a *app) submit(ctx context.Context, t *trial) error {
	said, err := delivery.Submit(ctx, t.door.at, t.mail)
	t.out.Submission = &submissionJSON{Service: t.door.service, Address: t.door.at.Address, User: t.door.at.User, Submitted: said}
	at := problem.At{Service: t.door.service, Endpoint: t.door.at.Address}
	failed, ok := errors.AsType[*delivery.SubmitError](err)
	switch {
	case ok && failed.Step == delivery.TLS:
		return refuse("submission_no_tls", at, "%s: no TLS, so nothing was sent: %v", t.door.service, failed)
	case ok && failed.Step == delivery.Auth:
		return refuse("submission_auth", at, "%s does not let %s in: %v. No mail was sent", t.door.service, t.door.at.User, failed)
	case ok && failed.Reply != "":
		return refuse("submission_refused", at, "%s does not take the mail: %v", t.door.service, failed.Err)
	case err != nil:
		return fmt.Errorf("handing the mail to %s, %s: %w", t.door.service, t.door.at.Address, err)
	}
	how := ""
	if said.Mech != "" {
		how = fmt.Sprintf(", AUTH %s as %s", said.Mech, t.door.at.User)
	}
	a.text.printf("  handed in    to %s, %s, over %s with cipher %s%s\n", t.door.service, t.door.at.Address, said.Protocol, said.Cipher, how)
	return nil
}
