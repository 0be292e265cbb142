package legoclient

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
)

// publish serves dir as another web server would.
func publish(t *testing.T, dir string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.FileServer(http.Dir(dir))}}
	s.Start()
	t.Cleanup(s.Close)
}
