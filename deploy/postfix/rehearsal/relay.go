package rehearsal

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// relay stands before a postscreen(8) on a UNIX-domain socket. It tells it, by
// the PROXY protocol version 1, that the client has an address on the Internet
// (one of RFC 5737's for documentation), and passes on all the rest.
type relay struct {
	path string
	l    *net.UnixListener
	wg   sync.WaitGroup
	last atomic.Uint32

	mu    sync.Mutex
	conns map[net.Conn]bool
	over  bool
}

func introduce(path, to string) (*relay, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	r := &relay{path: path, l: l, conns: map[net.Conn]bool{}}
	r.wg.Go(func() {
		for {
			client, err := l.AcceptUnix()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.pass(client, to) })
		}
	})
	return r, nil
}

func (r *relay) pass(client *net.UnixConn, to string) {
	defer r.forget(client)
	server, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: to, Net: "unix"})
	if err != nil {
		return
	}
	defer r.forget(server)
	if !r.remember(client, server) {
		return
	}
	// Each client has an address of its own, since postscreen remembers them.
	n := r.last.Add(1)%253 + 2
	if _, err := fmt.Fprintf(server, "PROXY TCP4 192.0.2.%d 192.0.2.1 %d 25\r\n", n, 1024+n); err != nil {
		return
	}
	r.wg.Go(func() {
		_, _ = io.Copy(server, client) // its end is all that matters
		_ = server.CloseWrite()
	})
	_, _ = io.Copy(client, server)
}

// remember tells whether the relay is still at work.
func (r *relay) remember(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.conns[c] = true
	}
	return !r.over
}

func (r *relay) forget(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

func (r *relay) close() error {
	err := r.l.Close()
	r.mu.Lock()
	r.over = true
	for c := range r.conns {
		_ = c.Close() // it may be closed already
	}
	r.mu.Unlock()
	r.wg.Wait()
	return err
}
