package checkpoints

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogwitness"
	"github.com/exonode/exonode/node/signing"
	"github.com/exonode/exonode/server"
)

// AnswerWitness answers a request to cosign, as c2sp.org/tlog-witness has it.
func AnswerWitness(w *signing.Witness, body []byte) server.WitnessAnswer {
	r, err := tlogwitness.Parse(body)
	if err != nil {
		return refusal(http.StatusBadRequest, err)
	}
	signatures, err := w.Add(r)
	var size *signing.SizeError
	switch {
	case err == nil:
		var b bytes.Buffer
		for i := range signatures {
			b.WriteString(signatures[i].Line())
		}
		return server.WitnessAnswer{Status: http.StatusOK, ContentType: "text/plain; charset=utf-8", Body: b.Bytes()}
	case errors.As(err, &size):
		return server.WitnessAnswer{Status: http.StatusConflict, ContentType: tlogwitness.SizeType, Body: fmt.Appendln(nil, size.Size)}
	case errors.Is(err, signing.ErrUnknownLog):
		return refusal(http.StatusNotFound, err)
	case errors.Is(err, signing.ErrNotTheLog):
		return refusal(http.StatusForbidden, err)
	case errors.Is(err, signing.ErrRequest):
		return refusal(http.StatusBadRequest, err)
	case errors.Is(err, chain.ErrProof):
		return refusal(http.StatusUnprocessableEntity, err)
	case errors.Is(err, signing.ErrContradicts):
		return refusal(http.StatusConflict, err)
	}
	return refusal(http.StatusInternalServerError, err)
}

func refusal(status int, err error) server.WitnessAnswer {
	return server.WitnessAnswer{Status: status, ContentType: "text/plain; charset=utf-8", Body: fmt.Appendln(nil, err)}
}
