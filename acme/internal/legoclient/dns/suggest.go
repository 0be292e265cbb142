package dns

import (
	"slices"
	"sort"
	"strings"
)

// Suggest returns the provider names nearest to name, of this package and of
// contrib/dns, nearest first, and whether contrib/dns has name itself.
func Suggest(name string) (near []string, inContrib bool) {
	name = strings.ToLower(strings.TrimSpace(name))
	_, inContrib = slices.BinarySearch(legoCodes, name)
	all := Names()
	for _, code := range legoCodes {
		if !slices.Contains(all, code) {
			all = append(all, code)
		}
	}
	return nearest(name, all), inContrib && lookUp(name) == nil
}

// nearest are up to five of names that name may be meant to be: those that it is
// a part of, and those that few edits make of it.
func nearest(name string, names []string) []string {
	type hit struct {
		name     string
		distance int
	}
	var hits []hit
	for _, n := range names {
		d := distance(name, n)
		switch {
		case d <= 1+len(name)/4:
		case len(name) >= 3 && strings.Contains(n, name), len(n) >= 3 && strings.Contains(name, n):
		default:
			continue
		}
		hits = append(hits, hit{n, d})
	}
	sort.SliceStable(hits, func(i, j int) bool { return hits[i].distance < hits[j].distance })
	var near []string
	for _, h := range hits[:min(len(hits), 5)] {
		near = append(near, h.name)
	}
	return near
}

// distance is the number of characters to be inserted, removed, replaced, or
// exchanged with the next one, that make b of a (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

func didYouMean(near []string) string {
	if len(near) == 0 {
		return ""
	}
	return "; near names: " + strings.Join(near, ", ")
}
