package legoclient

import (
	"context"
	"io"
	"log"
	"net/http"
	"strings"
	"time"
)

// wellKnown is where the CA looks (RFC 8555 section 8.3).
const wellKnown = "/.well-known/acme-challenge/"

const (
	serverTimeout = 10 * time.Second       // of a request to our server
	lastAnswers   = 200 * time.Millisecond // for answers under way when the CA has its verdict
)

// httpServer answers http-01 with a server of its own, which has nothing but the
// answers and lives only while they are wanted.
type httpServer struct{ addr string }

func (httpServer) kind() string   { return HTTP01 }
func (httpServer) oneByOne() bool { return false }

func (h httpServer) check(ctx context.Context, _ []string) error { return canListen(ctx, h.addr) }

func (h httpServer) present(ctx context.Context, tasks []task) (func(context.Context) error, error) {
	l, err := listen(ctx, h.addr)
	if err != nil {
		return func(context.Context) error { return nil }, err
	}
	server := &http.Server{
		Handler:           answers(tasks),
		ReadTimeout:       serverTimeout,
		WriteTimeout:      serverTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: serverTimeout,
	}
	server.SetKeepAlivesEnabled(false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // ends by Close only
	}()
	return func(late context.Context) error {
		defer func() { <-ended }()
		// One of the CA's vantage points may be in the middle of its answer.
		wait, cancel := context.WithTimeout(late, lastAnswers)
		defer cancel()
		if server.Shutdown(wait) == nil {
			return nil
		}
		return server.Close()
	}, nil
}

// answers is the handler for the tasks: their paths, and no others.
func answers(tasks []task) http.Handler {
	byPath := make(map[string]string, len(tasks))
	for _, t := range tasks {
		byPath[wellKnown+t.token] = t.keyAuth
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keyAuth, known := byPath[r.URL.Path]
		if !known || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = io.Copy(w, strings.NewReader(keyAuth))
	})
}
