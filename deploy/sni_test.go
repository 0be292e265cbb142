package deploy

import (
	"slices"
	"testing"
)

func TestTableKeys(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"one", "mail.example.com /etc/key.pem /etc/cert.pem\n", []string{"mail.example.com"}},
		{"no newline at the end", "a.example x\nb.example y", []string{"a.example", "b.example"}},
		{"upper case, as postmap folds it", "Mail.Example.COM x\n", []string{"mail.example.com"}},
		{"a suffix", ".example.com x\n", []string{".example.com"}},
		{"a value over two lines", "a.example /etc/key.pem,\n\t/etc/cert.pem\n  /etc/more.pem\nb.example y\n", []string{"a.example", "b.example"}},
		{"comments and blank lines", "# a.example x\n\n  \n#b\nc.example z\n", []string{"c.example"}},
		{"tabs", "a.example\tx\n", []string{"a.example"}},
		{"a comment inside a value", "a.example x\n# comment\n  y\n", []string{"a.example"}},
		{"carriage returns", "a.example x\r\n\r\nb.example y\r\n", []string{"a.example", "b.example"}},
		{"nothing", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tableKeys(tt.text); !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// A table that cannot be read as text makes the answer unknown (nil), which is
// not the same as no names.
func TestSNINames(t *testing.T) {
	files := map[string][]byte{"one": []byte("a.example x\n"), "two": []byte("b.example y\n"), "none": nil}
	tests := []struct {
		name, value string
		want        []string
		known       bool
	}{
		{"no table", "", nil, false},
		{"one", "hash:one", []string{"a.example"}, true},
		{"two", "hash:one, lmdb:two", []string{"a.example", "b.example"}, true},
		{"an empty one", "hash:none", nil, true},
		{"a kind without a source", "hash:one ldap:two", nil, false},
		{"patterns", "regexp:one", nil, false},
		{"missing", "hash:one hash:gone", nil, false},
		{"no kind", "one", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := sniNames(instance(t, map[string]string{"tls_server_sni_maps": tt.value}, files))
			if !slices.Equal(got, tt.want) || (got != nil) != tt.known {
				t.Errorf("%q (known: %v), want %q (%v)", got, got != nil, tt.want, tt.known)
			}
		})
	}
}
