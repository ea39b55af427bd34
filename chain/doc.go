// Package chain is the format of the ledger: entries (header and envelope), the
// hash chain over headers, the RFC 6962 Merkle tree over the same headers with
// its proofs, sealing, and verification. docs/FORMAT.md describes all of it
// normatively; this package is one implementation.
//
// The package is pure: no I/O but what a caller's reader does, no clock, no
// randomness, no goroutine but those that Verify joins before it returns. It
// compiles to WebAssembly. Everybody else imports it; it imports nothing of the
// project. It must not learn what kinds mean, with the few exceptions that
// verification needs (chain.genesis, chain.recover, chain.redact,
// governance.escalate), nor evaluate gates.
//
// Sealing (Seal, the encoders) and verification (Verify, the decoders) share
// nothing but the hash functions and the limits of fields.
package chain
