package atomicfile

import (
	"fmt"
	"strings"
	"testing"
)

// FuzzMountPoints: a mount point that is written as the kernel writes it is
// found, whatever it is called, and no other one is.
func FuzzMountPoints(f *testing.F) {
	for _, point := range []string{"/", "/etc/postfix/main.cf", "/a b", "/tab\there", "/back\\slash", `/\040`, "/new\nline", "/caf\xe9", "/no\u00a0break", "/r\r", "/#"} {
		f.Add(point, "rw,relatime shared:1")
	}
	f.Fuzz(func(t *testing.T, point, options string) {
		_, _ = mountPoints(strings.NewReader(point)) // whatever it is, it ends
		if point == "" || len(point) > 4096 || strings.ContainsAny(point, "\x00") || strings.ContainsAny(options, "\n") || len(options) > 1<<16 {
			return
		}
		line := "36 35 98:0 /root " + mangled(point) + " " + options + " - ext4 /dev/sda1 rw\n"
		got, err := mountPoints(strings.NewReader(line + line))
		if err != nil || len(got) != 1 || !got[point] {
			t.Fatalf("%q, %q: got %v, %v", point, line, got, err)
		}
	})
}

// mangled is a path as seq_path() of the kernel's fs/seq_file.c writes it.
func mangled(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if strings.IndexByte(" \t\n\\", c) >= 0 {
			fmt.Fprintf(&b, "\\%03o", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
