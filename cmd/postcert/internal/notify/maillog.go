package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/program"
)

// Postfix is what is needed of an instance to tell by it. Each value that is
// unknown, because Postfix cannot read its own configuration, is "".
type Postfix struct {
	ConfigDirectory  string
	CommandDirectory string // of postlog(1)
	SendmailPath     string // sendmail(1)
	MaillogFile      string // maillog_file; "" is syslog
	Hostname         string // myhostname
}

// MailLog writes to the log in which Postfix's own lines are, at error priority.
// That is syslog's facility "mail", unless Postfix has a log file of its own
// (maillog_file): then its postlog(1) writes there. If one cannot be reached the
// other one is tried, because a line in the wrong log is better than none.
type MailLog struct {
	Postfix func() Postfix // asked when there is something to say
	Socket  string         // "" is /dev/log
}

func (MailLog) ID() string        { return "maillog" }
func (MailLog) Wants(string) bool { return true }
func (MailLog) unlimited()        {}

// Send writes a line for each item.
func (m MailLog) Send(ctx context.Context, n Notice) error {
	ways := []func(context.Context, Item) error{m.syslog, m.postlog}
	if m.Postfix().MaillogFile != "" {
		ways = []func(context.Context, Item) error{m.postlog, m.syslog}
	}
	var all []error
	for _, i := range n.Items {
		err := ways[0](ctx, i)
		if err != nil {
			if second := ways[1](ctx, i); second != nil {
				all = append(all, fmt.Errorf("the mail log: %w; %w", err, second))
			}
		}
	}
	return errors.Join(all...)
}

// tag is what our lines begin with.
const tag = "postcert"

// facilityMail is the number of syslog's facility "mail" (RFC 5424, 6.2.1).
const facilityMail = 2

// severity is the number of an item's severity (RFC 5424, 6.2.1).
func severity(i Item) int {
	const severityError, severityInfo = 3, 6
	if i.Phase == Ends {
		return severityInfo
	}
	return severityError
}

// logWait is how long a log daemon is waited for: one that hangs must not hang us.
const logWait = 2 * time.Second

// syslog sends one message as syslog(3) does, or where it would come to journald,
// as that wants it.
func (m MailLog) syslog(ctx context.Context, i Item) error {
	path := m.Socket
	if path == "" {
		path = "/dev/log"
	}
	if native := journalSocket(path); native != "" && m.journal(ctx, native, i) == nil {
		return nil
	}
	priority := facilityMail<<3 | severity(i)
	var last error
	for _, network := range []string{"unixgram", "unix"} {
		d := net.Dialer{Timeout: logWait}
		c, err := d.DialContext(ctx, network, path)
		if err != nil {
			last = err
			continue
		}
		defer c.Close()
		_ = c.SetWriteDeadline(time.Now().Add(logWait))
		_, err = fmt.Fprintf(c, "<%d>%s %s[%d]: %s\n", priority, time.Now().Format(time.Stamp), tag, os.Getpid(), severityWord(i)+i.Line())
		return err
	}
	return last
}

// postlog(1) takes the words on its standard input: a command line can be seen by
// others, and a text that begins with "-" would be an option.
func (m MailLog) postlog(ctx context.Context, i Item) error {
	p := m.Postfix()
	dir := p.CommandDirectory
	if dir == "" {
		dir = "/usr/sbin"
	}
	priority := "error"
	if i.Phase == Ends {
		priority = "info"
	}
	args := []string{"-p", priority, "-t", tag}
	if p.ConfigDirectory != "" {
		args = append([]string{"-c", p.ConfigDirectory}, args...)
	}
	_, err := program.Run(ctx, program.Command{
		Path: filepath.Join(dir, "postlog"), Args: args, Stdin: strings.NewReader(i.Line() + "\n"), Timeout: 5 * time.Second,
	})
	return err
}

// severityWord is what Postfix writes before an error, and postlog for us.
func severityWord(i Item) string {
	if i.Phase == Ends {
		return ""
	}
	return "error: "
}
