package main

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"

	"postcert/acme/lineage"
	"postcert/cmd/postcert/internal/config"
	"postcert/cmd/postcert/internal/status"
	"postcert/verify/keypair"
)

// sourceHook is what another client obtains and its hook, or a person, deployed:
// no section of the configuration says it.
const sourceHook config.Source = "hook"

// hookWishes are the certificates that were deployed from the files of another
// client, or were to be: by the records, so that neither that client nor a
// configuration is needed to try again.
func (a *app) hookWishes(names []string) []wish {
	var out []wish
	for _, r := range a.records().All() {
		if len(placesOf(r)) == 0 || r.Released || len(names) > 0 && !slices.Contains(names, r.Name) {
			continue
		}
		w := wish{name: r.Name, source: sourceHook, lineage: r.Lineage, hooked: map[string]string{r.Instance: r.Service}}
		if r.Source != nil {
			w.files = pairFiles{cert: r.Source.Cert, key: r.Source.Key, chain: r.Source.Chain}
		}
		// Whoever installed something from a directory may clear it away; that what is
		// served goes on being served is asked all the same.
		if _, err := os.Stat(w.watched().cert); errors.Is(err, fs.ErrNotExist) && r.Retry == "" {
			continue
		}
		if i := slices.IndexFunc(out, func(o wish) bool { return o.name == w.name }); i < 0 {
			out = append(out, w)
		} else if out[i].lineage == w.lineage && out[i].files == w.files {
			out[i].hooked[r.Instance] = r.Service
		}
	}
	return out
}

// watched are the files of a certificate that another client obtains.
func (w wish) watched() pairFiles {
	src := w.reads()
	return pairFiles{cert: src.Cert, key: src.Key, chain: src.Chain}
}

// nothingNew tells whether the files hold what was deployed last, everywhere, so
// that there is nothing to deploy.
func (a *app) nothingNew(w wish) bool {
	leaf, err := lineage.LeafOf(w.watched().cert)
	if err != nil {
		return false
	}
	for dir := range w.hooked {
		if rec, err := a.records().Read(dir, w.name); err != nil || !rec.Settled(keypair.Fingerprint(leaf)) {
			return false
		}
	}
	return true
}

// proveOnly asks whether what was deployed is served. That somebody changed it
// since is told, and undone only if the configuration wants that.
func (a *app) proveOnly(ctx context.Context, w wish, turn *status.Turn, o passOptions, v *passJSON, res *result) error {
	turn.Seen = w.seen()
	for _, dir := range slices.Sorted(maps.Keys(w.hooked)) {
		rec, err := a.records().Read(dir, w.name)
		if err != nil {
			return err
		}
		sites, err := a.sitesOf(ctx, wish{name: w.name, source: config.SourceWatch, remembered: true, instance: dir})
		if err != nil {
			return err
		}
		for _, s := range sites {
			p := a.lookAfter(ctx, s, rec, o, res)
			v.Deploys = append(v.Deploys, deployJSON{Instance: dir, Left: orText(p.Left, "there is nothing new")})
		}
	}
	return nil
}
