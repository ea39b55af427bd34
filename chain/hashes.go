package chain

import (
	"sync"

	"github.com/zeebo/blake3"
)

// The context strings of BLAKE3's derive-key mode, one for each use. They are
// part of the format: a change of one is a change of every hash.
const (
	ContextHeader      = "exonode 2026 v1 chain entry header"
	ContextEnvelope    = "exonode 2026 v1 chain entry envelope"
	ContextEventDigest = "exonode 2026 v1 event digest"
	ContextState       = "exonode 2026 v1 folded state"
	ContextKey         = "exonode 2026 v1 event key"
	ContextPolicy      = "exonode 2026 v1 governance policy"
	ContextGenesis     = "exonode 2026 v1 genesis document"
)

// hasher hashes under one context. The context's key is derived once for each
// pooled state: deriving costs more than hashing a header. Its zero pool is
// ready; it is safe for concurrent use and never changes what is hashed.
type hasher struct {
	context string
	pool    sync.Pool // of *blake3.Hasher, reset
}

func (h *hasher) get() *blake3.Hasher {
	if b, ok := h.pool.Get().(*blake3.Hasher); ok {
		return b
	}
	return blake3.NewDeriveKey(h.context)
}

func (h *hasher) put(b *blake3.Hasher) {
	b.Reset()
	h.pool.Put(b)
}

func (h *hasher) sum(data []byte) (out Hash) {
	b := h.get()
	b.Write(data)
	b.Sum(out[:0])
	h.put(b)
	return out
}

var (
	headerHasher   = hasher{context: ContextHeader}
	envelopeHasher = hasher{context: ContextEnvelope}
	digestHasher   = hasher{context: ContextEventDigest}
	stateHasher    = hasher{context: ContextState}
	keyHasher      = hasher{context: ContextKey}
	policyHasher   = hasher{context: ContextPolicy}
	genesisHasher  = hasher{context: ContextGenesis}
)

// HeaderHash returns the hash of an encoded header: what the next header's
// Previous says.
func HeaderHash(header []byte) Hash { return headerHasher.sum(header) }

// EnvelopeHash returns the hash of an encoded envelope, to which the header
// commits.
func EnvelopeHash(envelope []byte) Hash { return envelopeHasher.sum(envelope) }

// StateDigest returns the digest of an encoded folded state, as snapshots name
// it.
func StateDigest(state []byte) Hash { return stateHasher.sum(state) }

// PolicyHash returns the hash of a policy document, as verdicts name it.
func PolicyHash(policy []byte) Hash { return policyHasher.sum(policy) }

// GenesisHash returns the hash of a genesis document, which peers announce to
// each other and joiners pin.
func GenesisHash(document []byte) Hash { return genesisHasher.sum(document) }
