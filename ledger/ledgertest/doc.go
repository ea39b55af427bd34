// Package ledgertest tests stores of a chain, and what uses them: Memory is a
// store in memory that checks what it is given, can fail and can crash; Run is
// the conformance suite that every store passes, Memory included; Builder makes
// chains of valid entries. Tests of other packages import it, products don't.
package ledgertest
