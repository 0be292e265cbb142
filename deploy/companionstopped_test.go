package deploy

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestLeaveStopped: at boot the undo of a change neither reloads nor asks a daemon
// that has not started, and does both with one that runs.
func TestLeaveStopped(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	ask := func(name, network, address string) baseline {
		return baseline{Service: name, Type: companionType, Endpoint: question{Network: network, Address: address}}
	}
	n := note{
		Companions: []companionNote{{Name: "up"}, {Name: "down"}, {Name: "half"}, {Name: "unasked"}, {Name: "gone"}},
		Baseline: []baseline{
			{Service: "smtp", Type: "inet", Endpoint: question{Address: nobody}},
			ask("up", "", l.Addr().String()), ask("down", "tcp", nobody), ask("half", "", nobody), ask("half", "", l.Addr().String()),
			ask("gone", "unix", filepath.Join(t.TempDir(), "none")),
		},
	}
	n.leaveStopped(t.Context())
	var companions, asked []string
	for _, c := range n.Companions {
		companions = append(companions, c.Name)
	}
	for _, b := range n.Baseline {
		asked = append(asked, b.Service)
	}
	if got, want := strings.Join(companions, " "), "up half unasked"; got != want {
		t.Errorf("told to reload: %s, want %s", got, want)
	}
	if got, want := strings.Join(asked, " "), "smtp up half half"; got != want {
		t.Errorf("asked: %s, want %s", got, want)
	}
}
