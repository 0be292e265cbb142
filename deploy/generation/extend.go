package generation

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"postcert/deploy/atomicfile"
)

// ExtendZero adds parameters to generation 0 that a later change edited for
// the first time. Those that it has already keep their value: it is the one of
// before the first adoption. Generation 0 is the only one that is ever changed,
// and only by additions, in one rename.
func (s Store) ExtendZero(instance, name string, more []Parameter) error {
	o, err := s.GetZero(instance, name)
	if err != nil {
		return err
	}
	before := len(o.Parameters)
	for _, p := range more {
		if !slices.ContainsFunc(o.Parameters, func(q Parameter) bool { return q.Service == p.Service && q.Name == p.Name }) {
			o.Parameters = append(o.Parameters, p)
		}
	}
	if len(o.Parameters) == before {
		return nil
	}
	if err := writable(o); err != nil {
		return err
	}
	base, err := s.base(instance, name)
	if err != nil {
		return err
	}
	encoded, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return fmt.Errorf("generation: %w", err)
	}
	return atomicfile.Write(s.FS, filepath.Join(base, number(0), fileMeta), encoded, atomicfile.Attr{Mode: 0o600})
}
