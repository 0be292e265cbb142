package lineage_test

import (
	"os"
	"path/filepath"
	"testing"

	"postcert/acme/lineage"
)

func TestIn(t *testing.T) {
	for _, tt := range []struct {
		name      string
		files     []string
		cert, key string
	}{
		{"mail.example.test", nil, "fullchain.pem", "privkey.pem"},
		{"mail.example.test", []string{"privkey.pem"}, "fullchain.pem", "privkey.pem"},
		{"mail.example.test", []string{"tls.crt", "tls.key"}, "tls.crt", "tls.key"},
		{"mail.example.test", []string{"fullchain", "privkey"}, "fullchain", "privkey"},
		{"mail.example.test", []string{"mail.example.test.crt", "mail.example.test.key"}, "mail.example.test.crt", "mail.example.test.key"},
		{"*.example.test", []string{"_.example.test.crt", "other.crt"}, "_.example.test.crt", "_.example.test.key"},
		{"mail.example.test", []string{"other.crt", "other.key"}, "fullchain.pem", "privkey.pem"},
		{"mail.example.test", []string{"fullchain.cer", "mail.example.test.cer"}, "fullchain.cer", "mail.example.test.key"},
	} {
		dir := t.TempDir()
		for _, f := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		src := lineage.In(dir, tt.name)
		if src.Cert != filepath.Join(dir, tt.cert) || src.Key != filepath.Join(dir, tt.key) || !src.Foreign {
			t.Errorf("%q: %+v", tt.files, src)
		}
	}
}
