package table_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
	"postcert/deploy/postfix/table"
)

// texts are tables as people write them.
var texts = map[string]string{
	"empty":        "",
	"comments":     "# TLS\n\n#example.com none\nexample.com encrypt\n   # indented\nexample.net may\n",
	"continued":    "example.com secure\n\tmatch=.example.com\n# between\n  ciphers=high\nexample.net may\n",
	"twice":        "example.com encrypt\nexample.com none\nexample.net may\n",
	"no last end":  "example.net may\nexample.com encrypt",
	"case":         "Example.COM encrypt\n",
	"tabs":         "example.com\t\tencrypt   protocols=!SSLv2:!SSLv3\nother.example\tnone\n",
	"below":        ".example.com encrypt\n[mail.example.com]:587 encrypt\n",
	"first line":   "  example.com none\nexample.net may\n",
	"only comment": "# example.com none",
}

// ask is what Postfix reads in a table's text.
func ask(t *testing.T, text []byte, key string) (string, bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	past := time.Now().Add(-time.Minute) // or Postfix lets the file "cool down" for 2 s
	if err := errors.Join(os.WriteFile(path, text, 0o600), os.Chtimes(path, past, past)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("postmap", "-q", key, "texthash:"+path).Output()
	return strings.TrimSpace(string(out)), err == nil
}

// What Entries, Set and Remove make of a table is what postmap(1) reads, and no
// line of another key changes.
func TestTableIsPostmaps(t *testing.T) {
	postfixtest.Need(t, "postmap")
	keys := []string{"example.com", "example.net", ".example.com", "[mail.example.com]:587", "absent.example"}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			for _, key := range keys {
				want, there := ask(t, []byte(text), key)
				e, found := table.Find([]byte(text), key)
				if found != there || found && strings.Join(strings.Fields(e.Value), " ") != strings.Join(strings.Fields(want), " ") {
					t.Errorf("Find %s: %q %v, postmap says %q %v", key, e.Value, found, want, there)
				}
				set := table.Set([]byte(text), key, "dane-only")
				if got, _ := ask(t, set, key); got != "dane-only" {
					t.Errorf("Set %s: postmap says %q in\n%s", key, got, set)
				}
				gone := table.Remove(set, key)
				if got, there := ask(t, gone, key); there {
					t.Errorf("Remove %s: postmap says %q in\n%s", key, got, gone)
				}
				if !there && !bytes.Equal(bytes.TrimSuffix(gone, []byte("\n")), bytes.TrimSuffix([]byte(text), []byte("\n"))) {
					t.Errorf("Set and Remove of %s: %q became %q", key, text, gone)
				}
				for _, other := range keys {
					if a, _ := ask(t, []byte(text), other); other != key {
						if b, _ := ask(t, set, other); a != b {
							t.Errorf("Set %s changed %s from %q to %q", key, other, a, b)
						}
					}
				}
			}
		})
	}
}

// Comments between the lines of an entry stay, and a value that is set again
// changes nothing.
func TestTableKeepsBytes(t *testing.T) {
	text := []byte(texts["continued"])
	if got, want := string(table.Set(text, "EXAMPLE.com", "may")), "example.com may\n# between\nexample.net may\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := table.Set(text, "example.net", "may"); !bytes.Equal(got, text) {
		t.Errorf("%q, want %q", got, text)
	}
	if string(text) != texts["continued"] {
		t.Errorf("the argument was changed: %q", text)
	}
}

// Each of these is judged as smtp_tls_policy.c does.
func TestParsePolicy(t *testing.T) {
	for _, row := range []struct{ value, version, wrong string }{
		{"encrypt", "3.5.0", ""},
		{"secure match=nexthop:.example.com ciphers=high", "3.5.0", ""},
		{"may protocols=!SSLv2:!SSLv3", "3.4.0", ""},
		{"encrypt protocols=>=TLSv1.2", "3.6.0", ""},
		{"encrypt protocols=>=TLSv1.2", "3.5.25", "need Postfix 3.6"},
		{"encrypt protocols=>=TLSv1.9", "3.11.0", "TLSv1.9"},
		{"encrypt servername=mail.example.com", "3.4.0", ""},
		{"encrypt servername=mail.example.com", "3.3.9", "needs Postfix 3.4"},
		{"encrypt servername=a..b", "3.7.0", "host name"},
		{"dane enable_rpk=yes", "3.9.1", ""},
		{"dane enable_rpk=yes", "3.8.6", "needs Postfix 3.9"},
		{"dane connection_reuse=maybe", "3.9.1", "yes or no"},
		{"encrypt match=nexthop", "3.7.0", "match is for"},
		{"encrypt tafile=/dev/null", "3.7.0", "tafile is for"},
		{"secure tafile=/nonexistent", "3.7.0", "tafile"},
		{"encrypted", "3.7.0", "no security level"},
		{"secure ciphers=strong", "3.7.0", "grades"},
		{"secure ciphers=high ciphers=high", "3.7.0", "twice"},
		{"secure cipher=high", "3.7.0", "no attribute"},
		{"secure high", "3.7.0", "no name=value"},
		{"none match=x", "3.7.0", "no meaning"},
		{"", "3.7.0", "empty"},
	} {
		_, err := table.ParsePolicy(row.value, row.version)
		if (err == nil) != (row.wrong == "") || err != nil && !strings.Contains(err.Error(), row.wrong) {
			t.Errorf("%q on %s: %v, want %q", row.value, row.version, err, row.wrong)
		}
	}
}

func TestNextHop(t *testing.T) {
	for _, good := range []string{"example.com", ".example.com", "[mail.example.com]", "[mail.example.com]:587", "[192.0.2.1]:25", "[ipv6:2001:db8::1]:25", "example.com:587", "[mail]:submission"} {
		if err := table.NextHop(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "*", "a b", "[mail.example.com", "[mail.example.com]587", "[a]:0", "user@example.com", "#x", "[.example.com]", ".example.com:25", "exa_mple..com"} {
		if table.NextHop(bad) == nil {
			t.Errorf("%q is taken for a next hop", bad)
		}
	}
	if got, want := table.Keys("a.b.example"), []string{"a.b.example", ".b.example", ".example"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := table.Keys("[a.b.example]"); len(got) != 1 {
		t.Errorf("%q", got)
	}
}
