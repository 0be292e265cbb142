package metrics

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The text format is version 0.0.4 of Prometheus' exposition formats. It is written
// here and not by client_golang, because a registry of constant samples is all that
// we would use of it, and the protocol buffers behind it are a twentieth of the
// program. promtool judges it in the tests.

// metric is one family of samples.
type metric struct {
	name, help, kind string
	labels           []string
}

func gauge(name, help string, labels ...string) *metric {
	return &metric{"postcert_" + name, help, "gauge", labels}
}

func counter(name, help string, labels ...string) *metric {
	return &metric{"postcert_" + name, help, "counter", labels}
}

// series names one sample of m by the values of its labels. A path may be any
// bytes, a value may not.
func (m *metric) series(values []string) string {
	var b strings.Builder
	b.WriteString(m.name)
	for i, v := range values {
		before := byte(',')
		if i == 0 {
			before = '{'
		}
		b.WriteByte(before)
		b.WriteString(m.labels[i])
		b.WriteString(`="`)
		b.WriteString(escaped.Replace(strings.ToValidUTF8(v, "?")))
		b.WriteByte('"')
	}
	if len(values) > 0 {
		b.WriteByte('}')
	}
	return b.String()
}

var escaped = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// page holds the samples of each metric, by series: one that is there twice makes
// the whole scrape fail.
type page map[*metric]map[string]float64

// value adds a sample; of a series that is there already, the first is kept.
func (p page) value(m *metric, v float64, labels ...string) {
	if p[m] == nil {
		p[m] = map[string]float64{}
	}
	series := m.series(labels)
	if _, there := p[m][series]; !there {
		p[m][series] = v
	}
}

// time adds a time as Unix seconds; one that is not known is left out.
func (p page) time(m *metric, t time.Time, labels ...string) {
	if !t.IsZero() {
		p.value(m, float64(t.UnixMilli())/1000, labels...)
	}
}

func (p page) truth(m *metric, so bool, labels ...string) {
	v := 0.0
	if so {
		v = 1
	}
	p.value(m, v, labels...)
}

// text prints the families and their samples in the order of their names, so that
// the same snapshot becomes the same bytes.
func (p page) text() []byte {
	var b bytes.Buffer
	families := slices.SortedFunc(maps.Keys(p), func(a, b *metric) int { return cmp.Compare(a.name, b.name) })
	for _, m := range families {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for _, series := range slices.Sorted(maps.Keys(p[m])) {
			fmt.Fprintf(&b, "%s %s\n", series, strconv.FormatFloat(p[m][series], 'f', -1, 64))
		}
	}
	return b.Bytes()
}
