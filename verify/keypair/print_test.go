package keypair_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"postcert/verify/certtest"
	"postcert/verify/keypair"
)

// outer holds a pair as plans and reports do, once where methods are called and
// once where fmt cannot call them.
type outer struct {
	Name   string
	Pair   keypair.Pair
	List   []keypair.Pair
	Ptr    *keypair.Pair
	hidden keypair.Pair
	deep   map[string][]keypair.Pair
}

// TestPrintsFingerprintOnly: nothing that prints, logs or encodes a Pair, or
// what holds one, lets the key out in any of the forms a key has.
func TestPrintsFingerprintOnly(t *testing.T) {
	for _, kind := range []string{"ecdsa", "rsa", "ed25519"} {
		t.Run(kind, func(t *testing.T) {
			made := certtest.NewHierarchy(t, "ecdsa", 2).Issuer.Leaf(t, certtest.Leaf{Key: kind})
			p, _, err := keypair.Parse(keypair.Input{Name: "x", Data: made.PostfixPEM()}, keypair.Input{}, keypair.Input{})
			if err != nil {
				t.Fatal(err)
			}
			out := everyOutput(t, p)
			if n := strings.Count(out, p.Fingerprint()); n < 40 {
				t.Errorf("the fingerprint is printed %d times, want more", n)
			}
			for name, secret := range formsOf(made) {
				if strings.Contains(strings.ToLower(out), strings.ToLower(secret)) {
					t.Errorf("the output holds the key as %s", name)
				}
			}
			for name, secret := range formsOf(made) {
				if all := strings.ToLower(fmt.Sprint(string(p.PrivateKey()), p.PrivateKey(), made.Key, hex.EncodeToString(keyDER(made)), fmt.Sprintf("%d", keyDER(made)), numbers(made))); !strings.Contains(all, strings.ToLower(secret)) && !strings.Contains(name, "aligned") {
					t.Errorf("the search for the key as %s finds it nowhere, not even in the key", name)
				}
			}
		})
	}
}

func everyOutput(t *testing.T, p keypair.Pair) string {
	t.Helper()
	var b bytes.Buffer
	o := outer{"n", p, []keypair.Pair{p}, &p, p, map[string][]keypair.Pair{"k": {p}}}
	for _, v := range []any{p, &p, o, &o, []any{p}, map[string]any{"p": p}, struct{ p keypair.Pair }{p}} {
		for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %d %t %o %b %e %c %U %p %10.3v") {
			fmt.Fprintf(&b, verb+"\n", v)
		}
		fmt.Fprintln(&b, v)
		for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
			slog.New(h).LogAttrs(context.Background(), slog.LevelInfo, "m", slog.Any("pair", v), slog.Group("g", "p", v))
		}
		if j, err := json.Marshal(v); err == nil {
			b.Write(j)
		}
		// xml cannot encode a map, gob not an unexported field: an error is as good.
		_ = xml.NewEncoder(&b).Encode(v)
		_ = gob.NewEncoder(&b).Encode(v)
	}
	return b.String()
}

func keyDER(p *certtest.Pair) []byte { return der(p.KeyPEM()) }

// secretNumbers are the private numbers of a key, without the public ones.
func secretNumbers(p *certtest.Pair) [][]byte {
	switch k := p.Key.(type) {
	case *rsa.PrivateKey:
		return [][]byte{k.D.Bytes(), k.Primes[0].Bytes(), k.Primes[1].Bytes()}
	case *ecdsa.PrivateKey:
		b, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		return [][]byte{b}
	case ed25519.PrivateKey:
		return [][]byte{k.Seed()}
	}
	panic("no such key")
}

func numbers(p *certtest.Pair) string {
	var s []string
	for _, n := range secretNumbers(p) {
		s = append(s, new(big.Int).SetBytes(n).String(), hex.EncodeToString(n), fmt.Sprintf("%d", n))
	}
	return strings.Join(s, "\n")
}

// formsOf are parts of the key, each in a form that some printer gives it.
func formsOf(p *certtest.Pair) map[string]string {
	forms := map[string]string{
		"PEM":          "PRIVATE KEY",
		"PEM as bytes": "[45 45 45",
		"DER in hex":   hex.EncodeToString(keyDER(p))[:60],
	}
	for i, n := range secretNumbers(p) {
		forms[fmt.Sprint("number in decimal ", i)] = new(big.Int).SetBytes(n).String()[:30]
		forms[fmt.Sprint("number in hex ", i)] = hex.EncodeToString(n)[:30]
		forms[fmt.Sprint("number as bytes ", i)] = strings.Trim(fmt.Sprintf("%d", n[:12]), "[]")
		for shift := range 3 {
			forms[fmt.Sprint("number in base64 aligned ", i, " at ", shift)] = base64.StdEncoding.EncodeToString(n[shift : shift+21])
		}
	}
	return forms
}

func der(b []byte) []byte {
	rest := b[bytes.IndexByte(b, '\n')+1 : bytes.LastIndex(b, []byte("-----END"))]
	d, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(rest), "\n", ""))
	if err != nil {
		panic(err)
	}
	return d
}
