package cf

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// comparison evaluates "{a} op {b}" at the start of text. True is a value that
// is not empty ("true"), false is empty. Two numbers compare as numbers, all
// else as bytes; the operators with the suffix "level" (Postfix 3.6) compare
// compatibility levels.
func (e *expansion) comparison(text string) (value, rest string, err error) {
	left, rest, err := curly(text)
	if err != nil {
		return "", "", err
	}
	n := 0
	for n < len(rest) && strings.IndexByte("<>!=?+-*/~&|%", rest[n]) >= 0 {
		n++
	}
	operator, rest := rest[:n], rest[n:]
	for n = 0; n < len(rest) && rest[n] != '_' && isNameByte(rest[n]); n++ {
	}
	suffix, rest := rest[:n], skipBlanks(rest[n:])
	right := ""
	if !strings.HasPrefix(rest, "{") {
		return "", "", fmt.Errorf("\"{expression}\" expected in %q", text)
	}
	if right, rest, err = curly(rest); err != nil {
		return "", "", err
	}
	if left, err = e.sub(left); err != nil {
		return "", "", err
	}
	if right, err = e.sub(right); err != nil {
		return "", "", err
	}
	var order int
	switch suffix {
	case "":
		order, err = compareValues(left, right)
	case "level":
		order, err = compareLevels(left, right)
	default:
		err = fmt.Errorf("bad operator suffix %q", suffix)
	}
	if err != nil {
		return "", "", err
	}
	holds, err := orderHolds(operator, order)
	if holds {
		value = "true"
	}
	return value, rest, err
}

func orderHolds(operator string, order int) (bool, error) {
	switch operator {
	case "==":
		return order == 0, nil
	case "!=":
		return order != 0, nil
	case "<":
		return order < 0, nil
	case "<=":
		return order <= 0, nil
	case ">=":
		return order >= 0, nil
	case ">":
		return order > 0, nil
	}
	return false, fmt.Errorf("unknown comparison operator %q", operator)
}

func compareValues(a, b string) (int, error) {
	if !allDigits(a) || !allDigits(b) {
		return strings.Compare(a, b), nil
	}
	x, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number out of range: %s", a)
	}
	y, err := strconv.ParseInt(b, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number out of range: %s", b)
	}
	return cmp.Compare(x, y), nil
}

// allDigits is false for the empty string.
func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// compareLevels compares compatibility levels "major[.minor[.patch]]".
func compareLevels(a, b string) (int, error) {
	x, err := level(a)
	if err != nil {
		return 0, err
	}
	y, err := level(b)
	if err != nil {
		return 0, err
	}
	for i := range x {
		if c := cmp.Compare(x[i], y[i]); c != 0 {
			return c, nil
		}
	}
	return 0, nil
}

func level(s string) (out [3]int, err error) {
	parts := strings.Split(s, ".")
	if len(parts) > len(out) {
		return out, fmt.Errorf("malformed compatibility level %q", s)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 10)
		if err != nil {
			return out, fmt.Errorf("malformed compatibility level %q", s)
		}
		out[i] = int(n)
	}
	return out, nil
}

// function is a named function of Postfix 3.11: the two that convert domain
// names. A name in ASCII is its own A-label and, unless it is one, its own
// U-label; anything else is refused rather than guessed.
func (e *expansion) function(name, text string) (string, error) {
	arg, rest, err := curly(text)
	if err != nil {
		return "", err
	}
	if rest != "" {
		return "", fmt.Errorf("unexpected input %q", rest)
	}
	arg, err = e.sub(strings.Trim(arg, spaceSet))
	if err != nil {
		return "", err
	}
	ascii := strings.IndexFunc(arg, func(r rune) bool { return r > 126 || r < '!' }) < 0
	if (name != "domain_to_ascii" && name != "domain_to_utf8") || !ascii || strings.Contains(strings.ToLower(arg), "xn--") {
		return "", fmt.Errorf("cannot evaluate ${%s{%s}}", name, arg)
	}
	return arg, nil
}
