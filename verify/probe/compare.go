package probe

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
)

// Verdict is what a Result says about the certificates that should be served.
type Verdict string

const (
	Proven       Verdict = "proven"       // exactly these certificates, in this order
	NotVerified  Verdict = "not_verified" // the server did not come to the point; ask again
	Contradicted Verdict = "contradicted" // the server does something else
)

// Compare holds r against the certificates that should be presented: want is
// their DER, leaf first. The Reason is that of r, or OtherLeaf or OtherChain.
//
// Nothing is ever proven by an empty want.
func Compare(r Result, want [][]byte) (Verdict, Reason) {
	if len(want) == 0 {
		return NotVerified, r.Reason
	}
	switch r.Reason {
	case OK:
		return compareChains(r.Raw, want)
	case Unreadable:
		if len(r.Raw) > 0 {
			return compareChains(r.Raw, want)
		}
		// What was presented could not be kept. If all that is wanted can be
		// read, then it was something else.
		if readable(want) {
			return Contradicted, r.Reason
		}
		return NotVerified, r.Reason
	case TLSNotAvailable, NotOffered, HandshakeFailed:
		return Contradicted, r.Reason
	case Closed, ProtocolError:
		// postconf(5) smtpd_tls_wrappermode: a smtpd that could not load its
		// certificate drops the connection without a word. Before that point
		// the end of a connection says nothing about the certificate.
		if r.Phase == Handshaking {
			return Contradicted, r.Reason
		}
	}
	return NotVerified, r.Reason
}

func compareChains(got, want [][]byte) (Verdict, Reason) {
	switch {
	case len(got) == 0 || !bytes.Equal(got[0], want[0]):
		return Contradicted, OtherLeaf
	case len(got) != len(want):
		return Contradicted, OtherChain
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			return Contradicted, OtherChain
		}
	}
	return Proven, OK
}

// readable tells whether crypto/tls would accept all of these from a server.
func readable(chain [][]byte) bool {
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return false
		}
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSA {
			return false
		}
	}
	return true
}
