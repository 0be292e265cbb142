package lineage

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"syscall"

	"postcert/verify/keypair"
)

// Content is the fingerprint of the certificates of a source, leaf and chain, or ""
// if there is none to be read at the moment. Equal contents are the same
// certificates, however often they were written. The key is not read: this is for
// a process that must not have one. Should the certificate's file hold a key as
// well, its bytes are neither decoded nor left in memory.
func Content(src keypair.Source) string { return sum(certificates(src)) }

// ContentOf is the Content of the source that a pair was read from.
func ContentOf(p keypair.Pair) string {
	var ders [][]byte
	for _, c := range p.Chain() {
		ders = append(ders, c.Raw)
	}
	if root := p.DroppedRoot(); root != nil {
		ders = append(ders, root.Raw)
	}
	return sum(ders)
}

// Leaf is the first certificate of a source; nil if there is none to be read.
func Leaf(src keypair.Source) *x509.Certificate {
	ders := certificates(src)
	if len(ders) == 0 {
		return nil
	}
	c, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return nil
	}
	return c
}

func sum(ders [][]byte) string {
	if len(ders) == 0 {
		return ""
	}
	h := sha256.New()
	for _, der := range ders {
		one := sha256.Sum256(der)
		h.Write(one[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// certificates are the DERs of a source's certificates, in order. As in
// [keypair.Parse], a separate chain counts if the certificate stands alone.
func certificates(src keypair.Source) [][]byte {
	ders := certificatesIn(src.Cert)
	if len(ders) == 1 && src.Chain != "" && src.Chain != src.Cert {
		ders = append(ders, certificatesIn(src.Chain)...)
	}
	return ders
}

const (
	beginCertificate = "-----BEGIN CERTIFICATE-----"
	endCertificate   = "-----END CERTIFICATE-----"
)

func certificatesIn(path string) [][]byte {
	data, err := readPublic(path)
	if err != nil {
		return nil
	}
	defer clear(data)
	var ders [][]byte
	for rest := data; ; {
		from := bytes.Index(rest, []byte(beginCertificate))
		if from < 0 {
			return ders
		}
		rest = rest[from:]
		to := bytes.Index(rest, []byte(endCertificate))
		if to < 0 {
			return ders
		}
		to += len(endCertificate)
		block, _ := pem.Decode(append(bytes.Clone(rest[:to]), '\n'))
		if block == nil || len(ders) == keypair.MaxCertificates {
			return ders
		}
		ders = append(ders, block.Bytes)
		rest = rest[to:]
	}
}

// readPublic reads a regular file, without waiting for what is none.
func readPublic(path string) ([]byte, error) {
	info, err := os.Stat(path) // opening a device can act on it
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > keypair.MaxBytes {
		return nil, errors.ErrUnsupported
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing can be lost
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.ErrUnsupported
	}
	data := make([]byte, min(info.Size(), keypair.MaxBytes))
	n, err := io.ReadFull(f, data)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(data)
		return nil, err
	}
	return data[:n], nil
}
