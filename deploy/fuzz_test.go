package deploy

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
)

// FuzzNote: whatever the note of an open journal holds, what is made of it can
// be asked, and it reads back equal when it is written again.
func FuzzNote(f *testing.F) {
	old := "/etc/ssl/old.pem"
	n := note{Instance: "/etc/postfix", Name: "mail", Running: true, Edits: []cf.Edit{{Parameter: "a", Old: &old, OldText: old}}, Baseline: []baseline{
		{Service: "smtp", Type: "inet", Endpoint: question{Network: "tcp", Address: "127.0.0.1:25", Mode: probe.STARTTLS}, Accept: [][][]byte{{[]byte("leaf"), []byte("ca")}}, Sessions: 3},
	}}
	data, err := json.Marshal(n)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, []byte(`{"outcome":"installed","rehearsed":true,"listeners":[{"service":"smtp/inet","verdict":"proven"}]}`))
	f.Add([]byte(`{"baseline":[{"accept":[[],[null]],"sessions":-1}]}`), []byte(`{"rehearsed":"no"}`))
	f.Add([]byte(`{"edits":null,"cgroups":{"":"/"}}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, noted, recorded []byte) {
		var n note
		if json.Unmarshal(noted, &n) == nil {
			for _, x := range n.expectations() {
				raw := [][]byte{[]byte("leaf")}
				v, _ := judge(answer(raw), x.Accept)
				same := slices.ContainsFunc(x.Accept, func(c [][]byte) bool { return reflect.DeepEqual(c, raw) })
				if (v == probe.Proven) != (same || len(x.Accept) == 0) {
					t.Fatalf("%q with %q accepted is %s", raw, x.Accept, v)
				}
			}
			reread(t, n)
		}
		var r Record
		if json.Unmarshal(recorded, &r) == nil {
			if r.RehearsedWords() == "" {
				t.Fatalf("no words for %q", r.Rehearsed)
			}
		}
	})
}

func reread(t *testing.T, n note) {
	t.Helper()
	data, err := json.Marshal(n)
	if err != nil {
		t.Fatalf("read, and not to be written: %v", err)
	}
	var once, twice note
	if err := json.Unmarshal(data, &once); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(once); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &twice); err != nil || !reflect.DeepEqual(once, twice) {
		t.Fatalf("%v: %+v is %+v when read again", err, once, twice)
	}
}

// FuzzNoteValues: what an undo needs of main.cf comes back from the note as it
// stands in main.cf, or the plan refuses it.
func FuzzNoteValues(f *testing.F) {
	f.Add("/etc/ssl/old.pem", "/etc/postfix/tls/mail.pem", "/etc/ssl/old.pem \n   # x")
	f.Add("/etc/ssl/caf\xe9.pem", "<&>\u2028", "\xff\x00")
	f.Fuzz(func(t *testing.T, old, value, text string) {
		n := note{Instance: "/etc/postfix", Edits: []cf.Edit{{Service: "smtp/inet", Parameter: "a", Old: &old, New: &value, OldText: text}}, Time: time.Unix(1e9, 0).UTC()}
		if unwritable(cf.Snapshot{}, n.Edits) != nil {
			return
		}
		data, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		var back note
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back.Edits, n.Edits) {
			t.Fatalf("%+q came back as %+q", n.Edits, back.Edits)
		}
	})
}

// FuzzListeningSocket: a line as the kernel prints it is read as what it says,
// and no line is read as more.
func FuzzListeningSocket(f *testing.F) {
	f.Add("   0: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1", []byte{127, 0, 0, 1}, uint16(25), uint32(1))
	f.Add("   0: 00000000000000000000000001000000:0019 0:0 0A 0 0 0 0 0 1", []byte(netip.IPv6Loopback().AsSlice()), uint16(465), uint32(0))
	f.Add("sl local", []byte{}, uint16(0), uint32(9))
	f.Fuzz(func(t *testing.T, line string, address []byte, port uint16, inode uint32) {
		if at, _, ok := listeningSocket(line); ok && (!at.IsValid() || !strings.Contains(line, "0A")) {
			t.Fatalf("%q: %s", line, at)
		}
		ip, ok := netip.AddrFromSlice(address)
		if !ok {
			return
		}
		words := make([]byte, len(address))
		for i := 0; i < len(address); i += 4 { // as the kernel: %08X of each word in the machine's order
			binary.BigEndian.PutUint32(words[i:], binary.NativeEndian.Uint32(address[i:]))
		}
		made := fmt.Sprintf("%4d: %s:%04X 00000000:0000 0A 00000000:00000000 00:00000000 00000000 %5d %8d %d 1 0 100 0 0 10 0\n",
			3, strings.ToUpper(hex.EncodeToString(words)), port, 0, 0, inode)
		at, got, ok := listeningSocket(made)
		if !ok || at != netip.AddrPortFrom(ip, port) || got != fmt.Sprint(inode) {
			t.Fatalf("%q: %s, %s, %v", made, at, got, ok)
		}
	})
}
