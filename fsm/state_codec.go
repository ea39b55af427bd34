package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/exonode/exonode/chain/cbor"
	"github.com/exonode/exonode/gates"
)

// The folded state is encoded as a map, of which empty fields are absent:
//
//	0 version     1
//	1 epoch       of the chain
//	2 genesis     [chain id, cluster name, origin, document hash, log key]
//	3 waiting     [configuration…]
//	4 config      configuration: [raft index, [[id, address, voter]…]]
//	5 witnesses   [[kind, node id, sequence]…], sorted
//	6 removed     [node id…], sorted
//	7 nodes       [[id, name, platform, peer, api, gossip, tls key, cosigning
//	               key, ML-DSA key, sequence, added]…], sorted by id
//	8 governance  bytes, as package gates encodes them
//	9 trusted     [voter…], sorted
//
// Equal states have equal encodings, which manifests carry.
const stateVersion = 1

// ErrState is wrapped by errors of encoded states: the data directory was
// written by a newer version, or is damaged.
var ErrState = errors.New("folded state can't be read")

func (s *state) encode() ([]byte, error) {
	governance, err := s.gates.AppendBinary(nil)
	if err != nil {
		return nil, fmt.Errorf("fsm: encode state: %w", err)
	}
	n := 3
	for _, there := range [...]bool{
		s.genesis != nil, len(s.waiting) > 0, s.config.there(),
		len(s.witnesses) > 0, len(s.removed) > 0, len(s.nodes) > 0, len(s.trusted) > 0,
	} {
		if there {
			n++
		}
	}
	b := cbor.AppendMap(nil, n)
	b = cbor.AppendUint(append(b, 0), stateVersion)
	b = cbor.AppendUint(append(b, 1), s.epoch)
	if g := s.genesis; g != nil {
		b = cbor.AppendArray(append(b, 2), 5)
		b = cbor.AppendBytes(b, g.ChainID[:])
		b = cbor.AppendText(b, g.ClusterName)
		b = cbor.AppendText(b, g.Origin)
		b = cbor.AppendBytes(b, g.Hash[:])
		b = cbor.AppendBytes(b, g.LogKey[:])
	}
	if len(s.waiting) > 0 {
		b = cbor.AppendArray(append(b, 3), len(s.waiting))
		for i := range s.waiting {
			b = s.waiting[i].append(b)
		}
	}
	if s.config.there() {
		b = s.config.append(append(b, 4))
	}
	if len(s.witnesses) > 0 {
		b = cbor.AppendArray(append(b, 5), len(s.witnesses))
		for _, w := range s.witnesses {
			b = cbor.AppendArray(b, 3)
			b = cbor.AppendText(cbor.AppendText(b, w.kind), w.nodeID)
			b = cbor.AppendUint(b, w.sequence)
		}
	}
	if len(s.removed) > 0 {
		b = cbor.AppendArray(append(b, 6), len(s.removed))
		for _, id := range s.removed {
			b = cbor.AppendText(b, id)
		}
	}
	if len(s.nodes) > 0 {
		b = cbor.AppendArray(append(b, 7), len(s.nodes))
		for i := range s.nodes {
			b = s.nodes[i].append(b)
		}
	}
	b = cbor.AppendBytes(append(b, 8), governance)
	if len(s.trusted) > 0 {
		b = cbor.AppendArray(append(b, 9), len(s.trusted))
		for _, voter := range s.trusted {
			b = cbor.AppendText(b, voter)
		}
	}
	return b, nil
}

// there reports whether c is one that raft logged.
func (c *Configuration) there() bool { return c.RaftIndex != 0 || len(c.Servers) > 0 }

func (c *Configuration) append(b []byte) []byte {
	b = cbor.AppendUint(cbor.AppendArray(b, 2), c.RaftIndex)
	b = cbor.AppendArray(b, len(c.Servers))
	for _, s := range c.Servers {
		b = cbor.AppendArray(b, 3)
		b = cbor.AppendText(cbor.AppendText(b, s.ID), s.Address)
		b = cbor.AppendBool(b, s.Voter)
	}
	return b
}

func (n *Node) append(b []byte) []byte {
	texts := n.texts()
	b = cbor.AppendArray(b, len(texts)+2)
	for _, t := range texts {
		b = cbor.AppendText(b, *t)
	}
	return cbor.AppendBool(cbor.AppendUint(b, n.Sequence), n.Added)
}

// texts are the text fields in the order of their encoding.
func (n *Node) texts() []*string {
	return []*string{
		&n.ID, &n.Name, &n.Platform, &n.PeerAddr, &n.APIAddr, &n.GossipAddr,
		&n.TLSKey, &n.CosignKey, &n.MLDSAKey,
	}
}

// decodeState reads what encode wrote, and nothing else.
func decodeState(data []byte) (state, error) {
	r := cbor.NewSharedReader(data)
	s, governance := readState(&r)
	if err := r.Done(); err != nil {
		return state{}, fmt.Errorf("%w: %w", ErrState, err)
	}
	var err error
	if s.gates, err = gates.DecodeState(governance, policyHash); err != nil {
		return state{}, fmt.Errorf("%w: %w", ErrState, err)
	}
	return s, nil
}

func readState(r *cbor.Reader) (s state, governance []byte) {
	m := r.Map()
	next(r, &m, 0)
	at := r.Offset()
	if v := r.Uint(); v != stateVersion {
		r.Fail(at, fmt.Sprintf("state version %d, this version reads %d", v, stateVersion))
	}
	next(r, &m, 1)
	s.epoch = r.Uint()
	for m.Next() {
		at := r.Offset()
		switch m.Key() {
		case 2:
			s.genesis = readFacts(r)
		case 3:
			s.waiting = readList(r, readConfiguration)
			if !ascending(s.waiting, func(a, b Configuration) int { return cmp.Compare(a.RaftIndex, b.RaftIndex) }) {
				r.Fail(at, "configurations are not in order")
			}
		case 4:
			s.config = readConfiguration(r)
			if !s.config.there() {
				r.Fail(at, "configuration is there and empty")
			}
		case 5:
			s.witnesses = readList(r, readWitness)
			if !ascending(s.witnesses, func(a, b witness) int { return compareWitness(a, b.change) }) {
				r.Fail(at, "witnesses are not in order")
			}
		case 6:
			s.removed = readList(r, (*cbor.Reader).Text)
			if !ascending(s.removed, cmp.Compare[string]) {
				r.Fail(at, "removed nodes are not in order")
			}
		case 7:
			s.nodes = readList(r, readNode)
			if !ascending(s.nodes, func(a, b Node) int { return compareNode(a, b.ID) }) {
				r.Fail(at, "nodes are not in order")
			}
		case 8:
			governance = r.Bytes()
			if len(governance) == 0 {
				r.Fail(at, "governance state is empty")
			}
		case 9:
			s.trusted = readList(r, (*cbor.Reader).Text)
			if !ascending(s.trusted, cmp.Compare[string]) {
				r.Fail(at, "trusted voters are not in order")
			}
		default:
			m.Unknown()
		}
	}
	if governance == nil && r.Err() == nil {
		r.Fail(r.Offset(), "governance state is missing")
	}
	return s, governance
}

func readList[T any](r *cbor.Reader, read func(*cbor.Reader) T) []T {
	at := r.Offset()
	n := r.Array()
	if n == 0 {
		r.Fail(at, "list is there and empty")
		return nil
	}
	var list []T
	for range n {
		if r.Err() != nil {
			return nil
		}
		list = append(list, read(r))
	}
	return list
}

// readArray reads the head of an array of n items.
func readArray(r *cbor.Reader, n int) {
	at := r.Offset()
	if got := r.Array(); got != n {
		r.Fail(at, fmt.Sprintf("%d items, want %d", got, n))
	}
}

func ascending[T any](list []T, compare func(a, b T) int) bool {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return false
		}
	}
	return true
}

func readFacts(r *cbor.Reader) *GenesisFacts {
	g := new(GenesisFacts)
	readArray(r, 5)
	r.Fixed(g.ChainID[:])
	g.ClusterName = r.Text()
	g.Origin = r.Text()
	r.Fixed(g.Hash[:])
	r.Fixed(g.LogKey[:])
	return g
}

func readConfiguration(r *cbor.Reader) (c Configuration) {
	readArray(r, 2)
	c.RaftIndex = r.Uint()
	at := r.Offset()
	for range r.Array() {
		if r.Err() != nil {
			break
		}
		readArray(r, 3)
		c.Servers = append(c.Servers, Server{ID: r.Text(), Address: r.Text(), Voter: r.Bool()})
	}
	if !slices.IsSortedFunc(c.Servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) }) {
		r.Fail(at, "servers are not in order")
	}
	return c
}

func readWitness(r *cbor.Reader) witness {
	readArray(r, 3)
	return witness{change{r.Text(), r.Text()}, r.Uint()}
}

func readNode(r *cbor.Reader) (n Node) {
	texts := n.texts()
	readArray(r, len(texts)+2)
	for _, t := range texts {
		*t = r.Text()
	}
	n.Sequence, n.Added = r.Uint(), r.Bool()
	return n
}
