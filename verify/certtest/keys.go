package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"sync"
	"testing"
)

// PoolSize is how many RSA keys of 2048 bits exist in one test process.
const PoolSize = 20

var pool [PoolSize]func() *rsa.PrivateKey

// drawn counts, per test, how many RSA keys it has taken from the pool, and how
// many of the first ones are held back.
var drawn struct {
	sync.Mutex
	by map[testing.TB]*draws
}

type draws struct{ n, held int }

func init() {
	drawn.by = map[testing.TB]*draws{}
	for i := range pool {
		pool[i] = sync.OnceValue(func() *rsa.PrivateKey { return mustRSA(2048) })
	}
}

// NewKey returns a private key. Kinds: "ecdsa" (P-256, also ""), "p224", "p384",
// "p521", "ed25519", "rsa" (2048 bits, from the pool), "rsa1024", "rsa3072",
// "rsa4096" (each made once per process), and two whose public half alone is
// meant to be used, since Go neither makes nor accepts them: "rsa512" and
// "rsa8192".
func NewKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	switch kind {
	case "", "ecdsa":
		return mustECDSA(elliptic.P256())
	case "p224":
		return mustECDSA(elliptic.P224())
	case "p384":
		return mustECDSA(elliptic.P384())
	case "p521":
		return mustECDSA(elliptic.P521())
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatalf("certtest: %v", err)
		}
		return key
	case "rsa":
		return pool[draw(t)]()
	}
	if once, ok := sizes[kind]; ok {
		return once()
	}
	t.Fatalf("certtest: no such kind of key: %q", kind)
	return nil
}

var sizes = map[string]func() *rsa.PrivateKey{
	"rsa512":  sync.OnceValue(func() *rsa.PrivateKey { return rawRSA(512) }),
	"rsa1024": sync.OnceValue(func() *rsa.PrivateKey { return mustRSA(1024) }),
	"rsa3072": sync.OnceValue(func() *rsa.PrivateKey { return mustRSA(3072) }),
	"rsa4096": sync.OnceValue(func() *rsa.PrivateKey { return mustRSA(4096) }),
	"rsa8192": sync.OnceValue(func() *rsa.PrivateKey { return rawRSA(8192) }),
}

// draw returns the index of the next key of the pool for this test.
func draw(t testing.TB) int {
	drawn.Lock()
	defer drawn.Unlock()
	d := drawsOf(t)
	d.n++
	if d.n <= PoolSize {
		return d.n - 1
	}
	return d.held + (d.n-1)%(PoolSize-d.held)
}

// hold keeps the RSA keys that t has drawn so far from being drawn again: a test
// that makes many leaves under one hierarchy draws in a circle, and would else
// meet its own authorities' keys. At least half the pool stays in the circle.
func hold(t testing.TB) {
	drawn.Lock()
	defer drawn.Unlock()
	d := drawsOf(t)
	d.held = min(d.n, PoolSize/2)
}

func drawsOf(t testing.TB) *draws {
	d := drawn.by[t]
	if d == nil {
		d = &draws{}
		drawn.by[t] = d
		t.Cleanup(func() {
			drawn.Lock()
			defer drawn.Unlock()
			delete(drawn.by, t)
		})
	}
	return d
}

func mustECDSA(c elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		panic("certtest: " + err.Error())
	}
	return key
}

func mustRSA(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic("certtest: " + err.Error())
	}
	return key
}

// rawRSA makes a key whose size crypto/rsa won't: a real one of 512 bits, and
// above that only a modulus of the wanted length, because finding primes of
// 4096 bits takes minutes and nothing ever signs with it.
func rawRSA(bits int) *rsa.PrivateKey {
	e := big.NewInt(65537)
	if bits > 4096 {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
		if err != nil {
			panic("certtest: " + err.Error())
		}
		n.SetBit(n, bits-1, 1).SetBit(n, 0, 1)
		return &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 65537}, D: big.NewInt(3), Primes: []*big.Int{big.NewInt(3), big.NewInt(5)}}
	}
	for {
		p, errP := rand.Prime(rand.Reader, bits/2)
		q, errQ := rand.Prime(rand.Reader, bits/2)
		if errP != nil || errQ != nil {
			panic("certtest: no primes")
		}
		n := new(big.Int).Mul(p, q)
		one := big.NewInt(1)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d := new(big.Int).ModInverse(e, phi)
		if n.BitLen() != bits || d == nil {
			continue
		}
		return &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 65537}, D: d, Primes: []*big.Int{p, q}}
	}
}

func isRSA(key crypto.Signer) bool {
	_, ok := key.(*rsa.PrivateKey)
	return ok
}
