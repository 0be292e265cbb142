package keypair_test

import (
	"archive/tar"
	"bytes"
	"context"
	"strings"
	"testing"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
	"postcert/verify/problem"
)

// entry is one entry of a tar archive to make.
type entry struct {
	name string
	data []byte
	kind byte // 0 = regular
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.data)), Typeflag: tar.TypeReg}
		if e.kind != 0 {
			h.Typeflag, h.Size, h.Linkname = e.kind, 0, "/etc/shadow"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(e.data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func lineage(p *certtest.Pair) (cert, chain, full, key entry) {
	return entry{name: "cert.pem", data: p.CertPEM()}, entry{name: "chain.pem", data: p.ChainPEM()},
		entry{name: "fullchain.pem", data: p.FullchainPEM()}, entry{name: "privkey.pem", data: p.KeyPEM()}
}

// tarRows are archives; an empty id is one to accept.
func tarRows(t testing.TB) []struct {
	name, id string
	data     []byte
} {
	t.Helper()
	h := certtest.NewHierarchy(t, "ecdsa", 3)
	cert, chain, full, key := lineage(h.Pair)
	other, _, _, _ := lineage(h.Issuer.Leaf(t, certtest.Leaf{}))
	dotted := func(e entry) entry { e.name = "./" + e.name; return e }
	dir := entry{name: "./", kind: tar.TypeDir}
	whole := makeTar(t, cert, chain, full, key)
	return []struct {
		name, id string
		data     []byte
	}{
		{"all four", "", whole},
		{"fullchain and key", "", makeTar(t, full, key)},
		{"cert, chain and key", "", makeTar(t, key, chain, cert)},
		{"as tar -C writes", "", makeTar(t, dir, dotted(full), dotted(key))},
		{"padded", "", append(whole, make([]byte, 8192)...)},
		{"empty", "tar_invalid", nil},
		{"no file", "tar_invalid", makeTar(t)},
		{"garbage", "tar_invalid", []byte(strings.Repeat("garbage ", 200))},
		{"gzip", "tar_invalid", []byte("\x1f\x8b\x08\x00")},
		{"cut in a file", "tar_invalid", whole[:700]},
		{"more after the end", "tar_invalid", append(whole, "more"...)},
		{"another name", "tar_invalid", makeTar(t, full, key, entry{name: "README", data: []byte("x")})},
		{"a path", "tar_invalid", makeTar(t, full, key, entry{name: "live/cert.pem", data: cert.data})},
		{"a way out", "tar_invalid", makeTar(t, full, entry{name: "../privkey.pem", data: key.data})},
		{"absolute", "tar_invalid", makeTar(t, full, entry{name: "/privkey.pem", data: key.data})},
		{"a directory", "tar_invalid", makeTar(t, full, key, entry{name: "live/", kind: tar.TypeDir})},
		{"a link", "tar_invalid", makeTar(t, full, entry{name: "privkey.pem", kind: tar.TypeSymlink})},
		{"a hard link", "tar_invalid", makeTar(t, full, entry{name: "privkey.pem", kind: tar.TypeLink})},
		{"a device", "tar_invalid", makeTar(t, full, entry{name: "privkey.pem", kind: tar.TypeChar})},
		{"a FIFO", "tar_invalid", makeTar(t, full, entry{name: "privkey.pem", kind: tar.TypeFifo})},
		{"a name twice", "tar_invalid", makeTar(t, full, key, dotted(key))},
		{"an empty name twice", "tar_invalid", makeTar(t, full, entry{name: "privkey.pem"}, key)},
		{"no key", "key_missing", makeTar(t, full)},
		{"no certificate", "cert_missing", makeTar(t, chain, key)},
		{"another leaf", "chain_conflict", makeTar(t, full, key, other)},
		{"another chain", "chain_conflict", makeTar(t, full, key, entry{name: "chain.pem", data: certtest.EncodeCerts(h.Root.Cert)})},
		{"empty fullchain", "pem_empty", makeTar(t, entry{name: "fullchain.pem"}, key)},
		{"file too large", "input_too_large", makeTar(t, full, entry{name: "privkey.pem", data: make([]byte, keypair.MaxBytes+1)})},
	}
}

func TestTar(t *testing.T) {
	for _, r := range tarRows(t) {
		t.Run(r.name, func(t *testing.T) {
			p, _, err := keypair.Read(context.Background(), keypair.Source{Tar: bytes.NewReader(r.data), TarName: "-"})
			if r.id == "" && (err != nil || len(p.Chain()) != 3) {
				t.Errorf("refused: %v", err)
			}
			if l := problem.From(err); r.id != "" && (len(l) != 1 || l[0].ID != r.id) {
				t.Errorf("got %v, want %s", err, r.id)
			}
		})
	}
}

// TestTarEndless: a stream without end is left after the limit.
func TestTarEndless(t *testing.T) {
	_, _, err := readWithin(t, keypair.Source{Tar: endless{}})
	if !problem.From(err).Has("input_too_large") {
		t.Errorf("got %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
