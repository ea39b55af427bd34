package server

import (
	"net/http"
	"strconv"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/api/cloudevents"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
)

// workspaceHeader names the workspace of events that name none, as the query
// parameter "workspace" does.
const workspaceHeader = "X-Exonode-Workspace"

// contentTypeField is the Field of errors about a request's media type.
const contentTypeField = "content-type"

// ackJSON is what became of one event, as plain JSON: either the entry or the
// error.
type ackJSON struct {
	Sequence  *uint64        `json:"sequence,omitempty"`
	Hash      *chain.Hash    `json:"hash,omitempty"`
	Time      string         `json:"time,omitempty"`
	Duplicate bool           `json:"duplicate,omitempty"`
	Verdict   *view.Verdict  `json:"verdict,omitempty"`
	Error     *api.ErrorJSON `json:"error,omitempty"`
}

func newAckJSON(a *Ack) ackJSON {
	if a.Err != nil {
		e := ackError(a).JSON()
		return ackJSON{Error: &e, Verdict: view.NewVerdict(a.Verdict)}
	}
	return ackJSON{
		Sequence:  &a.Sequence,
		Hash:      &a.Hash,
		Time:      view.Time(a.Time),
		Duplicate: a.Duplicate,
		Verdict:   view.NewVerdict(a.Verdict),
	}
}

// ackStatus is the HTTP status of one event: 201 for a new entry, 200 for one
// that was there, and the error's otherwise.
func ackStatus(a *Ack) int {
	switch {
	case a.Err != nil:
		return ackError(a).Code.HTTPStatus()
	case a.Duplicate:
		return http.StatusOK
	default:
		return http.StatusCreated
	}
}

// postEvents takes CloudEvents 1.0, structured, batched or binary. A single
// event's error is the response; a batch answers for each event.
func (s *webService) postEvents(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	workspace := q.text("workspace")
	if err := q.done(); err != nil {
		return err
	}
	if workspace == "" {
		workspace = r.Header.Get(workspaceHeader)
	}
	body, err := s.body(w, r)
	if err != nil {
		return err
	}
	mode, results, err := cloudevents.FromHTTP(r.Header, body, workspace)
	if err != nil {
		return err
	}
	sub := submission{count: len(results)}
	events := make([]chain.Event, 0, len(results))
	for i := range results {
		if e := results[i].Err; e != nil {
			if sub.refused == nil {
				sub.refused = make(map[int]error)
			}
			sub.refused[i] = e
			continue
		}
		events = append(events, results[i].Event)
	}
	if err := sub.hand(r.Context(), s.ledger.node, callerOf(r.Context()), events); err != nil {
		return err
	}
	acks, err := sub.wait(r.Context())
	if err != nil {
		return err
	}
	s.ledger.metrics.acks(acks)
	if mode == cloudevents.Batched {
		writeBatch(w, acks)
		return nil
	}
	if acks[0].Err != nil {
		return ackError(&acks[0])
	}
	w.Header().Set("Location", "/v1/entries/"+strconv.FormatUint(acks[0].Sequence, 10))
	writeJSON(w, ackStatus(&acks[0]), newAckJSON(&acks[0]))
	return nil
}

// writeBatch answers a batch: with the events' common status where they have
// one, else with 207, and 200 where none failed.
func writeBatch(w http.ResponseWriter, acks []Ack) {
	status := http.StatusOK
	results := make([]ackJSON, len(acks))
	failed := 0
	for i := range acks {
		results[i] = newAckJSON(&acks[i])
		if acks[i].Err != nil {
			failed++
		}
		switch one := ackStatus(&acks[i]); {
		case i == 0:
			status = one
		case one != status:
			status = http.StatusMultiStatus
		}
	}
	if failed == 0 {
		status = http.StatusOK
	}
	writeJSON(w, status, struct {
		Results []ackJSON `json:"results"`
	}{results})
}
