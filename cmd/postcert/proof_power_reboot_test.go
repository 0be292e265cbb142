package main

import (
	"fmt"
	"testing"

	"postcert/deploy/postfix/postfixtest"
)

// R22: the machine goes down while a transaction is open, postcert, the master
// and all; what was written is on disk. Postfix comes up again on what it finds,
// before the recovery or after it, and serves one pair; after it, the right one.
func TestProofRebootInTransaction(t *testing.T) {
	const shards = 3
	postfixtest.Shards(t, shards, func(t *testing.T, shard int) {
		p := newPowerHost(t, diskKind{})
		c := powerCases[shard]
		for n, m := range rebootMoments {
			for i, way := range []int{besidePostfix, beforePostfix} {
				if !long && (n+shard)%4 != 2*i {
					continue
				}
				p.in(fmt.Sprintf("%s: %s, %d", c.name, m.point, way), func() { p.reboot(c.ready(p), m, way) })
			}
		}
		t.Logf("R22 during %s: %s", c.name, p.tally)
	})
}

// rebootMoment is a point of killAt, and what is right after it.
type rebootMoment struct{ point, right string }

// rebootMoments are moments at which a transaction is open. Until the journal
// says that the change is proven, which takes six operations, it is undone.
var rebootMoments = []rebootMoment{
	{"journal end", "old"},
	{"commit begin, op 4", "old"},
	{"commit end", "old"},
	{"reload begin", "old"},
	{"reload end", "old"},
	{"prove begin", "old"},
	{"prove end", "old"},
	{"confirm begin, op 1", "old"},
	{"confirm begin, op 7", "new"},
}

func (p *powerHost) reboot(c change, m rebootMoment, way int) {
	p.t.Helper()
	if a := p.with(killAt + "=" + m.point).postcert(c.args...); a.status != -1 {
		p.t.Fatalf("not killed: exit status %d\n%s%s", a.status, a.stdout, a.stderr)
	}
	p.killEverything()
	p.newBoot()
	if is := p.settleAfter(c, way); is != m.right {
		p.t.Errorf("the %s chain is served after the recovery, want the %s one", is, m.right)
	}
	p.tally["reboots"]++
}
