package postfix

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"postcert/deploy/atomicfile"
	"postcert/deploy/program"
	"postcert/verify/problem"
)

const (
	// postmapTime bounds postmap(1) for one table.
	postmapTime = 60 * time.Second
	// maxTable bounds the source of a lookup table, in bytes.
	maxTable = 64 << 20
)

// BuildTable makes the index of a table "type:path" again whose values are files
// that it holds a copy of, as "postmap -F" does (postmap(1); postconf(5),
// tls_server_sni_maps).
//
// For most types postmap empties the index that is in use before it reads the
// source, and an entry whose file it cannot read it leaves out, with a warning. So
// the index is made in a private copy first: what is wrong there is a problem
// table_unbuildable, and leaves the index as it was.
func (i Instance) BuildTable(ctx context.Context, table string) error {
	kind, path, ok := strings.Cut(table, ":")
	if !ok || !filepath.IsAbs(path) {
		return fmt.Errorf("building the table %q: no type and absolute path", table)
	}
	source, err := atomicfile.Read(path, maxTable)
	if err != nil {
		return problem.New("table_unbuildable", problem.At{File: path}, "the table %s cannot be read: %v", table, err)
	}
	c, err := i.newCopy()
	if err != nil {
		return fmt.Errorf("making a copy of the table: %w", err)
	}
	defer c.remove()
	if err := c.write("table", source); err != nil {
		return fmt.Errorf("making a copy of the table: %w", err)
	}
	trial := filepath.Join(c.dir, "table")
	if words, err := i.postmap(ctx, kind+":"+trial); err != nil || words != "" {
		if words == "" {
			words = err.Error()
		}
		return problem.New("table_unbuildable", problem.At{File: path}, "the table %s cannot be built: %s", table, strings.ReplaceAll(words, trial, path))
	}
	if _, err := i.postmap(ctx, table); err != nil {
		return fmt.Errorf("building the table %s, which may be empty now: %w", table, err)
	}
	return nil
}

// postmap makes an index, and returns what it says against an entry of the source,
// or why it failed. Lines that it passes over, keys that are there twice, and what
// it says of main.cf have been so before.
func (i Instance) postmap(ctx context.Context, table string) (words string, err error) {
	r, err := i.run(ctx, program.Command{
		Path: filepath.Join(i.commandDirectory(), "postmap"), Args: []string{"-c", i.ConfigDirectory, "-F", table}, Timeout: postmapTime,
	})
	_, source, _ := strings.Cut(table, ":")
	var said []string
	for line := range strings.Lines(string(r.Stderr)) {
		if err == nil && !strings.Contains(line, source+", line ") || strings.Contains(line, ": expected format: ") {
			continue
		}
		said = append(said, strings.TrimPrefix(strings.TrimSpace(line), "postmap: "))
	}
	return strings.Join(said, "; "), err
}
