package membership

import (
	"encoding/binary"

	"github.com/zeebo/blake3"

	"github.com/exonode/exonode/chain"
)

// proposalContext is the BLAKE3 derive-key context of Proposal.Digest.
const proposalContext = "exonode formation proposal v1"

// Digest is what a promise binds: genesis, nonce and the ids of the sorted
// servers, but not their addresses, which may change while a cluster forms.
//
//	genesis 32 bytes | nonce 16 | count u32 | per member: len u32, server id,
//	len u32, node id                                        (big endian)
func (p Proposal) Digest() chain.Hash {
	h := blake3.NewDeriveKey(proposalContext)
	var buf []byte
	buf = append(buf, p.Genesis[:]...)
	buf = append(buf, p.Nonce[:]...)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(p.Members)))
	for _, m := range p.Members {
		for _, s := range []string{m.ServerID, m.NodeID} {
			buf = binary.BigEndian.AppendUint32(buf, uint32(len(s)))
			buf = append(buf, s...)
		}
	}
	h.Write(buf) // never fails: hash.Hash
	var out chain.Hash
	h.Sum(out[:0])
	return out
}
