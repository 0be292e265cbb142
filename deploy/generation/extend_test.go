package generation

import (
	"testing"

	"postcert/deploy/atomicfile"
)

// What generation 0 remembers of a parameter is never overwritten; what a
// later change edits for the first time is added.
func TestExtendZero(t *testing.T) {
	s := Store{FS: atomicfile.OS, Dir: t.TempDir()}
	const inst, name = "/etc/postfix", "mail.example.test"
	was, ours := "/old.pem", "/ours.pem"
	if _, err := s.Zero(inst, name, Original{Parameters: []Parameter{{Name: "smtpd_tls_cert_file", Value: &was}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := s.ExtendZero(inst, name, []Parameter{
			{Name: "smtpd_tls_cert_file", Value: &ours},
			{Service: "submissions/inet", Name: "smtpd_tls_cert_file", Value: &ours},
			{Name: "smtpd_tls_eccert_file"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	latin1 := "/caf\xe9.pem"
	if err := s.ExtendZero(inst, name, []Parameter{{Name: "smtpd_tls_key_file", Value: &latin1}}); err == nil {
		t.Error("a value that would be changed by being written down was kept")
	}
	o, err := s.GetZero(inst, name)
	if err != nil || len(o.Parameters) != 3 {
		t.Fatalf("got %d parameters (%v), want 3", len(o.Parameters), err)
	}
	if p := o.Parameters[0]; p.Value == nil || *p.Value != was {
		t.Errorf("the value of before the first adoption was overwritten: %v", p.Value)
	}
	if err := s.ExtendZero(inst, "other", nil); err == nil {
		t.Error("a generation 0 that does not exist was extended")
	}
}
