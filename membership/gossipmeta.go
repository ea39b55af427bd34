package membership

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Meta is what a node tells about itself by gossip. Nobody vouches for it but
// the cluster secret.
type Meta struct {
	ServerID string `json:"server_id"`
	PeerAddr string `json:"peer_addr"`
	APIAddr  string `json:"api_addr"`
	// Name is for people.
	Name    string `json:"name"`
	Version string `json:"version"`
	// Leaving says that the node goes for good or stops cleanly: what
	// follows is no failure.
	Leaving bool `json:"leaving,omitempty"`
}

// maxMeta is memberlist's limit on meta data, in bytes.
const maxMeta = 512

const metaVersion = 1

// ErrMeta means that meta data is not what Encode writes.
var ErrMeta = errors.New("membership: bad gossip meta data")

// Encode writes m: at most 512 bytes.
//
//	version 1 byte | flags 1 (bit 0: leaving) | server id, peer address,
//	API address, name, version: each length 1 byte, UTF-8
func (m Meta) Encode() ([]byte, error) {
	out := []byte{metaVersion, 0}
	if m.Leaving {
		out[1] = 1
	}
	for _, s := range []string{m.ServerID, m.PeerAddr, m.APIAddr, m.Name, m.Version} {
		if len(s) > 255 || !utf8.ValidString(s) {
			return nil, fmt.Errorf("%w: %q: want at most 255 bytes of UTF-8", ErrMeta, s)
		}
		out = append(append(out, byte(len(s))), s...)
	}
	if m.ServerID == "" {
		return nil, fmt.Errorf("%w: no server id", ErrMeta)
	}
	if len(out) > maxMeta {
		return nil, fmt.Errorf("%w: %d bytes, want at most %d: shorten name or addresses", ErrMeta, len(out), maxMeta)
	}
	return out, nil
}

// DecodeMeta reads what Encode writes and refuses all else.
func DecodeMeta(data []byte) (Meta, error) {
	if len(data) < 2 || len(data) > maxMeta || data[0] != metaVersion || data[1] > 1 {
		return Meta{}, fmt.Errorf("%w: unknown version or flags", ErrMeta)
	}
	m := Meta{Leaving: data[1] == 1}
	rest := data[2:]
	for _, field := range []*string{&m.ServerID, &m.PeerAddr, &m.APIAddr, &m.Name, &m.Version} {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return Meta{}, fmt.Errorf("%w: cut short", ErrMeta)
		}
		s := string(rest[1 : 1+int(rest[0])])
		if !utf8.ValidString(s) {
			return Meta{}, fmt.Errorf("%w: not UTF-8", ErrMeta)
		}
		*field, rest = s, rest[1+len(s):]
	}
	if len(rest) > 0 || m.ServerID == "" {
		return Meta{}, fmt.Errorf("%w: bytes after it, or no server id", ErrMeta)
	}
	return m, nil
}
