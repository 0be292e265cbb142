package main

import (
	"strings"
	"time"
)

func init() {
	register(
		Scenario{ID: "deb", Title: "the .deb installed, upgraded, removed and purged, line by line (contrib/package)", Long: true, Run: debLifecycle},
		Scenario{ID: "rpm", Title: "the .rpm installed, upgraded and erased, line by line (contrib/package)", Long: true, Run: rpmLifecycle},
	)
}

func debLifecycle(s *S) { packageLifecycle(s, "lifecycle-deb.sh", "deb") }

// rpmLifecycle runs Debian's rpm, which knows nothing of Debian's packages: the
// program, the scriptlets and their arguments are those of an RPM-based
// distribution, Postfix and systemd are not.
func rpmLifecycle(s *S) { packageLifecycle(s, "lifecycle-rpm.sh", "rpm") }

// packageLifecycle takes a host that serves mail through the life of a package.
// The script prints a line for each thing that must be so, and begins those that
// are not with FAIL.
func packageLifecycle(s *S, script, form string) {
	m := s.Boot(Raw)
	s.MailServer(m, s.Pair())
	// It takes 20 s of processor time, of which a busy host gives little.
	r := m.TryFor(8*time.Minute, "sh "+toolsDir+"/package/"+script+" "+toolsDir+"/older."+form+" "+toolsDir+"/postcert."+form)
	ok := strings.Count("\n"+r.Stdout, "\nok ")
	if r.Status != 0 || ok < 30 {
		s.Fatalf("%s ends with %d after %d lines that are ok:\n%s%s", script, r.Status, ok, r.Stdout, r.Stderr)
	}
}
