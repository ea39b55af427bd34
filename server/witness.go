package server

import (
	"net/http"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain/tlogwitness"
)

// postAddCheckpoint answers POST /witness/add-checkpoint (c2sp.org/tlog-witness).
func (s *webService) postAddCheckpoint(w http.ResponseWriter, r *http.Request) error {
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	if len(body) > tlogwitness.MaxSize {
		return &api.Error{Code: api.TooLarge, Message: "an add-checkpoint request is smaller than that"}
	}
	answer, ok := s.ledger.node.AddCheckpoint(body)
	if !ok {
		return &api.Error{Code: api.NotFound, Message: "this node is no witness", Hint: "`exonode serve --witness-logs FILE` makes it one"}
	}
	w.Header().Set("Content-Type", answer.ContentType)
	w.WriteHeader(answer.Status)
	_, _ = w.Write(answer.Body) // whom it can't be told asks again
	return nil
}
