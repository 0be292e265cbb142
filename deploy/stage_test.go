package deploy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"postcert/deploy/program"
)

func TestCheckWords(t *testing.T) {
	ended := fmt.Errorf("%w: reload -- version 3.7.11", &program.Error{Path: "/usr/sbin/postfix", Timeout: time.Minute})
	tests := []struct {
		name     string
		took     time.Duration
		err      error
		id, says string
	}{
		{name: "quick", took: time.Second},
		{"slow", 12 * time.Second, nil, "postfix_check_slow", "took 12s"},
		{"ended", time.Minute, ended, "postfix_check_slow", "ended after 1m0s: it looks at each file of the queue"},
		{"failed", time.Second, errors.New("exit status 1"), "postfix_check", "exit status 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := checkWords("/etc/postfix", tt.took, tt.err)
			if tt.id == "" {
				if len(got) > 0 {
					t.Errorf("%v, want nothing", got)
				}
				return
			}
			if len(got) != 1 || got[0].ID != tt.id || !strings.Contains(got[0].Message, tt.says) || strings.Contains(got[0].Message, "reload") {
				t.Errorf("got %+v, want %s that says %q", got, tt.id, tt.says)
			}
		})
	}
}
