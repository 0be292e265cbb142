package notify

import (
	"fmt"
	"os"
	"strings"

	"postcert/deploy/atomicfile"
)

// maxURL is more than any notification URL has, in bytes.
const maxURL = 16 << 10

// readSecret reads the one line of a file that only its owner, root or whoever we
// run as, can read, and nobody else put there. Errors name the file, never what is
// in it.
func readSecret(path string) (string, error) {
	if err := atomicfile.Private(path); err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %04o and can be read by others: chmod 600 %s", path, mode, path)
	}
	data, err := atomicfile.Read(path, maxURL)
	if err != nil {
		return "", err
	}
	line := ""
	for l := range strings.Lines(string(data)) {
		l = strings.TrimSpace(l)
		switch {
		case l == "" || strings.HasPrefix(l, "#"):
		case line != "":
			return "", fmt.Errorf("%s has more than one line with a URL", path)
		default:
			line = l
		}
	}
	if line == "" {
		return "", fmt.Errorf("%s has no line with a URL", path)
	}
	return line, nil
}
