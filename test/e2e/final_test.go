package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/ledger"
)

// final waits until a node tells of a final checkpoint of at least size entries.
func (c *cluster) final(name string, size uint64) *checkpoint.Note {
	c.t.Helper()
	var note *checkpoint.Note
	c.await(fmt.Sprintf("a final checkpoint of %d entries on %s", size, name), func(ctx context.Context) (bool, error) {
		var err error
		note, err = c.on(name).Checkpoint(ctx, size)
		return err == nil, err
	})
	return note
}

// policy is what the cluster says that its checkpoints are final by.
func (c *cluster) policy(names ...string) (p *checkpoint.Policy) {
	c.t.Helper()
	c.await("a policy with all keys", func(ctx context.Context) (bool, error) {
		var err error
		p, err = c.on(c.Nodes()[0].Name).TrustPolicy(ctx)
		return err == nil && len(p.Groups) == len(names)+1, err
	})
	return p
}

// TestFinal: what is committed becomes final on all nodes, also once another node leads;
// receipts prove it to whoever has the policy, and nothing else does.
func TestFinal(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{Nodes: 3, NodeArgs: func(n lab.Node) []string {
		if n.Name == "n2" {
			return []string{"--ml-dsa"}
		}
		return nil
	}})
	names := []string{"n1", "n2", "n3"}
	ack := c.appendOne("before")
	policy := c.policy(names...)
	if n := len(policy.Witnesses); n != 4 {
		t.Errorf("%d keys of 3 nodes, one of which has two:\n%s", n, policy)
	}
	for _, name := range names {
		note := c.final(name, ack.Sequence+1)
		judged, err := policy.Verify(note)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, note.Bytes())
		}
		root, err := c.on(name).InclusionProof(c.ctx, 0, note.Checkpoint.Size)
		must(t, err)
		if root.Root != note.Checkpoint.Root {
			t.Errorf("%s: root %v is signed, it has %v", name, note.Checkpoint.Root, root.Root)
		}
		t.Logf("%s: %d entries, cosigned %d times", name, note.Checkpoint.Size, len(judged.Cosigned))
	}
	c.receipts(policy, ack.Sequence)

	leader := c.leader(names...)
	c.kill(leader)
	others := c.running()
	ack = c.appendOne("after")
	for _, name := range others {
		note := c.final(name, ack.Sequence+1)
		if _, err := policy.Verify(note); err != nil {
			t.Errorf("%s, after %s was killed: %v", name, leader, err)
		}
	}
	// Where all start anew, the memory of what was signed is theirs still.
	c.start(leader)
	for _, name := range c.running() {
		c.stop(name)
	}
	c.start(names...)
	ack = c.appendOne("again")
	if _, err := policy.Verify(c.final("n1", ack.Sequence+1)); err != nil {
		t.Error(err)
	}
}

// receipts checks a receipt, and that no changed one passes.
func (c *cluster) receipts(policy *checkpoint.Policy, seq uint64) {
	c.t.Helper()
	r, err := c.client.Receipt(c.ctx, seq, true)
	must(c.t, err)
	file := r.Bytes()
	c.t.Logf("a receipt of %d bytes, %d of them header and %d envelope", len(file), len(r.Header), len(r.Envelope))
	proved := func(b []byte) error {
		r, err := receipt.Parse(b)
		if err == nil {
			_, err = r.Verify(policy)
		}
		return err
	}
	must(c.t, proved(file))
	for i := range file {
		b := bytes.Clone(file)
		b[i] ^= 1
		if err := proved(b); err == nil && !c.another(policy, file, b) {
			c.t.Errorf("byte %d of a receipt changed, and it verifies:\n%s", i, b)
		}
	}
	stranger := *policy
	stranger.Logs = nil
	for _, l := range policy.Logs {
		l.Key.Public = bytes.Clone(l.Key.Public)
		l.Key.Public[0]++
		stranger.Logs = append(stranger.Logs, l)
	}
	if _, err := r.Verify(&stranger); err == nil {
		c.t.Error("a receipt verifies by another log's key")
	}
}

// another reports whether a changed receipt only lacks a signature of the original one
// (the name or the id of its key was changed), and has a quorum without it.
func (c *cluster) another(policy *checkpoint.Policy, file, changed []byte) bool {
	c.t.Helper()
	var by [2]checkpoint.Judgement
	for i, b := range [][]byte{file, changed} {
		r, err := receipt.Parse(b)
		must(c.t, err)
		if by[i], err = policy.Verify(r.Note); err != nil {
			return false
		}
	}
	return len(by[1].Cosigned) < len(by[0].Cosigned)
}

// faulty replaces what is wrong with a running node.
func (c *cluster) faulty(name string, plan faults.Plan) {
	c.t.Helper()
	b, err := json.Marshal(plan)
	must(c.t, err)
	node := c.Nodes()[c.index(name)]
	req, err := http.NewRequestWithContext(c.ctx, http.MethodPut, "http://"+node.Chaos+"/plan", bytes.NewReader(b))
	must(c.t, err)
	resp, err := http.DefaultClient.Do(req)
	must(c.t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		c.t.Fatalf("plan of %s: %s", name, resp.Status)
	}
}

// notFinal asserts that entries up to seq do not become final, and returns why, as the
// leader says.
func (c *cluster) notFinal(leader string, seq uint64) client.CheckpointStatus {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 4*time.Second)
	defer cancel()
	note, err := c.on(leader).Checkpoint(ctx, seq+1)
	var e *api.Error
	if err == nil || !errors.As(err, &e) || e.Code != api.NotFinal {
		c.t.Fatalf("entry %d: want %s, got %v, %v", seq, api.NotFinal, note, err)
	}
	var s client.Status
	c.await("the leader to say why", func(ctx context.Context) (bool, error) {
		var err error
		s, err = c.on(leader).Status(ctx)
		return err == nil && s.Checkpoint.Problem != "" && len(s.Checkpoint.Refusals) >= 2, errors.Join(err, errors.New(s.Checkpoint.Problem))
	})
	return s.Checkpoint
}

// TestClockAhead: a clock that is an hour ahead on the leader makes nothing final, and the
// voters say why. Commits go on.
func TestClockAhead(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{Nodes: 3, Chaos: true})
	ack := c.appendOne("right")
	c.final("n1", ack.Sequence+1)
	c.lead("n2", "n1", "n2", "n3")
	c.faulty("n2", faults.Plan{Clock: faults.Clock{Offset: faults.Duration(time.Hour)}})
	ack = c.appendOne("ahead")
	s := c.notFinal("n2", ack.Sequence)
	for _, name := range []string{"n1", "n3"} {
		if why := s.Refusals[c.ids[name]]; !strings.Contains(why, "ahead of this node's clock") {
			t.Errorf("%s refuses since %q", name, why)
		}
	}
	if s.Size > ack.Sequence {
		t.Errorf("%d entries are final", s.Size)
	}
	t.Log(s.Problem)
}

// TestForkedStore: a node whose store was made anew, a forked chain with all hashes right,
// gets no cosignatures where it leads, and gives none where it follows.
func TestForkedStore(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{Nodes: 3})
	c.pump("honest", 40, 50)
	head, err := c.client.Head(c.ctx)
	must(t, err)
	c.final("n1", head.Size)
	c.stop("n3")
	fork(t, filepath.Join(c.DataDir("n3"), "ledger"), head.Size-5)
	// What it signed before is forgotten as well, as a thorough forger would see to.
	must(t, os.RemoveAll(filepath.Join(c.DataDir("n3"), "signed")))
	c.start("n3")

	ack := c.appendOne("follows")
	note := c.final("n1", ack.Sequence+1)
	forger := c.ids["n3"]
	for _, s := range note.Signatures {
		if strings.Contains(s.Name, forger) {
			t.Errorf("the forked node cosigned the cluster's checkpoint")
		}
	}
	c.lead("n3", "n1", "n2", "n3")
	for range 2 {
		// Which sequence and hash the forked leader tells does not matter here.
		ack = c.appendOne("leads")
	}
	s := c.notFinal("n3", ack.Sequence)
	for _, name := range []string{"n1", "n2"} {
		if why := s.Refusals[c.ids[name]]; !strings.Contains(why, "contradicts") {
			t.Errorf("%s refuses since %q", name, why)
		}
	}
	t.Log(s.Problem)
}

// fork makes the ledger of a stopped node anew: the payload of one entry is another, and
// all that follows is sealed again on top of it.
func fork(t *testing.T, dir string, at uint64) {
	t.Helper()
	old, err := ledger.Open(dir, ledger.Options{})
	must(t, err)
	meta := old.Meta()
	state, err := old.State()
	must(t, err)
	u := &chain.Update{State: state, Applied: meta.Applied, AppliedTerm: meta.AppliedTerm, RaftEpoch: meta.RaftEpoch}
	var previous chain.Hash
	for r, err := range old.Source().Records(t.Context(), 0, meta.Head.Size) {
		must(t, err)
		h, err := chain.DecodeHeader(r.Header)
		must(t, err)
		env := bytes.Clone(r.Envelope)
		if r.Sequence == at {
			e, err := chain.DecodeEnvelope(env)
			must(t, err)
			if e.Payload[len(e.Payload)-1] != '}' {
				t.Fatalf("entry %d has payload %q", at, e.Payload)
			}
			e.Payload = append(e.Payload[:len(e.Payload)-1], `,"forged":true}`...)
			env, err = e.MarshalBinary()
			must(t, err)
			h.Envelope.Hash, h.Envelope.Size = chain.EnvelopeHash(env), uint64(len(e.Payload))
		}
		h.Previous = previous
		header, err := h.MarshalBinary()
		must(t, err)
		previous = chain.HeaderHash(header)
		u.Entries = append(u.Entries, chain.Sealing{
			Record: chain.Record{Sequence: r.Sequence, Header: header, Envelope: env},
			Hash:   previous, Time: h.Time, Key: h.Key(), Kind: h.Kind, Principal: h.Principal,
		})
	}
	must(t, old.Close())
	must(t, os.RemoveAll(dir))
	made, err := ledger.Create(dir, ledger.Options{})
	must(t, err)
	must(t, made.Commit(u))
	must(t, made.Flush())
	must(t, made.Close())
}
