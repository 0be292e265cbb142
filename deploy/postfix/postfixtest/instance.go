package postfixtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postcert/deploy/program"
)

// Options say how a test's instance differs from a freshly installed Debian
// one with submission and submissions enabled.
type Options struct {
	Cert    string   // file with key and chain; "" leaves TLS off
	Chroot  bool     // chroot "y" for the services that Debian runs so
	MaxUse  int      // max_use; 1 gives every connection a new smtpd; 0 is Postfix's default
	Main    []string // lines added to main.cf
	Master  []string // lines added to master.cf
	SMTPD   []string // lines for port 25 in place of "smtp inet n - C - - smtpd"; C is y or n
	Only25  bool     // without submission and submissions
	Name    string   // multi_instance_name; "" is none
	Address string   // inet_interfaces; "" is loopback-only. Two instances at once need two: 127.0.0.1 and SecondAddress.
	Files   []string // files of /etc/postfix to copy too, such as postfix-files
}

// Instance is a private Postfix. Its directories lie below Dir and vanish with
// the test; its master runs between Start and Stop.
type Instance struct {
	Dir       string // a short path, so that sockets below it fit in 108 bytes
	ConfigDir string // config_directory
	QueueDir  string // queue_directory
	DataDir   string // data_directory
	LogFile   string // maillog_file

	t testing.TB
}

// baseMain is what every instance has. The biff and rewrite settings are
// Debian's. DNS is off because there is none in the namespace.
const baseMain = `smtpd_banner = $myhostname ESMTP $mail_name
biff = no
append_dot_mydomain = no
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/log/mail.log
maillog_file_prefixes = /run, /tmp, /var
myhostname = mail.example.test
mydestination = $myhostname, localhost
mynetworks = 127.0.0.0/8 [::1]/128
inet_interfaces = %[2]s
inet_protocols = all
alias_maps =
alias_database =
disable_dns_lookups = yes
smtpd_peername_lookup = no
local_transport = discard:
default_transport = discard:
`

const tlsMain = `smtpd_tls_cert_file = %s
smtpd_tls_key_file = $smtpd_tls_cert_file
smtpd_tls_security_level = may
smtpd_tls_loglevel = 1
`

// baseMaster is Debian's master.cf; CH stands for the chroot column.
const baseMaster = `submission inet n       -       CH       -       -       smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o smtpd_tls_auth_only=yes
submissions     inet  n       -       CH       -       -       smtpd
  -o syslog_name=postfix/submissions
  -o smtpd_tls_wrappermode=yes
`

const restMaster = `pickup    unix  n       -       CH       60      1       pickup
cleanup   unix  n       -       CH       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       CH       1000?   1       tlsmgr
rewrite   unix  -       -       CH       -       -       trivial-rewrite
bounce    unix  -       -       CH       -       0       bounce
defer     unix  -       -       CH       -       0       bounce
trace     unix  -       -       CH       -       0       bounce
verify    unix  -       -       CH       -       1       verify
flush     unix  n       -       CH       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       CH       -       -       smtp
relay     unix  -       -       CH       -       -       smtp
        -o syslog_name=postfix/$service_name
showq     unix  n       -       CH       -       -       showq
error     unix  -       -       CH       -       -       error
retry     unix  -       -       CH       -       -       error
discard   unix  -       -       CH       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       CH       -       -       lmtp
anvil     unix  -       -       CH       -       1       anvil
scache    unix  -       -       CH       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
`

// New makes the directories and files of an instance. It does not start it.
// The test is skipped, or with CI failed, where Main could not isolate it.
func New(t testing.TB, o Options) *Instance {
	t.Helper()
	Need(t, "postfix", "postconf", "openssl")
	if !Isolated() {
		lacking(t, "no namespaces: call postfixtest.Main from TestMain, as root")
	}
	dir, err := os.MkdirTemp("/run", "pf")
	if err != nil {
		t.Fatal(err)
	}
	i := &Instance{Dir: dir, ConfigDir: dir + "/etc", QueueDir: dir + "/queue", DataDir: dir + "/data", LogFile: dir + "/log/mail.log", t: t}
	t.Cleanup(func() {
		i.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(os.Chmod(dir, 0o755), i.makeDirs(), i.makeConfig(o)); err != nil {
		t.Fatal(err)
	}
	if o.Chroot {
		i.fillChroot()
	}
	return i
}

func (i *Instance) makeDirs() error {
	owner, err := owners()
	if err != nil {
		return err
	}
	type dir struct {
		name     string
		uid, gid int
		mode     uint32
	}
	p, d := owner.uid, owner.gid
	dirs := []dir{
		{"etc", 0, 0, 0o755}, {"log", 0, 0, 0o755}, {"data", p, 0, 0o700}, {"queue", 0, 0, 0o755},
		{"queue/pid", 0, 0, 0o755}, {"queue/private", p, 0, 0o700},
		{"queue/public", p, d, 0o2710}, {"queue/maildrop", p, d, 0o1730},
	}
	for _, n := range strings.Fields("incoming active bounce corrupt defer deferred flush hold saved trace") {
		dirs = append(dirs, dir{"queue/" + n, p, 0, 0o700})
	}
	for _, d := range dirs {
		path := filepath.Join(i.Dir, d.name)
		// chmod(2) after chown(2), which clears the set-gid bit.
		err := errors.Join(os.Mkdir(path, 0o700), os.Chown(path, d.uid, d.gid), syscall.Chmod(path, d.mode))
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *Instance) makeConfig(o Options) error {
	chroot, address := "n", o.Address
	if o.Chroot {
		chroot = "y"
	}
	if address == "" {
		address = "loopback-only"
	}
	main := fmt.Sprintf(baseMain, i.Dir, address)
	// A parameter that is set twice is a warning of each process, in the log. A
	// postlogd(8) that starts while its socket is full of them writes its own
	// there, too, and waits for itself for ever, and all others for it.
	if slices.ContainsFunc(o.Main, func(line string) bool { return strings.HasPrefix(line, "inet_protocols =") }) {
		main = strings.Replace(main, "inet_protocols = all\n", "", 1)
	}
	if o.Cert != "" {
		main += fmt.Sprintf(tlsMain, o.Cert)
	}
	if o.MaxUse > 0 {
		main += fmt.Sprintf("max_use = %d\n", o.MaxUse)
	}
	if o.Name != "" {
		main += "multi_instance_name = " + o.Name + "\nmulti_instance_enable = yes\n"
	}
	main += lines(o.Main)
	master := "smtp      inet  n       -       CH       -       -       smtpd\n"
	if o.SMTPD != nil {
		master = lines(o.SMTPD)
	}
	if !o.Only25 {
		master += baseMaster
	}
	master = strings.ReplaceAll(master+restMaster, "CH", chroot) + lines(o.Master)
	for _, name := range o.Files {
		data, err := os.ReadFile(filepath.Join("/etc/postfix", name))
		if err != nil {
			return err
		}
		fi, err := os.Stat(filepath.Join("/etc/postfix", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(i.ConfigDir, name), data, fi.Mode().Perm()); err != nil {
			return err
		}
	}
	return errors.Join(i.write("main.cf", []byte(main)), i.write("master.cf", []byte(master)))
}

// fillChroot copies what Debian's start script copies into the queue
// directory. A file that the host lacks is not needed.
func (i *Instance) fillChroot() {
	i.t.Helper()
	if err := os.Mkdir(i.QueueDir+"/etc", 0o755); err != nil {
		i.t.Fatal(err)
	}
	for _, name := range []string{"hosts", "services", "resolv.conf", "nsswitch.conf", "localtime"} {
		data, err := os.ReadFile("/etc/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := errors.Join(err, os.WriteFile(i.QueueDir+"/etc/"+name, data, 0o644)); err != nil {
			i.t.Fatal(err)
		}
	}
}

// Start starts the instance's master and returns when it listens.
func (i *Instance) Start() {
	i.t.Helper()
	if err := i.TryStart(); err != nil {
		i.t.Fatalf("%v\n%s", err, i.Log())
	}
}

// TryStart is Start for a configuration that may not start.
func (i *Instance) TryStart() error {
	daemons, err := daemonDirectory()
	if err != nil {
		return err
	}
	_, err = program.Run(context.Background(), program.Command{Path: filepath.Join(daemons, "master"), Args: []string{"-c", i.ConfigDir, "-w"}})
	return err
}

// Stop ends the instance's processes. It does nothing if none run.
func (i *Instance) Stop() {
	i.t.Helper()
	pid := i.MasterPID()
	if pid == 0 {
		return
	}
	// master(8): SIGTERM ends the master, which passes it on to its process
	// group. It does not wait for them, but the next Start must: a child that
	// still ends holds sockets and locks.
	_ = syscall.Kill(pid, syscall.SIGTERM)
	if waitGone(pid, 5*time.Second) {
		return
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	if !waitGone(pid, 5*time.Second) {
		i.t.Errorf("master %d or its children do not end", pid)
	}
}

// waitGone waits until nothing is left of the process group pgid.
func waitGone(pgid int, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if syscall.Kill(-pgid, 0) == syscall.ESRCH {
			return true
		}
	}
	return false
}

// MasterPID is the process id of the running master, or 0.
func (i *Instance) MasterPID() int {
	data, err := os.ReadFile(i.QueueDir + "/pid/master.pid")
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(comm)) != "master" {
		return 0
	}
	return pid
}

// Log is all that the instance has logged.
func (i *Instance) Log() string {
	data, err := os.ReadFile(i.LogFile)
	if err != nil {
		return ""
	}
	return string(data)
}

// WaitLog waits until the log contains text, and fails the test after 5 s.
func (i *Instance) WaitLog(text string) {
	i.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(i.Log(), text) {
			return
		}
	}
	i.t.Fatalf("log has no %q:\n%s", text, i.Log())
}

var daemonDirectory = sync.OnceValues(func() (string, error) {
	r, err := program.Run(context.Background(), program.Command{Path: find("postconf"), Args: []string{"-dh", "daemon_directory"}})
	return strings.TrimSpace(string(r.Stdout)), err
})

type ids struct{ uid, gid int }

var owners = sync.OnceValues(func() (ids, error) {
	u, err := user.Lookup("postfix")
	if err != nil {
		return ids{}, err
	}
	g, err := user.LookupGroup("postdrop")
	if err != nil {
		return ids{}, err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(g.Gid)
	return ids{uid, gid}, errors.Join(err1, err2)
})

func lines(l []string) string {
	if len(l) == 0 {
		return ""
	}
	return strings.Join(l, "\n") + "\n"
}
