package fsm

import (
	"errors"
	"fmt"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
)

// checkedEntry is a record that is good by itself and follows its predecessor.
type checkedEntry struct {
	header  chain.Header
	hash    chain.Hash
	payload []byte
	// lacks is whether an envelope is missing that only a redaction may
	// take away.
	lacks bool
}

// errUnlinked: the entry goes on from another one than the chain so far ends with.
var errUnlinked = errors.New("it does not link to the entry before it")

// checkRecord checks an entry against the chain so far.
func checkRecord(r *chain.Record, id chain.ID, prev chain.Head, epoch uint64) (e checkedEntry, err error) {
	if r.Sequence != prev.Size {
		return e, fmt.Errorf("got entry %d", r.Sequence)
	}
	h := &e.header
	if err := h.UnmarshalBinary(r.Header); err != nil {
		return e, err
	}
	system := h.Workspace == catalog.SystemWorkspace
	genesis := system && h.Kind == catalog.KindChainGenesis
	switch {
	case h.ChainID != id:
		return e, fmt.Errorf("is of chain %v", h.ChainID)
	case h.Sequence != prev.Size:
		return e, fmt.Errorf("its header says entry %d", h.Sequence)
	case h.Previous != prev.Hash:
		return e, fmt.Errorf("%w: it names %v, the entry before it is %v", errUnlinked, h.Previous, prev.Hash)
	case h.Time <= prev.Time:
		return e, fmt.Errorf("its time %d is not after %d", h.Time, prev.Time)
	case genesis != (prev.Size == 0):
		return e, fmt.Errorf("is %s", h.Kind)
	case prev.Size > 0 && (h.Epoch < epoch || (h.Epoch > epoch) != (system && h.Kind == catalog.KindChainRecover)):
		return e, fmt.Errorf("goes from epoch %d to %d", epoch, h.Epoch)
	}
	e.hash = chain.HeaderHash(r.Header)
	if r.Envelope == nil {
		if e.lacks = true; system {
			return e, errors.New("entries of workspace system keep their envelopes")
		}
		return e, noBeside(r)
	}
	envelope, err := checkEnvelope(r.Envelope, h.Envelope.Hash, h.Envelope.Size)
	if err != nil {
		return e, err
	}
	e.payload = envelope.Payload
	if !system || h.Kind != catalog.KindGovernanceEscalate {
		return e, noBeside(r)
	}
	if r.Beside == nil {
		e.lacks = true
		return e, nil
	}
	return e, checkBeside(r.Beside, e.payload)
}

func noBeside(r *chain.Record) error {
	if r.Beside != nil {
		return errors.New("has a second envelope")
	}
	return nil
}

func checkEnvelope(encoded []byte, hash chain.Hash, size uint64) (chain.Envelope, error) {
	if chain.EnvelopeHash(encoded) != hash {
		return chain.Envelope{}, errors.New("its envelope has another hash than its header names")
	}
	e, err := chain.DecodeEnvelope(encoded)
	if err != nil {
		return chain.Envelope{}, err
	}
	if uint64(len(e.Payload)) != size {
		return chain.Envelope{}, fmt.Errorf("its payload has %d bytes, its header says %d", len(e.Payload), size)
	}
	return e, nil
}

// checkBeside checks the envelope of an escalated event against what the
// escalation's payload says of it.
func checkBeside(beside, payload []byte) error {
	m, err := readMembers(payload)
	if err != nil {
		return err
	}
	text, size := m.text("envelope_hash"), m.uint("payload_size")
	var hash chain.Hash
	m.fail("envelope_hash", hash.UnmarshalText([]byte(text)))
	if err := m.result(); err != nil {
		return err
	}
	_, err = checkEnvelope(beside, hash, size)
	return err
}
