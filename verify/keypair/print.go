package keypair

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// String is the fingerprint of the leaf, or "no pair".
func (p Pair) String() string {
	if p.in == nil {
		return "no pair"
	}
	return p.Fingerprint()
}

// GoString is what %#v prints.
func (p Pair) GoString() string { return "keypair.Pair(" + p.String() + ")" }

// Format prints the fingerprint under every verb, so that no verb prints more.
func (p Pair) Format(f fmt.State, verb rune) {
	s := p.String()
	switch {
	case verb == 'v' && f.Flag('#'):
		s = p.GoString()
	case verb == 'q':
		s = `"` + s + `"`
	}
	// An error here is the writer's, who learns of it from its own calls.
	_, _ = io.WriteString(f, s)
}

// LogValue makes log/slog write the fingerprint.
func (p Pair) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText is the fingerprint, "" for the zero Pair; encoding/xml uses it.
func (p Pair) MarshalText() ([]byte, error) { return []byte(p.Fingerprint()), nil }

// MarshalJSON is the fingerprint as a JSON string.
func (p Pair) MarshalJSON() ([]byte, error) { return json.Marshal(p.Fingerprint()) }

// GobEncode is the fingerprint. There is no GobDecode: a Pair does not travel.
func (p Pair) GobEncode() ([]byte, error) { return p.MarshalText() }
