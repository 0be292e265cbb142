package postfix

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"postcert/deploy/program"
	"postcert/verify/problem"
)

// judged turns a postconf that refused the configuration in dir into a problem
// with the place it names, as a place in the instance's own directory. Errors
// that are no judgement, such as a time limit, are returned as they are.
func (i Instance) judged(id, dir string, err error) error {
	var e *program.Error
	if !errors.As(err, &e) || e.Status <= 0 {
		return err
	}
	words := strings.ReplaceAll(e.Stderr, dir, i.ConfigDirectory)
	if words == "" {
		words = e.Error()
	}
	at := place(words)
	if at.File == "" {
		at.File = i.ConfigDirectory
	}
	return problem.New(id, at, "%s", fatal(words))
}

// placePattern finds the place in Postfix's two ways to name one: "FILE, line
// N:" for main.cf, "file FILE: line N:" for master.cf.
var placePattern = regexp.MustCompile(`(/[^\s,;:]+\.cf)[,:] line (\d+)`)

// place is the last place named: warnings come before what is fatal.
func place(words string) problem.At {
	all := placePattern.FindAllStringSubmatch(words, -1)
	if all == nil {
		return problem.At{}
	}
	last := all[len(all)-1]
	line, err := strconv.Atoi(last[2])
	if err != nil {
		line = 0 // longer than an int: no line of a file we read
	}
	return problem.At{File: last[1], Line: line}
}

// fatal is the part of a program's words that says why it ended.
func fatal(words string) string {
	if _, rest, ok := strings.Cut(words, "fatal: "); ok {
		return rest
	}
	return words
}
