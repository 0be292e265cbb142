package status

// Key names a record.
type Key struct{ Instance, Name string }

// Keys are those of all records, each once, in no particular order. What cannot be
// read is passed over.
func (s Store) Keys() []Key {
	var out []Key
	s.each(func(r *Record) { out = append(out, Key{r.Instance, r.Name}) })
	return out
}
