package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/postfix/cf"
	"postcert/verify/probe"
	"postcert/verify/problem"
)

// Companion is another daemon of this host that must serve the same certificate
// as Postfix: an IMAP server, for one. Its configuration is never read or edited.
// It gets copies of the files, is told to read them, and is asked what it serves,
// all within the same transaction: an undo takes its copies back too.
type Companion struct {
	Name        string
	Certificate string           // the name of the certificate that it gets; "" if it gets each
	Export      Export           // where its copies are; zero: it reads the same files as Postfix, or another's
	Reload      []string         // an absolute program and its arguments; none: it notices by itself
	Probe       []probe.Endpoint // what must present the certificate afterwards
}

// Export is where the copies for a companion are: fullchain.pem, readable by
// all, and privkey.pem, readable by its owner and, unless that is root, by its
// group.
type Export struct {
	Directory string // it must exist; "" exports nothing
	UID, GID  uint32
}

// The names of the copies are those of certbot's lineages.
const (
	exportChain = "fullchain.pem"
	exportKey   = "privkey.pem"
)

func (x Export) files() []PlannedFile {
	if x.Directory == "" {
		return nil
	}
	key := atomicfile.Attr{Mode: 0o600, UID: x.UID, GID: x.GID}
	if x.GID != 0 {
		key.Mode = 0o640
	}
	return []PlannedFile{
		{Path: filepath.Join(x.Directory, exportKey), Part: PartKey, Attr: &key},
		{Path: filepath.Join(x.Directory, exportChain), Part: PartFullchain, Attr: &atomicfile.Attr{Mode: 0o644, UID: x.UID, GID: x.GID}},
	}
}

// companionType is the type of a companion's listeners, where those of Postfix
// have inet or unix.
const companionType = "companion"

// companions are those that this change is about: a change of the certificate
// of a single service of Postfix is not about them.
func (e *Engine) companions(p *Plan) []Companion {
	var out []Companion
	for _, c := range e.Companions {
		if !p.Pair.IsZero() && p.Change.Service == "" && (c.Certificate == "" || c.Certificate == p.Name) {
			out = append(out, c)
		}
	}
	return out
}

// companionExpectations are the questions to companions. Each is asked by the
// name that its probe has, and nothing else: it is not ours to know more.
func (p *Plan) companionExpectations() []Expectation {
	var out []Expectation
	for _, c := range p.Companions {
		for _, at := range c.Probe {
			out = append(out, Expectation{
				Listener: cf.Listener{Service: c.Name, Type: companionType, Network: at.Network, Addresses: []string{at.Address}, TLS: true, Implicit: at.Mode == probe.Implicit},
				Endpoint: at, New: true, Sessions: sessions, Ignore: ignored(at.Address, p.Change.IgnoreListeners),
			})
		}
	}
	return out
}

func (x Expectation) companion() bool { return x.Listener.Type == companionType }

// companionsFit proves at plan time that the copies can be written, and that the
// reload commands can be run by root.
func (p *Plan) companionsFit() {
	for _, c := range p.Companions {
		if err := runnable(c.Reload); err != nil {
			p.Problems = append(p.Problems, problem.New("companion_program", problem.At{Service: c.Name, File: c.Reload[0]}, "the reload command of %s: %v", c.Name, err))
		}
		dir := c.Export.Directory
		if dir == "" {
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			p.Problems = append(p.Problems, problem.New("export_directory", problem.At{File: dir},
				"%s is to get its copies of the certificate in %s, which is no directory", c.Name, dir))
			continue
		}
		for _, f := range c.Export.files() {
			if err := atomicfile.Replaceable(f.Path, roomNeeded); err != nil {
				p.Problems = append(p.Problems, problem.New("export_not_replaceable", problem.At{File: f.Path}, "the copy for %s: %v", c.Name, err))
			}
		}
	}
}

// runnable refuses a command that is no program, or one that somebody else than
// root could put another in the place of.
func runnable(argv []string) error {
	switch {
	case len(argv) == 0:
		return nil
	case !filepath.IsAbs(argv[0]):
		return fmt.Errorf("%s is no absolute path", argv[0])
	case !executable(argv[0]):
		return fmt.Errorf("%s is no program", argv[0])
	}
	return atomicfile.Private(realPath(argv[0]))
}

// ReloadError says that a companion's reload command failed.
type ReloadError struct {
	Name string
	Err  error
}

func (e *ReloadError) Error() string { return fmt.Sprintf("reloading %s: %v", e.Name, e.Err) }
func (e *ReloadError) Unwrap() error { return e.Err }

// accompany makes the companions take the new copies, and proves that they do.
// One that does not, although it served TLS before, undoes the whole change: a
// certificate is one thing for this host. One that was down before is told.
func (r *run) accompany(ctx context.Context, outcome Outcome) (Outcome, error) {
	if len(r.plan.Companions) == 0 {
		return outcome, nil
	}
	err := r.step(StepCompanions, func() (string, error) {
		if err := r.tx.Mark(phaseReload); err != nil {
			return "", err
		}
		if err := r.reloadCompanions(ctx); err != nil {
			return "", err
		}
		p := proof{prober: r.Prober, deadline: r.deadline(false)}
		obs := p.observe(ctx, r.plan.companionsOf(r.plan.Expect))
		r.report.Listeners = append(r.report.Listeners, obs...)
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if len(obs) == 0 {
			return count(len(r.plan.Companions), "companion") + ", not asked", nil
		}
		what, err := weigh(obs, true)
		if err == nil && what == NotVerified {
			outcome = NotVerified
		}
		return summary(obs), err
	})
	return outcome, err
}

// reloadCompanions runs the reload commands. That of a companion which served
// nothing before may fail: it is down.
func (r *run) reloadCompanions(ctx context.Context) error {
	for _, c := range r.plan.Companions {
		if err := r.reloadCompanion(ctx, c.Name, c.Reload); err != nil {
			if ctx.Err() == nil && r.plan.down(c) {
				r.report.Problems = append(r.report.Problems, problem.Warn("companion_down", problem.At{Service: c.Name}, "%v; it served nothing before this change either", err))
				continue
			}
			return err
		}
	}
	return nil
}

func (e *Engine) reloadCompanion(ctx context.Context, name string, argv []string) error {
	if len(argv) == 0 {
		return nil
	}
	err := runnable(argv) // it may have been replaced since the plan
	if err == nil && e.Command == nil {
		err = errors.New("nothing here runs programs")
	}
	if err == nil {
		err = e.Command(ctx, argv)
	}
	if err != nil {
		return &ReloadError{Name: name, Err: err}
	}
	return nil
}

// down tells that a companion is known to have served nothing before the change.
func (p *Plan) down(c Companion) bool {
	known := false
	for _, x := range p.companionsOf(p.Former) {
		if x.Listener.Service != c.Name {
			continue
		}
		if !x.wasBroken() {
			return false
		}
		known = true
	}
	return known
}

// companionsOf are the questions to companions among all.
func (p *Plan) companionsOf(all []Expectation) []Expectation {
	var out []Expectation
	for _, x := range all {
		if x.companion() {
			out = append(out, x)
		}
	}
	return out
}

// postfixOf are the questions to Postfix among all.
func (p *Plan) postfixOf(all []Expectation) []Expectation {
	var out []Expectation
	for _, x := range all {
		if !x.companion() {
			out = append(out, x)
		}
	}
	return out
}

// companionNote is what an undo needs to know of a companion.
type companionNote struct {
	Name   string   `json:"name"`
	Reload []string `json:"reload"`
}

// restoreCompanions makes the companions read the restored copies. What counts
// is what they serve then, which the proof of the undo asks; so a command that
// fails is told and stops nothing.
func (r *run) restoreCompanions(ctx context.Context, n note) {
	for _, c := range n.Companions {
		if err := r.reloadCompanion(ctx, c.Name, c.Reload); err != nil {
			r.report.Problems = append(r.report.Problems, problem.Warn("companion_reload", problem.At{Service: c.Name}, "%v", err))
		}
	}
}

// leaveStopped takes the companions out of an undo that do not run: at boot, before
// they have started. They will start with the copies that the undo restores. One
// that cannot be asked, because nothing is known to ask, is told to reload as ever.
func (n *note) leaveStopped(ctx context.Context) {
	asked, runs := map[string]bool{}, map[string]bool{}
	for _, b := range n.Baseline {
		if b.Type == companionType {
			asked[b.Service] = true
			runs[b.Service] = runs[b.Service] || !stopped(ctx, b.Endpoint)
		}
	}
	gone := func(name string) bool { return asked[name] && !runs[name] }
	n.Companions = slices.DeleteFunc(n.Companions, func(c companionNote) bool { return gone(c.Name) })
	n.Baseline = slices.DeleteFunc(n.Baseline, func(b baseline) bool { return b.Type == companionType && gone(b.Service) })
}

// stopped tells that nobody listens: the connection is refused, or there is no
// socket. Any other answer, also none, leaves it open.
func stopped(ctx context.Context, q question) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	network := q.Network
	if network == "" {
		network = "tcp"
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, q.Address)
	if err == nil {
		c.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}
