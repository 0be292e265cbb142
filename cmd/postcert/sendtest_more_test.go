package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"postcert/deploy/postfix/postfixtest"
)

// Mailboxes of virtual(8), a Maildir and a file, named by the address; and one that
// the maps have for a whole domain, where the mail is not looked for.
func TestSendTestVirtual(t *testing.T) {
	const nobody = 65534
	h := newHost(t, postfixtest.Options{Only25: true})
	base := filepath.Join(h.pf.Dir, "vmail")
	if err := os.Mkdir(base, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(base, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	h.pf.AppendMain("virtual_mailbox_domains = box.example", "virtual_mailbox_base = "+base,
		"virtual_mailbox_maps = inline:{none@box.example=none} inline:{dir@box.example=dir/ file@box.example=file @box.example=all/}",
		fmt.Sprintf("virtual_uid_maps = static:%d", nobody), fmt.Sprintf("virtual_gid_maps = static:%d", nobody))
	h.pf.Reload()
	for to, want := range map[string]string{"dir@box.example": base + "/dir/new/", "file@box.example": base + "/file"} {
		j := h.sendTest(0, "delivered_locally", "--to", to)
		mail, err := os.ReadFile(j.Mailbox)
		if !strings.HasPrefix(j.Mailbox, want) || err != nil || !strings.Contains(string(mail), "\nMessage-ID: "+j.MessageID+"\n") {
			t.Errorf("%s: %q, %v: %s", to, j.Mailbox, err, mail)
		}
		if len(j.Received) != 1 || j.Received[0].QueueID != j.QueueIDs[0] || !strings.Contains(j.Clause, "through the queue") {
			t.Errorf("%s: %+v", to, j)
		}
	}
	if j := h.sendTest(0, "delivered_locally", "--to", "anybody@box.example"); j.Mailbox != "" || !strings.Contains(j.Clause, "under another key") {
		t.Errorf("%+v", j)
	}
}

// terminal is a pseudoterminal (pty(7)): what a person sees and types, and what the
// program has.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	var unlocked, n int32
	ioctl(t, person, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked))
	ioctl(t, person, syscall.TIOCGPTN, unsafe.Pointer(&n))
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func ioctl(t *testing.T, f *os.File, request uintptr, arg unsafe.Pointer) {
	t.Helper()
	raw, err := f.SyscallConn() // Fd would make its reads wait for ever
	if err != nil {
		t.Fatal(err)
	}
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { _, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg)) }); err != nil || errno != 0 {
		t.Fatalf("ioctl %#x: %v %v", request, err, errno)
	}
}

// echoes tells whether a terminal shows what is typed.
func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	var now syscall.Termios
	ioctl(t, f, syscall.TCGETS, unsafe.Pointer(&now))
	return now.Lflag&syscall.ECHO != 0
}

// The password is asked for on the terminal, which does not show it and is as before
// afterwards: when it was right, when it was wrong, and when the person went away.
func TestSendTestAsks(t *testing.T) {
	h, _ := submissionHost(t)
	h.mailboxes()
	for _, tt := range []struct {
		name, typed string
		status      int
		says        string
	}{
		{"right", rightPassword + "\n", 0, "AUTH PLAIN as someone"},
		{"wrong", "wrong-horse-9Z\n", 3, "submission_auth"},
		{"Ctrl-C", "half\x03", 130, ""},
		{"Ctrl-D", "\x04", 2, "the password is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			person, program := terminal(t)
			if !echoes(t, program) {
				t.Fatal("a new terminal does not echo")
			}
			cmd := h.command("send-test", "--to", "daemon@"+hostName, "--via", "submission", "--user", "someone")
			var out bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = program, &out, &out
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			limit := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
			defer limit.Stop()
			seen := asked(t, person, "password of someone: ")
			if echoes(t, program) {
				t.Error("the terminal shows what is typed")
			}
			if _, err := person.WriteString(tt.typed); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the status is in ProcessState
			if got := cmd.ProcessState.ExitCode(); got != tt.status || !strings.Contains(out.String(), tt.says) {
				t.Errorf("exit status %d, want %d, and %q:\n%s", got, tt.status, tt.says, &out)
			}
			if !echoes(t, program) {
				t.Error("the terminal does not show any more what is typed")
			}
			seen += shown(t, person, program)
			if typed := strings.TrimRight(tt.typed, "\n\x03\x04"); typed != "" && strings.Contains(seen+out.String(), typed) {
				t.Errorf("the password is shown: %q", seen)
			}
		})
	}
}

// asked reads the terminal until it shows a text.
func asked(t *testing.T, person *os.File, text string) (seen string) {
	t.Helper()
	if err := person.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	for !strings.Contains(seen, text) {
		n, err := person.Read(buf)
		if seen += string(buf[:n]); err != nil {
			t.Fatalf("the terminal shows %q: %v", seen, err)
		}
	}
	return seen
}

// shown is what the terminal shows besides, up to a mark that is written to it last.
func shown(t *testing.T, person, program *os.File) string {
	t.Helper()
	const mark = "that is all"
	if _, err := program.WriteString(mark); err != nil {
		t.Fatal(err)
	}
	return asked(t, person, mark)
}
