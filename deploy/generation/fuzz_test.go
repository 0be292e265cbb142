package generation

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"postcert/deploy/atomicfile"
)

// FuzzMeta: whatever stands in the files of generations, what is returned is
// about the one that was asked for, its files lie in its own directory and have
// the digest that was recorded, and it reads back equal when it is written.
func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"format":1,"name":"mail.example.com","number":1,"sha256":"`+atomicfile.Digest(pem(1))+`","names":["a"],"extra":{"a":1}}`), []byte(
		`{"format":1,"parameters":[{"name":"smtpd_tls_cert_file","value":null},{"service":"smtp/inet","name":"a","value":"b"}],
		"files":[{"path":"/a","state":{"kind":"file","mode":384,"ref":"/elsewhere/file-000","sha256":"`+atomicfile.Digest(pem(0))+`"}},{"path":"/b","state":{"kind":"absent"}}]}`))
	f.Add([]byte(`{"number":2}`), []byte(`{"files":[{"state":{"kind":"file","ref":"../../x"}},{"state":{"kind":"file","ref":"/"}}]}`))
	f.Add([]byte(`{}`), []byte(`{"files":[{"path":"/a","state":{"kind":"file","mode":384,"ref":"../x","sha256":"`+atomicfile.Digest(pem(2))+`"}}]}`))
	f.Add([]byte(`{`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, meta, zero []byte) {
		fsys, s := store(t)
		base := filepath.Join(dir, "etc-postfix", name)
		for path, data := range map[string][]byte{
			base + "/000001/meta.json": meta, base + "/000001/postfix.pem": pem(1),
			base + "/000000/meta.json": zero, base + "/000000/file-000": pem(0), base + "/x": pem(2),
		} {
			if err := atomicfile.MkdirAll(fsys, filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			if err := atomicfile.Write(fsys, path, data, atomicfile.Attr{Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
		}
		checkMeta(t, s)
		checkZero(t, s, base)
	})
}

func checkMeta(t *testing.T, s Store) {
	t.Helper()
	g, err := s.Get(inst, name, 1)
	all, listErr := s.List(inst, name)
	if (err == nil) != (listErr == nil) || (err == nil) != (len(all) == 1) {
		t.Fatalf("Get says %v, List %v", err, listErr)
	}
	if err != nil {
		return
	}
	if g.Meta.Number != 1 || g.Meta.Name != name || g.Number != 1 {
		t.Fatalf("number 1 of %s is %+v", name, g)
	}
	if data, err := s.ReadPostfix(g); err == nil && string(data) != string(pem(1)) {
		t.Fatalf("content %q", data)
	}
	sameAgain(t, g.Meta)
}

func checkZero(t *testing.T, s Store, base string) {
	t.Helper()
	o, err := s.GetZero(inst, name)
	if err != nil {
		return
	}
	for _, file := range o.Files {
		if file.State.Kind != atomicfile.File {
			continue
		}
		if filepath.Dir(file.State.Ref) != base+"/000000" || atomicfile.Digest(file.State.Data) != file.State.SHA256 {
			t.Fatalf("a file of generation 0 is %q with %d bytes", file.State.Ref, len(file.State.Data))
		}
	}
	sameAgain(t, o)
}

// sameAgain: v is the same when it was written and read twice.
func sameAgain[T any](t *testing.T, v T) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("accepted, and not to be written: %v", err)
	}
	var once, twice T
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

// FuzzZero: what Zero keeps comes back byte by byte, or it refuses.
func FuzzZero(f *testing.F) {
	f.Add("smtpd_tls_cert_file", "/etc/ssl/mail.pem", "/etc/ssl/mail.pem", "x")
	f.Add("a", "/etc/ssl/caf\xe9.pem", "/caf\xe9", "\x00")
	f.Add("", "a\nb<&>\u2028", "/x", "")
	f.Fuzz(func(t *testing.T, parameter, value, path, data string) {
		_, s := store(t)
		_, err := s.Zero(inst, name, Original{
			Parameters: []Parameter{{Service: "smtp/inet", Name: parameter, Value: &value}},
			Files:      []OriginalFile{{Path: path, State: atomicfile.NewFile([]byte(data), atomicfile.Attr{Mode: 0o640})}},
		})
		if err != nil {
			return
		}
		o, err := s.GetZero(inst, name)
		if err != nil {
			t.Fatalf("stored, and not read: %v", err)
		}
		if p := o.Parameters[0]; p.Name != parameter || *p.Value != value {
			t.Fatalf("%q = %q came back as %q = %q", parameter, value, p.Name, *p.Value)
		}
		if file := o.Files[0]; file.Path != path || string(file.State.Data) != data {
			t.Fatalf("%q with %q came back as %q with %q", path, data, file.Path, file.State.Data)
		}
	})
}

// FuzzNames: a name that is accepted is one plain element of a path, and no two
// directories share a key.
func FuzzNames(f *testing.F) {
	for _, n := range []string{name, "*.example.com", "_wildcard.example.com", "a+rsa", "..", "a/b", "-", "A", "a..b", strings.Repeat("a", 201)} {
		f.Add(n, inst)
	}
	for _, d := range []string{"/", "/etc/postfix-out", "/etc/postfix/out", "/etc/post%fix", "/etc/p\xe9", "/a.b/.c", "/.a", "relative", "/a//b"} {
		f.Add(name, d)
	}
	f.Fuzz(func(t *testing.T, n, d string) {
		if ValidName(n) == nil {
			file := FileName(n)
			if file != filepath.Base(file) || file[0] == '.' || strings.ContainsFunc(file, unicode.IsControl) || strings.ContainsAny(file, "*/ $") || len(file) > maxName+len("_wildcard") {
				t.Fatalf("%q is the file %q", n, file)
			}
			if ValidName(file) != nil || FileName(file) != file {
				t.Fatalf("%q, the file of %q, is no name", file, n)
			}
		}
		key, err := InstanceKey(d)
		if err != nil {
			return
		}
		if key != filepath.Base(key) || key[0] == '.' || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Fatalf("%q has the key %q", d, key)
		}
		if back := unkey(t, key); back != d {
			t.Fatalf("the key %q of %q is that of %q", key, d, back)
		}
	})
}

// unkey is the directory of an InstanceKey, read by another way than it is made.
func unkey(t *testing.T, key string) string {
	t.Helper()
	if key == "-" {
		return "/"
	}
	text, err := strconv.Unquote(`"/` + strings.ReplaceAll(strings.ReplaceAll(key, "-", "/"), "%", `\x`) + `"`)
	if err != nil {
		t.Fatalf("%q: %v", key, err)
	}
	return text
}
