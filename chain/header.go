package chain

// FormatVersion is the version of the header format that this package writes
// and reads.
const FormatVersion = 1

// MaxHeaderSize is the most bytes that an encoded header may have. C2SP
// tlog-tiles entry bundles prefix each entry with a 16-bit length.
const MaxHeaderSize = 60_000

// Header is the hashed part of an entry. Its encoding is an RFC 8949
// core-deterministic CBOR map whose keys are the numbers in the comments;
// a field that is empty (and not marked "always") is absent. The numbers are
// frozen; docs/FORMAT.md is the normative description.
type Header struct {
	Version  uint64 // 0, always: FormatVersion
	ChainID  ID     // 1, always
	Epoch    uint64 // 2, always: counts recoveries and restores
	Sequence uint64 // 3, always: entry 0 is chain.genesis
	Previous Hash   // 4, always: header hash of Sequence-1; zero for entry 0
	Time     int64  // 5, always: Unix ns, strictly increasing, at most MaxStamp+Sequence

	Workspace     string // 6, always
	Source        string // 7, always
	ID            string // 8, always
	Kind          string // 9, always
	SchemaVersion uint64 // 10: 0 for kinds that the catalog does not know
	Subject       string // 11

	Principal  string // 12, always: who acted
	Credential string // 13: how the principal was authenticated: "token", "mtls"
	OnBehalfOf string // 14

	Envelope EnvelopeRef // 15, always
	Verdict  *Verdict    // 16: present where a gate was evaluated

	Causes      []uint64    // 17: strictly increasing
	Priority    uint64      // 18
	ClientTime  int64       // 19: Unix ns
	Traceparent string      // 20
	Extensions  []Extension // 21: a map, name to text, integer or boolean

	ClientKeyID string // 22: registered key of the client's signature
	SealingNode string // 23: node id of the leader that stamped the entry; absent for entries that the state machine seals itself
	Attestation []byte // 24: a follower's attestation of a client certificate
	RaftIndex   uint64 // 25: the raft log index, for entries that the state machine seals itself
}

// EnvelopeRef commits a header to its envelope.
type EnvelopeRef struct {
	Hash        Hash   // 0, always: EnvelopeHash of the encoded envelope
	Size        uint64 // 1, always: payload size in bytes
	ContentType string // 2
	DataSchema  string // 3
}

// Verdict is a gate's decision with all its inputs.
type Verdict struct {
	Gate       string        // 0, always
	Decision   Decision      // 1, always
	Revision   uint64        // 2, always: governance revision at evaluation
	PolicyHash Hash          // 3, always
	Declared   *Effect       // 4: as the submitter declared it
	Effective  Effect        // 5, always: element-wise maximum of gate and declared
	Rules      []RuleOutcome // 6
	Counts     []Count       // 7: rate counts used, sorted by name
	Profile    string        // 8: evaluator profile, "thresholds/1" or "cel/1"
	Request    uint64        // 9: sequence of the governance.escalate entry that was granted
	Permit     uint64        // 10: sequence of the governance.permit or .warn entry that is reported on
	Reasons    []string      // 11: stable codes, sorted, such as "risk>elevate"
	Emergency  uint64        // 12: sequence of the chain.emergency entry
}

// Decision is what a gate decided, in increasing order of severity; Emergency
// stands apart: it committed what policy would have escalated.
type Decision uint8

// The decisions, as they are encoded.
const (
	Permit    Decision = 1
	Warn      Decision = 2
	Escalate  Decision = 3
	Deny      Decision = 4
	Emergency Decision = 5
)

// RuleOutcome is one rule that fired or failed during evaluation.
type RuleOutcome struct {
	ID       string // 0, always
	Severity string // 1, always: advisory, warning, blocking, critical
	Failed   bool   // 2: the condition could not be evaluated
}

// Count is one rate count that an evaluation used.
type Count struct {
	Name  string // 0, always
	Value uint64 // 1, always
}

// Envelope is the redactable part of an entry: a CBOR map with the keys in
// the comments.
type Envelope struct {
	Payload         []byte         // 0, always
	Salt            [SaltSize]byte // 1, always
	ClientSignature []byte         // 2
}
