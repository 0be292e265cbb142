package notify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"postcert/deploy/atomicfile"
	"postcert/deploy/program"
)

// Exec is a program that tells: it gets the notice as one JSON object on standard
// input, no arguments but those of the configuration, and a fixed environment.
// Only root may be able to change it. What it writes is not kept.
type Exec struct {
	Argv []string // an absolute path, and arguments
	On   func(what string) bool
}

// ID tells apart one program with several arguments, and does not name those.
func (e Exec) ID() string {
	sum := sha256.Sum256([]byte(strings.Join(e.Argv[1:], "\x00")))
	return "exec:" + e.Argv[0] + "#" + hex.EncodeToString(sum[:4])
}

func (e Exec) Wants(what string) bool { return e.On == nil || e.On(what) }

// Send runs it, and ends it, with all that it started, when its time is over.
func (e Exec) Send(ctx context.Context, n Notice) error {
	if err := atomicfile.Private(e.Argv[0]); err != nil {
		return fmt.Errorf("the program is not run: %w", err)
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	r, err := program.Run(ctx, program.Command{
		Path: e.Argv[0], Args: e.Argv[1:], Stdin: bytes.NewReader(append(data, '\n')), Timeout: sendLimit, Output: 1 << 10,
	})
	if err != nil {
		// Not its words, which are another's, nor its arguments.
		return fmt.Errorf("the program %s: %s", e.Argv[0], ended(ctx, r, err))
	}
	return nil
}

func ended(ctx context.Context, r program.Result, err error) string {
	switch {
	case ctx.Err() != nil:
		return fmt.Sprintf("ended after %s", sendLimit)
	case r.Status > 0:
		return fmt.Sprintf("status %d", r.Status)
	}
	if e, ok := err.(*program.Error); ok && e.Timeout > 0 {
		return fmt.Sprintf("ended after %s", e.Timeout)
	}
	return "cannot be run"
}
