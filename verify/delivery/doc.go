// Package delivery answers whether a mail arrives, and how: the one question of
// this program that has an effect outside, because it sends a mail.
//
// A mail is proof of what no handshake from here can show: what this Postfix does
// as a client, with its policies, its trust anchors and its next hops. Three things
// are needed for it, and each is a part of this package:
//
//	m := delivery.Message{From: from, To: to, ID: id, ...}   // a mail with a mark of its own
//	err := delivery.Submit(ctx, submission, m)               // or sendmail(1), by the caller
//	t := delivery.NewTracker(m.ID)                           // the mail log, line by line
//	t.Add(line)
//
// Postfix logs the Message-ID of each mail that cleanup(8) takes (RFC 5322 section
// 3.6.4), with the queue id that it gets. So the Tracker finds the mail again
// whatever happens to it on its way through the queue: a content filter that hands
// it back, or a user's forwarding, gives it another queue id and leaves its
// Message-ID.
//
// # TLS of a delivery
//
// The line that tells of a delivery has the queue id and the next hop; the one that
// tells of TLS has only the next hop, and is logged before it by the same process
// (smtp_tls_loglevel = 1). They belong together if process and next hop are the
// same, and no other mail was between them. Postfix 3.11 logs with the delivery
// itself which level it came to ("tls=may:none").
//
// The package opens no file and runs no program. Submit opens a connection.
package delivery
