package acme

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postcert/deploy/atomicfile"
	"postcert/verify/problem"
)

const (
	kindAccount    = "account"
	fileAccount    = "account.json"
	fileAccountKey = "account.key"
	// fileRolling is the key that an account is being rolled over to.
	fileRolling = "account.key.next"
)

func (a *AccountState) check() error {
	if !strings.HasPrefix(a.URI, "https://") || a.Directory == "" {
		return errors.New("it lacks what an account has")
	}
	return sane(a.AgreedAt, a.CreatedAt, a.Reregistered)
}

// stored is an account on disk. Any part may be missing.
type stored struct {
	state   *AccountState
	key     crypto.Signer
	rolling crypto.Signer
}

func (s *Store) account(directory, label string) (stored, error) {
	var a stored
	st := &AccountState{}
	err := s.readJSON(s.ca(directory, label, fileAccount), kindAccount, st, st.check)
	if err == nil && st.Directory != directory {
		err = &FileError{Path: s.ca(directory, label, fileAccount), Err: fmt.Errorf("it is about %q", brief(st.Directory))}
	}
	if err == nil {
		a.state = st
	} else if !missing(err) {
		return a, err
	}
	if a.key, err = s.readKey(s.ca(directory, label, fileAccountKey)); err != nil && !missing(err) {
		return a, err
	}
	if a.rolling, err = s.readKey(s.ca(directory, label, fileRolling)); err != nil && !missing(err) {
		return a, err
	}
	if a.state != nil {
		a.state.Rolling = a.rolling != nil
		if a.key != nil {
			a.state.KeyType, a.state.Thumbprint = keyType(a.key.Public()), thumbprint(a.key.Public())
		}
	}
	return a, nil
}

func (s *Store) writeAccount(a AccountState) error {
	return s.writeJSON(s.ca(a.Directory, a.Label, fileAccount), kindAccount, a)
}

// accounts are all on disk. One that can't be read is an error after the others.
func (s *Store) accounts() ([]AccountState, error) {
	root := filepath.Join(s.dir, "accounts")
	cas, err := s.fs.ReadDir(root)
	if missing(err) {
		return nil, nil
	}
	var out []AccountState
	bad := err
	for _, ca := range cas {
		labels, _ := s.fs.ReadDir(filepath.Join(root, ca)) // a file has none
		for _, label := range labels {
			st := AccountState{}
			path := filepath.Join(root, ca, label, fileAccount)
			err := s.readJSON(path, kindAccount, &st, st.check)
			if err != nil {
				if !missing(err) && checkName("spec_name", "", label) == nil && label != fileLedger {
					bad = errors.Join(bad, err)
				}
				continue
			}
			out = append(out, st)
		}
	}
	return out, bad
}

// readEAB reads the key of an external account binding: base64url with or without
// padding; the standard alphabet is taken too, as some CAs hand it out. It is a
// secret, so nobody else may be able to read the file, and no error quotes it.
func readEAB(path string) ([]byte, error) {
	at := problem.At{File: path}
	info, err := atomicfile.OS.Lstat(path)
	if err != nil {
		return nil, problem.List{problem.New("eab_file", at, "the file with the key of the external account binding: %v", err)}
	}
	if info.Kind == atomicfile.File && (info.Mode&0o077 != 0 || info.UID != 0 && int(info.UID) != os.Geteuid()) {
		return nil, problem.List{problem.New("eab_file", at, "%s holds a secret and others than its owner may read it, or its owner is neither root nor we", path)}
	}
	raw, err := atomicfile.ReadFile(atomicfile.OS, path, 4096)
	if err != nil {
		return nil, problem.List{problem.New("eab_file", at, "the file with the key of the external account binding: %v", err)}
	}
	text := strings.TrimRight(string(bytes.TrimSpace(raw)), "=")
	text = strings.NewReplacer("+", "-", "/", "_").Replace(text)
	key, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(key) < 16 {
		return nil, problem.List{problem.New("eab_file", at, "%s holds no key in base64url of at least 16 bytes", path)}
	}
	return key, nil
}

// contacts are e-mail addresses as URLs, sorted.
func contacts(addresses []string) ([]string, error) {
	var out []string
	for _, a := range addresses {
		a = strings.TrimPrefix(a, "mailto:")
		local, domain, ok := strings.Cut(a, "@")
		if !ok || local == "" || domain == "" || strings.ContainsAny(a, " ,?%<>\"\r\n\t") || strings.Contains(domain, "@") {
			return nil, problem.List{problem.New("account_contact", problem.At{}, "%q is no e-mail address", brief(a))}
		}
		out = append(out, "mailto:"+a)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
