package probe

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"net"
	"strings"
)

// crypto/tls hands over certificates only after it has read them. Of those that
// it cannot read nothing is left but the bytes of the connection, so these are
// kept until the handshake is over, and the certificates are taken from them:
// in TLS 1.2 they are in the clear, in TLS 1.3 (RFC 8446 section 5.2) they are
// under a key that the key log of our own side tells.

// maxSeen bounds what is kept: a certificate message of the size crypto/tls
// accepts, 256 KiB, and what comes with it.
const maxSeen = 288 << 10

// recorder keeps what the server sends until stop.
type recorder struct {
	net.Conn
	seen    []byte
	stopped bool
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if !r.stopped {
		r.seen = append(r.seen, p[:min(n, maxSeen-len(r.seen))]...)
	}
	return n, err
}

func (r *recorder) stop() []byte {
	seen := r.seen
	r.stopped, r.seen = true, nil
	return seen
}

// keyLog keeps the one secret that opens the server's certificate message. It
// protects nothing else: certificates are public.
type keyLog struct{ serverHandshake []byte }

func (k *keyLog) Write(p []byte) (int, error) {
	f := strings.Fields(string(p))
	if len(f) == 3 && f[0] == "SERVER_HANDSHAKE_TRAFFIC_SECRET" {
		k.serverHandshake, _ = hex.DecodeString(f[2])
	}
	return len(p), nil
}

// fromWire fills in what can be read from the bytes of a handshake that
// failed. What cannot be read stays empty.
func fromWire(r *Result, seen, secret []byte) {
	w := wire{secret: secret}
	w.records(seen)
	w.messages()
	r.Raw, r.Protocol, r.Cipher = w.certificates, w.version, w.cipher
	r.Chain = parseAll(r.Raw)
}

// parseAll parses all or nothing: a chain with holes would mislead.
func parseAll(raw [][]byte) []*x509.Certificate {
	var chain []*x509.Certificate
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil
		}
		chain = append(chain, c)
	}
	return chain
}

type wire struct {
	secret       []byte
	aead         cipher.AEAD
	iv           []byte
	seq          uint64
	handshake    []byte // handshake messages, put together from records
	version      uint16
	cipher       uint16
	certificates [][]byte
}

// records splits b into TLS records and collects the handshake messages.
func (w *wire) records(b []byte) {
	for len(b) >= 5 {
		header, n := b[:5], int(binary.BigEndian.Uint16(b[3:5]))
		if len(b) < 5+n {
			return
		}
		body := b[5 : 5+n]
		b = b[5+n:]
		switch header[0] {
		case 22:
			w.handshake = append(w.handshake, body...)
		case 23:
			// The first protected record: the server's hello is complete.
			if !w.unlock() || !w.protected(header, body) {
				return
			}
		}
	}
}

// protected opens a TLS 1.3 record: content, its type, zeros.
func (w *wire) protected(header, body []byte) bool {
	nonce := append([]byte(nil), w.iv...)
	for i := range 8 {
		nonce[len(nonce)-1-i] ^= byte(w.seq >> (8 * i))
	}
	plain, err := w.aead.Open(nil, nonce, body, header)
	if err != nil {
		return false
	}
	w.seq++
	for len(plain) > 0 && plain[len(plain)-1] == 0 {
		plain = plain[:len(plain)-1]
	}
	if len(plain) > 0 && plain[len(plain)-1] == 22 {
		w.handshake = append(w.handshake, plain[:len(plain)-1]...)
	}
	return true
}

// unlock derives the server's handshake key (RFC 8446 section 7.3). It does so
// for the AES suites; the standard library exports no ChaCha20.
func (w *wire) unlock() bool {
	if w.aead != nil {
		return true
	}
	w.messages()
	var h func() hash.Hash
	size := 0
	switch w.cipher {
	case tls.TLS_AES_128_GCM_SHA256:
		h, size = sha256.New, 16
	case tls.TLS_AES_256_GCM_SHA384:
		h, size = sha512.New384, 32
	default:
		return false
	}
	key, err := expandLabel(h, w.secret, "key", size)
	if err != nil {
		return false
	}
	if w.iv, err = expandLabel(h, w.secret, "iv", 12); err != nil {
		return false
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return false
	}
	w.aead, err = cipher.NewGCM(block)
	return err == nil
}

// expandLabel is HKDF-Expand-Label of RFC 8446 section 7.1 with no context.
func expandLabel(h func() hash.Hash, secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := string([]byte{byte(n >> 8), byte(n), byte(len(label))}) + label + "\x00"
	return hkdf.Expand(h, secret, info, n)
}

// messages reads the complete handshake messages and drops them.
func (w *wire) messages() {
	for {
		m := cursor(w.handshake)
		kind, ok := m.take(1)
		if !ok {
			return
		}
		body, ok := m.vector(3)
		if !ok {
			return
		}
		w.handshake = m
		switch kind[0] {
		case 2:
			w.hello(body)
		case 11:
			w.certificate(body)
		}
	}
}

// hello reads version and cipher suite of a ServerHello. In TLS 1.3 the version
// is in the extension supported_versions (43).
func (w *wire) hello(m cursor) {
	version, ok1 := m.take(2)
	_, ok2 := m.take(32)
	_, ok3 := m.vector(1)
	suite, ok4 := m.take(2)
	_, ok5 := m.take(1)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return
	}
	w.version, w.cipher = binary.BigEndian.Uint16(version), binary.BigEndian.Uint16(suite)
	extensions, _ := m.vector(2)
	for {
		kind, ok1 := extensions.take(2)
		body, ok2 := extensions.vector(2)
		if !ok1 || !ok2 {
			return
		}
		if binary.BigEndian.Uint16(kind) == 43 && len(body) == 2 {
			w.version = binary.BigEndian.Uint16(body)
		}
	}
}

// certificate reads a Certificate message: RFC 5246 section 7.4.2, RFC 8446
// section 4.4.2.
func (w *wire) certificate(m cursor) {
	if w.version == tls.VersionTLS13 {
		if _, ok := m.vector(1); !ok {
			return
		}
	}
	list, ok := m.vector(3)
	var out [][]byte
	for ok && len(list) > 0 {
		var der cursor
		if der, ok = list.vector(3); !ok {
			return
		}
		if w.version == tls.VersionTLS13 {
			if _, ok = list.vector(2); !ok {
				return
			}
		}
		out = append(out, append([]byte(nil), der...))
	}
	w.certificates = out
}

// cursor reads from the front of a byte slice.
type cursor []byte

func (c *cursor) take(n int) ([]byte, bool) {
	if len(*c) < n {
		return nil, false
	}
	b := (*c)[:n]
	*c = (*c)[n:]
	return b, true
}

// vector takes a length of size bytes, and as many bytes.
func (c *cursor) vector(size int) (cursor, bool) {
	b, ok := c.take(size)
	if !ok {
		return nil, false
	}
	n := 0
	for _, x := range b {
		n = n<<8 | int(x)
	}
	v, ok := c.take(n)
	return v, ok
}
