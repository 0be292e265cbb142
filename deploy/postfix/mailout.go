package postfix

import "context"

// MailOut is how a program on this host speaks through an instance: to its
// postmaster, and to its log.
type MailOut struct {
	SendmailPath string // sendmail(1) of Postfix
	MaillogFile  string // where the log is; "" is syslog
	Hostname     string // myhostname
}

// MailOut asks the instance.
func (i Instance) MailOut(ctx context.Context) (MailOut, error) {
	v, err := i.values(ctx, "sendmail_path", "maillog_file", "myhostname")
	return MailOut{SendmailPath: v["sendmail_path"], MaillogFile: v["maillog_file"], Hostname: v["myhostname"]}, err
}
