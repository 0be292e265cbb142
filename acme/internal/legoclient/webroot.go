package legoclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// webroot answers http-01 by files that another web server publishes.
//
// All paths are opened below the directory by os.Root, so a symbolic link in it
// leads nowhere outside. The directories that are missing are made, and those
// that we made are removed again when nothing else is in them.
type webroot struct{ dir string }

func (webroot) kind() string   { return HTTP01 }
func (webroot) oneByOne() bool { return false }

func (w webroot) check(ctx context.Context, _ []string) error {
	down, err := w.present(ctx, []task{{token: "postcert-check-" + rand.Text(), keyAuth: "postcert"}})
	return errors.Join(err, local("challenge", "", down(context.WithoutCancel(ctx))))
}

func (w webroot) present(_ context.Context, tasks []task) (func(context.Context) error, error) {
	root, err := os.OpenRoot(w.dir)
	if err != nil {
		return func(context.Context) error { return nil }, w.failed("", err)
	}
	p := &published{root: root}
	err = p.mkdirs()
	for i := 0; err == nil && i < len(tasks); i++ {
		err = w.failed(tasks[i].identifier, p.write(tasks[i]))
	}
	return p.down, w.failed("", err)
}

func (w webroot) failed(identifier string, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Op: "challenge", Identifier: identifier, Kind: Local, Detail: fmt.Sprintf("webroot %s: %s", w.dir, clean(err.Error())), Err: err}
}

// published is what has been put into a webroot, in order.
type published struct {
	root        *os.Root
	dirs, files []string
}

// mkdirs makes .well-known and acme-challenge below it, readable for all whatever
// our umask.
func (p *published) mkdirs() error {
	path := ""
	for part := range strings.SplitSeq(strings.Trim(wellKnown, "/"), "/") {
		path = strings.TrimPrefix(path+"/"+part, "/")
		err := p.root.Mkdir(path, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		p.dirs = append(p.dirs, path)
		if err := p.root.Chmod(path, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (p *published) write(t task) error {
	path := strings.TrimPrefix(wellKnown, "/") + t.token
	f, err := p.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	p.files = append(p.files, path)
	_, err = f.WriteString(t.keyAuth)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

func (p *published) down(context.Context) error {
	var all []error
	for _, path := range p.files {
		if err := p.root.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			all = append(all, err)
		}
	}
	for i := len(p.dirs) - 1; i >= 0; i-- {
		// Something that another program put there meanwhile keeps the directory.
		if err := p.root.Remove(p.dirs[i]); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			all = append(all, err)
		}
	}
	return errors.Join(append(all, p.root.Close())...)
}
