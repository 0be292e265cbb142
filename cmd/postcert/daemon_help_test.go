package main

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// managerSocket is a service manager's ear.
type managerSocket struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newManagerSocket(t *testing.T, dir string) *managerSocket {
	t.Helper()
	m := &managerSocket{t: t, path: filepath.Join(dir, "notify")}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Close() })
	return m
}

// hears waits for a message that begins so.
func (m *managerSocket) hears(words string) {
	m.t.Helper()
	buf := make([]byte, 4096)
	var heard []string
	for {
		m.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("%q was not heard, only %q: %v", words, heard, err)
		}
		if strings.HasPrefix(string(buf[:n]), words) {
			return
		}
		heard = append(heard, string(buf[:n]))
	}
}

// leafAt reads the certificate in a PEM file.
func (h *acmeHost) leafAt(path string) *x509.Certificate {
	h.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}
