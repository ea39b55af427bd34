package transport

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
)

var update = flag.Bool("update", false, "rewrite golden files")

// goldenHeader is of a node whose names are as long as real ones.
var goldenHeader = raft.RPCHeader{
	ProtocolVersion: 3,
	ID:              []byte("naaaaaaaaaaaaaaaaaaaaaaaaa.0123456789abcdef"),
	Addr:            []byte("naaaaaaaaaaaaaaaaaaaaaaaaa"),
}

// samples are one message of each kind with every field set, and with none.
func samples() (requests []raft.WithRPCHeader, responses map[kind][]any) {
	h, leader := goldenHeader, goldenHeader.Addr
	at := time.Date(2031, 2, 3, 4, 5, 6, 789, time.UTC)
	requests = []raft.WithRPCHeader{
		&raft.AppendEntriesRequest{
			RPCHeader: h, Term: 300, Leader: leader, PrevLogEntry: 1 << 20, PrevLogTerm: 299, LeaderCommitIndex: 1<<64 - 1,
			Entries: []*raft.Log{
				{Index: 1<<20 + 1, Term: 300, Data: []byte("command"), Extensions: []byte("ext"), AppendedAt: at},
				{Index: 1<<20 + 2, Term: 300, Type: raft.LogConfiguration, Data: []byte("conf"), AppendedAt: time.Unix(-1, 1).UTC()},
				{Index: 1<<20 + 3, Term: 300, Type: raft.LogNoop},
			},
		},
		&raft.AppendEntriesRequest{},
		&raft.RequestVoteRequest{RPCHeader: h, Term: 300, Candidate: leader, LastLogIndex: 127, LastLogTerm: 128, LeadershipTransfer: true},
		&raft.RequestVoteRequest{},
		&raft.RequestPreVoteRequest{RPCHeader: h, Term: 300, LastLogIndex: 127, LastLogTerm: 128},
		&raft.RequestPreVoteRequest{},
		&raft.InstallSnapshotRequest{
			RPCHeader: h, SnapshotVersion: 1, Term: 300, Leader: leader, LastLogIndex: 127, LastLogTerm: 128,
			Peers: []byte("peers"), Configuration: []byte("conf"), ConfigurationIndex: 3, Size: 300,
		},
		&raft.InstallSnapshotRequest{},
		&raft.TimeoutNowRequest{RPCHeader: h},
		&raft.TimeoutNowRequest{},
	}
	responses = map[kind][]any{
		kindAppend:  {&raft.AppendEntriesResponse{RPCHeader: h, Term: 300, LastLog: 5, Success: true, NoRetryBackoff: true}, &raft.AppendEntriesResponse{}},
		kindVote:    {&raft.RequestVoteResponse{RPCHeader: h, Term: 300, Peers: []byte("peers"), Granted: true}, &raft.RequestVoteResponse{}},
		kindPreVote: {&raft.RequestPreVoteResponse{RPCHeader: h, Term: 300, Granted: true}, &raft.RequestPreVoteResponse{}},
		kindInstall: {&raft.InstallSnapshotResponse{RPCHeader: h, Term: 300, Success: true}, &raft.InstallSnapshotResponse{}},
		kindTimeout: {&raft.TimeoutNowResponse{RPCHeader: h}, &raft.TimeoutNowResponse{}},
	}
	return requests, responses
}

func newResponse(k kind) any {
	switch k {
	case kindAppend:
		return new(raft.AppendEntriesResponse)
	case kindVote:
		return new(raft.RequestVoteResponse)
	case kindPreVote:
		return new(raft.RequestPreVoteResponse)
	case kindInstall:
		return new(raft.InstallSnapshotResponse)
	default:
		return new(raft.TimeoutNowResponse)
	}
}

// TestGoldenMessages fixes the encoding, and that it round-trips.
func TestGoldenMessages(t *testing.T) {
	var out strings.Builder
	requests, responses := samples()
	for _, req := range requests {
		b, err := appendRequest(nil, req)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%T %x\n", req, b)
		got, err := decodeRequest(b)
		if err != nil {
			t.Errorf("%T: %v", req, err)
		}
		if diff := cmp.Diff(req, got); diff != "" {
			t.Errorf("%T (-want +got):\n%s", req, diff)
		}
	}
	for k := kindAppend; k <= kindTimeout; k++ {
		for _, resp := range responses[k] {
			b, err := appendResponse(nil, k, resp, nil)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%T %x\n", resp, b)
			got := newResponse(k)
			if err := decodeResponse(b, k, got); err != nil {
				t.Errorf("%T: %v", resp, err)
			}
			if diff := cmp.Diff(resp, got); diff != "" {
				t.Errorf("%T (-want +got):\n%s", resp, diff)
			}
		}
		b, err := appendResponse(nil, k, nil, errors.New("refused"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "error of %d %x\n", k, b)
		remote, ok := errors.AsType[*RemoteError](decodeResponse(b, k, newResponse(k)))
		if !ok || remote.Message != "refused" {
			t.Errorf("error of %d: %v", k, remote)
		}
	}
	for _, f := range []callFrame{
		{typ: frameRequest, number: 300, left: 1500 * time.Microsecond, method: "submit", payload: []byte("payload")},
		{typ: frameAnswer, number: 300, payload: []byte("payload")},
		{typ: frameFailure, number: 300, failure: RemoteError{"code", "message"}},
		{typ: frameCancel, number: 300},
		{typ: framePing},
		{typ: framePong},
	} {
		b := f.append(nil)
		fmt.Fprintf(&out, "call frame %d %x\n", f.typ, b)
		got, err := decodeCallFrame(b)
		if diff := cmp.Diff(f, got, cmp.AllowUnexported(callFrame{})); err != nil || diff != "" {
			t.Errorf("frame %d: %v\n%s", f.typ, err, diff)
		}
	}
	h := hello{server: "server", target: "target", tag: []byte("tag"), proof: []byte("proof")}
	fmt.Fprintf(&out, "hello %x\n", h.append(nil))
	if got, err := decodeHello(h.append(nil)); err != nil || !cmp.Equal(h, got, cmp.AllowUnexported(hello{})) {
		t.Errorf("hello: %+v, %v", got, err)
	}
	w := welcome{status: statusRemoved, proof: []byte("proof")}
	fmt.Fprintf(&out, "welcome %x\n", w.append(nil))
	if got, err := decodeWelcome(w.append(nil)); err != nil || !cmp.Equal(w, got, cmp.AllowUnexported(welcome{})) {
		t.Errorf("welcome: %+v, %v", got, err)
	}
	golden(t, "messages.txt", out.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestProofVectors fixes the ids, keys, proofs and tags that old and new nodes
// must agree about.
func TestProofVectors(t *testing.T) {
	var out strings.Builder
	id := NewIdentity([32]byte{1, 2, 3})
	secret := secretOf(append([]byte{4, 5, 6}, make([]byte, 29)...))
	fmt.Fprintf(&out, "public key %x\nnode id %s\n", id.PublicKey(), id.NodeID())
	fmt.Fprintf(&out, "secret %s\ngossip key %x\njoin key %x\n", secret.Reveal(), secret.GossipKey(), secret.derive(contextJoin))
	s := session{
		exporter: bytes.Repeat([]byte{7}, exporterSize), class: ClassJoin,
		dialer: "ndialer", acceptor: "nacceptor", genesis: [32]byte{8},
	}
	key := secret.derive(contextJoin)
	fmt.Fprintf(&out, "dialer's proof %x\nacceptor's proof %x\ntag %x\n", s.proof(key, roleDialer), s.proof(key, roleAcceptor), s.tag())
	golden(t, "proofs.txt", out.String())
}

// TestProofBindsEverything: no field can change, nor a byte move from one to
// the next, without another proof.
func TestProofBindsEverything(t *testing.T) {
	base := session{exporter: make([]byte, exporterSize), class: ClassJoin, dialer: "nab", acceptor: "nc"}
	key := make([]byte, 32)
	seen := map[string]string{string(base.proof(key, roleDialer)): "base"}
	note := func(name string, proof []byte) {
		if other, ok := seen[string(proof)]; ok {
			t.Errorf("%s has the proof of %s", name, other)
		}
		seen[string(proof)] = name
	}
	note("role", base.proof(key, roleAcceptor))
	note("key", base.proof(append([]byte{1}, key[1:]...), roleDialer))
	for name, change := range map[string]func(*session){
		"exporter": func(s *session) { s.exporter = append([]byte{1}, s.exporter[1:]...) },
		"class":    func(s *session) { s.class = ClassFetch },
		"dialer":   func(s *session) { s.dialer = "nax" },
		"swapped":  func(s *session) { s.dialer, s.acceptor = s.acceptor, s.dialer },
		"shifted":  func(s *session) { s.dialer, s.acceptor = "na", "bnc" },
		"genesis":  func(s *session) { s.genesis[31] = 1 },
	} {
		s := base
		change(&s)
		note(name, s.proof(key, roleDialer))
	}
}

// TestDecodersAreStrict: the other ways to write the same values are refused.
func TestDecodersAreStrict(t *testing.T) {
	vote := func(edit func([]byte) []byte) []byte {
		b, err := appendRequest(nil, &raft.RequestVoteRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return edit(b)
	}
	log := func(tail ...byte) []byte { // an append of one log: index, term, type and so on
		b := []byte{byte(kindAppend), 0, 0, 0, 0, 0, 0, 0, 0, 1}
		return append(b, tail...)
	}
	for name, b := range map[string][]byte{
		"nothing":              {},
		"unknown kind":         {9, 0, 0, 0},
		"trailing byte":        vote(func(b []byte) []byte { return append(b, 0) }),
		"cut short":            vote(func(b []byte) []byte { return b[:len(b)-1] }),
		"boolean of two":       vote(func(b []byte) []byte { b[len(b)-1] = 2; return b }),
		"long zero":            vote(func(b []byte) []byte { return append([]byte{b[0], 0x80, 0x00}, b[2:]...) }),
		"version of the far":   vote(func(b []byte) []byte { b[1] = 4; return b }),
		"length past the end":  {byte(kindTimeout), 3, 5, 'a', 0},
		"many logs in no room": {byte(kindAppend), 0, 0, 0, 0, 0, 0, 0, 0, 0x7f},
		"unknown type of log":  log(1, 1, 6, 0, 0, 0),
		"present zero time":    log(append([]byte{1, 1, 0, 0, 0, 1}, append(zigzag(time.Time{}.Unix()), 0)...)...),
		"a second of ns":       log(append([]byte{1, 1, 0, 0, 0, 1, 0}, 0x80, 0x94, 0xeb, 0xdc, 0x03)...),
		"negative size":        {byte(kindInstall), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
		"number over 64 bits":  {byte(kindTimeout), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0},
	} {
		if req, err := decodeRequest(b); err == nil {
			t.Errorf("%s: decoded to %+v", name, req)
		}
	}
	if _, err := decodeRequest(log(1, 1, 0, 0, 0, 0)); err != nil {
		t.Errorf("the control: %v", err)
	}
}

func zigzag(v int64) []byte {
	var out []byte
	for u := uint64(v<<1) ^ uint64(v>>63); ; u >>= 7 {
		if u < 0x80 {
			return append(out, byte(u))
		}
		out = append(out, byte(u)|0x80)
	}
}

func FuzzRequest(f *testing.F) {
	requests, _ := samples()
	for _, req := range requests {
		b, err := appendRequest(nil, req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := decodeRequest(b)
		if err != nil {
			return
		}
		again, err := appendRequest(nil, req)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x decodes, and encodes as %x (%v)", b, again, err)
		}
	})
}

func FuzzResponse(f *testing.F) {
	_, responses := samples()
	for k, all := range responses {
		for _, resp := range all {
			b, err := appendResponse(nil, k, resp, errors.New("both"))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || kind(b[0]) < kindAppend || kind(b[0]) > kindTimeout {
			return
		}
		k := kind(b[0])
		resp := newResponse(k)
		err := decodeResponse(b, k, resp)
		if errors.Is(err, ErrProtocol) {
			return
		}
		var text error
		if remote, ok := errors.AsType[*RemoteError](err); ok {
			text = errors.New(remote.Message)
		}
		with, errWith := appendResponse(nil, k, resp, text)
		without, errWithout := appendResponse(nil, k, nil, text)
		if errWith != nil || errWithout != nil || (!bytes.Equal(with, b) && !bytes.Equal(without, b)) {
			t.Errorf("%x decodes, and encodes as %x or %x", b, with, without)
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add((&callFrame{typ: frameRequest, number: 300, left: time.Second, method: "m", payload: []byte("p")}).append(nil))
	f.Add((&callFrame{typ: frameFailure, number: 1, failure: RemoteError{"c", "m"}}).append(nil))
	f.Add(hello{server: "s", target: "t", tag: []byte("g"), proof: []byte("p")}.append(nil))
	f.Add(welcome{status: statusBusy, proof: []byte("p")}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := decodeCallFrame(b); err == nil &&
			len(fr.failure.Code) <= maxText && len(fr.failure.Message) <= maxText {
			if again := fr.append(nil); !bytes.Equal(again, b) {
				t.Errorf("frame %x encodes as %x", b, again)
			}
		}
		if h, err := decodeHello(b); err == nil && !bytes.Equal(h.append(nil), b) {
			t.Errorf("hello %x encodes as %x", b, h.append(nil))
		}
		if w, err := decodeWelcome(b); err == nil && !bytes.Equal(w.append(nil), b) {
			t.Errorf("welcome %x encodes as %x", b, w.append(nil))
		}
	})
}

func TestFormatsRedactSecret(t *testing.T) {
	s, err := NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	inner := struct{ s Secret }{s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		text := fmt.Sprintf(verb+" "+verb+" "+verb, s, &s, inner)
		part := s.key()[:4]
		for _, form := range []string{fmt.Sprintf("%x", part), strings.Trim(fmt.Sprint(part), "[]"), strings.Trim(fmt.Sprintf("%#v", part), "[]byte{}"), s.Reveal()[:20]} {
			if strings.Contains(text, form) {
				t.Errorf("%s prints key material", verb)
			}
		}
	}
}
