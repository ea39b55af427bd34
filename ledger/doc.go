// Package ledger is the durable store of one chain: entries, Merkle tiles, the
// index of event keys and the secondary indexes, in one Pebble database. It
// implements what package fsm declares as Store and Staging, serves reads and
// proofs beside the one writer, and refuses to open where its parts disagree.
//
// It must not decide anything: not what an entry means, not whether it may be
// in the chain, not when to snapshot. It knows raft only as three numbers that
// it stores with each Update (and compares on boot, CheckRaft). The state
// machine writes it; node and server read it; the verifier reads a stopped
// node's directory through OpenReadOnly.
//
// # What is where
//
// A ledger's directory holds the file LEDGER (the format's name and version)
// and the Pebble database db/. Each row's key starts with a table letter;
// numbers are big-endian, so that byte order is sequence order:
//
//	F                         the id index's secret key; written once, by Create
//	M                         meta: head, root, applied index and term, raft epoch
//	P                         promoted: [a,b) of the main tables still live in staging
//	S                         folded state
//	b seq:8                   beside-envelope of an escalation
//	e seq:8                   envelope; empty where the entry came without
//	h seq:8                   header
//	i digest:16               slot of an event key: state:1 sequence:uvarint check:16?
//	k kind 0 1 seq:8          posting list of a kind
//	o source 0 1 seq:8        ... of a source
//	p principal 0 1 seq:8     ... of a principal
//	t level:1 index:8         full tile: 256 hashes of 32 bytes
//	w workspace 0 1 seq:8     ... of a workspace
//	s M, s S                  staging's own meta and folded state
//	s r (b e) seq:8           staged redaction of an envelope below the staged range
//	s (b e h i k o p t w)...  the same tables, of staged entries
//
// The digest of an event key is keyed BLAKE3, the first 16 bytes; the key is
// random for each directory, so that no submitter can search for two events
// that collide. A sealed slot is held against the header that it points at;
// other slots carry the digest's other half.
//
// A posting list row belongs to one Update: its key ends with the first
// sequence of the Update that has the value, and it holds the distances to the
// following ones as uvarints. A batch of 128 events of one kind costs one row.
// A zero byte in a value is escaped as 0 255, so that rows of one value are
// adjacent and values sort by their bytes.
//
// # What is checked
//
// Open reads a bounded amount: the right edge of the tree, and of the last 16
// entries headers, envelopes, slots and postings. Verification of a stopped node's
// directory (Source) reads all entries and full tiles; it is the caller who gives it
// Find to look up each entry's key. Then it passes over the indexes once: no slot or
// posting points beyond the head, each index has as many postings as there are
// entries, and there are no rows of other tables. What nobody looks at: whether each
// posting stands under the right value, slots of keys that no entry has, and the
// folded state, which package fsm decodes.
//
// # Commit points
//
// Each Commit and Stage is one atomic batch, written to Pebble's log without a
// sync: raft's log is what makes an entry durable. After a crash the store is a
// prefix of its batches. Flush syncs Pebble's log, which holds all batches in
// order. Promote is one synced batch. A view (meta and the promoted range) is
// published to readers after its batch is applied; readers never look beyond
// the view's head.
//
// # Memory
//
// With the default Options a store takes about 150 MiB under full load: 32 MiB of
// block cache, up to three memtables of 32 MiB, and some for compaction; a third
// of that when idle. The right edge of the tree takes at most 64 KiB, and the filter
// of absent keys 1.5 to 3 bytes a key: at least 1.5 MiB, at most 96.
package ledger
