// Package checkpoint has the signed statements about a log's tree, as the C2SP
// specifications define them, for any log and not only ours:
//
//   - the checkpoint itself (c2sp.org/tlog-checkpoint) and the note that carries its
//     signatures (c2sp.org/signed-note),
//   - the log's signature, Ed25519, type 0x01,
//   - cosignatures (c2sp.org/tlog-cosignature): Ed25519, type 0x04, and ML-DSA-44
//     (FIPS 204), type 0x06, both with the time at which they were made,
//   - policies that say whose signatures are enough (c2sp.org/tlog-policy).
//
// It is pure: it reads no clock, no file and no network.
package checkpoint
