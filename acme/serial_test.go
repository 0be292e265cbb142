package acme

import (
	"crypto/rand"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"postcert/acme/acmetest"
)

// zeroSerials makes the serial numbers of Pebble, 8 random bytes, begin with a zero
// byte and a bit that is set: one of 256 does. In DER such an integer keeps the zero,
// and so does the identifier of RFC 9773 section 4.1.
var zeroSerials atomic.Bool

type serials struct{ io.Reader }

func (r serials) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n == 8 && zeroSerials.Load() {
		p[0], p[1] = 0, p[1]|0x80
	}
	return n, err
}

// A CA's goroutines read it as long as they like, so it is changed before any.
func init() { rand.Reader = serials{rand.Reader} }

// A certificate whose serial number begins with a zero in its identifier is
// replaced by one order, which says so.
func TestSerialWithZero(t *testing.T) {
	zeroSerials.Store(true)
	defer zeroSerials.Store(false)
	w := newWorld(t, acmetest.Options{})
	w.register(t)
	first := w.obtain(t, Options{})
	leaf, err := w.Leaf(w.spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	if serial := leaf.SerialNumber.Bytes(); len(serial) != 7 || serial[0] < 0x80 {
		t.Fatalf("the serial number is %x", serial)
	}
	before := w.ca.Count(acmetest.NewOrder)
	next := w.obtain(t, Options{Force: true})
	if !next.Renewed || w.ca.Count(acmetest.NewOrder) != before+1 {
		t.Errorf("%+v after %d requests for an order", next, w.ca.Count(acmetest.NewOrder)-before)
	}
	if said := newOrders(w.ca); !strings.Contains(said[len(said)-1].Payload, `"replaces":"`+first.Version.ARICertID+`"`) {
		t.Errorf("the last order asked for: %s", said[len(said)-1].Payload)
	}
}

// A CA that answers with an error of its own what it does not find is asked once
// more, at once, without the certificate that is to be replaced.
func TestReplacesNotFound(t *testing.T) {
	w := newWorld(t, acmetest.Options{})
	w.register(t)
	first := w.obtain(t, Options{})
	v, err := w.Store.version(first.Dir)
	if err != nil {
		t.Fatal(err)
	}
	issuer, _, _ := strings.Cut(v.ARICertID, ".")
	v.ARICertID = issuer + ".AQIDBA"
	meta, err := encode(kindVersion, *v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first.Dir+"/"+fileMeta, meta, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := w.obtain(t, Options{Force: true}); !r.Renewed {
		t.Errorf("%+v", r)
	}
	said := newOrders(w.ca)
	if last := said[len(said)-2:]; last[0].Status != 500 || !strings.Contains(last[0].Payload, "AQIDBA") || last[1].Status != 201 || strings.Contains(last[1].Payload, "replaces") {
		t.Errorf("the last orders: %+v", last)
	}
}

// newOrders are the requests for an order, oldest first.
func newOrders(ca *acmetest.CA) []acmetest.Request {
	return slices.DeleteFunc(ca.Requests(), func(r acmetest.Request) bool { return r.Kind != acmetest.NewOrder })
}
