package acme

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// No bit of a stored file can change unseen.
func TestEveryBit(t *testing.T) {
	st := State{Failures: 3, Class: ClassNetwork, LastError: "x", NextAttempt: epoch, Touched: epoch, ARIOrders: []time.Time{epoch}}
	good, err := encode(kindState, st)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			var got State
			err := decode(kindState, bad, &got, got.check)
			var file *FileError
			if err == nil {
				// White space between members may become other white space.
				again, _ := encode(kindState, got)
				if !bytes.Equal(again, good) {
					t.Fatalf("bit %d of byte %d (%q) changed the content unseen", bit, i, good[i])
				}
			} else if !errors.As(err, &file) {
				t.Fatalf("%T %v", err, err)
			}
		}
	}
}
