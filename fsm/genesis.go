package fsm

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/gates"
)

// GenesisFormat names the form of a genesis document.
const GenesisFormat = "exonode-genesis/1"

// MaxGenesisSize is the most bytes that a genesis document may have: all of it
// stands in entry 0.
const MaxGenesisSize = 512 << 10

// Genesis is what a chain begins with. `init` writes it once, as JSON, into the
// cluster file; from then on its bytes are never encoded again, since their
// hash is what nodes pin.
type Genesis struct {
	// Format is GenesisFormat.
	Format string `json:"format"`
	// ChainID is 128 random bits.
	ChainID chain.ID `json:"chain_id"`
	// ClusterName is for people: 1 to 64 bytes.
	ClusterName string `json:"cluster_name"`
	// Created is when `init` ran, in UTC.
	Created time.Time `json:"created"`
	// Origin is the origin of checkpoints, without the epoch; "" is
	// "exonode/<chain id>". See OriginAt.
	Origin string `json:"origin,omitempty"`
	// Environment is the policy's: development, staging or production.
	Environment string `json:"environment"`
	// Policy is the first policy, in the canonical form of package gates; in
	// the document it may be spaced differently.
	Policy json.RawMessage `json:"policy"`
	// Grants and Keys are arrays: the first grants of roles and the first
	// public keys of principals.
	Grants []json.RawMessage `json:"grants"`
	Keys   []json.RawMessage `json:"keys"`
}

// ErrGenesis is wrapped by every error about a genesis document: the cluster
// file is damaged or was made by another version, and must be replaced.
var ErrGenesis = errors.New("genesis document is not valid")

func genesisError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrGenesis}, args...)...)
}

// Validate checks all fields.
func (g *Genesis) Validate() error {
	switch {
	case g.Format != GenesisFormat:
		return genesisError("format is %q, this version reads %q", g.Format, GenesisFormat)
	case g.ChainID == chain.ID{}:
		return genesisError("chain_id is missing")
	case len(g.ClusterName) < 1 || len(g.ClusterName) > 64:
		return genesisError("cluster_name has %d bytes, want 1 to 64", len(g.ClusterName))
	case g.Created.IsZero():
		return genesisError("created is missing")
	case g.Environment == "":
		return genesisError("environment is missing")
	case !isObject(g.Policy):
		return genesisError("policy is not an object")
	case len(g.Origin) > 200:
		return genesisError("origin has %d bytes, at most 200", len(g.Origin))
	}
	policy, err := gates.DecodePolicy(g.Policy)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	if string(policy.Environment) != g.Environment {
		return genesisError("environment is %q, the policy's is %q", g.Environment, policy.Environment)
	}
	return nil
}

// OriginAt returns the origin of checkpoints in an epoch.
func (g *Genesis) OriginAt(epoch uint64) string {
	return originAt(g.Origin, g.ChainID, epoch)
}

func originAt(origin string, id chain.ID, epoch uint64) string {
	if origin == "" {
		origin = "exonode/" + id.String()
	}
	return fmt.Sprintf("%s/%d", origin, epoch)
}

// Encode returns a new document. Its bytes are to be kept as they are.
func (g *Genesis) Encode() ([]byte, error) {
	c := *g
	c.Created = c.Created.UTC()
	c.Grants, c.Keys = emptyList(c.Grants), emptyList(c.Keys)
	if err := c.Validate(); err != nil {
		return nil, err
	}
	document, err := json.MarshalIndent(&c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	if len(document) > MaxGenesisSize {
		return nil, genesisError("%d bytes, at most %d", len(document), MaxGenesisSize)
	}
	return document, nil
}

func emptyList(l []json.RawMessage) []json.RawMessage {
	if l == nil {
		return []json.RawMessage{}
	}
	return l
}

// ParseGenesis reads a document: all fields known, none twice, all required
// ones there, nothing after it.
func ParseGenesis(document []byte) (*Genesis, error) {
	if len(document) > MaxGenesisSize {
		return nil, genesisError("%d bytes, at most %d", len(document), MaxGenesisSize)
	}
	if !utf8.Valid(document) {
		return nil, genesisError("not UTF-8")
	}
	if err := checkUniqueNames(document); err != nil {
		return nil, err
	}
	g := new(Genesis)
	d := json.NewDecoder(bytes.NewReader(document))
	d.DisallowUnknownFields()
	if err := d.Decode(g); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, genesisError("data after its end")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, g.Policy); err != nil {
		return nil, fmt.Errorf("%w: policy: %w", ErrGenesis, err)
	}
	g.Policy = compact.Bytes()
	if g.Grants == nil || g.Keys == nil {
		return nil, genesisError("grants and keys must be arrays")
	}
	if err := g.Validate(); err != nil {
		return nil, err
	}
	return g, nil
}

// checkUniqueNames refuses objects in which a name stands twice: readers differ
// in which of the two they take.
func checkUniqueNames(document []byte) error {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	type level struct {
		object bool
		names  map[string]struct{}
		value  bool // in an object: a value comes next
	}
	var stack []level
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrGenesis, err)
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if len(stack) > 0 && stack[len(stack)-1].object {
			top := &stack[len(stack)-1]
			if !top.value {
				name := token.(string)
				if _, twice := top.names[name]; twice {
					return genesisError("%q stands twice in one object", name)
				}
				top.names[name] = struct{}{}
			}
			top.value = !top.value
		}
		if delim, ok := token.(json.Delim); ok {
			stack = append(stack, level{object: delim == '{', names: map[string]struct{}{}})
		}
	}
}

func isObject(raw json.RawMessage) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '{'
}

// genesisPayload is the payload of entry 0. The document is a text in it, so
// that every reader gets back its bytes exactly.
func genesisPayload(g *Genesis, policyHash chain.Hash, document []byte, logKey *[ed25519.PublicKeySize]byte) []byte {
	j := new(frozenJSON)
	j.open('{')
	j.text("chain_id", g.ChainID.String())
	j.text("format", g.Format)
	j.text("constitution_hash", policyHash.String())
	j.text("origin", g.OriginAt(0))
	j.text("document", string(document))
	j.text("log_key", hex.EncodeToString(logKey[:]))
	j.close('}')
	return j.b
}

// parseGenesisPayload reads entry 0's payload.
func parseGenesisPayload(payload []byte) (*GenesisFacts, *Genesis, error) {
	m, err := readMembers(payload)
	if err != nil {
		return nil, nil, err
	}
	document, logKey := m.text("document"), m.text("log_key")
	if err := m.result(); err != nil {
		return nil, nil, err
	}
	g, err := ParseGenesis([]byte(document))
	if err != nil {
		return nil, nil, err
	}
	facts := &GenesisFacts{
		ChainID:     g.ChainID,
		ClusterName: g.ClusterName,
		Origin:      g.Origin,
		Hash:        chain.GenesisHash([]byte(document)),
	}
	key, err := hex.DecodeString(logKey)
	if err != nil || len(key) != len(facts.LogKey) {
		return nil, nil, fmt.Errorf("fsm: log key of chain.genesis is not %d bytes in hex", len(facts.LogKey))
	}
	copy(facts.LogKey[:], key)
	return facts, g, nil
}
