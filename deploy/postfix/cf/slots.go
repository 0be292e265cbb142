package cf

import (
	"path/filepath"
	"slices"
	"strings"
)

// slotNames are the legacy pairs, in the order Postfix loads them: of two with
// one key type the later wins. Postfix does not check that a slot's name and
// its key type agree.
var slotNames = [3][2]string{{"cert_file", "key_file"}, {"dcert_file", "dkey_file"}, {"eccert_file", "eckey_file"}}

// slot is one legacy pair, as absolute paths; empty if it is not in effect.
type slot struct{ cert, key string }

// material is what a daemon loads its certificates from. With chain files the
// slots are ignored, as Postfix ignores them.
type material struct {
	chain []string // as they stand in the list
	paths []string // the same, absolute
	slots [3]slot
}

// material reads the parameters with the given beginning for a service.
func (s Snapshot) material(service, prefix string) material {
	var m material
	for _, f := range listOf(s.exact(service, prefix+"chain_files")) {
		m.chain = append(m.chain, f)
		m.paths = append(m.paths, s.ResolvePath(f))
	}
	if len(m.chain) == 0 {
		m.slots = s.slots(service, prefix)
	}
	return m
}

func (s Snapshot) slots(service, prefix string) (out [3]slot) {
	for i, names := range slotNames {
		cert := s.Effective(service, prefix+names[0])
		if cert != "" && !strings.EqualFold(cert, "none") {
			out[i] = slot{s.ResolvePath(cert), s.ResolvePath(s.Effective(service, prefix+names[1]))}
		}
	}
	return out
}

func (m material) equal(o material) bool {
	return slices.Equal(m.paths, o.paths) && m.slots == o.slots
}

// files are the paths, each once.
func (m material) files() []string {
	out := slices.Clone(m.paths)
	for _, s := range m.slots {
		for _, f := range []string{s.cert, s.key} {
			if f != "" && !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}

// own is the paths of the new pair, in the order of a chain list.
func (t Target) own() []string {
	if t.Layout == Pair {
		return []string{t.KeyPath, t.CertPath}
	}
	return []string{t.Path}
}

// slot is the pair as a legacy slot.
func (t Target) slot() slot {
	if t.Layout == Pair {
		return slot{t.CertPath, t.KeyPath}
	}
	return slot{t.Path, t.Path}
}

// holds tells whether the new pair is among the material.
func (d *decision) holds(m material) bool {
	own := d.target.own()
	for i := range m.paths {
		if i+len(own) <= len(m.paths) && slices.Equal(m.paths[i:i+len(own)], own) {
			return true
		}
	}
	return slices.Contains(m.slots[:], d.target.slot())
}

// place plans the parameters that put the pair in, in the scheme in effect.
func (d *decision) place(service, prefix string) {
	now := d.now()
	m := now.material(service, prefix)
	kind := "legacy"
	if len(m.chain) > 0 {
		kind = "chain_files"
		d.placeChain(service, prefix, m)
	} else {
		d.placeSlot(service, prefix, m)
	}
	if d.target.Layout == Pair {
		kind = Pair
	}
	if d.Kind == "" {
		d.Kind = kind
	}
}

// group is a key with its certificates in a chain list: a file, and the files
// behind it that hold no key.
type group struct {
	files []string // as they stand
	types []string
	err   error
	mine  bool
}

func (d *decision) groups(m material) []group {
	var out []group
	own := d.target.own()
	for i, f := range m.chain {
		p := d.target.Look(m.paths[i])
		if p.Err == nil && len(p.KeyTypes) == 0 && len(out) > 0 {
			last := &out[len(out)-1]
			last.files = append(last.files, f)
			continue
		}
		out = append(out, group{[]string{f}, p.KeyTypes, p.Err, m.paths[i] == own[0]})
	}
	return out
}

// placeChain replaces the entry of ours, else that of the pair's key type, in
// smtpd_tls_chain_files, and keeps those of other types. At most one key of a
// type may be in the list: a second one makes Postfix load nothing.
func (d *decision) placeChain(service, prefix string, m material) {
	name := prefix + "chain_files"
	if legacy := d.now().slots(service, prefix); legacy != [3]slot{} {
		d.warn("legacy_ignored", d.at(service, name), "%s is set, so Postfix ignores %scert_file, %seccert_file and %sdcert_file", name, prefix, prefix, prefix)
	}
	groups := d.groups(m)
	chosen := slices.IndexFunc(groups, func(g group) bool { return g.mine })
	same := func(g group) bool { return slices.Contains(g.types, d.target.KeyType) }
	if chosen < 0 {
		chosen = slices.IndexFunc(groups, same)
	}
	if chosen < 0 && len(groups) == 1 && !sibling(d.target.own()[0], m.paths[0]) {
		chosen = 0
	}
	var list []string
	for i, g := range groups {
		switch {
		case len(g.types) > 1 && (i == chosen || same(g)):
			d.refuse("mixed_chain_file", d.at(service, name), "%s holds keys of several types (%s), so one of them cannot be replaced", g.files[0], strings.Join(g.types, ", "))
			return
		case i == chosen:
			d.typeChange(service, name, g.files[0], Present{KeyTypes: g.types, Err: g.err})
			list = append(list, d.target.own()...)
		case g.err != nil:
			d.refuse("stale_slot", d.at(service, name), "%s names %s, which cannot be used (%v): Postfix would serve nothing", name, g.files[0], g.err)
			return
		case !same(g):
			list = append(list, g.files...)
		}
	}
	if chosen < 0 {
		list = append(list, d.target.own()...)
	}
	separator := ", "
	if service != "" {
		separator = "," // no blanks, no braces needed
	}
	d.set(service, name, strings.Join(list, separator))
}

// typeChange warns if the present certificate is of another key type.
func (d *decision) typeChange(service, name, file string, p Present) {
	if p.Err == nil && len(p.KeyTypes) > 0 && !slices.Contains(p.KeyTypes, d.target.KeyType) {
		d.warn("key_type_changed", d.at(service, name), "the key type changes from %s (%s) to %s; clients that need %s lose their certificate", p.KeyTypes[0], file, d.target.KeyType, p.KeyTypes[0])
	}
}

// placeSlot chooses the legacy slot and clears others of the same key type.
func (d *decision) placeSlot(service, prefix string, m material) {
	var present [3]Present
	for i, s := range m.slots {
		if s.cert != "" {
			present[i] = d.target.Look(filesOf(s)...)
		}
	}
	chosen := d.chooseSlot(m, present)
	for i, s := range m.slots {
		name := prefix + slotNames[i][0]
		switch {
		case s.cert == "" || i == chosen:
		case s.cert == d.target.slot().cert || slices.Contains(present[i].KeyTypes, d.target.KeyType):
			d.set(service, name, "")
		case present[i].Err != nil:
			d.refuse("stale_slot", d.at(service, name), "%s names %s, which cannot be used (%v): Postfix would switch TLS off", name, s.cert, present[i].Err)
		}
	}
	cert := prefix + slotNames[chosen][0]
	if m.slots[chosen].cert != "" {
		d.typeChange(service, cert, m.slots[chosen].cert, present[chosen])
	}
	d.set(service, cert, d.target.slot().cert)
	key := "$" + cert
	if d.target.Layout == Pair {
		key = d.target.KeyPath
	}
	d.set(service, prefix+slotNames[chosen][1], key)
}

func filesOf(s slot) []string {
	if s.key == s.cert || s.key == "" {
		return []string{s.cert}
	}
	return []string{s.cert, s.key}
}

// chooseSlot: the slot that names our file already; else the first whose file
// holds the pair's key type; else, for the second type beside a file of ours,
// eccert_file; else cert_file.
func (d *decision) chooseSlot(m material, present [3]Present) int {
	for i, s := range m.slots {
		if s.cert == d.target.slot().cert {
			return i
		}
	}
	for i := range m.slots {
		if slices.Contains(present[i].KeyTypes, d.target.KeyType) {
			return i
		}
	}
	if sibling(d.target.slot().cert, m.slots[0].cert) && m.slots[2].cert == "" {
		return 2
	}
	return 0
}

// sibling tells whether two paths are the files of one name's two key types:
// NAME.pem and NAME+rsa.pem.
func sibling(a, b string) bool {
	stem := func(p string) string {
		p = strings.TrimSuffix(p, ".pem")
		base, kind, found := strings.Cut(filepath.Base(p), "+")
		if found && slices.Contains([]string{"rsa", "ecdsa", "ed25519"}, kind) {
			return filepath.Join(filepath.Dir(p), base)
		}
		return p
	}
	return a != b && a != "" && b != "" && stem(a) == stem(b)
}
