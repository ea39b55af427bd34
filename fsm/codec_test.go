package fsm_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

var update = flag.Bool("update", false, "write golden files")

// golden compares bytes with a file of hex digits.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var lines strings.Builder
		for rest := hex.EncodeToString(got); rest != ""; {
			n := min(96, len(rest))
			lines.WriteString(rest[:n] + "\n")
			rest = rest[n:]
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the encoding has changed:\ngot  %x\nwant %x", name, got, want)
	}
}

func fullProposal() fsm.Proposal {
	return fsm.Proposal{
		Event: chain.Event{
			Workspace: "w", Source: "s", ID: "i", Kind: "tool.execute", SchemaVersion: 3, Subject: "sub",
			Payload: []byte("payload"), ContentType: "text/plain", DataSchema: "ds",
			DeclaredEffect: &chain.Effect{1, 2, 3, 4, 10_000}, Causes: []uint64{1, 500, 70_000}, Priority: 1,
			ClientTime: 1_700_000_000_000_000_000, Traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
			Extensions: []chain.Extension{
				{Name: "aaa", Value: "text"}, {Name: "b", Value: int64(-7)}, {Name: "cc", Value: true}, {Name: "d", Value: ""},
			},
			Salt: &[32]byte{1, 31: 2}, ClientKeyID: "key", ClientSignature: bytes.Repeat([]byte{9}, 64),
		},
		Principal: "p", Credential: "token", OnBehalfOf: "o", Attestation: []byte{1, 2, 3},
		Verdict: &chain.Verdict{
			Gate: "tool.execute", Decision: chain.Warn, Revision: 5, PolicyHash: chain.Hash{7},
			Declared: &chain.Effect{1, 2, 3, 4, 10_000}, Effective: chain.Effect{3000, 2, 1000, 4, 10_000},
			Rules:   []chain.RuleOutcome{{ID: "r", Severity: "advisory"}, {ID: "q", Severity: "critical", Failed: true}},
			Counts:  []chain.Count{{Name: "c", Value: 300}},
			Profile: "cel/1", Request: 6, Permit: 7, Reasons: []string{"a", "b"}, Emergency: 8,
		},
	}
}

func leastProposal() fsm.Proposal {
	return fsm.Proposal{
		Event:     chain.Event{Workspace: "w", Source: "s", ID: "i", Kind: "k", Salt: &[32]byte{}},
		Principal: "p",
	}
}

func TestCommandGolden(t *testing.T) {
	for name, c := range map[string]fsm.Command{
		"command-batch":   {Batch: &fsm.Batch{Stamp: 1_700_000_000_000_000_000, Node: "n1", Revision: 5, Events: []fsm.Proposal{fullProposal(), leastProposal()}}},
		"command-empty":   {Batch: &fsm.Batch{Stamp: -1}},
		"command-genesis": {Genesis: &fsm.GenesisCommand{Stamp: 1, Node: "n1", Document: []byte("{}"), LogKey: [32]byte{5, 31: 6}}},
	} {
		data, err := c.AppendBinary([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		data = data[len("before"):]
		golden(t, name, data)
		var back fsm.Command
		if err := back.UnmarshalBinary(data); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c, back, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s came back otherwise: %s", name, diff)
		}
		for n := range data {
			if err := back.UnmarshalBinary(data[:n]); !errors.Is(err, fsm.ErrCommand) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if err := back.UnmarshalBinary(append(data, 0)); !errors.Is(err, fsm.ErrCommand) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
	}
}

func TestCommandThatDoesNotEncode(t *testing.T) {
	noSalt, badVerdict := leastProposal(), leastProposal()
	noSalt.Salt = nil
	badVerdict.Verdict = &chain.Verdict{Decision: 99}
	for name, c := range map[string]fsm.Command{
		"empty":    {},
		"both":     {Batch: &fsm.Batch{}, Genesis: &fsm.GenesisCommand{}},
		"no salt":  {Batch: &fsm.Batch{Events: []fsm.Proposal{noSalt}}},
		"too many": {Batch: &fsm.Batch{Events: make([]fsm.Proposal, fsm.MaxCommandEvents+1)}},
		"verdict":  {Batch: &fsm.Batch{Events: []fsm.Proposal{badVerdict}}},
	} {
		if _, err := c.MarshalBinary(); err == nil {
			t.Errorf("%s: it encodes", name)
		}
	}
}

func TestProposalSizeIsAnUpperBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := leastProposal()
		if rapid.Bool().Draw(t, "full") {
			p = fullProposal()
		}
		p.Payload = make([]byte, rapid.IntRange(0, 70_000).Draw(t, "payload"))
		p.Source = strings.Repeat("x", rapid.IntRange(0, 300).Draw(t, "source"))
		p.ID = strings.Repeat("x", rapid.IntRange(0, 300).Draw(t, "id"))
		p.Subject = strings.Repeat("x", rapid.IntRange(0, 300).Draw(t, "subject"))
		p.Causes = nil
		for i := range rapid.IntRange(0, 64).Draw(t, "causes") {
			p.Causes = append(p.Causes, 1<<62+uint64(i))
		}
		one, err := (&fsm.Command{Batch: &fsm.Batch{Events: []fsm.Proposal{p}}}).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		two, err := (&fsm.Command{Batch: &fsm.Batch{Events: []fsm.Proposal{p, p}}}).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		real, said := len(two)-len(one), fsm.ProposalSize(&p)
		if real > said || said > real+1000 {
			t.Fatalf("it takes %d bytes, said were %d", real, said)
		}
	})
}

func TestManifestGolden(t *testing.T) {
	r, h := begun(t, gates.Development)
	grow(r, h, 8)
	r.apply(h.servers("n1", "-n7"))
	golden(t, "manifest", r.snapshot())
	early := newReplica(t, ledgertest.NewMemory())
	h = newHistory(t)
	early.apply(h.servers("n1"), h.servers("n1", "-n2"))
	golden(t, "manifest-empty", early.snapshot())
}

// The entries that the state machine seals by itself have frozen payloads.
func TestSealedEntriesGolden(t *testing.T) {
	r, h := begun(t, gates.Production)
	full := fullProposal()
	full.Causes, full.Extensions = []uint64{0, 2}, full.Extensions[:3]
	full.Verdict = r.View().Evaluate(&full) // denied: security 1
	low := full
	low.ID, low.DeclaredEffect = "j", &chain.Effect{6000}
	low.Verdict = r.View().Evaluate(&low)
	rs := r.results(h.batch(1, full, low))
	if rs[0].Status != fsm.DeniedNow || rs[1].Status != fsm.Escalated {
		t.Fatalf("%+v", rs)
	}
	r.apply(h.servers("n1", "-n2"))
	r.recover(h.recovery("two of three are gone"))
	for seq := range r.store.Meta().Head.Size {
		rec, err := r.store.Record(seq)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, fmt.Sprintf("entry-%d-%s", seq, r.header(seq).Kind), append(rec.Header, rec.Envelope...))
	}
	r.verify()
}

func FuzzCommand(f *testing.F) {
	for _, c := range []fsm.Command{
		{Batch: &fsm.Batch{Stamp: 1, Node: "n", Events: []fsm.Proposal{fullProposal(), leastProposal()}}},
		{Genesis: &fsm.GenesisCommand{Document: []byte("{}")}},
	} {
		data, err := c.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c fsm.Command
		if c.UnmarshalBinary(data) != nil {
			return
		}
		again, err := c.MarshalBinary()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("two encodings of one command (%v):\n%x\n%x", err, data, again)
		}
	})
}

func FuzzManifest(f *testing.F) {
	r, h := begun(f, gates.Development)
	grow(r, h, 8)
	f.Add(r.snapshot())
	early := newReplica(f, ledgertest.NewMemory())
	early.apply(newHistory(f).servers("n1"))
	f.Add(early.snapshot())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := fsm.DecodeManifest(data)
		if err != nil {
			return
		}
		again, err := m.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("two encodings of one manifest (%v):\n%x\n%x", err, data, again)
		}
	})
}

func FuzzState(f *testing.F) {
	r, h := begun(f, gates.Production)
	grow(r, h, 8)
	for _, x := range []*replica{r, newReplica(f, ledgertest.NewMemory())} {
		state, err := x.View().EncodeState()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(state)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		again, err := fsm.RecodeState(data)
		if err == nil && !bytes.Equal(again, data) {
			t.Errorf("two encodings of one state:\n%x\n%x", data, again)
		}
	})
}

func FuzzStagedState(f *testing.F) {
	leader, h := begun(f, gates.Production)
	grow(leader, h, 8)
	r := newReplica(f, ledgertest.NewMemory())
	r.fetcher.peer = leader.store
	r.fetcher.change = func(rec *chain.Record) {
		if rec.Sequence == 3 || rec.Sequence == 5 {
			rec.Envelope = nil
		}
	}
	if _, err := install(r, leader.snapshot(), h.index); err == nil {
		f.Fatal("nothing is missing")
	}
	_ = r.catchup.Attempt(testContext) // envelopes are missing
	staged, err := r.store.StagedState()
	if err != nil || staged == nil {
		f.Fatal(err)
	}
	if again, err := fsm.RecodeProgress(staged); err != nil || !bytes.Equal(again, staged) {
		f.Fatalf("%x came back as %x (%v)", staged, again, err)
	}
	f.Add(staged)
	f.Fuzz(func(t *testing.T, data []byte) {
		again, err := fsm.RecodeProgress(data)
		if err == nil && !bytes.Equal(again, data) {
			t.Errorf("two encodings of one state:\n%x\n%x", data, again)
		}
	})
}

func FuzzGenesis(f *testing.F) {
	f.Add(testDocument(f, gates.Production))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := fsm.ParseGenesis(data)
		if err != nil {
			return
		}
		again, err := g.Encode()
		if err != nil {
			t.Fatalf("what was parsed does not encode: %v", err)
		}
		back, err := fsm.ParseGenesis(again)
		if err != nil {
			t.Fatalf("what was encoded does not parse: %v", err)
		}
		// Spaces within grants and keys are not kept by Encode.
		if same, err := back.Encode(); err != nil || !bytes.Equal(same, again) {
			t.Errorf("came back otherwise (%v):\n%s\n%s", err, again, same)
		}
	})
}
