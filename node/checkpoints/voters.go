package checkpoints

import (
	"fmt"
	"slices"
	"strings"

	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/fsm"
)

// Voter is a voter of the cluster, with the keys that the chain knows of it.
type Voter struct {
	NodeID string
	// Keys are the cosigning key, and the ML-DSA key where it has one; empty where it
	// has not named any yet: then it counts, and can't sign.
	Keys []checkpoint.Key
}

// Voters returns the voters as a view has them, sorted by node id.
func Voters(v *fsm.View) []Voter {
	var out []Voter
	for _, s := range v.Configuration().Servers {
		if !s.Voter {
			continue
		}
		voter := Voter{NodeID: fsm.NodeID(s.ID)}
		n, _ := v.Node(voter.NodeID)
		voter.Keys = parseKeys([]string{n.CosignKey, n.MLDSAKey}) // what is empty is none
		out = append(out, voter)
	}
	slices.SortFunc(out, func(a, b Voter) int { return strings.Compare(a.NodeID, b.NodeID) })
	return out
}

// trusted are the voters that the chain's newest checkpoint was final under.
func trusted(v *fsm.View) []Voter {
	var out []Voter
	for _, c := range v.Trusted() {
		out = append(out, Voter{c.NodeID, parseKeys(c.Keys)})
	}
	return out
}

func parseKeys(vkeys []string) (keys []checkpoint.Key) {
	for _, vkey := range vkeys {
		if k, err := checkpoint.ParseKey(vkey); err == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// cosigner is the voter as a chain.checkpoint has it.
func (v *Voter) cosigner() string {
	c := fsm.Cosigner{NodeID: v.NodeID}
	for _, k := range v.Keys {
		c.Keys = append(c.Keys, k.String())
	}
	return c.String()
}

// signedBy returns which voters signed a note. The error wraps checkpoint.ErrSignature.
func signedBy(n *checkpoint.Note, voters []Voter) (map[string]bool, error) {
	out := make(map[string]bool)
	for _, v := range voters {
		by, err := n.Verify(v.Keys...)
		if err != nil {
			return nil, fmt.Errorf("voter %s: %w", v.NodeID, err)
		}
		if len(by) > 0 {
			out[v.NodeID] = true
		}
	}
	return out, nil
}

// quorum reports whether more than half of the voters are in a set. No voters are none.
func quorum(signed map[string]bool, voters []Voter) bool {
	n := 0
	for _, v := range voters {
		if signed[v.NodeID] {
			n++
		}
	}
	return n > len(voters)/2
}

// Policy returns a C2SP tlog-policy by which a note is final: the log's key, and a quorum
// of the voters, each of which is a group, so that its two keys count once. Voters that
// named no key yet can't be written down, and raise what is asked of the others.
func Policy(origin string, log [32]byte, voters []Voter) *checkpoint.Policy {
	p := &checkpoint.Policy{
		Logs:   []checkpoint.PolicyLog{{Key: checkpoint.Key{Name: origin, Type: checkpoint.Log, Public: log[:]}}},
		Quorum: checkpoint.NoQuorum,
	}
	group := checkpoint.PolicyGroup{Name: "cluster", Threshold: len(voters)/2 + 1}
	for _, v := range voters {
		if len(v.Keys) == 0 {
			continue
		}
		node := checkpoint.PolicyGroup{Name: v.NodeID, Threshold: 1}
		for _, k := range v.Keys {
			name := v.NodeID + "/ed25519"
			if k.Type == checkpoint.MLDSACosigner {
				name = v.NodeID + "/ml-dsa-44"
			}
			p.Witnesses = append(p.Witnesses, checkpoint.PolicyWitness{Name: name, Key: k})
			node.Members = append(node.Members, name)
		}
		p.Groups = append(p.Groups, node)
		group.Members = append(group.Members, v.NodeID)
	}
	if len(group.Members) >= group.Threshold {
		p.Groups, p.Quorum = append(p.Groups, group), group.Name
	}
	return p
}
