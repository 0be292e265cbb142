package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// credentials puts the variables of the file into the environment, which holds
// nothing else then: lego reads its configuration there. Errors name the line,
// never the value.
func credentials(path string) error {
	os.Clearenv()
	if err := os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		return err
	}
	if path == "" {
		return nil
	}
	data, err := readSecret(path)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		name, value, err := variable(lines.Text())
		if err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if name == "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("%s:%d: %s cannot be set", path, n, name)
		}
	}
	return lines.Err()
}

// variable is what a line says; "" is nothing.
func variable(line string) (name, value string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' || line[0] == ';' {
		return "", "", nil
	}
	name, value, found := strings.Cut(strings.TrimPrefix(line, "export "), "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !found || name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return "", "", fmt.Errorf("not NAME=VALUE with one of lego's variables")
	}
	if len(value) > 0 && (value[0] == '"' || value[0] == '\'') {
		if len(value) < 2 || value[len(value)-1] != value[0] {
			return "", "", fmt.Errorf("%s: the quotes do not match", name)
		}
		return name, value[1 : len(value)-1], nil
	}
	if strings.Contains(value, " #") {
		return "", "", fmt.Errorf("%s: put the value in quotes: it is not clear whether # begins a comment", name)
	}
	return name, value, nil
}

// maxFile is the longest file of credentials, in bytes: a line has to fit into the
// scanner's buffer.
const maxFile = 64<<10 - 1

// readSecret reads a file that nobody but root, or the user that runs, can read.
func readSecret(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", path)
	case ok && st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return nil, fmt.Errorf("%s: owned by user %d, not by root", path, st.Uid)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s: mode %04o lets others at it; it has to be 0600", path, info.Mode().Perm())
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s: longer than %d bytes", path, maxFile)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}
