package audit

import (
	"fmt"
	"strings"
	"testing"

	"postcert/verify/certtest"
)

// TestReadPEM: what a file holds is counted, and nothing of a key comes out.
func TestReadPEM(t *testing.T) {
	root := certtest.NewCA(t, certtest.Authority{})
	server := root.Leaf(t, certtest.Leaf{Names: []string{"mail.example.test"}})
	rsa := root.Leaf(t, certtest.Leaf{Names: []string{"mail.example.test"}, Key: "rsa"})
	for _, x := range []struct {
		name string
		data []byte
		want PEM
	}{
		{"nothing", []byte("nothing"), PEM{}},
		{"key and certificate", server.PostfixPEM(), PEM{Keys: 1, Certs: []Cert{{KeyType: "ecdsa", Names: []string{"mail.example.test"}}}}},
		{"rsa", rsa.CertPEM(), PEM{Certs: []Cert{{KeyType: "rsa", Names: []string{"mail.example.test"}}}}},
		{"ca", certtest.EncodeCerts(root.Cert), PEM{Certs: []Cert{{KeyType: "ecdsa", CA: true, ClientAuth: true}}}},
		{"encrypted", certtest.Block("ENCRYPTED PRIVATE KEY", []byte("x")), PEM{Keys: 1, Encrypted: true}},
		{"encrypted, old form", []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), PEM{Keys: 1, Encrypted: true}},
		{"damaged certificate", certtest.Block("CERTIFICATE", []byte("x")), PEM{}},
	} {
		t.Run(x.name, func(t *testing.T) {
			got := ReadPEM(append([]byte(nil), x.data...))
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", x.want) {
				t.Errorf("got %+v, want %+v", got, x.want)
			}
			if strings.Contains(fmt.Sprintf("%+v", got), "PRIVATE") {
				t.Error("a key in what is returned")
			}
		})
	}
}
