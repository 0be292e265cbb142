package dns

import (
	"io"
	stdlog "log"
	"os"
	"testing"

	"github.com/go-acme/lego/v4/log"
)

func TestMain(m *testing.M) {
	log.Logger = stdlog.New(io.Discard, "", 0) // lego tells each step
	os.Exit(m.Run())
}
