package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-acme/lego/v4/challenge"
	"github.com/go-acme/lego/v4/providers/dns"
)

// The first present starts a holder: the same program in a session of its own,
// with a listening socket that only its user can reach. It makes the provider and
// does what it is asked over the socket, one request after the other. When each
// record has been cleaned up it ends. When it is told to end (SIGTERM), or a
// record has waited for too long, it cleans up what is left and ends too.

// holdWord in place of an operation makes the program a holder.
const holdWord = "hold"

// request is one operation, a line of JSON on the socket; response is its answer.
type request struct {
	Op      string `json:"op"`
	FQDN    string `json:"fqdn"`
	KeyAuth string `json:"key_authorization"`
}

type response struct {
	Error string `json:"error,omitempty"`
}

// socket is where the holder for these options listens.
func (o options) socket(provider string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{provider, o.credentials}, o.resolvers...), "\x00")))
	return filepath.Join(o.runtime, provider+"-"+hex.EncodeToString(sum[:6])+".sock")
}

// ask has the holder do what r says. A clean-up without a holder is tried here:
// many providers can do without what the holder remembers.
func ask(ctx context.Context, o options, provider string, r request) error {
	if !known(provider) {
		return fmt.Errorf("lego has no provider %q; postcert-dns list names them", provider)
	}
	if err := privateDirectory(o.runtime); err != nil {
		return err
	}
	for try := 0; ; try++ {
		conn, err := dial(o, provider, r.Op == "present")
		if errors.Is(err, errNoHolder) {
			h, err := newHolder(o, provider)
			if err != nil {
				return err
			}
			return h.do(r)
		}
		if err != nil {
			return err
		}
		answered, err := converse(ctx, conn, r)
		if answered || try == 2 || ctx.Err() != nil {
			return err
		}
		// The holder was about to end; the next one will answer.
	}
}

var errNoHolder = errors.New("no process has made this record")

// converse sends r and waits for the answer. answered is false if none came.
func converse(ctx context.Context, conn net.Conn, r request) (answered bool, err error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return false, err
	}
	var got response
	if err := json.NewDecoder(conn).Decode(&got); err != nil {
		return false, fmt.Errorf("the process that does it has ended: %w", err)
	}
	if got.Error != "" {
		return true, errors.New(got.Error)
	}
	return true, nil
}

// dial connects to the holder, and starts it if there is none and start is set.
func dial(o options, provider string, start bool) (net.Conn, error) {
	unlock, err := lock(o.runtime)
	if err != nil {
		return nil, err
	}
	defer unlock()
	path := o.socket(provider)
	conn, err := net.Dial("unix", path)
	if err == nil {
		return conn, nil
	}
	if !start {
		return nil, errNoHolder
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := startHolder(o, provider, path); err != nil {
		return nil, err
	}
	return net.Dial("unix", path)
}

// startHolder listens first and hands the socket over, so that there is nothing to
// wait for.
func startHolder(o options, provider, path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"-runtime", o.runtime, "-hold", o.hold.String()}
	if o.credentials != "" {
		args = append(args, "-credentials", o.credentials)
	}
	for _, r := range o.resolvers {
		args = append(args, "-resolver", r)
	}
	cmd := exec.Command(self, append(args, provider, holdWord)...)
	cmd.Env = holderEnvironment
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{f}
	// A session of its own: whoever ends us does not end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// holderEnvironment is all that a holder is started with; tests add to it.
var holderEnvironment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}

// lock is held while a holder is looked for, started, or about to end.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// privateDirectory makes the directory, and refuses one in which others can put a
// socket.
func privateDirectory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && st.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s: not a directory of mode 0700 of the user that runs", path)
	}
	return nil
}

// holder is a provider and what it has made.
type holder struct {
	provider challenge.Provider
	made     map[request]time.Time // by FQDN and KeyAuth; since when
}

// newHolder makes the provider from the variables of the file.
func newHolder(o options, name string) (*holder, error) {
	if err := credentials(o.credentials); err != nil {
		return nil, err
	}
	if err := openDesk(o.resolvers); err != nil {
		return nil, err
	}
	p, err := dns.NewDNSChallengeProviderByName(name)
	if err != nil {
		return nil, err
	}
	return &holder{provider: p, made: map[request]time.Time{}}, nil
}

// do is one operation. The token is that by which some of lego's providers find
// again what they have made: it differs for each record.
func (h *holder) do(r request) error {
	domain, token := domainFor(r.FQDN), r.FQDN+" "+r.KeyAuth
	key := request{FQDN: r.FQDN, KeyAuth: r.KeyAuth}
	switch r.Op {
	case "present":
		h.made[key] = time.Now() // also if it fails: it may have been made
		return h.provider.Present(domain, token, r.KeyAuth)
	case "cleanup":
		delete(h.made, key)
		return h.provider.CleanUp(domain, token, r.KeyAuth)
	}
	return fmt.Errorf("unknown operation %q", r.Op)
}

// hold serves the socket that is file 3 until there is nothing left to clean up.
func hold(ctx context.Context, o options, name string) error {
	f := os.NewFile(3, "socket")
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("this is for postcert-dns itself: %w", err)
	}
	f.Close()
	requests := make(chan net.Conn)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			requests <- conn
		}
	}()
	h, broken := newHolder(o, name)
	deadline := time.NewTimer(o.hold)
	defer deadline.Stop()
	for {
		select {
		case conn := <-requests:
			h.serve(conn, broken)
		case <-ctx.Done():
			return h.end(o, name, l)
		case <-deadline.C:
			return h.end(o, name, l)
		}
		if broken != nil || len(h.made) == 0 {
			return h.end(o, name, l)
		}
	}
}

func (h *holder) serve(conn net.Conn, broken error) {
	defer conn.Close()
	var r request
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // a socket has deadlines
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return
	}
	err := broken
	if err == nil {
		err = h.do(r)
	}
	var answer response
	if err != nil {
		answer.Error = err.Error()
	}
	gone := json.NewEncoder(conn).Encode(answer) != nil
	if gone && broken == nil && r.Op == "present" {
		// Whoever asked was ended while the provider was slow, and may not have come
		// to ask for the clean-up. If it does, there is nothing left to do.
		r.Op = "cleanup"
		if err := h.do(r); err != nil {
			h.made[request{FQDN: r.FQDN, KeyAuth: r.KeyAuth}] = time.Now() // tried again at the end
		}
	}
}

// end takes the socket away and cleans up what is left. Who has connected and was
// not served starts another holder.
func (h *holder) end(o options, name string, l net.Listener) error {
	if unlock, err := lock(o.runtime); err == nil {
		_ = os.Remove(o.socket(name)) // nobody is harmed by one that stays
		l.Close()
		unlock()
	}
	if h == nil {
		return nil
	}
	var failures []error
	for r := range h.made {
		r.Op = "cleanup"
		failures = append(failures, h.do(r))
	}
	return errors.Join(failures...)
}
