// Package deploy changes what a Postfix instance serves, as one transaction
// that either is proven by real handshakes or is undone and proven undone.
//
// A Change says what is wanted: a certificate under a name, edits of main.cf
// and master.cf, or both. Engine.Plan turns it into a Plan, a value, without
// touching production. Engine.Apply executes exactly that plan:
//
//	stage     the pair is written to the state directory and read back
//	rehearse  a private Postfix serves the candidate; production has not moved
//	journal   everything an undo needs is on disk and synced
//	commit    one rename for the file, then main.cf and master.cf
//	reload    the same master must live on
//	prove     every listener presents exactly the planned certificates
//	confirm   the journal is closed
//
// A failure after "journal" undoes the commit in reverse, reloads, and proves
// that the baseline, what was served before, is served again. A process that
// dies on the way leaves an open journal, which Engine.Recover settles.
//
// The package decides by three verdicts (probe.Verdict). A listener that
// contradicts the plan undoes it; one that could not be verified does so only
// when configuration changed or nothing was rehearsed, because the network must
// not be the judge of a good renewal.
//
// The engine knows Postfix only through the MTA and Stage interfaces, which
// deploy/postfix and deploy/postfix/rehearsal satisfy.
package deploy
