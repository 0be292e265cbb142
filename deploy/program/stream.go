package program

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// stream is one of a program's outputs, a pipe, on its way to a writer.
type stream struct {
	from *os.File
	to   io.Writer
	done chan struct{} // closed when nobody copies any more
}

// newStream returns the end to be written to, too.
func newStream(to io.Writer) (*stream, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &stream{from: r, to: to, done: make(chan struct{})}, w, nil
}

// copy copies until the pipe is closed by all who can write to it, or end is
// called.
func (s *stream) copy() {
	defer close(s.done)
	_, _ = io.Copy(s.to, s.from) // the writer takes everything; end reads the rest
}

// end copies what is in the pipe now and closes it.
func (s *stream) end() error {
	defer s.from.Close()
	// The copier stops at once, perhaps before it has read everything.
	if err := s.from.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	<-s.done
	raw, err := s.from.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	// What a process in the background writes without end does not keep us.
	const most = 1 << 20
	for total := 0; total < most; {
		var n int
		var rerr error
		// Control, not Read, which would heed the deadline.
		err := raw.Control(func(fd uintptr) { n, rerr = syscall.Read(int(fd), buf) })
		switch {
		case err != nil:
			return err
		case errors.Is(rerr, syscall.EINTR):
			continue
		case rerr != nil || n <= 0: // EAGAIN: nothing is left
			return nil
		}
		total += n
		_, _ = s.to.Write(buf[:n])
	}
	return nil
}
