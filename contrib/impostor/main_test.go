package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes a key and a certificate to a file, and returns both.
func certificate(t *testing.T) (file string, leaf []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"impostor.invalid"}}
	if leaf, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})...)
	file = filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, leaf
}

// start runs the program until the test ends and returns where it listens.
func start(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, write, io.Discard); write.Close() }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	line := make([]byte, 200)
	n, err := read.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "listening on "))
}

// presented is the leaf that a client sees at address.
func presented(t *testing.T, address string, implicit bool) []byte {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true} // what is presented is the question, not whether it is trusted
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if implicit {
		conn = tls.Client(conn, config)
	}
	client, err := smtp.NewClient(conn, "impostor.invalid")
	if err != nil {
		t.Fatal(err)
	}
	if implicit {
		if err := client.Quit(); err != nil {
			t.Fatal(err)
		}
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw
	}
	if err := client.StartTLS(config); err != nil {
		t.Fatal(err)
	}
	state, _ := client.TLSConnectionState()
	if err := client.Quit(); err != nil {
		t.Fatal(err)
	}
	return state.PeerCertificates[0].Raw
}

func TestPresentsItsCertificate(t *testing.T) {
	file, leaf := certificate(t)
	for _, implicit := range []bool{false, true} {
		args := []string{"-listen", "127.0.0.1:0", "-pem", file}
		if implicit {
			args = append(args, "-implicit")
		}
		if got := presented(t, start(t, args...), implicit); !bytes.Equal(got, leaf) {
			t.Errorf("implicit %v: another certificate", implicit)
		}
	}
}

// TestAnswersInsteadOfTheWildcard: two listeners stand for Postfix 3.7, one per
// wildcard address; the impostor takes what is dialled to 127.0.0.1.
func TestAnswersInsteadOfTheWildcard(t *testing.T) {
	listener, err := listen(t.Context(), "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "554 the real one\r\n")
			conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	file, leaf := certificate(t)
	address := start(t, "-listen", "127.0.0.1:"+port, "-pem", file)
	for range 20 {
		if got := presented(t, address, false); !bytes.Equal(got, leaf) {
			t.Fatal("another certificate")
		}
	}
}

func TestEndsByItself(t *testing.T) {
	file, _ := certificate(t)
	begin := time.Now()
	var out strings.Builder
	if err := run(t.Context(), []string{"-listen", "127.0.0.1:0", "-pem", file, "-for", "50ms"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second || !strings.HasPrefix(out.String(), "listening on 127.0.0.1:") {
		t.Errorf("took %s, said %q", took, &out)
	}
}

func TestRefuses(t *testing.T) {
	file, _ := certificate(t)
	for _, args := range [][]string{
		nil,
		{"-listen", "127.0.0.1:0"},
		{"-listen", "127.0.0.1:0", "-pem", "/nonexistent"},
		{"-listen", "127.0.0.1:0", "-pem", os.Args[0]},
		{"-listen", "127.0.0.1:0", "-pem", file, "-for", "0s"},
		{"-listen", "192.0.2.1:25", "-pem", file},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q: accepted", args)
		}
	}
}
