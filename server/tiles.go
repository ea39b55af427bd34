package server

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogtiles"
)

// getCheckpoint answers GET /checkpoint (c2sp.org/tlog-tiles).
func (s *webService) getCheckpoint(w http.ResponseWriter, r *http.Request) error {
	note, err := s.ledger.node.Checkpoint(r.Context())
	if err != nil {
		return err
	}
	if note == nil {
		return &api.Error{Code: api.NotFound, Message: "no checkpoint has been published yet"}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache") // to be asked for again, by ETag
	serveBytes(w, r, note, "")
	return nil
}

// getTile answers GET /tile/…: tiles of hashes and bundles of headers
// (c2sp.org/tlog-tiles). It has every partial tile that the committed tree has, not
// only those of published checkpoints: each is a prefix of what comes later and stays
// as it is, and a reader must verify a checkpoint before it asks at all. So nothing
// needs to remember which sizes were ever published.
func (s *webService) getTile(w http.ResponseWriter, r *http.Request) error {
	tile, err := tlogtiles.Parse(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		return &api.Error{Code: api.NotFound, Message: err.Error()}
	}
	size, err := s.ledger.node.TreeSize(r.Context())
	if err != nil {
		return err
	}
	if end, ok := tile.End(); !ok || end > size {
		return &api.Error{Code: api.NotFound, Message: fmt.Sprintf("%s is beyond the tree, which has %d entries here", tile.Path(), size)}
	}
	var body []byte
	var encoding string
	if tile.Entries {
		body, err = s.bundle(r, tile)
		w.Header().Set("Vary", "Accept-Encoding")
	} else if body, err = s.ledger.node.ReadTile(r.Context(), tile.Level, tile.Index, tile.Width); err == nil {
		body = body[:tile.Width*len(chain.Hash{})] // it may return more
	}
	if err != nil {
		return err
	}
	if tile.Entries && acceptsGzip(r) {
		body, encoding = compress(body), "gzip"
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	serveBytes(w, r, body, encoding)
	return nil
}

func (s *webService) bundle(r *http.Request, tile tlogtiles.Tile) ([]byte, error) {
	var body []byte
	from := tile.Index * chain.TileWidth
	for header, err := range s.ledger.node.Headers(r.Context(), from, from+uint64(tile.Width)) {
		if err != nil {
			return nil, err
		}
		body = tlogtiles.AppendEntry(body, header)
	}
	return body, nil
}

// serveBytes answers with a body and its ETag, or that the caller has it, or its headers
// alone.
func serveBytes(w http.ResponseWriter, r *http.Request, body []byte, encoding string) {
	sum := sha256.Sum256(body)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if encoding != "" {
		w.Header().Set("Content-Encoding", encoding)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// acceptsGzip reports whether the request names gzip, and not with quality 0.
func acceptsGzip(r *http.Request) bool {
	for _, value := range r.Header.Values("Accept-Encoding") {
		for name := range strings.SplitSeq(value, ",") {
			name, quality, _ := strings.Cut(strings.TrimSpace(name), ";")
			q, _ := strings.CutPrefix(strings.TrimSpace(quality), "q=")
			if strings.TrimSpace(name) == "gzip" && (q == "" || strings.Trim(q, "0.") != "") {
				return true
			}
		}
	}
	return false
}

func compress(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // a buffer takes everything
	_ = z.Close()
	return out.Bytes()
}
