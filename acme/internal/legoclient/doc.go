// Package legoclient talks to an ACME CA (RFC 8555, RFC 9773) through the lego
// library, and is the only package that knows lego.
//
// An order takes these steps, each a call of its own, so that the caller can
// write down where it is and go on after a crash:
//
//	c, err := legoclient.New(legoclient.Config{Directory: url})
//	uri, err := c.Register(ctx, key, legoclient.Registration{AgreeTerms: true})
//	account := legoclient.Account{Key: key, URI: uri}
//	order, err := c.NewOrder(ctx, account, legoclient.OrderRequest{Identifiers: names})
//	err = c.Solve(ctx, account, order, solver)
//	order, err = c.Await(ctx, account, order.URL, "ready")
//	order, err = c.Finalize(ctx, account, order, csr)
//	order, err = c.Await(ctx, account, order.URL, "valid")
//	chain, err := c.Download(ctx, account, order.Certificate, "")
//
// An order that was begun by another process is taken up by its URL:
// [Client.Order] says in which step it is.
//
// # What is ours and what is lego's
//
// lego signs, spends nonces and knows the messages (its package acme/api). What
// waits is ours, because lego's waits know no context and repeat an order that
// has failed: the loop that answers challenges ([Client.Solve]), the one that
// awaits an order ([Client.Await]), the repetition after a refused nonce. What
// judges is ours, too: the transport below lego reads every answer itself, with
// a limit of time and size, and turns all that is no success into an *[Error],
// so lego never sees a failed answer that it could mistake for a good one.
//
// The operations of one [Client] share connections, the directory and each
// account's nonces, so that an order asks the CA for little more than what an order
// is. All of that is used for minutes only, and is forgotten when the CA fails to
// answer: a Client may live for weeks without a stale directory or dead nonces. No
// proxy, no root certificate and no other setting comes from the environment.
//
// Every call ends within a second of the end of its context, and what it has
// put up by then (a port, a file, a TXT record) is taken down in that second.
//
// # Errors
//
// Each failure of the CA, or of the way to it, is an *[Error]; [Client.Solve]
// joins one per name (errors.Join), so look at all leaves. Its Kind and Type say
// what is wrong. Whether and when to try again is the caller's.
package legoclient
