package legoclient

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// directoryAge is how long a fetched directory is believed. It also says what
	// time it is, so it must not be old.
	directoryAge = 5 * time.Minute
	// nonceAge is how old a nonce may be that is spent. CAs forget them after a
	// while; what that costs is one refused request.
	nonceAge = 5 * time.Minute
	maxPurse = 16 // nonces that are kept for one account
	// idleFor is how long an unused connection is kept. A server that closes one in
	// the moment in which a request is sent on it leaves open whether the request
	// was heard, and one for a new order must not be repeated then. Servers keep
	// theirs for ten seconds and more.
	idleFor = 5 * time.Second
)

// wire is what the operations of one Client share: connections, the directory,
// and nonces.
//
// Connections may be shared by accounts: nothing in ACME belongs to one, each
// request is signed for itself (RFC 8555 section 6.2). A nonce is kept for the
// account in whose answer it came. What was fetched is forgotten with the first
// failure of the way to the CA, so that the next operation begins from nothing.
type wire struct {
	base *http.Transport
	now  func() time.Time

	mu     sync.Mutex
	dir    page
	purses map[string][]nonce
}

// page is the directory as it came.
type page struct {
	body []byte
	answer
}

type nonce struct {
	value string
	at    time.Time
}

func newWire(cfg Config) *wire {
	return &wire{
		base: &http.Transport{
			// No Proxy: nothing comes from the environment.
			DialContext:            (&net.Dialer{Timeout: cfg.Timeout, KeepAlive: -1}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    cfg.Timeout,
			ResponseHeaderTimeout:  cfg.Timeout,
			MaxResponseHeaderBytes: maxHeader,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // no answer is larger than what came over the wire
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        idleFor,
		},
		now:    cfg.Now,
		purses: make(map[string][]nonce),
	}
}

// purse names the nonces of an account: by its key, which it has before it has a
// URL. Nothing is kept for requests that nobody signs.
func purse(key crypto.Signer) string {
	if key == nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return string(sum[:])
}

// fresh tells whether what came at that time may be used still. A clock that was
// set back makes everything old.
func (w *wire) fresh(at time.Time, limit time.Duration) bool {
	age := w.now().Round(0).Sub(at.Round(0))
	return !at.IsZero() && age >= 0 && age < limit
}

// directory is the directory that was fetched, as an answer to req; nil if it must
// be fetched.
func (w *wire) directory(req *http.Request) (*http.Response, answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fresh(w.dir.at, directoryAge) {
		return nil, answer{}
	}
	return made(req, w.dir.header.Clone(), w.dir.body), w.dir.answer
}

func (w *wire) keepDirectory(body []byte, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dir = page{slices.Clone(body), answer{a.header.Clone(), a.at}}
}

// spend is an answer to a request for a nonce, out of the purse; nil if that is
// empty. The newest goes first: it is the one that the CA remembers best.
func (w *wire) spend(req *http.Request, purse string) *http.Response {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.purses[purse]
	if len(have) == 0 {
		return nil
	}
	last := have[len(have)-1]
	if !w.fresh(last.at, nonceAge) {
		delete(w.purses, purse) // the others are older
		return nil
	}
	w.purses[purse] = have[:len(have)-1]
	return made(req, http.Header{nonceHeader: {last.value}}, nil)
}

const nonceHeader = "Replay-Nonce"

// earn takes the nonce of an answer into the purse, and out of the answer: lego
// keeps a purse of its own, and a nonce must not be spent twice.
func (w *wire) earn(header http.Header, purse string) {
	value := header.Get(nonceHeader)
	header.Del(nonceHeader)
	if purse == "" || !nonceForm.MatchString(value) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	have := append(w.purses[purse], nonce{value, w.now()})
	w.purses[purse] = have[max(0, len(have)-maxPurse):]
}

// empty drops the nonces of an account: the CA has refused one, so the others of
// its age are worth no more.
func (w *wire) empty(purse string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.purses, purse)
}

// forget drops all that is shared. Connections that are in use stay.
func (w *wire) forget() {
	w.mu.Lock()
	w.dir = page{}
	clear(w.purses)
	w.mu.Unlock()
	w.base.CloseIdleConnections()
}

// made is an answer that did not come over the wire.
func made(req *http.Request, header http.Header, body []byte) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}
