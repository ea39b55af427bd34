package fsm

import (
	"errors"
	"fmt"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
)

// A command is a map in the deterministic CBOR of chain/cbor:
//
//	0 version   CommandVersion
//	1 type      1 batch, 2 genesis
//	2 stamp     Unix ns
//	3 node      sealing node
//	4 revision  governance revision   (batch)
//	5 events    array of proposals    (batch)
//	6 document  genesis document      (genesis)
//	7 log key   32 bytes              (genesis)
//
// All keys of its type are always there. A proposal is a map whose keys 6 to 24
// are those of the header's fields that it becomes (chain.Header), and whose
// further keys are below; empty fields are absent, workspace, source, id, kind,
// principal and salt never are. A verdict is a byte string that holds what
// chain.Verdict encodes to.
const (
	keyVersion = iota
	keyType
	keyStamp
	keyNode
	keyRevision
	keyEvents
	keyDocument
	keyLogKey
)

const (
	typeBatch   = 1
	typeGenesis = 2
)

const (
	keyWorkspace     = 6
	keySource        = 7
	keyID            = 8
	keyKind          = 9
	keySchemaVersion = 10
	keySubject       = 11
	keyPrincipal     = 12
	keyCredential    = 13
	keyOnBehalfOf    = 14
	keyVerdict       = 16
	keyCauses        = 17
	keyPriority      = 18
	keyClientTime    = 19
	keyTraceparent   = 20
	keyExtensions    = 21
	keyClientKeyID   = 22
	keyAttestation   = 24
	keyPayload       = 32
	keyContentType   = 33
	keyDataSchema    = 34
	keySalt          = 35
	keySignature     = 36
	keyDeclared      = 37
)

// ErrCommand is wrapped by every error of UnmarshalBinary: a node that meets it
// in raft's log halts, since it was written by another version or is damaged.
var ErrCommand = errors.New("command is not one that this version reads")

// AppendBinary appends the encoded command. It implements
// encoding.BinaryAppender and fails where a proposal has no salt or a verdict that can't be sealed, or where not
// exactly one field of c is set.
func (c *Command) AppendBinary(b []byte) ([]byte, error) {
	switch {
	case c.Batch != nil && c.Genesis == nil:
		return appendBatch(b, c.Batch)
	case c.Genesis != nil && c.Batch == nil:
		g := c.Genesis
		b = cbor.AppendMap(b, 6)
		b = appendCommandHead(b, typeGenesis, g.Stamp, g.Node)
		b = cbor.AppendBytes(cbor.AppendUint(b, keyDocument), g.Document)
		return cbor.AppendBytes(cbor.AppendUint(b, keyLogKey), g.LogKey[:]), nil
	}
	return nil, errors.New("fsm: a command is a batch or a genesis")
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (c *Command) MarshalBinary() ([]byte, error) { return c.AppendBinary(nil) }

func appendCommandHead(b []byte, typ uint64, stamp int64, node string) []byte {
	b = cbor.AppendUint(cbor.AppendUint(b, keyVersion), CommandVersion)
	b = cbor.AppendUint(cbor.AppendUint(b, keyType), typ)
	b = cbor.AppendInt(cbor.AppendUint(b, keyStamp), stamp)
	return cbor.AppendText(cbor.AppendUint(b, keyNode), node)
}

func appendBatch(b []byte, batch *Batch) ([]byte, error) {
	if len(batch.Events) > MaxCommandEvents {
		return nil, fmt.Errorf("fsm: %d events in a command, at most %d", len(batch.Events), MaxCommandEvents)
	}
	size := 64 + len(batch.Node)
	for i := range batch.Events {
		if batch.Events[i].Salt == nil {
			return nil, fmt.Errorf("fsm: event %d has no salt", i)
		}
		size += ProposalSize(&batch.Events[i])
	}
	if cap(b)-len(b) < size {
		b = append(make([]byte, 0, len(b)+size), b...)
	}
	b = cbor.AppendMap(b, 6)
	b = appendCommandHead(b, typeBatch, batch.Stamp, batch.Node)
	b = cbor.AppendUint(cbor.AppendUint(b, keyRevision), batch.Revision)
	b = cbor.AppendArray(cbor.AppendUint(b, keyEvents), len(batch.Events))
	for i := range batch.Events {
		var err error
		if b, err = appendProposal(b, &batch.Events[i]); err != nil {
			return nil, fmt.Errorf("fsm: event %d: %w", i, err)
		}
	}
	return b, nil
}

// ProposalSize returns how many bytes of a command a proposal takes, at most:
// it is the real size but for a few bytes.
func ProposalSize(p *Proposal) int {
	// 2 bytes of key and 9 of head for each field is never reached; 160
	// covers the keys, heads, numbers and the salt.
	n := 160 + len(p.Workspace) + len(p.Source) + len(p.ID) + len(p.Kind) + len(p.Subject) +
		len(p.Principal) + len(p.Credential) + len(p.OnBehalfOf) + len(p.Traceparent) +
		len(p.ClientKeyID) + len(p.Attestation) + len(p.Payload) + len(p.ContentType) +
		len(p.DataSchema) + len(p.ClientSignature) + 9*len(p.Causes)
	for i := range p.Extensions {
		n += 10 + len(p.Extensions[i].Name)
		if s, ok := p.Extensions[i].Value.(string); ok {
			n += len(s)
		}
	}
	if p.Verdict != nil {
		n += verdictSize(p.Verdict)
	}
	return n
}

// fieldWriter appends the fields of a map that are not empty.
type fieldWriter struct{ b []byte }

func (w *fieldWriter) text(key uint64, v string) {
	if v != "" {
		w.b = cbor.AppendText(cbor.AppendUint(w.b, key), v)
	}
}

func (w *fieldWriter) bytes(key uint64, v []byte) {
	if len(v) != 0 {
		w.b = cbor.AppendBytes(cbor.AppendUint(w.b, key), v)
	}
}

func (w *fieldWriter) uint(key, v uint64) {
	if v != 0 {
		w.b = cbor.AppendUint(cbor.AppendUint(w.b, key), v)
	}
}

func appendProposal(b []byte, p *Proposal) ([]byte, error) {
	n := 0
	for _, there := range [...]bool{
		true, true, true, true, true, true, // workspace, source, id, kind, principal, salt
		p.SchemaVersion != 0, p.Subject != "", p.Credential != "", p.OnBehalfOf != "",
		p.Verdict != nil, len(p.Causes) != 0, p.Priority != 0, p.ClientTime != 0,
		p.Traceparent != "", len(p.Extensions) != 0, p.ClientKeyID != "", len(p.Attestation) != 0,
		len(p.Payload) != 0, p.ContentType != "", p.DataSchema != "", len(p.ClientSignature) != 0,
		p.DeclaredEffect != nil,
	} {
		if there {
			n++
		}
	}
	b = cbor.AppendMap(b, n)
	b = cbor.AppendText(cbor.AppendUint(b, keyWorkspace), p.Workspace)
	b = cbor.AppendText(cbor.AppendUint(b, keySource), p.Source)
	b = cbor.AppendText(cbor.AppendUint(b, keyID), p.ID)
	b = cbor.AppendText(cbor.AppendUint(b, keyKind), p.Kind)
	w := fieldWriter{b}
	w.uint(keySchemaVersion, p.SchemaVersion)
	w.text(keySubject, p.Subject)
	w.b = cbor.AppendText(cbor.AppendUint(w.b, keyPrincipal), p.Principal)
	w.text(keyCredential, p.Credential)
	w.text(keyOnBehalfOf, p.OnBehalfOf)
	if p.Verdict != nil {
		var err error
		if w.b, err = appendVerdict(cbor.AppendUint(w.b, keyVerdict), p.Verdict); err != nil {
			return nil, err
		}
	}
	if len(p.Causes) != 0 {
		w.b = cbor.AppendArray(cbor.AppendUint(w.b, keyCauses), len(p.Causes))
		for _, c := range p.Causes {
			w.b = cbor.AppendUint(w.b, c)
		}
	}
	w.uint(keyPriority, p.Priority)
	if p.ClientTime != 0 {
		w.b = cbor.AppendInt(cbor.AppendUint(w.b, keyClientTime), p.ClientTime)
	}
	w.text(keyTraceparent, p.Traceparent)
	if len(p.Extensions) != 0 {
		w.b = appendExtensions(cbor.AppendUint(w.b, keyExtensions), p.Extensions)
	}
	w.text(keyClientKeyID, p.ClientKeyID)
	w.bytes(keyAttestation, p.Attestation)
	w.bytes(keyPayload, p.Payload)
	w.text(keyContentType, p.ContentType)
	w.text(keyDataSchema, p.DataSchema)
	w.b = cbor.AppendBytes(cbor.AppendUint(w.b, keySalt), p.Salt[:])
	w.bytes(keySignature, p.ClientSignature)
	if p.DeclaredEffect != nil {
		w.b = appendEffect(cbor.AppendUint(w.b, keyDeclared), p.DeclaredEffect)
	}
	return w.b, nil
}

// UnmarshalBinary decodes a command. Byte strings of the result are parts of
// data, which must not change; texts share one copy of it. It accepts only what
// AppendBinary writes and implements encoding.BinaryUnmarshaler.
func (c *Command) UnmarshalBinary(data []byte) error {
	r := cbor.NewSharedReader(data)
	decoded := readCommand(&r)
	if err := r.Done(); err != nil {
		return fmt.Errorf("%w: %w", ErrCommand, err)
	}
	*c = decoded
	return nil
}

// next reads the next key, which must be the given one.
func next(r *cbor.Reader, m *cbor.Fields, key uint64) {
	if !m.Next() {
		r.Fail(r.Offset(), fmt.Sprintf("key %d is missing", key))
	} else if m.Key() != key {
		m.Unknown()
	}
}

func readCommand(r *cbor.Reader) Command {
	start := r.Offset()
	m := r.Map()
	next(r, &m, keyVersion)
	if v := r.Uint(); r.Err() == nil && v != CommandVersion {
		r.Fail(start, fmt.Sprintf("command version %d, this version reads %d", v, CommandVersion))
	}
	next(r, &m, keyType)
	at := r.Offset()
	typ := r.Uint()
	if m.Len() != 4 {
		r.Fail(start, "a command has 6 fields")
	}
	next(r, &m, keyStamp)
	stamp := r.Int()
	next(r, &m, keyNode)
	node := r.Text()
	switch typ {
	case typeBatch:
		batch := &Batch{Stamp: stamp, Node: node}
		next(r, &m, keyRevision)
		batch.Revision = r.Uint()
		next(r, &m, keyEvents)
		at := r.Offset()
		if n := r.Array(); n > MaxCommandEvents {
			r.Fail(at, fmt.Sprintf("%d events, at most %d", n, MaxCommandEvents))
		} else if n > 0 {
			batch.Events = make([]Proposal, n)
			salts := make([][chain.SaltSize]byte, n)
			for i := 0; i < n && r.Err() == nil; i++ {
				readProposal(r, &batch.Events[i], &salts[i])
			}
		}
		return Command{Batch: batch}
	case typeGenesis:
		g := &GenesisCommand{Stamp: stamp, Node: node}
		next(r, &m, keyDocument)
		g.Document = r.Bytes()
		next(r, &m, keyLogKey)
		r.Fixed(g.LogKey[:])
		return Command{Genesis: g}
	}
	r.Fail(at, fmt.Sprintf("unknown command type %d", typ))
	return Command{}
}

// fieldReader reads the fields of a map that are absent where empty.
type fieldReader struct {
	*cbor.Reader
	m cbor.Fields
}

func (r *fieldReader) notEmpty(empty bool) {
	if empty && r.Err() == nil {
		r.Fail(r.Offset(), fmt.Sprintf("field %d is there and empty", r.m.Key()))
	}
}

func (r *fieldReader) text() string {
	v := r.Text()
	r.notEmpty(v == "")
	return v
}

func (r *fieldReader) bytes() []byte {
	v := r.Bytes()
	r.notEmpty(len(v) == 0)
	return v
}

func (r *fieldReader) uint() uint64 {
	v := r.Uint()
	r.notEmpty(v == 0)
	return v
}

func readProposal(cr *cbor.Reader, p *Proposal, salt *[chain.SaltSize]byte) {
	r := fieldReader{Reader: cr, m: cr.Map()}
	start := r.Offset()
	required := 0
	for r.m.Next() {
		switch r.m.Key() {
		case keyWorkspace:
			p.Workspace = r.Text()
			required++
		case keySource:
			p.Source = r.Text()
			required++
		case keyID:
			p.ID = r.Text()
			required++
		case keyKind:
			p.Kind = r.Text()
			required++
		case keySchemaVersion:
			p.SchemaVersion = r.uint()
		case keySubject:
			p.Subject = r.text()
		case keyPrincipal:
			p.Principal = r.Text()
			required++
		case keyCredential:
			p.Credential = r.text()
		case keyOnBehalfOf:
			p.OnBehalfOf = r.text()
		case keyVerdict:
			p.Verdict = readVerdict(cr)
		case keyCauses:
			p.Causes = readCauses(cr)
			r.notEmpty(len(p.Causes) == 0)
		case keyPriority:
			p.Priority = r.uint()
		case keyClientTime:
			p.ClientTime = r.Int()
			r.notEmpty(p.ClientTime == 0)
		case keyTraceparent:
			p.Traceparent = r.text()
		case keyExtensions:
			p.Extensions = readExtensions(cr)
			r.notEmpty(len(p.Extensions) == 0)
		case keyClientKeyID:
			p.ClientKeyID = r.text()
		case keyAttestation:
			p.Attestation = r.bytes()
		case keyPayload:
			p.Payload = r.bytes()
		case keyContentType:
			p.ContentType = r.text()
		case keyDataSchema:
			p.DataSchema = r.text()
		case keySalt:
			p.Salt = salt
			r.Fixed(p.Salt[:])
			required++
		case keySignature:
			p.ClientSignature = r.bytes()
		case keyDeclared:
			p.DeclaredEffect = readEffect(cr)
		default:
			r.m.Unknown()
		}
	}
	if required != 6 {
		r.Fail(start, "a field of the proposal is missing")
	}
}

func readCauses(r *cbor.Reader) []uint64 {
	n := r.Array()
	if n == 0 {
		return nil
	}
	causes := make([]uint64, 0, min(n, 1024))
	for range n {
		if r.Err() != nil {
			break
		}
		causes = append(causes, r.Uint())
	}
	return causes
}
