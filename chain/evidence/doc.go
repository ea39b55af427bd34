// Package evidence has the one file that proves, to anybody and offline, that a log
// broke its promise: signed checkpoints that can't both be of one append-only log, or a
// signed tree whose entries break the rules of a chain. What the log signed proves it;
// who found it need not be believed.
//
// It is pure. Monitors make such files, verifiers read them.
package evidence
