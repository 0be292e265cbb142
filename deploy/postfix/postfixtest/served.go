package postfixtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/program"
)

// Mode is how TLS begins on a listener.
type Mode string

const (
	StartTLS Mode = "starttls" // SMTP, STARTTLS (RFC 3207)
	Implicit Mode = "implicit" // TLS from the first byte (RFC 8314)
)

// Where the listeners of an instance answer.
const (
	SMTP        = "127.0.0.1:25"  // STARTTLS
	Submission  = "127.0.0.1:587" // STARTTLS
	Submissions = "127.0.0.1:465" // implicit TLS
)

// ServedLeaf is the lower-case hex SHA-256 of the leaf certificate's DER that
// openssl s_client is shown at addr, a host:port or the path of a UNIX socket.
// args are further arguments, such as "-servername", NAME or "-sigalgs",
// "ecdsa_secp256r1_sha256". The error has openssl's words if no TLS session
// with a certificate came about.
func ServedLeaf(t testing.TB, addr string, mode Mode, args ...string) (string, error) {
	t.Helper()
	chain, err := ServedChain(t, addr, mode, args...)
	if err != nil {
		return "", err
	}
	return Fingerprint(chain[0]), nil
}

// ServedChain is the DER of every certificate presented, in order: at least
// one if there is no error. See ServedLeaf.
func ServedChain(t testing.TB, addr string, mode Mode, args ...string) ([][]byte, error) {
	t.Helper()
	Need(t, "openssl")
	r, err := program.Run(context.Background(), program.Command{
		Path: find("openssl"), Args: clientArgs(addr, mode, args), Env: program.NoAuthorities,
		Stdin: strings.NewReader("Q\n"), Timeout: 30 * time.Second,
	})
	var chain [][]byte
	for rest := r.Stdout; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" && len(block.Headers) == 0 {
			chain = append(chain, block.Bytes)
		}
	}
	words := strings.TrimSpace(string(r.Stderr))
	switch {
	case err != nil:
		return nil, fmt.Errorf("openssl s_client %s: %v: %s", addr, err, words)
	case len(chain) == 0:
		return nil, fmt.Errorf("openssl s_client %s: no TLS session: %s", addr, words)
	}
	return chain, nil
}

func clientArgs(addr string, mode Mode, args []string) []string {
	out := []string{"s_client", "-showcerts", "-connect", addr}
	if strings.HasPrefix(addr, "/") {
		out[2] = "-unix"
	}
	if mode == StartTLS {
		out = append(out, "-starttls", "smtp")
	}
	// Without this, openssl sends the host of addr as a server name.
	if !slices.Contains(args, "-servername") {
		out = append(out, "-noservername")
	}
	return append(out, args...)
}

// Fingerprint is the lower-case hex SHA-256 of a certificate's DER.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// WaitServed asks until addr serves leaf, a fingerprint, and fails the test
// after 10 s: a reload is asynchronous.
func WaitServed(t testing.TB, addr string, mode Mode, leaf string, args ...string) {
	t.Helper()
	var got string
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got, err = ServedLeaf(t, addr, mode, args...); err == nil && got == leaf {
			return
		}
	}
	t.Fatalf("%s serves %q (%v), want %q", addr, got, err, leaf)
}
