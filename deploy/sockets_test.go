package deploy

import (
	"net"
	"os"
	"testing"
)

func TestListensOn(t *testing.T) {
	tests := []struct {
		name, network, listen, ask string // ask: host of the question
		want                       bool
	}{
		{"its own address", "tcp4", "127.0.0.1", "127.0.0.1", true},
		{"another address", "tcp4", "127.0.0.1", "127.0.0.2", false},
		{"IPv4 wildcard", "tcp4", "0.0.0.0", "127.0.0.1", true},
		{"IPv4 wildcard is not IPv6", "tcp4", "0.0.0.0", "::1", false},
		{"IPv6", "tcp6", "::1", "::1", true},
		{"IPv6 wildcard", "tcp6", "::", "::1", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen(tt.network, net.JoinHostPort(tt.listen, "0"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			_, port, err := net.SplitHostPort(l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			got, err := listensOn(os.Getpid(), net.JoinHostPort(tt.ask, port))
			if err != nil || got != tt.want {
				t.Errorf("listensOn %s = %v, %v; want %v", tt.ask, got, err, tt.want)
			}
			// The parent's sockets are others.
			if got, err := listensOn(os.Getppid(), net.JoinHostPort(tt.ask, port)); err == nil && got {
				t.Error("another process owns it too")
			}
		})
	}
}
