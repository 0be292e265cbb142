package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"postcert/verify/probe"
)

// headerFirst makes a UNIX socket in a directory of root's own, at which one client
// is passed on to a listener, after a header of the PROXY protocol, which openssl(1)
// cannot send (postconf(5), smtpd_upstream_proxy_protocol). It is not in the runtime
// directory because the path of a socket may have 107 bytes only. end takes all of it
// away, and returns when nothing is left of it.
func headerFirst(ctx context.Context, address string) (path string, end func(), err error) {
	dir, err := os.MkdirTemp("", "postcert-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		client, err := l.Accept()
		if err != nil {
			return // end was called
		}
		defer client.Close()
		_ = passOn(ctx, client, address) // openssl says what it sees of it
	}()
	return path, func() {
		cancel()
		_ = l.Close()
		<-done
		_ = os.RemoveAll(dir)
	}, nil
}

// passOn carries a session between a client and a listener until one of them ends
// it, or ctx does.
func passOn(ctx context.Context, client net.Conn, address string) error {
	d := net.Dialer{Timeout: clientTime}
	server, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", address, err)
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
	defer stop()
	if _, err := io.WriteString(server, probe.ProxyLocal); err != nil {
		return err
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	_, err = io.Copy(server, client)
	_ = server.Close()
	<-back
	return err
}
