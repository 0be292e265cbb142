package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"postcert/verify/delivery"
)

// lookIntoMailbox finds the mail where it was delivered on this host, and says what
// its Received headers tell about TLS, or why they cannot.
func (a *app) lookIntoMailbox(ctx context.Context, t *trial) {
	why := ""
	for _, d := range t.out.deliveries {
		if t.outcomeOf(d) != locally {
			continue
		}
		box, reason := t.mailboxOf(ctx, d)
		if reason == "" {
			var mail []byte
			if t.out.Mailbox, mail, reason = box.find(t.mail.ID(), t.begin); reason == "" {
				t.out.Received = delivery.ReceivedOf(mail)
				t.out.Clause = t.clause()
				a.sayMailbox(t)
				return
			}
		}
		why = reason
	}
	t.out.Clause = "the mailbox was not looked into: " + why
}

func (a *app) sayMailbox(t *trial) {
	a.text.printf("\n  mailbox   %s\n", t.out.Mailbox)
	for _, r := range t.out.Received {
		a.text.printf("%s\n", wrapped("  Received: ", "            ", r.Text))
	}
}

// clause says what the Received headers tell, or why they have no TLS in them.
func (t *trial) clause() string {
	for _, r := range t.out.Received {
		if r.Protocol != "" {
			return fmt.Sprintf("the header has it: with %s, %s with cipher %s, by %s", r.With, r.Protocol, r.Cipher, r.By)
		}
	}
	if t.door == nil {
		return "no TLS is in the header, and none can be: mail through the queue of this host did not come by SMTP. --via submission comes by SMTP"
	}
	get := func(name string) string { return t.snap.Effective(t.door.service, name) }
	switch {
	case t.snap.Parameters["smtpd_hide_client_session"] != "" && get("smtpd_hide_client_session") == "yes": // Postfix 3.10 and newer
		return fmt.Sprintf("no TLS is in the header, and none can be: smtpd_hide_client_session = yes for %s keeps it out; the mail came over %s all the same", t.door.service, t.out.Submission.Protocol)
	case get("smtpd_tls_received_header") != "yes":
		return fmt.Sprintf("no TLS is in the header, and none can be: smtpd_tls_received_header = %s for %s; the mail came over %s all the same", get("smtpd_tls_received_header"), t.door.service, t.out.Submission.Protocol)
	}
	return "no TLS is in the header, though smtpd_tls_received_header = yes: something on the way has taken it out"
}

// mailbox is a file (mbox) or a directory (Maildir).
type mailbox struct {
	path    string
	maildir bool
}

// mailboxOf is where local(8) or virtual(8) put a mail; reason says why that is not
// known.
func (t *trial) mailboxOf(ctx context.Context, d *delivery.Delivery) (box mailbox, reason string) {
	if file, ok := strings.CutPrefix(d.Text, "delivered to file: "); ok { // aliases(5), .forward
		return boxAt(file), ""
	}
	if d.Text != "delivered to mailbox" && d.Text != "delivered to maildir" {
		return box, fmt.Sprintf("%s says %q", d.Agent, d.Text)
	}
	get := func(name string) string { return t.snap.Effective(d.Agent+"/unix", name) }
	if d.Agent == "virtual" {
		for _, m := range mapsOf(get("virtual_mailbox_maps")) {
			if value, found, err := t.site.instance.Lookup(ctx, m.name(), d.Recipient); err == nil && found {
				return boxAt(get("virtual_mailbox_base") + "/" + value), ""
			}
		}
		return box, "virtual_mailbox_maps have " + d.Recipient + " under another key"
	}
	name, _, _ := strings.Cut(d.Recipient, "@")
	if n := strings.IndexAny(name, get("recipient_delimiter")); n > 0 { // postconf(5): a set of characters
		name = name[:n]
	}
	u, err := user.Lookup(strings.ToLower(name))
	if err != nil {
		return box, err.Error()
	}
	if home := get("home_mailbox"); home != "" {
		return boxAt(u.HomeDir + "/" + home), ""
	}
	if spool := get("mail_spool_directory"); strings.HasSuffix(spool, "/") {
		return boxAt(spool + u.Username + "/"), ""
	} else {
		return boxAt(spool + "/" + u.Username), ""
	}
}

// boxAt is a Maildir if its path ends with a slash (postconf(5) home_mailbox).
func boxAt(path string) mailbox {
	return mailbox{filepath.Clean(path), strings.HasSuffix(path, "/")}
}

const (
	mboxTail = 4 << 20  // bytes at the end of an mbox that are looked at
	headMax  = 64 << 10 // bytes of a mail
	newest   = 200      // mails of a Maildir
)

// find looks for the mail among the latest ones.
func (b mailbox) find(id string, since time.Time) (file string, mail []byte, reason string) {
	if !b.maildir {
		data, err := readEnd(b.path, mboxTail)
		if err != nil {
			return "", nil, err.Error()
		}
		// A line "From " begins each mail, after an empty one (mbox(5)).
		for _, mail := range slices.Backward(bytes.Split(append([]byte("\n"), data...), []byte("\nFrom "))) {
			if _, mail, _ = bytes.Cut(mail, []byte("\n")); delivery.HasID(mail, id) {
				return b.path, mail, ""
			}
		}
		return "", nil, b.path + " does not have the mail any more"
	}
	for _, path := range b.latest(since) {
		if mail, err := readEnd(path, headMax); err == nil && delivery.HasID(mail, id) {
			return path, mail, ""
		}
	}
	return "", nil, b.path + " does not have the mail any more, or cannot be read"
}

// latest are the mails of a Maildir since a time, the newest first.
func (b mailbox) latest(since time.Time) []string {
	type dated struct {
		path string
		at   time.Time
	}
	var all []dated
	for _, sub := range []string{"new", "cur"} {
		entries, _ := os.ReadDir(filepath.Join(b.path, sub))
		for _, e := range entries {
			if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() && !fi.ModTime().Before(since.Add(-time.Minute)) {
				all = append(all, dated{filepath.Join(b.path, sub, e.Name()), fi.ModTime()})
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].at.After(all[j].at) })
	var out []string
	for _, d := range all[:min(len(all), newest)] {
		out = append(out, d.path)
	}
	return out
}

// readEnd reads the last bytes of a regular file that is no link: what is in a home
// directory is a user's, and may be anything.
func readEnd(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	from := max(0, fi.Size()-most)
	return io.ReadAll(io.NewSectionReader(f, from, most))
}
