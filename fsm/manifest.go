package fsm

import (
	"errors"
	"fmt"
	"io"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
)

// ManifestVersion is the version of the manifest format that this package
// writes and reads.
const ManifestVersion = 1

// MaxManifestSize is the most bytes that a manifest may have. Most of it is the
// folded state, whose largest part are schemas of registered kinds.
const MaxManifestSize = 16 << 20

// Manifest is a snapshot: it names the chain up to a head, with what is folded
// from it. The entries are not in it, so that its cost does not depend on their
// number. It is encoded as a map whose fields are all there:
//
//	0 version      ManifestVersion
//	1 chain id     16 bytes
//	2 epoch        of the chain
//	3 size         entries
//	4 head hash    32 bytes
//	5 head time    Unix ns
//	6 root         32 bytes
//	7 applied      raft index
//	8 term         of that log entry
//	9 raft epoch
//	10 digest      of the state
//	11 state       the encoded folded state
type Manifest struct {
	ChainID chain.ID
	// Epoch is the chain's.
	Epoch uint64
	Head  chain.Head
	Root  chain.Hash
	// Applied and AppliedTerm are of the last log entry that the state
	// machine applied. Raft's own index of the snapshot may be higher by
	// no-ops and barriers, which the state machine never sees.
	Applied, AppliedTerm, RaftEpoch uint64
	// State is the encoded folded state.
	State []byte
}

// ErrManifest is wrapped by errors of DecodeManifest: the manifest is damaged, or
// of another version.
var ErrManifest = errors.New("manifest can't be read")

// AppendBinary implements encoding.BinaryAppender. The error is always nil.
func (m *Manifest) AppendBinary(b []byte) ([]byte, error) {
	digest := chain.StateDigest(m.State)
	b = cbor.AppendMap(b, 12)
	b = cbor.AppendUint(append(b, 0), ManifestVersion)
	b = cbor.AppendBytes(append(b, 1), m.ChainID[:])
	b = cbor.AppendUint(append(b, 2), m.Epoch)
	b = cbor.AppendUint(append(b, 3), m.Head.Size)
	b = cbor.AppendBytes(append(b, 4), m.Head.Hash[:])
	b = cbor.AppendInt(append(b, 5), m.Head.Time)
	b = cbor.AppendBytes(append(b, 6), m.Root[:])
	b = cbor.AppendUint(append(b, 7), m.Applied)
	b = cbor.AppendUint(append(b, 8), m.AppliedTerm)
	b = cbor.AppendUint(append(b, 9), m.RaftEpoch)
	b = cbor.AppendBytes(append(b, 10), digest[:])
	return cbor.AppendBytes(append(b, 11), m.State), nil
}

// DecodeManifest reads what AppendBinary wrote, and nothing else: the digest
// must be that of the state, and the state one that this version reads. The
// result's State is a part of data.
func DecodeManifest(data []byte) (*Manifest, error) {
	m, _, err := decodeManifest(data)
	return m, err
}

func decodeManifest(data []byte) (*Manifest, state, error) {
	if len(data) > MaxManifestSize {
		return nil, state{}, fmt.Errorf("%w: %d bytes, at most %d", ErrManifest, len(data), MaxManifestSize)
	}
	r := cbor.NewReader(data)
	m := new(Manifest)
	fields := r.Map()
	next(&r, &fields, 0)
	at := r.Offset()
	if v := r.Uint(); v != ManifestVersion {
		r.Fail(at, fmt.Sprintf("manifest version %d, this version reads %d", v, ManifestVersion))
	}
	next(&r, &fields, 1)
	r.Fixed(m.ChainID[:])
	for key, number := range []*uint64{2: &m.Epoch, 3: &m.Head.Size} {
		if number != nil {
			next(&r, &fields, uint64(key))
			*number = r.Uint()
		}
	}
	next(&r, &fields, 4)
	r.Fixed(m.Head.Hash[:])
	next(&r, &fields, 5)
	m.Head.Time = r.Int()
	next(&r, &fields, 6)
	r.Fixed(m.Root[:])
	for key, number := range []*uint64{7: &m.Applied, 8: &m.AppliedTerm, 9: &m.RaftEpoch} {
		if number != nil {
			next(&r, &fields, uint64(key))
			*number = r.Uint()
		}
	}
	next(&r, &fields, 10)
	var digest chain.Hash
	r.Fixed(digest[:])
	next(&r, &fields, 11)
	m.State = r.Bytes()
	if fields.Len() > 0 {
		r.Fail(r.Offset(), "the manifest has further fields")
	}
	if err := r.Done(); err != nil {
		return nil, state{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if digest != chain.StateDigest(m.State) {
		return nil, state{}, fmt.Errorf("%w: the folded state does not have its digest", ErrManifest)
	}
	s, err := decodeState(m.State)
	if err != nil {
		return nil, state{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	switch {
	case (m.Head.Size > 0) != (s.genesis != nil):
		err = errors.New("head and folded state disagree about whether the chain has begun")
	case m.Head.Size == 0 && (m.Head != chain.Head{} || m.Epoch != 0 || m.Root != chain.EmptyRoot()):
		err = errors.New("the empty chain has a head")
	case s.genesis != nil && s.genesis.ChainID != m.ChainID:
		err = errors.New("the folded state is of another chain")
	case s.epoch != m.Epoch:
		err = errors.New("the folded state is of another epoch")
	}
	if err != nil {
		return nil, state{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return m, s, nil
}

// ReadManifest reads a manifest to the end of r. The error wraps ErrManifest
// where it is r's content that is wrong.
func ReadManifest(r io.Reader) (*Manifest, error) {
	m, _, err := readManifest(r)
	return m, err
}

func readManifest(r io.Reader) (*Manifest, state, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxManifestSize+1))
	if err != nil {
		return nil, state{}, fmt.Errorf("fsm: read manifest: %w", err)
	}
	return decodeManifest(data)
}

// older reports whether a comes before b in raft's numbering, which begins anew
// with each raft epoch.
func older(epochA, appliedA, epochB, appliedB uint64) bool {
	return epochA < epochB || epochA == epochB && appliedA < appliedB
}
