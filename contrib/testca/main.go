// Command testca is a CA for trying out postcert: Pebble, Let's Encrypt's own test
// server, on loopback, in one process that ends with its time.
//
//	go run ./contrib/testca -dir /tmp/ca -http 80 -for 1m
//
// It writes two files into the directory: acme-roots.pem, the root of its own TLS
// (--acme-trust), and issuers.pem, the roots of what it issues (--trust); then it
// prints the URL of its directory on standard output. Every name resolves to
// 127.0.0.1 for it. With -renew-after it wishes the first certificate to be renewed
// that long after it is asked about it, and no other; with -refuse-after it stops
// answering after so many orders. With -profile it offers that profile alone; Pebble
// picks one at random where an order names none. It knows no certificate of an
// earlier run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"postcert/acme/acmetest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testca:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	fs := flag.NewFlagSet("testca", flag.ContinueOnError)
	dir := fs.String("dir", "", "directory for the files")
	listen := fs.String("listen", "127.0.0.1:14000", "address of the ACME directory")
	httpPort := fs.Int("http", 80, "port at which http-01 is validated")
	tlsPort := fs.Int("tls", 443, "port at which tls-alpn-01 is validated")
	life := fs.Duration("for", time.Minute, "end after this time")
	renewAfter := fs.Duration("renew-after", 0, "wish the first certificate to be renewed so long after it is asked about it")
	refuseAfter := fs.Int("refuse-after", 0, "answer nothing but 503 to orders after so many; 0: never")
	profile := fs.String("profile", "", "offer this profile alone: classic (90 days), tlsserver (45) or shortlived (160 hours)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *dir == "" || fs.NArg() > 0 {
		return errors.New("usage: testca -dir DIR [-http PORT] [-for TIME]")
	}
	options := acmetest.Options{Listen: *listen, HTTPPort: *httpPort, TLSPort: *tlsPort, Dir: *dir}
	if *profile != "" {
		one, known := acmetest.LetsEncrypt[*profile]
		if !known {
			return fmt.Errorf("-profile: %q is none of Let's Encrypt's", *profile)
		}
		options.Profiles = map[string]acmetest.Profile{*profile: one}
	}
	ca, err := acmetest.New(options)
	if err != nil {
		return err
	}
	defer ca.Close()
	if *renewAfter > 0 {
		wishRenewal(ca, *renewAfter)
	}
	if *refuseAfter > 0 {
		ca.Fault(acmetest.Fault{Kind: acmetest.NewOrder, Skip: *refuseAfter, Status: http.StatusServiceUnavailable, Body: "<html>maintenance</html>"})
	}
	if err := os.WriteFile(filepath.Join(*dir, "issuers.pem"), ca.IssuersPEM(), 0o644); err != nil {
		return err
	}
	fmt.Println(ca.URL)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	select {
	case <-ctx.Done():
	case <-time.After(*life):
	}
	return nil
}

// wishRenewal makes the renewal information (RFC 9773) of the first certificate a
// short window, a while after the first question about it.
func wishRenewal(ca *acmetest.CA, after time.Duration) {
	var mu sync.Mutex
	var asked time.Time
	ca.Fault(acmetest.Fault{Kind: acmetest.RenewalInfo, Edit: func(body []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if ca.Count(acmetest.Finalize) > 1 {
			return body
		}
		if asked.IsZero() {
			asked = time.Now()
		}
		start := asked.Add(after)
		answer, err := json.Marshal(map[string]any{"suggestedWindow": map[string]time.Time{"start": start.UTC(), "end": start.Add(time.Second).UTC()}})
		if err != nil {
			return body
		}
		return answer
	}})
}
