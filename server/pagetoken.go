package server

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
)

// A page token is the base64url form, without padding, of
//
//	version  1 byte, 1
//	next     8 bytes, big-endian: see page
//	size     8 bytes, big-endian: size of the chain that is listed
//	tag     16 bytes: SHA-256 over the listing and the bytes before, cut
//
// The tag binds a token to its listing and finds accidents. It is no secret: a
// token gives access to nothing that its holder could not list anyway.
const (
	tokenVersion = 1
	tokenTag     = 16
	tokenSize    = 1 + 8 + 8 + tokenTag
)

// listing is what must stay the same from page to page.
type listing struct {
	filter   chain.Filter
	from, to uint64 // as the caller wrote them; to 0 is the head
	reverse  bool
}

// page is where a page of a listing begins.
type page struct {
	// next is the first sequence that is not on an earlier page: from there
	// up, or, in reverse, from the one below it down.
	next uint64
	// size is the chain's size at the first page.
	size uint64
}

func (l listing) token(p page) string {
	b := make([]byte, 0, tokenSize)
	b = append(b, tokenVersion)
	b = binary.BigEndian.AppendUint64(b, p.next)
	b = binary.BigEndian.AppendUint64(b, p.size)
	tag := l.tag(b)
	return base64.RawURLEncoding.EncodeToString(append(b, tag[:]...))
}

// parse is the inverse of token. A token that is not one that token would have
// made for l is malformed.
func (l listing) parse(token string) (page, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != tokenSize || b[0] != tokenVersion {
		return page{}, &api.Error{Code: api.Malformed, Field: "page_token", Message: "the page token is malformed", Hint: "start again without a page token"}
	}
	body := b[:tokenSize-tokenTag]
	if tag := l.tag(body); string(tag[:]) != string(b[len(body):]) {
		return page{}, &api.Error{Code: api.Malformed, Field: "page_token", Message: "the page token belongs to another listing, or was changed", Hint: "filter, range and order must be those of the first page; or start again without a page token"}
	}
	p := page{next: binary.BigEndian.Uint64(b[1:]), size: binary.BigEndian.Uint64(b[9:])}
	if l.token(p) != token {
		return page{}, &api.Error{Code: api.Malformed, Field: "page_token", Message: "the page token is malformed", Hint: "start again without a page token"}
	}
	return p, nil
}

func (l listing) tag(body []byte) [tokenTag]byte {
	h := sha256.New()
	writeText(h, "exonode page token")
	for _, s := range []string{l.filter.Workspace, l.filter.Kind, l.filter.Source, l.filter.Principal} {
		writeText(h, s)
	}
	var order uint64
	if l.reverse {
		order = 1
	}
	for _, n := range []uint64{uint64(l.filter.TimeFrom), uint64(l.filter.TimeTo), l.from, l.to, order} {
		writeUint(h, n)
	}
	h.Write(body)
	return [tokenTag]byte(h.Sum(nil))
}

func writeText(h hash.Hash, s string) {
	writeUint(h, uint64(len(s)))
	h.Write([]byte(s))
}

func writeUint(h hash.Hash, n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h.Write(b[:])
}
