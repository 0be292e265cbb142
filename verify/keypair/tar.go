package keypair

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"postcert/verify/problem"
)

// maxTar bounds a tar stream: four files, their headers, and the padding that
// tar writes at the end.
const maxTar = 4*MaxBytes + 64<<10

// readTar reads a tar stream without waiting longer than ctx allows. The stream
// cannot be made to stop waiting for its writer, so its reader is left behind
// then; it ends with the stream.
func readTar(ctx context.Context, s Source) (Pair, problem.List, error) {
	name := s.TarName
	if name == "" {
		name = "tar stream"
	}
	type outcome struct {
		data []byte
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(s.Tar, maxTar+1))
		done <- outcome{data, err}
	}()
	at := problem.At{File: name}
	select {
	case <-ctx.Done():
		return Pair{}, nil, listed(problem.New("input_unreadable", at, "reading %s: %v", name, ctx.Err()))
	case got := <-done:
		switch {
		case got.err != nil:
			return Pair{}, nil, listed(problem.New("input_unreadable", at, "reading %s: %v", name, got.err))
		case len(got.data) > maxTar:
			return Pair{}, nil, listed(problem.New("input_too_large", at, "%s is larger than %d bytes", name, maxTar))
		}
		return ParseTar(Input{Name: name, Data: got.data})
	}
}

// tarNames are the entries that a tar stream may hold: those of a lineage.
var tarNames = map[string]bool{"cert.pem": true, "chain.pem": true, "fullchain.pem": true, "privkey.pem": true}

// ParseTar reads a pair from a tar archive that holds the files of a lineage and
// nothing else: privkey.pem with fullchain.pem, or with cert.pem and chain.pem,
// or all four, which then must agree. "./" before a name is taken, as "tar -C
// DIR -c ." writes it; a link, a device, a directory other than "./", another
// name and a name twice are not.
func ParseTar(in Input) (Pair, problem.List, error) {
	files, err := untar(in)
	if err != nil {
		return Pair{}, nil, listed(err)
	}
	input := func(name string) Input {
		if data, ok := files[name]; ok {
			return Input{Name: in.Name + ":" + name, Data: data}
		}
		return Input{}
	}
	at := problem.At{File: in.Name}
	full, cert, chain, key := input("fullchain.pem"), input("cert.pem"), input("chain.pem"), input("privkey.pem")
	switch {
	case key.isZero():
		return Pair{}, nil, listed(problem.New("key_missing", at, "%s holds no privkey.pem", in.Name))
	case full.isZero() && cert.isZero():
		return Pair{}, nil, listed(problem.New("cert_missing", at, "%s holds neither fullchain.pem nor cert.pem", in.Name))
	case full.isZero():
		return Parse(cert, key, chain)
	case cert.isZero():
		return Parse(full, key, chain)
	}
	p, warnings, err := Parse(full, key, chain)
	if err != nil {
		return p, warnings, err
	}
	leaf, err := read(cert)
	if err != nil {
		return Pair{}, nil, listed(err)
	}
	if len(leaf.certs) != 1 || len(leaf.keys) > 0 || !bytes.Equal(leaf.certs[0].der, p.Leaf().Raw) {
		return Pair{}, nil, listed(problem.New("chain_conflict", at, "%s: cert.pem is not the first certificate of fullchain.pem", in.Name))
	}
	return p, warnings, nil
}

func untar(in Input) (map[string][]byte, error) {
	at := problem.At{File: in.Name}
	invalid := func(format string, args ...any) error {
		return problem.New("tar_invalid", at, "%s "+format, append([]any{in.Name}, args...)...)
	}
	if bytes.HasPrefix(in.Data, []byte{0x1f, 0x8b}) {
		return nil, invalid("is compressed with gzip; a plain tar archive is read")
	}
	r := bytes.NewReader(in.Data)
	archive, files := tar.NewReader(r), map[string][]byte{}
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, invalid("is not a whole tar archive")
		}
		name := strings.TrimPrefix(h.Name, "./")
		switch {
		case name == "" && h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg:
			return nil, invalid("holds an entry %q that is not a regular file", h.Name)
		case !tarNames[name]:
			return nil, invalid("holds an entry %q; only cert.pem, chain.pem, fullchain.pem and privkey.pem belong in it", h.Name)
		case files[name] != nil:
			return nil, invalid("holds %q twice", name)
		case h.Size > MaxBytes:
			return nil, problem.New("input_too_large", at, "%s: %s has %d bytes; at most %d are read", in.Name, name, h.Size, MaxBytes)
		}
		data, err := io.ReadAll(io.LimitReader(archive, MaxBytes+1))
		if err != nil {
			return nil, invalid("ends inside %q", name)
		}
		files[name] = append([]byte{}, data...)
	}
	if len(files) == 0 {
		return nil, invalid("holds no file")
	}
	rest, err := io.ReadAll(r)
	if err != nil || len(bytes.Trim(rest, "\x00")) > 0 {
		return nil, invalid("goes on after its end")
	}
	return files, nil
}
