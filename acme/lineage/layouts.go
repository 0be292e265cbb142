package lineage

import (
	"os"
	"path/filepath"
	"strings"

	"postcert/verify/keypair"
)

// layouts are how clients name the two files in the directory of a certificate; a
// * stands for the certificate's name, as lego and acme.sh put it into a file's.
var layouts = []struct{ cert, key string }{
	{"fullchain.pem", "privkey.pem"}, // certbot, dehydrated, and the usual target of acme.sh
	{"fullchain", "privkey"},         // acmetool
	{"tls.crt", "tls.key"},           // a Secret of Kubernetes
	{"fullchain.cer", "*.key"},       // acme.sh in its own directory
	{"fullchain.crt", "*.key"},       // getssl
	{"*.crt", "*.key"},               // lego
}

// In is where a client keeps the pair of a certificate in a directory: the first
// layout whose certificate is there, or else whose key is, or else the first. Paths from a directory that
// others write to are not trusted before they are judged.
func In(dir, name string) keypair.Source {
	name = strings.ReplaceAll(name, "*", "_")
	at := func(pattern string) string { return filepath.Join(dir, strings.ReplaceAll(pattern, "*", name)) }
	there := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	for _, l := range layouts {
		if there(at(l.cert)) {
			return keypair.Source{Cert: at(l.cert), Key: at(l.key), Foreign: true}
		}
	}
	for _, l := range layouts {
		if there(at(l.key)) {
			return keypair.Source{Cert: at(l.cert), Key: at(l.key), Foreign: true}
		}
	}
	return keypair.Source{Cert: at(layouts[0].cert), Key: at(layouts[0].key), Foreign: true}
}
