package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogtiles"
)

// maxTile bounds what is read of a tile: a bundle of the largest headers.
const maxTile = chain.TileWidth << 16

// Tile returns a tile's hashes, or a bundle's bytes, of exactly the tile's width, as a node
// serves them (c2sp.org/tlog-tiles). A node whose tree does not reach so far is not the
// last that is asked. Whether they are right is not checked here: a checkpoint says it.
func (r Reader) Tile(ctx context.Context, tile tlogtiles.Tile) ([]byte, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ep.base+"/"+tile.Path(), nil)
		if err != nil {
			return nil, err
		}
		// As with calls, compressing costs a node more than the network does.
		req.Header.Set("Accept-Encoding", "identity")
		if r.c.cfg.Token != nil {
			if err := (tokenInterceptor{r.c.cfg.Token}).set(ctx, req.Header); err != nil {
				return nil, &api.Error{Code: api.Unauthorized, Message: err.Error()}
			}
		}
		res, err := r.c.http.Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(io.LimitReader(res.Body, maxTile+1))
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusNotFound:
			return nil, &api.Error{
				Code: api.BehindSession, Message: fmt.Sprintf("%s does not have %s", ep.address, tile.Path()),
				Hint: "the node is behind, or is no Exonode: `exonode status` shows how far it is",
			}
		case res.StatusCode != http.StatusOK:
			return nil, refusal(res, b)
		case !tile.Entries && len(b) != tile.Width*len(chain.Hash{}), len(b) > maxTile:
			return nil, &VerifyError{ep.address, tile.Index * chain.TileWidth, fmt.Sprintf("%s has %d bytes", tile.Path(), len(b))}
		}
		return b, nil
	})
}

// refusal is what a node says where it does not answer over HTTP.
func refusal(res *http.Response, body []byte) error {
	var e api.ErrorJSON
	if json.Unmarshal(body, &e) != nil || e.Code == "" {
		return fmt.Errorf("%s: %s", res.Request.URL, res.Status)
	}
	return &api.Error{Code: e.Code, Message: e.Message, Hint: e.Hint, RetryAfterMillis: e.RetryAfterMillis}
}
