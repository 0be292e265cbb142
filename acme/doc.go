// Package acme is where certificates come from: it keeps accounts at
// certificate authorities, orders certificates by ACME (RFC 8555), decides when
// to renew them (RFC 9773), and remembers on disk what a killed run must know.
//
// A certificate is wanted by a [Spec], which a configuration makes. What was
// obtained are numbered versions, each a directory of its own that never
// changes, and what is going on is a [State]. [Next] looks at the three and a
// clock and says what is to be done now, and otherwise when; it is pure, so a
// daemon, a timer and a test ask the same question. A [Manager] does it:
//
//	store, err := acme.Open("/var/lib/postcert/acme")
//	m := &acme.Manager{Store: store}
//	_, err = m.Register(ctx, acme.AccountSpec{Directory: url, AgreeTerms: true})  // once
//	result, err := m.Obtain(ctx, spec, acme.Options{})                            // as often as one likes
//
// Obtain may be called at any time and as often as somebody likes: it orders only
// if an order is due, by the state on disk and under a lock. A restart loop costs
// no orders.
//
// # The order of an order
//
// The private key and the request (CSR) are on disk before the CA hears of an
// order, the order's URL is on disk before the first challenge is answered, and
// a certificate is on disk, checked, before it becomes the live one by the
// replacement of one symbolic link. So a run that is killed at any instant is
// resumed by the next one, with the same order and the same key. CAs count what
// they issue (Let's Encrypt: 5 certificates a week for one set of names), so
// losing an order is what a client must not do.
//
// What comes from the CA is hostile until checked: names and key must be those
// that were asked for, the chain must hold together by its signatures, the dates
// must make sense. A certificate that fails is put aside with its reason, and
// never becomes live. Whether its chain is trusted is not judged here: that is
// package verify's question, asked once, of the bytes to be installed.
//
// # When to renew
//
// The CA proposes a window (ARI). One instant in it is drawn once, and kept, so
// that neither restarts nor polls move it. Without a usable answer a certificate
// is renewed when 1/3 of its life is left, 1/2 if it lives less than ten days.
// Whatever the CA says, there is a deadline: see [Decision].
//
// # Failures
//
// Every failure has a [Class], and the class decides when the next attempt may
// be made. That instant is on disk, as an absolute time, so it survives restarts,
// suspends and changes of the clock. It is always known and always shown.
//
// # On disk
//
// Everything is below one directory, 0700, keys 0600 (PKCS#8):
//
//	accounts/<host>-<hash>/ledger.json          orders and failed validations at this CA
//	accounts/<host>-<hash>/<label>/account.key  account.json  [account.key.next]
//	certs/<name>/state.json  [next.key]
//	certs/<name>/pending/    privkey.pem csr.der order.json
//	certs/<name>/versions/0007-<serial>/  privkey.pem cert.pem chain.pem fullchain.pem meta.json
//	certs/<name>/live -> versions/0007-<serial>   previous -> versions/0006-<serial>
//	certs/<name>/quarantine-<n>/  what was refused, and why
//	locks/
//
// JSON files carry a format number and a digest of their content. One of a later
// format, or a damaged one, is an error that names the file; nothing is guessed
// and nothing is overwritten.
package acme
