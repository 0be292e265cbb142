// Command impostor answers TLS on an address where Postfix listens already, with
// a certificate of its own choice.
//
// It stages what no file shows: the certificate is installed, Postfix has
// reloaded, every check passes, and clients still see another one, because
// somebody else answers. A load balancer, a container's port mapping or a
// forgotten daemon does that in the world. The proof by handshakes must notice
// it, and must see the right certificate again once the impostor has gone.
//
// It can share Postfix's port because Postfix 3.7 and later set SO_REUSEPORT on
// their listeners: Linux then lets another socket of the same user bind an
// address that overlaps, and gives each connection to the socket whose address
// fits best. So while Postfix listens on the wildcard address, an impostor on
// 127.0.0.1 gets all that is dialled to 127.0.0.1. Where both bind the very same
// address they share the connections by chance. Postfix before 3.7 does not
// share; start the impostor before it.
//
//	impostor -listen 127.0.0.1:25 -pem other.pem -for 30s
//
// The PEM file holds the private key and the chain, leaf first. One line on
// standard output says that it listens. It ends after the time of -for, on
// SIGTERM and on SIGINT, with status 0.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// soReusePort is SO_REUSEPORT of Linux (asm-generic/socket.h); package syscall
// was frozen before it had the name.
const soReusePort = 15

// idle is how long one client may say nothing.
const idle = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "impostor:", err)
		}
		os.Exit(1)
	}
}

// run is main with its surroundings as arguments.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("impostor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	address := flags.String("listen", "", "`address:port` to answer at")
	file := flags.String("pem", "", "`file` with the private key and the chain")
	implicit := flags.Bool("implicit", false, "TLS from the first byte (port 465) instead of STARTTLS")
	limit := flags.Duration("for", time.Minute, "how long to stay, as a `duration`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *address == "" || *file == "" || flags.NArg() > 0 || *limit <= 0 {
		flags.Usage()
		return errors.New("-listen and -pem are needed, and -for must be positive")
	}
	pem, err := os.ReadFile(*file)
	if err != nil {
		return fmt.Errorf("reading the certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(pem, pem)
	if err != nil {
		return fmt.Errorf("reading %s: %w", *file, err)
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	listener, err := listen(ctx, *address)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "listening on", listener.Addr())
	serve(ctx, listener, server{&tls.Config{Certificates: []tls.Certificate{pair}}, *implicit})
	return nil
}

// listen binds address beside whoever has it, if they allow it.
func listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1))
		})
		return errors.Join(err, failed)
	}}
	return config.Listen(ctx, "tcp", address)
}

// serve answers until ctx ends; then it closes what is open and returns.
func serve(ctx context.Context, listener net.Listener, s server) {
	var clients sync.WaitGroup
	defer clients.Wait()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil { // out of descriptors, or the client has gone
			time.Sleep(10 * time.Millisecond)
			continue
		}
		clients.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			s.answer(conn)
		})
	}
}

// server is how each client is answered.
type server struct {
	tls      *tls.Config
	implicit bool
}

// answer speaks as much SMTP (RFC 5321, RFC 3207) as a client needs to shake
// hands and leave. It accepts no mail. Errors end the conversation; nobody is
// told, since the client notices.
func (s server) answer(conn net.Conn) {
	secure := s.implicit
	if secure {
		conn = tls.Server(conn, s.tls)
	}
	lines := bufio.NewReaderSize(conn, 1024) // RFC 5321 section 4.5.3.1.4: 512
	say := func(text string) bool {
		conn.SetDeadline(time.Now().Add(idle))
		_, err := io.WriteString(conn, text+"\r\n")
		return err == nil
	}
	if !say("220 impostor.invalid ESMTP") {
		return
	}
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		reply := "502 5.5.1 not here"
		switch verb = strings.ToUpper(verb); {
		case verb == "EHLO" && !secure:
			reply = "250-impostor.invalid\r\n250 STARTTLS"
		case verb == "EHLO" || verb == "HELO":
			reply = "250 impostor.invalid"
		case verb == "NOOP" || verb == "RSET":
			reply = "250 2.0.0 Ok"
		case verb == "QUIT":
			say("221 2.0.0 Bye")
			return
		case verb == "STARTTLS" && !secure:
			if !say("220 2.0.0 Ready to start TLS") {
				return
			}
			conn, secure = tls.Server(conn, s.tls), true
			lines.Reset(conn) // RFC 3207 section 4.2: what came before is forgotten
			continue
		}
		if !say(reply) {
			return
		}
	}
}
