package transport

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// The encoding of raft's messages. u is an unsigned varint in its shortest
// form, s a zigzag one, b a byte 0 or 1, x a u and that many bytes.
//
//	header            u protocol version, x id, x addr
//	log               u index, u term, 1 byte type, x data, x extensions,
//	                  0, or 1 s seconds u nanoseconds: appended at
//	append request    header, u term, x leader, u previous index, u previous
//	                  term, u leader commit, u count, logs
//	append answer     header, u term, u last log, b success, b no backoff
//	vote request      header, u term, x candidate, u last index, u last term,
//	                  b transfer
//	vote answer       header, u term, x peers, b granted
//	pre-vote request  header, u term, u last index, u last term
//	pre-vote answer   header, u term, b granted
//	install request   header, u snapshot version, u term, x leader, u last
//	                  index, u last term, x peers, x configuration,
//	                  u configuration index, s size; the data follows the frame
//	install answer    header, u term, b success
//	timeout-now       header; its answer too
//
// A request frame is one byte kind and a request; an answer frame is one byte
// kind, x error ("" is none), b whether an answer follows, and that answer.

// kind says which RPC a frame is of.
type kind byte

const (
	kindAppend  kind = 1
	kindVote    kind = 2
	kindPreVote kind = 3
	kindInstall kind = 4
	kindTimeout kind = 5
)

// minLogSize is the size of the smallest encoded log: it bounds how many a
// frame can claim to hold.
const minLogSize = 6

func appendHeader(b []byte, h raft.RPCHeader) []byte {
	b = binary.AppendUvarint(b, uint64(h.ProtocolVersion))
	b = appendBytes(b, h.ID)
	return appendBytes(b, h.Addr)
}

func (d *decoder) header() raft.RPCHeader {
	v := d.uvarint()
	if v > uint64(raft.ProtocolVersionMax) {
		d.fail()
	}
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(v), ID: d.bytes(), Addr: d.bytes()}
}

func appendLog(b []byte, l *raft.Log) []byte {
	b = binary.AppendUvarint(b, l.Index)
	b = binary.AppendUvarint(b, l.Term)
	b = append(b, byte(l.Type))
	b = appendBytes(b, l.Data)
	b = appendBytes(b, l.Extensions)
	if l.AppendedAt.IsZero() {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.AppendVarint(b, l.AppendedAt.Unix())
	return binary.AppendUvarint(b, uint64(l.AppendedAt.Nanosecond()))
}

func (d *decoder) log(l *raft.Log) {
	l.Index, l.Term, l.Type = d.uvarint(), d.uvarint(), raft.LogType(d.byte())
	l.Data, l.Extensions = d.bytes(), d.bytes()
	// Raft's state machine goroutine panics over a type that it does not
	// know.
	if l.Type > raft.LogConfiguration {
		d.fail()
	}
	if d.bool() {
		sec, nsec := d.varint(), d.uvarint()
		if nsec >= uint64(time.Second) {
			d.fail()
			return
		}
		l.AppendedAt = time.Unix(sec, int64(nsec)).UTC()
		if l.AppendedAt.IsZero() || l.AppendedAt.Unix() != sec {
			d.fail()
		}
	}
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// appendRequest encodes a request, which must be one of raft's five, and
// returns its kind with it.
func appendRequest(b []byte, req any) ([]byte, error) {
	switch r := req.(type) {
	case *raft.AppendEntriesRequest:
		b = appendHeader(append(b, byte(kindAppend)), r.RPCHeader)
		b = binary.AppendUvarint(b, r.Term)
		b = appendBytes(b, r.Leader)
		b = binary.AppendUvarint(b, r.PrevLogEntry)
		b = binary.AppendUvarint(b, r.PrevLogTerm)
		b = binary.AppendUvarint(b, r.LeaderCommitIndex)
		b = binary.AppendUvarint(b, uint64(len(r.Entries)))
		for _, l := range r.Entries {
			b = appendLog(b, l)
		}
	case *raft.RequestVoteRequest:
		b = appendHeader(append(b, byte(kindVote)), r.RPCHeader)
		b = binary.AppendUvarint(b, r.Term)
		b = appendBytes(b, r.Candidate)
		b = binary.AppendUvarint(b, r.LastLogIndex)
		b = binary.AppendUvarint(b, r.LastLogTerm)
		b = appendBool(b, r.LeadershipTransfer)
	case *raft.RequestPreVoteRequest:
		b = appendHeader(append(b, byte(kindPreVote)), r.RPCHeader)
		b = binary.AppendUvarint(b, r.Term)
		b = binary.AppendUvarint(b, r.LastLogIndex)
		b = binary.AppendUvarint(b, r.LastLogTerm)
	case *raft.InstallSnapshotRequest:
		b = appendHeader(append(b, byte(kindInstall)), r.RPCHeader)
		b = binary.AppendUvarint(b, uint64(r.SnapshotVersion))
		b = binary.AppendUvarint(b, r.Term)
		b = appendBytes(b, r.Leader)
		b = binary.AppendUvarint(b, r.LastLogIndex)
		b = binary.AppendUvarint(b, r.LastLogTerm)
		b = appendBytes(b, r.Peers)
		b = appendBytes(b, r.Configuration)
		b = binary.AppendUvarint(b, r.ConfigurationIndex)
		b = binary.AppendVarint(b, r.Size)
	case *raft.TimeoutNowRequest:
		b = appendHeader(append(b, byte(kindTimeout)), r.RPCHeader)
	default:
		return nil, fmt.Errorf("transport: no encoding for %T", req)
	}
	return b, nil
}

// decodeRequest is the inverse of appendRequest. What it returns refers to b.
func decodeRequest(b []byte) (raft.WithRPCHeader, error) {
	d := decoder{b: b}
	var req raft.WithRPCHeader
	switch kind(d.byte()) {
	case kindAppend:
		r := &raft.AppendEntriesRequest{
			RPCHeader: d.header(), Term: d.uvarint(), Leader: d.bytes(),
			PrevLogEntry: d.uvarint(), PrevLogTerm: d.uvarint(), LeaderCommitIndex: d.uvarint(),
		}
		if n := d.uvarint(); n > uint64(len(d.b)/minLogSize) {
			d.fail()
		} else if n > 0 {
			logs := make([]raft.Log, n)
			r.Entries = make([]*raft.Log, n)
			for i := range logs {
				d.log(&logs[i])
				r.Entries[i] = &logs[i]
			}
		}
		req = r
	case kindVote:
		req = &raft.RequestVoteRequest{
			RPCHeader: d.header(), Term: d.uvarint(), Candidate: d.bytes(),
			LastLogIndex: d.uvarint(), LastLogTerm: d.uvarint(), LeadershipTransfer: d.bool(),
		}
	case kindPreVote:
		req = &raft.RequestPreVoteRequest{
			RPCHeader: d.header(), Term: d.uvarint(),
			LastLogIndex: d.uvarint(), LastLogTerm: d.uvarint(),
		}
	case kindInstall:
		r := &raft.InstallSnapshotRequest{RPCHeader: d.header()}
		version := d.uvarint()
		if version > uint64(raft.SnapshotVersionMax) {
			d.fail()
		}
		r.SnapshotVersion, r.Term, r.Leader = raft.SnapshotVersion(version), d.uvarint(), d.bytes()
		r.LastLogIndex, r.LastLogTerm = d.uvarint(), d.uvarint()
		r.Peers, r.Configuration, r.ConfigurationIndex = d.bytes(), d.bytes(), d.uvarint()
		if r.Size = d.varint(); r.Size < 0 {
			d.fail()
		}
		req = r
	case kindTimeout:
		req = &raft.TimeoutNowRequest{RPCHeader: d.header()}
	default:
		d.fail()
	}
	if err := d.done(); err != nil {
		return nil, err
	}
	return req, nil
}

// appendResponse encodes raft's answer to an RPC of kind k: an error, a
// response (nil where raft gave none), or both.
func appendResponse(b []byte, k kind, resp any, rpcErr error) ([]byte, error) {
	b = append(b, byte(k))
	text := ""
	if rpcErr != nil {
		if text = rpcErr.Error(); text == "" {
			text = "unnamed error"
		}
	}
	b = appendBytes(b, text)
	if resp == nil {
		return append(b, 0), nil
	}
	b = append(b, 1)
	switch r := resp.(type) {
	case *raft.AppendEntriesResponse:
		b = appendHeader(b, r.RPCHeader)
		b = binary.AppendUvarint(b, r.Term)
		b = binary.AppendUvarint(b, r.LastLog)
		b = appendBool(b, r.Success)
		b = appendBool(b, r.NoRetryBackoff)
	case *raft.RequestVoteResponse:
		b = appendHeader(b, r.RPCHeader)
		b = binary.AppendUvarint(b, r.Term)
		b = appendBytes(b, r.Peers)
		b = appendBool(b, r.Granted)
	case *raft.RequestPreVoteResponse:
		b = appendHeader(b, r.RPCHeader)
		b = binary.AppendUvarint(b, r.Term)
		b = appendBool(b, r.Granted)
	case *raft.InstallSnapshotResponse:
		b = appendHeader(b, r.RPCHeader)
		b = binary.AppendUvarint(b, r.Term)
		b = appendBool(b, r.Success)
	case *raft.TimeoutNowResponse:
		b = appendHeader(b, r.RPCHeader)
	default:
		return nil, fmt.Errorf("transport: no encoding for %T", resp)
	}
	return b, nil
}

// decodeResponse is the inverse of appendResponse: it fills resp, a pointer to
// the response type of kind k, and returns what raft answered as an error.
// A decoding error is ErrProtocol; any other comes from the peer's raft.
func decodeResponse(b []byte, k kind, resp any) error {
	d := decoder{b: b}
	if kind(d.byte()) != k {
		d.fail()
	}
	text := string(d.bytes())
	if d.bool() {
		d.response(resp)
	} else if text == "" {
		d.fail()
	}
	if err := d.done(); err != nil {
		return fmt.Errorf("%w: answer to an RPC: %w", ErrProtocol, err)
	}
	if text != "" {
		return &RemoteError{Code: CodeRaft, Message: text}
	}
	return nil
}

func (d *decoder) response(resp any) {
	switch r := resp.(type) {
	case *raft.AppendEntriesResponse:
		*r = raft.AppendEntriesResponse{
			RPCHeader: d.header(), Term: d.uvarint(), LastLog: d.uvarint(),
			Success: d.bool(), NoRetryBackoff: d.bool(),
		}
	case *raft.RequestVoteResponse:
		*r = raft.RequestVoteResponse{RPCHeader: d.header(), Term: d.uvarint(), Peers: d.bytes(), Granted: d.bool()}
	case *raft.RequestPreVoteResponse:
		*r = raft.RequestPreVoteResponse{RPCHeader: d.header(), Term: d.uvarint(), Granted: d.bool()}
	case *raft.InstallSnapshotResponse:
		*r = raft.InstallSnapshotResponse{RPCHeader: d.header(), Term: d.uvarint(), Success: d.bool()}
	case *raft.TimeoutNowResponse:
		*r = raft.TimeoutNowResponse{RPCHeader: d.header()}
	default:
		d.fail()
	}
}

// hello is a dialer's first frame.
type hello struct {
	server, target raft.ServerID // own and expected server id; "" where unknown
	tag, proof     []byte        // of fetch and join connections
}

// welcome is the acceptor's answer.
type welcome struct {
	status status
	proof  []byte
}

// helloVersion is the version of hello and welcome and of all that follows.
const helloVersion = 1

// helloLimit is the most bytes of a hello or welcome.
const helloLimit = 512

func (h hello) append(b []byte) []byte {
	b = append(b, helloVersion)
	b = appendBytes(b, string(h.server))
	b = appendBytes(b, string(h.target))
	b = appendBytes(b, h.tag)
	return appendBytes(b, h.proof)
}

func decodeHello(b []byte) (hello, error) {
	d := decoder{b: b}
	if d.byte() != helloVersion {
		d.fail()
	}
	h := hello{
		server: raft.ServerID(d.bytes()), target: raft.ServerID(d.bytes()),
		tag: d.bytes(), proof: d.bytes(),
	}
	return h, d.done()
}

func (w welcome) append(b []byte) []byte {
	return appendBytes(append(b, helloVersion, byte(w.status)), w.proof)
}

func decodeWelcome(b []byte) (welcome, error) {
	d := decoder{b: b}
	if d.byte() != helloVersion {
		d.fail()
	}
	w := welcome{status: status(d.byte()), proof: d.bytes()}
	return w, d.done()
}
