package deploy

import (
	"errors"
	"strings"

	"postcert/deploy/generation"
	"postcert/deploy/journal"
	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// meta describes the pair of the plan for the store.
func (p *Plan) meta() generation.Meta {
	leaf := p.Pair.Leaf()
	return generation.Meta{
		Fingerprint: p.Pair.Fingerprint(), KeyType: p.Pair.KeyType(), Names: leaf.DNSNames,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Source: p.Change.Source,
	}
}

// adopt remembers how main.cf and master.cf named the certificate before our
// first edit, as generation 0, so that Release can give it back. What an earlier
// adoption remembers holds no longer if nothing of it is in use: it was released,
// or somebody else has edited it away, and what stands there now is theirs.
func (r *run) adopt() error {
	if r.dry || len(r.plan.Scheme.Edits) == 0 {
		return nil
	}
	_, err := r.Store.GetZero(r.plan.Instance, r.plan.Name)
	if err == nil && !inUse(r.plan.Before, r.plan.Name) {
		if err := r.Store.DropZero(r.plan.Instance, r.plan.Name); err != nil {
			return err
		}
		err = generation.ErrNotFound
	}
	if err != nil && !errors.Is(err, generation.ErrNotFound) {
		return err
	}
	r.adopting = err != nil
	var o generation.Original
	for _, ed := range r.plan.Scheme.Edits {
		o.Parameters = append(o.Parameters, generation.Parameter{Service: ed.Service, Name: ed.Parameter, Value: ed.Old, Text: ed.OldText})
	}
	if !r.adopting {
		return r.Store.ExtendZero(r.plan.Instance, r.plan.Name, o.Parameters)
	}
	for _, path := range certificateFiles(r.plan.Before, r.plan.Change.Service) {
		if s, err := journal.Capture(r.FS, realPath(path)); err == nil {
			o.Files = append(o.Files, generation.OriginalFile{Path: path, State: s})
		}
	}
	_, err = r.Store.Zero(r.plan.Instance, r.plan.Name, o)
	return err
}

// inUse tells whether a parameter of main.cf or master.cf names a file of ours
// for the certificate, whether or not its service listens.
func inUse(s cf.Snapshot, name string) bool {
	services := []string{""}
	for _, svc := range s.Services {
		services = append(services, svc.ID())
	}
	for _, id := range services {
		for _, path := range certificateFiles(s, id) {
			n, ok := nameOf(s.Dir, path)
			if own, _, _ := strings.Cut(n, "+"); ok && (n == name || own == name) {
				return true
			}
		}
	}
	return false
}

// sweep removes what was staged for a change that did not happen.
func (r *run) sweep() {
	if r.gen.Number > 0 && r.plan.Change.Generation == 0 && !r.reused {
		if err := r.Store.Discard(r.gen); err != nil {
			r.logger().Warn("removing a generation that was not installed", "err", err)
		}
	}
	if r.adopting {
		if err := r.Store.DropZero(r.plan.Instance, r.plan.Name); err != nil {
			r.logger().Warn("removing generation 0 of a change that did not happen", "err", err)
		}
	}
	r.dropKeys()
}

// adoption are the edits that reverse the adoption of a certificate. A
// parameter whose present value is not ours any more is left to whoever
// changed it.
func (e *Engine) adoption(s cf.Snapshot, name string) ([]cf.Edit, error) {
	o, err := e.Store.GetZero(s.Dir, name)
	if errors.Is(err, generation.ErrNotFound) {
		return nil, problem.List{problem.New("not_adopted", problem.At{}, "%s did not edit the configuration in %s, so there is nothing to give back", name, s.Dir)}
	}
	if err != nil {
		return nil, err
	}
	var edits []cf.Edit
	for _, p := range o.Parameters {
		ed := s.Edit(p.Service, p.Name, p.Value)
		ed.NewText = p.Text
		if isOurs(s, ed, name) && !sameValue(ed.Old, ed.New) {
			edits = append(edits, ed)
		}
	}
	if len(edits) == 0 {
		return nil, problem.List{problem.New("not_adopted", problem.At{}, "no parameter in %s still has the value that was set for %s", s.Dir, name)}
	}
	return edits, nil
}

// isOurs tells whether a parameter still has a value that we would have set:
// one of our files, a reference to the parameter that names it, or nothing
// where a stale slot was cleared.
func isOurs(s cf.Snapshot, ed cf.Edit, name string) bool {
	if ed.Old == nil || *ed.Old == "" {
		return true
	}
	v := *ed.Old
	for _, path := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
		n, ok := nameOf(s.Dir, path)
		if own, _, _ := strings.Cut(n, "+"); ok && (n == name || own == name) {
			return true
		}
	}
	return strings.HasPrefix(v, "$smtpd_tls_") || ed.Parameter == "smtpd_tls_security_level" && v == "may"
}

func sameValue(a, b *string) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}
