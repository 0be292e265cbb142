package main

import (
	"os"
	"path/filepath"
	"testing"

	"postcert/deploy/postfix/postfixtest"
	"postcert/verify/certtest"
)

// S01: a valid new pair is served on 25, 587 and 465; the master is the same.
func TestS01Install(t *testing.T) {
	// The line is one of the stock main.cf; each run of postconf expands it to
	// another process id.
	h := newHost(t, postfixtest.Options{Main: []string{"debugger_command = PATH=/bin ddd $daemon_directory/$process_name $process_id & sleep 5"}})
	master := h.pf.MasterPID()
	first := h.lineage(certtest.Leaf{})
	h.postcert("install-cert", first).want(0).says("+smtpd_tls_cert_file")
	h.serves(h.leafOf(first))

	second := h.lineage(certtest.Leaf{})
	config := h.pf.Main()
	h.postcert("install-cert", second).want(0)
	h.serves(h.leafOf(second))
	if string(config) != string(h.pf.Main()) {
		t.Error("a renewal edited main.cf")
	}
	if got := h.pf.MasterPID(); got != master {
		t.Errorf("master is process %d, was %d", got, master)
	}
	file := filepath.Join(h.pf.ConfigDir, "tls", hostName+".pem")
	st, err := os.Lstat(file)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("%s: %v, %v", file, st.Mode(), err)
	}
}
