package fsm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/exonode/exonode/chain/checkpoint"
)

// Cosigner is a voter as it stands among those of a chain.checkpoint entry, with its
// vkeys, the Ed25519 one first; none where it had named none.
type Cosigner struct {
	NodeID string
	Keys   []string
}

// String returns the cosigner as the entry has it: node id and vkeys, with spaces between.
func (c *Cosigner) String() string { return strings.Join(append([]string{c.NodeID}, c.Keys...), " ") }

// ParseCosigner reads what String returns.
func ParseCosigner(s string) (Cosigner, error) {
	fields := strings.Split(s, " ")
	if fields[0] == "" || len(fields) > 3 {
		return Cosigner{}, fmt.Errorf("cosigner %q: want a node id and at most two vkeys", s)
	}
	for _, vkey := range fields[1:] {
		if k, err := checkpoint.ParseKey(vkey); err != nil {
			return Cosigner{}, err
		} else if k.Name != CosignerName(fields[0]) {
			return Cosigner{}, fmt.Errorf("cosigner %s has key %s", fields[0], k.Name)
		}
	}
	return Cosigner{fields[0], fields[1:]}, nil
}

// foldCheckpoint keeps under which voters the newest checkpoint in the chain is final.
func (s *state) foldCheckpoint(f fact) (effects, error) {
	m, err := readMembers(f.payload)
	if err != nil {
		return effects{}, err
	}
	size, root, voters, text := m.uint("tree_size"), m.text("root_hash"), m.texts("cosigners"), m.text("note")
	if err := m.result(); err != nil {
		return effects{}, err
	}
	note, err := checkpoint.ParseNote([]byte(text))
	if err != nil {
		return effects{}, err
	}
	if c := &note.Checkpoint; c.Size != size || c.Root.String() != root || size > f.header.Sequence {
		return effects{}, fmt.Errorf("it says size %d and root %s, its note %d and %v, and it is entry %d", size, root, c.Size, c.Root, f.header.Sequence)
	}
	for _, v := range voters {
		if _, err := ParseCosigner(v); err != nil {
			return effects{}, err
		}
	}
	voters = slices.Clone(voters)
	slices.Sort(voters)
	if len(voters) == 0 || len(slices.Compact(slices.Clone(voters))) != len(voters) {
		return effects{}, errors.New("cosigners are missing, or one stands there twice")
	}
	s.trusted = voters
	return effects{changed: true}, nil
}

// Trusted are the voters that the newest checkpoint in the chain was final under, sorted;
// none where the chain has no checkpoint in this epoch.
func (v *View) Trusted() []Cosigner {
	var out []Cosigner
	for _, text := range v.state.trusted {
		if c, err := ParseCosigner(text); err == nil { // it was checked when it was folded
			out = append(out, c)
		}
	}
	return out
}

// View returns what has been checked and folded so far. Its Meta is empty.
func (r *Replay) View() *View { return &View{state: r.state} }
