package fsm

import (
	"bytes"
	"encoding/hex"
	"errors"

	"github.com/exonode/exonode/chain/checkpoint"
)

// foldRotate has another key sign as the log, where the old one and the new one both say
// so.
func (s *state) foldRotate(f fact) (effects, error) {
	m, err := readMembers(f.payload)
	if err != nil {
		return effects{}, err
	}
	var fields [4][]byte
	for i, name := range []string{"old_key", "new_key", "old_proof", "new_proof"} {
		b, err := hex.DecodeString(m.text(name))
		m.fail(name, err)
		fields[i] = b
	}
	if err := m.result(); err != nil {
		return effects{}, err
	}
	old, next := fields[0], fields[1]
	switch {
	case s.genesis == nil || !bytes.Equal(old, s.genesis.LogKey[:]):
		return effects{}, errors.New("the old key is not the log's")
	case bytes.Equal(old, next):
		return effects{}, errors.New("the new key is the old one")
	case !checkpoint.VerifyRotation(f.header.ChainID, old, next, fields[2], fields[3]):
		return effects{}, errors.New("the two keys did not both sign")
	}
	g := *s.genesis
	g.LogKey = [32]byte(next)
	s.genesis = &g
	return effects{changed: true}, nil
}
