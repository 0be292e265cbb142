package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postcert/deploy"
	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify/problem"
)

// hardenRecord is what --undo needs to know of the hardenings of an instance. It is
// written in the same transaction as main.cf, so it says what is in place.
type hardenRecord struct {
	Instance  string           `json:"instance"`
	Changes   []hardenedChange `json:"changes"`             // oldest first; what was undone is out
	Fallbacks []hardenFallback `json:"fallbacks,omitempty"` // what was undone and is watched
}

// hardenedChange is one transaction of a hardening.
type hardenedChange struct {
	Time    time.Time `json:"time"`
	Profile string    `json:"profile"`
	Edits   []cf.Edit `json:"edits"` // as cf.Trace returned them
}

// hardenFallback is a service that takes passwords in clear since an undo.
type hardenFallback struct {
	Service string    `json:"service"`
	Since   time.Time `json:"since"`
}

// recordPath is where the record of an instance is.
func (a *app) recordPath(s *site) string {
	return filepath.Join(a.conf.StateDir, "hardened", url.PathEscape(s.instance.ConfigDirectory)+".json")
}

// readRecord returns the record, an empty one if there is none, and its file's state.
func (a *app) readRecord(s *site) (hardenRecord, atomicfile.State, error) {
	r := hardenRecord{Instance: s.instance.ConfigDirectory}
	st, err := atomicfile.Capture(s.engine.FS, a.recordPath(s))
	if err == nil && st.Kind == atomicfile.File {
		err = json.Unmarshal(st.Data, &r)
	}
	if err != nil {
		return r, st, problem.List{problem.New("harden_record", problem.At{File: a.recordPath(s)}, "the record of what was hardened cannot be read: %v", err)}
	}
	return r, st, nil
}

// recordFile is the change of the record's file; a record that says nothing goes.
func (a *app) recordFile(s *site, r hardenRecord, before atomicfile.State) (deploy.FileChange, error) {
	out := deploy.FileChange{Path: a.recordPath(s), Before: before, After: atomicfile.State{Kind: atomicfile.Absent}, Own: true}
	if len(r.Changes) > 0 || len(r.Fallbacks) > 0 {
		data, err := json.Marshal(r)
		if err != nil {
			return out, err
		}
		out.After = atomicfile.NewFile(append(data, '\n'), atomicfile.Attr{Mode: 0o600})
	}
	if a.flags.dryRun {
		return out, nil
	}
	return out, atomicfile.MkdirAll(s.engine.FS, filepath.Dir(out.Path))
}

// undoPlan is what an undo does with the record and with the two files.
type undoPlan struct {
	edits   []cf.Edit // the inverses, in the order in which they are carried out
	undone  []cf.Edit // the edits of the record that they undo
	kept    problem.List
	record  hardenRecord // what is left of it
	matched bool         // one of the names is of an edit of the record
}

// planUndo takes the named edits of a record back, all if none is named, the latest
// first, each only if what it wrote still stands there.
func planUndo(r hardenRecord, s cf.Snapshot, names []string) undoPlan {
	out := undoPlan{record: hardenRecord{Instance: r.Instance, Fallbacks: slices.Clone(r.Fallbacks)}}
	main, master := s.Main.Data, s.Master.Data
	var left []hardenedChange
	for i := len(r.Changes) - 1; i >= 0; i-- {
		c := r.Changes[i]
		var stay []cf.Edit
		for j := len(c.Edits) - 1; j >= 0; j-- {
			e := c.Edits[j]
			if !named(e, names) {
				stay = append(stay, e)
				continue
			}
			out.matched = true
			back := e.Inverse()
			m, n, err := cf.Apply(main, master, []cf.Edit{back})
			if err != nil {
				out.kept = append(out.kept, keptWarning(s, e, err))
				continue
			}
			out.edits, out.undone, main, master = append(out.edits, back), append(out.undone, e), m, n
		}
		if slices.Reverse(stay); len(stay) > 0 {
			c.Edits = stay
			left = append(left, c)
		}
	}
	slices.Reverse(left)
	out.record.Changes = left
	return out
}

// named tells whether an edit is meant: by its parameter, its service, or both as
// postconf -P writes them: submission/inet/smtpd_tls_auth_only.
func named(e cf.Edit, names []string) bool {
	if len(names) == 0 {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool {
		return n != "" && (n == e.Parameter || n == e.Service || e.Service != "" && n == e.Service+"/"+e.Parameter)
	})
}

// keptWarning says what somebody else has changed since, and so stays.
func keptWarning(s cf.Snapshot, e cf.Edit, err error) problem.Problem {
	at := problem.At{Parameter: e.Parameter, Service: e.Service, File: s.Main.Path}
	if e.Service != "" {
		at.File = s.Master.Path
	}
	if _, line := s.Source(e.Service, e.Parameter); line > 0 {
		at.Line = line
	}
	var conflict *cf.ConflictError
	if errors.As(err, &conflict) {
		err = fmt.Errorf("%s", strings.Replace(conflict.Error(), ", expected ", ", and harden had left it as ", 1))
	}
	return problem.Warn("harden_kept", at, "somebody has changed it since, so it stays: %v", err)
}

// clearAuth are the services that take passwords without TLS.
func clearAuth(s cf.Snapshot) []string {
	var out []string
	for _, l := range s.Listeners(cf.Host{}) {
		if !l.Postscreen && authInClear(s, l.ID()) {
			out = append(out, l.ID())
		}
	}
	return out
}

// opened are the services that take passwords without TLS after an undo of
// smtpd_tls_auth_only, or of what else kept them from it.
func opened(before, after cf.Snapshot) []string {
	was := clearAuth(before)
	return slices.DeleteFunc(clearAuth(after), func(id string) bool { return slices.Contains(was, id) })
}

// fallbacks are the warnings about services that take passwords in clear since an
// undo, as long as they do.
func (a *app) fallbacks(r hardenRecord, s cf.Snapshot) problem.List {
	var out problem.List
	now := clearAuth(s)
	for _, f := range r.Fallbacks {
		if slices.Contains(now, f.Service) {
			out = append(out, problem.Warn("auth_fallback", where(s, f.Service, "smtpd_tls_auth_only"),
				"%s takes passwords without TLS since smtpd_tls_auth_only was undone on %s: who reads the connection reads the password", f.Service, f.Since.UTC().Format(time.DateOnly)))
		}
	}
	return out
}

// watchedFallbacks are the fallbacks of an instance, for status.
func (a *app) watchedFallbacks(ctx context.Context, s *site) problem.List {
	r, _, err := a.readRecord(s)
	if err != nil {
		return problem.List{problem.Warn("harden_record", problem.At{File: a.recordPath(s)}, "%v", err)}
	}
	if len(r.Fallbacks) == 0 {
		return nil
	}
	snap, err := s.engine.MTA.Snapshot(ctx)
	if err != nil {
		return nil // status says why
	}
	return a.fallbacks(r, snap)
}
