package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"time"
)

// mailLog follows the log of Postfix while the sessions run: when the master was
// told to reload, and what became of each mail. The zero value follows nothing.
type mailLog struct {
	path string   // "" follows nothing
	file *os.File // of the goroutine that follows
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	reloads []time.Time
	sent    map[string]int // by queue id
	other   map[string]int // by queue id: delivery attempts with another status
	lost    []string       // set by settle: accepted and not sent
	warned  map[string]int // warnings and worse, without what changes from line to line
	err     error
}

var (
	// "postfix/master[71]: reload -- version 3.7.11, configuration /etc/postfix"
	reloadLine = regexp.MustCompile(`master\[\d+\]: reload -- version `)
	// "postfix/discard[80]: 4XyZ: to=<a@b>, relay=none, ..., status=sent (discarded)"
	deliveryLine = regexp.MustCompile(`\]: ([0-9A-Za-z]+): to=<.*, status=([a-z]+) `)
	// "postfix/smtpd[80]: warning: ..."
	warningLine = regexp.MustCompile(`\[\d+\]: (?:warning|error|fatal|panic): .*`)
	numbers     = regexp.MustCompile(`\d+`)
)

// openMailLog begins to follow a log at its present end.
func openMailLog(path string) (*mailLog, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		file.Close()
		return nil, err
	}
	l := &mailLog{
		path: path, file: file, stop: make(chan struct{}), done: make(chan struct{}),
		sent: map[string]int{}, other: map[string]int{}, warned: map[string]int{},
	}
	go l.follow()
	return l, nil
}

// lookEvery is how often the log is looked at, and so how exactly the time of a
// reload is known.
const lookEvery = 10 * time.Millisecond

func (l *mailLog) follow() {
	defer close(l.done)
	var rest []byte
	buf := make([]byte, 1<<16)
	for {
		n, err := l.file.Read(buf)
		rest = append(rest, buf[:n]...)
		for {
			line, after, found := bytes.Cut(rest, []byte("\n"))
			if !found {
				break
			}
			l.read(line)
			rest = after
		}
		if n > 0 {
			continue
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = l.rotated()
		}
		if err != nil {
			l.mu.Lock()
			l.err = fmt.Errorf("following %s: %w", l.path, err)
			l.mu.Unlock()
			return
		}
		select {
		case <-l.stop:
			return
		case <-time.After(lookEvery):
		}
	}
}

// rotated goes on with another file if the log's name belongs to one now.
func (l *mailLog) rotated() error {
	now, err := os.Stat(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // for a moment
	}
	was, err2 := l.file.Stat()
	if err := errors.Join(err, err2); err != nil || os.SameFile(now, was) {
		return err
	}
	file, err := os.Open(l.path)
	if err != nil {
		return err
	}
	l.file.Close()
	l.file = file
	return nil
}

func (l *mailLog) read(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := deliveryLine.FindSubmatch(line); m != nil {
		if string(m[2]) == "sent" {
			l.sent[string(m[1])]++
		} else {
			l.other[string(m[1])]++
		}
		return
	}
	if reloadLine.Match(line) {
		l.reloads = append(l.reloads, time.Now())
		return
	}
	if m := warningLine.Find(line); m != nil {
		l.warned[string(numbers.ReplaceAll(m, []byte("N")))]++
	}
}

// settle waits until each accepted mail is in the log as sent, and after patience
// keeps those that are not. Postfix uses a queue id again once its message is gone, so they
// are counted.
func (l *mailLog) settle(accepted []string, patience time.Duration) {
	if l.path == "" {
		return
	}
	for end := time.Now().Add(patience); ; time.Sleep(lookEvery) {
		l.mu.Lock()
		count := map[string]int{}
		l.lost = nil
		for _, id := range accepted {
			if count[id]++; count[id] > l.sent[id] {
				l.lost = append(l.lost, id)
			}
		}
		over := len(l.lost) == 0 || l.err != nil || time.Now().After(end)
		l.mu.Unlock()
		if over {
			return
		}
	}
}

func (l *mailLog) close() {
	close(l.stop)
	<-l.done
	l.file.Close()
}
