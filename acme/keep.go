package acme

import (
	"context"
	"slices"

	"postcert/acme/internal/legoclient"
	"postcert/verify/problem"
)

// keep checks what the CA delivered and stores it, or puts it aside.
func (r *run) keep(ctx context.Context, chain legoclient.Chain) error {
	name := r.spec.Name
	key, _, err := r.m.Store.pendingKey(name, r.st.Pending)
	if err != nil {
		return err
	}
	encoded, err := encodeKey(key)
	if err != nil {
		return err
	}
	t := r.st.at(r.m.now())
	v, files, err := checked(*r.st.Pending, encoded, chain, t)
	if err != nil {
		reason := struct {
			At    any    `json:"at"`
			Order string `json:"order_url"`
			Why   string `json:"why"`
		}{t, r.st.Pending.OrderURL, err.Error()}
		if perr := r.m.Store.putAside(name, material{chain: chain.Certificates}.files()[FileFullChain], reason); perr != nil {
			return perr
		}
		r.st.Pending = nil
		return err
	}
	if r.spec.PreferredChain != "" && !chain.Preferred {
		r.warn(problem.Warn("chain_not_offered", problem.At{}, "the CA offers no chain that ends in %q, only in %s", r.spec.PreferredChain, words(chain.Alternates)))
	}
	stored, err := r.m.Store.addVersion(name, v, files)
	if err != nil {
		return err
	}
	if err := r.settle(stored); err != nil {
		return err
	}
	r.askRenewal(ctx)
	return nil
}

// settle makes a stored version the live one, forgets the failures and the order
// before it, and removes what is too old. Each step may be the last one of a run
// that is killed: the next run begins here again.
func (r *run) settle(v *Version) error {
	s, name := r.m.Store, r.spec.Name
	was := r.st.Current
	if err := s.makeLive(name, v); err != nil {
		return err
	}
	if was != nil && was.SHA256 != v.SHA256 {
		r.result.KeyChange = was.SPKI != v.SPKI
		r.st.Previous = was
	}
	if err := r.usedNext(v); err != nil {
		return err
	}
	st := State{
		ARIOrders: r.st.ARIOrders, Compromised: r.st.Compromised, Skew: r.st.Skew, SkewAt: r.st.SkewAt, Touched: r.st.Touched,
		NextSPKI: r.st.NextSPKI, Current: v, Previous: r.st.Previous, Orders: r.st.Orders,
	}
	st.touch(st.at(r.m.now()))
	st.Checked = st.at(r.m.now())
	if err := s.writeState(name, st); err != nil {
		return err
	}
	if err := s.removeDir(s.cert(name, dirPending)); err != nil {
		return err
	}
	r.st = st
	r.result.Renewed = true
	r.m.log().Info("certificate stored", "name", name, "version", v.Number, "not_after", v.NotAfter, "reason", r.result.Reason)
	return s.prune(name)
}

// usedNext makes another next key once the one there was is in use, and the
// first one of a certificate whose policy is staged.
func (r *run) usedNext(v *Version) error {
	if r.spec.KeyPolicy != KeyStaged {
		return nil
	}
	path := r.m.Store.nextKeyPath(r.spec.Name)
	if key, err := r.m.Store.readKey(path); err == nil && spki(key.Public()) == v.SPKI {
		if err := r.m.Store.fs.Remove(path); err != nil {
			return err
		}
	}
	_, err := r.staged()
	return err
}

// askRenewal asks for the new certificate's window at once (RFC 9773 section
// 4.3). That it fails is no failure: the schedule goes on without.
func (r *run) askRenewal(ctx context.Context) {
	r.m.ask(ctx, r.c, r.dir.ARI, &r.st)
	if err := r.m.Store.writeState(r.spec.Name, r.st); err != nil {
		r.m.log().Warn("the renewal window was not written down", "name", r.spec.Name, "err", err)
	}
}

// byOrder is the version that an order made; nil if none is on disk.
func (s *Store) byOrder(name, orderURL string) (*Version, error) {
	have, err := s.numbers(name)
	if err != nil {
		return nil, err
	}
	for _, n := range slices.Backward(sortedInts(have)) {
		v, err := s.version(s.cert(name, "versions", have[n]))
		if err == nil && v.OrderURL == orderURL {
			return v, nil
		}
	}
	return nil, nil
}

func sortedInts(m map[int]string) []int {
	var all []int
	for n := range m {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}
