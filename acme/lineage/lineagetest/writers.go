// Package lineagetest writes certificates as the programs do that renew or copy
// them: step by step, in their order, with a pause wherever one is possible. What
// a reader may see between two steps is what tests of readers need.
package lineagetest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"postcert/verify/certtest"
)

// Writer is one way to replace the pair in a lineage.
type Writer struct {
	Name      string
	Cert, Key string // in the directory of the lineage; %s is the certificate's name

	// write makes p the pair of the lineage; n counts from 1. pause is called
	// between two steps.
	write func(w *work, p *certtest.Pair)
}

// work is one call of a writer.
type work struct {
	t     testing.TB
	dir   string // of the lineage
	name  string
	n     int
	pause func()
}

// Source is where a writer's lineage below base is: its directory, and the paths
// of certificate and key.
func (w Writer) Source(base, name string) (dir, cert, key string) {
	dir = filepath.Join(base, "live", name)
	at := func(file string) string {
		if file == "%s.crt" || file == "%s.key" {
			file = fmt.Sprintf(file, name)
		}
		return filepath.Join(dir, file)
	}
	return dir, at(w.Cert), at(w.Key)
}

// Write makes p the n-th pair of the lineage of a name below base, counted from 1.
func (w Writer) Write(t testing.TB, base, name string, n int, p *certtest.Pair, pause func()) {
	t.Helper()
	dir, _, _ := w.Source(base, name)
	w.write(&work{t: t, dir: dir, name: name, n: n, pause: pause}, p)
}

const fullchain, privkey = "fullchain.pem", "privkey.pem"

// Writers are all of them.
var Writers = []Writer{
	{"certbot", fullchain, privkey, certbot},
	{"lego", "%s.crt", "%s.key", lego},
	{"acme.sh", fullchain, privkey, acmesh},
	{"rsync", fullchain, privkey, rsync},
	{"mv", fullchain, privkey, mv},
	{"hard link and rename", fullchain, privkey, hardLink},
	{"Kubernetes", "tls.crt", "tls.key", kubernetes},
	{"directory recreated", fullchain, privkey, recreated},
	{"directory swapped", fullchain, privkey, swapped},
	{"directory behind a link", fullchain, privkey, relinked},
}

func (w *work) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
	}
}

func (w *work) mkdir(dir string) { w.do(os.MkdirAll(dir, 0o700)) }

func (w *work) file(path string, data []byte) { w.do(os.WriteFile(path, data, 0o600)) }

// link does as certbot's update_link_to in storage.py: unlink, symlink.
func (w *work) link(target, path string) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		w.t.Error(err)
	}
	w.pause()
	w.do(os.Symlink(target, path))
}

// certbot: storage.py, save_successor and update_all_links_to.
func certbot(w *work, p *certtest.Pair) {
	archive := filepath.Join(filepath.Dir(filepath.Dir(w.dir)), "archive", w.name)
	w.mkdir(w.dir)
	w.mkdir(archive)
	kinds := []struct {
		name string
		data []byte
	}{{"cert", p.CertPEM()}, {"privkey", p.KeyPEM()}, {"chain", p.ChainPEM()}, {"fullchain", p.FullchainPEM()}}
	for _, k := range kinds {
		w.file(filepath.Join(archive, fmt.Sprintf("%s%d.pem", k.name, w.n)), k.data)
	}
	for i, k := range kinds {
		if i > 0 {
			w.pause()
		}
		file := fmt.Sprintf("%s%d.pem", k.name, w.n)
		one := *w
		one.pause = func() {} // the pause between the two calls is a few µs; that between links is longer
		one.link(filepath.Join("..", "..", "archive", w.name, file), filepath.Join(w.dir, k.name+".pem"))
	}
}

// lego: cmd/internal/storage, SaveResource; each by os.WriteFile.
func lego(w *work, p *certtest.Pair) {
	w.mkdir(w.dir)
	at := filepath.Join(w.dir, w.name)
	w.file(at+".crt", p.FullchainPEM())
	w.pause()
	w.file(at+".issuer.crt", p.ChainPEM())
	w.pause()
	w.file(at+".key", p.KeyPEM())
	w.pause()
	w.file(at+".json", []byte("{}"))
}

// chunks writes a file in place, in two pieces: the first ends in the middle, or at
// the end of a certificate.
func (w *work) chunks(path string, data []byte, cut int) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	w.do(err)
	w.pause()
	_, err = f.Write(data[:cut])
	w.do(err)
	w.pause()
	_, err = f.Write(data[cut:])
	w.do(err)
	w.do(f.Close())
}

// acmesh: _installcert, cat > file, in this order.
func acmesh(w *work, p *certtest.Pair) {
	w.mkdir(w.dir)
	w.file(filepath.Join(w.dir, "cert.pem"), p.CertPEM())
	w.pause()
	w.file(filepath.Join(w.dir, "ca.pem"), p.ChainPEM())
	w.pause()
	w.chunks(filepath.Join(w.dir, privkey), p.KeyPEM(), len(p.KeyPEM())/2)
	w.pause()
	w.chunks(filepath.Join(w.dir, fullchain), p.FullchainPEM(), len(p.CertPEM()))
}

// rsync writes .NAME.XXXXXX and renames it, file by file.
func rsync(w *work, p *certtest.Pair) {
	w.mkdir(w.dir)
	for _, f := range []struct {
		name string
		data []byte
	}{{fullchain, p.FullchainPEM()}, {privkey, p.KeyPEM()}} {
		temp := filepath.Join(w.dir, "."+f.name+".Xa3f9Q")
		w.chunks(temp, f.data, len(f.data)/2)
		w.do(os.Rename(temp, filepath.Join(w.dir, f.name)))
		w.pause()
	}
}

// mv moves files in from another directory of the file system.
func mv(w *work, p *certtest.Pair) {
	w.mkdir(w.dir)
	from := w.dir + ".new"
	w.mkdir(from)
	w.file(filepath.Join(from, fullchain), p.FullchainPEM())
	w.file(filepath.Join(from, privkey), p.KeyPEM())
	w.do(os.Rename(filepath.Join(from, privkey), filepath.Join(w.dir, privkey)))
	w.pause()
	w.do(os.Rename(filepath.Join(from, fullchain), filepath.Join(w.dir, fullchain)))
}

// hardLink keeps a copy by a hard link, then renames a new file over the name.
func hardLink(w *work, p *certtest.Pair) {
	w.mkdir(w.dir)
	for _, f := range []struct {
		name string
		data []byte
	}{{privkey, p.KeyPEM()}, {fullchain, p.FullchainPEM()}} {
		path := filepath.Join(w.dir, f.name)
		_ = os.Remove(path + ".bak")
		if w.n > 1 {
			w.do(os.Link(path, path+".bak"))
			w.pause()
		}
		w.file(path+".tmp", f.data)
		w.do(os.Rename(path+".tmp", path))
		w.pause()
	}
}

// kubernetes: pkg/volume/util/atomic_writer.go: files behind ..data, which is
// replaced by a rename.
func kubernetes(w *work, p *certtest.Pair) {
	w.mkdir(w.dir)
	data := fmt.Sprintf("..2026_11_%02d", w.n)
	w.mkdir(filepath.Join(w.dir, data))
	w.file(filepath.Join(w.dir, data, "tls.crt"), p.FullchainPEM())
	w.file(filepath.Join(w.dir, data, "tls.key"), p.KeyPEM())
	w.do(os.Symlink(data, filepath.Join(w.dir, "..data_tmp")))
	w.do(os.Rename(filepath.Join(w.dir, "..data_tmp"), filepath.Join(w.dir, "..data")))
	w.pause()
	for _, name := range []string{"tls.crt", "tls.key"} {
		if w.n == 1 {
			w.do(os.Symlink(filepath.Join("..data", name), filepath.Join(w.dir, name)))
		}
	}
	w.do(os.RemoveAll(filepath.Join(w.dir, fmt.Sprintf("..2026_11_%02d", w.n-1))))
}

func (w *work) both(dir string, p *certtest.Pair) {
	w.mkdir(dir)
	w.file(filepath.Join(dir, privkey), p.KeyPEM())
	w.pause()
	w.file(filepath.Join(dir, fullchain), p.FullchainPEM())
}

// recreated removes the directory and makes it again.
func recreated(w *work, p *certtest.Pair) {
	w.do(os.RemoveAll(w.dir))
	w.pause()
	w.both(w.dir, p)
}

// swapped puts another directory in its place.
func swapped(w *work, p *certtest.Pair) {
	w.both(w.dir+".next", p)
	w.do(os.RemoveAll(w.dir + ".old"))
	if w.n > 1 {
		w.do(os.Rename(w.dir, w.dir+".old"))
		w.pause()
	}
	w.do(os.Rename(w.dir+".next", w.dir))
}

// relinked: the directory is a link, which is replaced by another one.
func relinked(w *work, p *certtest.Pair) {
	w.mkdir(filepath.Dir(w.dir))
	next := filepath.Join(filepath.Dir(filepath.Dir(w.dir)), "store", fmt.Sprintf("%s-%d", w.name, w.n))
	w.both(next, p)
	w.pause()
	_ = os.Remove(w.dir + ".tmp")
	w.do(os.Symlink(next, w.dir+".tmp"))
	w.do(os.Rename(w.dir+".tmp", w.dir))
}
