package legoclient

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets more tests run at a time than there are processors: what they do
// is wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("8")
	}
	os.Exit(m.Run())
}
