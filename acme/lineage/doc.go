// Package lineage answers two questions about the certificates that another ACME
// client keeps on this host: whose hook call is this, and what does the directory
// hold that the client may be writing at this very moment.
//
// No client replaces key and certificate in one step. certbot takes away and makes
// four links one after the other, lego writes four files and acme.sh truncates
// three in place, so for a moment there is a new certificate beside an old key, half
// a chain, or nothing. [Settled] waits until the files fit together and were left
// alone for a while, and reads each of them once between two equal looks at all of
// them. [LookAt] and [Content] are cheap ways to ask whether anything changed; they
// read no key, so that a daemon may use them.
//
// The package opens files for reading and changes nothing.
package lineage
