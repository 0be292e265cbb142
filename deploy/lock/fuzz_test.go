package lock

import (
	"os"
	"strconv"
	"testing"
)

// FuzzHolder: whatever stands in the lock file, its holder is a process id or
// nobody, and one that wrote its own is named.
func FuzzHolder(f *testing.F) {
	for _, s := range []string{"1\n", "", "-1\n", "+7", "99999999999999999999", " 12 ", "x", "1\n2\n", "0\n"} {
		f.Add([]byte(s), 4194304)
	}
	file, err := os.CreateTemp(f.TempDir(), "")
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	f.Fuzz(func(t *testing.T, content []byte, pid int) {
		for _, tt := range []struct {
			content []byte
			want    int // -1: not known
		}{{content, -1}, {[]byte(strconv.Itoa(pid) + "\n"), max(pid, 0)}} {
			if err := file.Truncate(0); err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt(tt.content, 0); err != nil {
				t.Fatal(err)
			}
			if got := holder(file); got < 0 || tt.want >= 0 && got != tt.want {
				t.Fatalf("%q is held by %d", tt.content, got)
			}
		}
	})
}
