package main

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"postcert/deploy/postfix/postfixtest"
)

const (
	hardenShards = 3
	hardenPairs  = 12 // in the short form
)

// TestProofHardenCorpus: pairs of corpusSample become the /etc/postfix of a host with
// a running Postfix, which is hardened and undone. openssl is shown the same
// certificates at the same ports before, between and after, and after the undo both
// files are what they were: bytes, mode, owner, attributes, links. Where harden
// refuses, or takes it back, that is so at once.
func TestProofHardenCorpus(t *testing.T) {
	postfixtest.Shards(t, hardenShards, func(t *testing.T, shard int) {
		w := newCorpusWorld(t)
		for i, p := range serveable(t) {
			if i%hardenShards == shard {
				t.Run(p.name, func(t *testing.T) { w.hardenAndUndo(t, p, i) })
			}
		}
		if w.counts["hardened and undone"] == 0 {
			t.Error("nothing was hardened")
		}
		t.Logf("harden: shard %d: %v", shard, w.counts)
	})
}

// serveable are pairs that a certificate can be installed into as they are: all of
// them in the long form, else some from all over the sample.
func serveable(t *testing.T) []corpusPair {
	all := slices.DeleteFunc(corpusSample(t), func(p corpusPair) bool {
		return p.refused != "" || p.exit != 0 || slices.Contains(p.args, "--enable")
	})
	if long || len(all) <= hardenPairs {
		return all
	}
	var out []corpusPair
	for i := range hardenPairs {
		out = append(out, all[i*len(all)/hardenPairs])
	}
	return out
}

// hardenAndUndo is the life of one pair.
func (w *corpusWorld) hardenAndUndo(t *testing.T, p corpusPair, number int) {
	_, logged := w.log.since(0)
	defer func() {
		if t.Failed() {
			text, _ := w.log.since(logged)
			t.Logf("Postfix logged:\n%s", text)
		}
	}()
	h := w.host(t, p)
	h.start()
	defer h.stop()
	before, served := h.look(), h.leaves()
	if len(served) == 0 {
		w.counts["served nothing"]++
		return
	}
	profile := []string{"runbook", "recommended", "strict"}[number/hardenShards%3]
	a := h.postcert("harden", "--profile", profile, "--without-submission", "--json")
	switch {
	case a.status == 0 && strings.Contains(a.stdout, `"outcome":"unchanged"`):
		w.counts["nothing to harden"]++
		h.judgeNothing(before, h.look(), true)
	case a.status == 0:
		w.counts["hardened and undone"]++
		w.counts["hardened: "+profile]++
		after := h.look()
		if after.main == before.main && after.master == before.master {
			t.Errorf("it is called hardened, and nothing has changed: %s", a.stdout)
		}
		h.stillServed("hardened", served)
		h.postcert("harden", "--undo").want(0)
		h.judgeNothing(before, h.look(), false)
	default:
		w.counts[fmt.Sprintf("exit status %d %v", a.status, a.errorIDs())]++
		if a.status != 3 && a.status != 4 {
			t.Errorf("exit status %d: %s%s", a.status, a.stdout, a.stderr)
		}
		h.judgeNothing(before, h.look(), a.status == 3)
	}
	h.stillServed("in the end", served)
}

// leaves are what openssl is shown at the ports of mail, by address.
func (h *corpusHost) leaves() map[string]string {
	h.t.Helper()
	out := map[string]string{}
	for _, host := range []string{"127.0.0.1", "::1", postfixtest.SecondAddress} {
		for port, mode := range map[string]postfixtest.Mode{"25": postfixtest.StartTLS, "587": postfixtest.StartTLS, "465": postfixtest.Implicit} {
			addr := net.JoinHostPort(host, port)
			conn, err := net.DialTimeout("tcp", addr, time.Second)
			if err != nil {
				continue // nobody listens
			}
			conn.Close()
			if leaf, err := postfixtest.ServedLeaf(h.t, addr, mode); err == nil {
				out[addr] = leaf
			}
		}
	}
	return out
}

// stillServed fails the test unless openssl is shown what it was: a reload is
// asynchronous, so it may ask a few times.
func (h *corpusHost) stillServed(when string, want map[string]string) {
	h.t.Helper()
	var got map[string]string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if got = h.leaves(); maps.Equal(got, want) {
			return
		}
	}
	h.t.Errorf("%s: served %v, want %v", when, got, want)
}
