package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
)

// bodyTimeout is how long a request that is no RPC may take to arrive.
const bodyTimeout = 30 * time.Second

// trustedLength is up to where memory is set aside for a body because its length
// was announced.
const trustedLength = 1 << 20

// webService is the plain HTTP face of the ledger: CloudEvents in, JSON out. It
// adds nothing to the RPCs but another form.
type webService struct {
	ledger  *ledgerService
	maxBody int64
	timeout time.Duration
}

// webRoute answers a request, or returns an error that has not been written.
type webRoute func(w http.ResponseWriter, r *http.Request) error

func (s *webService) serve(route webRoute) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
		defer cancel()
		if err := route(w, r.WithContext(ctx)); err != nil {
			writeError(w, err)
		}
	})
}

// body reads a request's body within its limits of size and time.
func (s *webService) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, &api.Error{Code: api.Malformed, Field: "content-encoding", Message: fmt.Sprintf("content encoding %q is not supported", enc), Hint: "send it uncompressed"}
	}
	// Not every writer has deadlines (tests' have not); net/http's have. It
	// goes again before the wait for the commit, which it must not cut short.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	limited := http.MaxBytesReader(w, r.Body, s.maxBody)
	var body []byte
	var err error
	if n := r.ContentLength; n >= 0 && n <= min(s.maxBody, trustedLength) {
		body = make([]byte, n)
		_, err = io.ReadFull(limited, body)
	} else {
		body, err = io.ReadAll(limited)
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &api.Error{Code: api.TooLarge, Message: fmt.Sprintf("the body has more than %d bytes", tooLarge.Limit), Hint: "send several requests"}
	}
	if err != nil {
		return nil, &api.Error{Code: api.Malformed, Message: fmt.Sprintf("read the body: %v", err)}
	}
	return body, nil
}

// query is a request's query, each parameter of which must be taken once.
type query struct {
	values url.Values
	err    error
}

func newQuery(r *http.Request) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &query{err: &api.Error{Code: api.Malformed, Message: "the query is malformed: " + err.Error()}}
	}
	return &query{values: values}
}

func (q *query) text(name string) string {
	list := q.values[name]
	delete(q.values, name)
	if len(list) > 1 {
		q.fail(name, "is there twice")
	}
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func (q *query) uint(name string, limit uint64) uint64 {
	text := q.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > limit {
		q.fail(name, fmt.Sprintf("is %q, want a number up to %d", text, limit))
	}
	return n
}

func (q *query) bool(name string) bool {
	switch text := q.text(name); text {
	case "", "false":
		return false
	case "true":
		return true
	default:
		q.fail(name, fmt.Sprintf("is %q, want true or false", text))
		return false
	}
}

func (q *query) time(name string) *timestamppb.Timestamp {
	text := q.text(name)
	if text == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		q.fail(name, fmt.Sprintf("is %q, want an RFC 3339 time", text))
	}
	return timestamppb.New(t)
}

func (q *query) consistency() *exonodev1.Consistency {
	level, sequence := q.text("consistency"), q.uint("at_least", maxUint64)
	switch level {
	case "", "linearizable":
		return &exonodev1.Consistency{Sequence: sequence}
	case "session":
		return &exonodev1.Consistency{Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_SESSION, Sequence: sequence}
	case "stale":
		return &exonodev1.Consistency{Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_STALE}
	default:
		q.fail("consistency", fmt.Sprintf("is %q, want linearizable, session or stale", level))
		return nil
	}
}

const maxUint64 = 1<<64 - 1

func (q *query) fail(name, what string) {
	if q.err == nil {
		q.err = &api.Error{Code: api.BadField, Field: name, Message: "query parameter " + name + " " + what}
	}
}

// done returns the first error; a parameter that nobody took is one: a filter
// with a typing error must not list everything.
func (q *query) done() error {
	for name := range q.values {
		q.fail(name, "is unknown")
	}
	return q.err
}

func (s *webService) getEntries(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	req := &exonodev1.ListRequest{
		Filter: &exonodev1.Filter{
			Workspace: q.text("workspace"),
			Kind:      q.text("kind"),
			Source:    q.text("source"),
			Principal: q.text("principal"),
			TimeFrom:  q.time("time_from"),
			TimeTo:    q.time("time_to"),
		},
		SequenceFrom: q.uint("from", maxUint64),
		SequenceTo:   q.uint("to", maxUint64),
		Reverse:      q.bool("reverse"),
		PageSize:     int32(q.uint("limit", maxPage)),
		PageToken:    q.text("page_token"),
		Consistency:  q.consistency(),
		Form:         exonodev1.EntryForm_ENTRY_FORM_RAW,
	}
	if err := q.done(); err != nil {
		return err
	}
	res, err := s.ledger.List(r.Context(), req)
	if err != nil {
		return err
	}
	page := struct {
		Entries       []view.Entry `json:"entries"`
		NextPageToken string       `json:"next_page_token,omitempty"`
		ChainSize     uint64       `json:"chain_size"`
	}{Entries: make([]view.Entry, 0, len(res.Entries)), NextPageToken: res.NextPageToken, ChainSize: res.ChainSize}
	for _, p := range res.Entries {
		e, err := entryJSON(p)
		if err != nil {
			return err
		}
		page.Entries = append(page.Entries, e)
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

func (s *webService) getEntry(w http.ResponseWriter, r *http.Request) error {
	seq, err := strconv.ParseUint(r.PathValue("sequence"), 10, 64)
	if err != nil {
		return &api.Error{Code: api.BadField, Field: "sequence", Message: fmt.Sprintf("%q is no sequence", r.PathValue("sequence"))}
	}
	q := newQuery(r)
	req := &exonodev1.GetRequest{Sequence: seq, Consistency: q.consistency(), Form: exonodev1.EntryForm_ENTRY_FORM_RAW}
	if err := q.done(); err != nil {
		return err
	}
	res, err := s.ledger.Get(r.Context(), req)
	if err != nil {
		return err
	}
	e, err := entryJSON(res.Entry)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, e)
	return nil
}

func (s *webService) getLookup(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	req := &exonodev1.LookupRequest{
		Workspace:   q.text("workspace"),
		Source:      q.text("source"),
		Id:          q.text("id"),
		Consistency: q.consistency(),
		Form:        exonodev1.EntryForm_ENTRY_FORM_RAW,
	}
	if err := q.done(); err != nil {
		return err
	}
	state, res, err := s.ledger.lookup(r.Context(), req)
	if err != nil {
		return err
	}
	e, err := entryJSON(res.Entry)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct {
		State string     `json:"state"`
		Entry view.Entry `json:"entry"`
	}{state, e})
	return nil
}

// entryJSON returns an entry in raw form as plain JSON.
func entryJSON(p *exonodev1.Entry) (view.Entry, error) {
	record, err := api.RecordFromProto(p)
	if err != nil {
		return view.Entry{}, err
	}
	d, err := api.DecodeRecord(record)
	if err != nil {
		return view.Entry{}, err
	}
	return d.JSON(), nil
}

// headJSON is a head as plain JSON.
type headJSON struct {
	Size  uint64     `json:"size"`
	Hash  chain.Hash `json:"hash"`
	Time  string     `json:"time,omitempty"`
	Root  chain.Hash `json:"root"`
	Chain chain.ID   `json:"chain"`
	Epoch uint64     `json:"epoch"`
}

func newHeadJSON(h Head) headJSON {
	j := headJSON{Size: h.Size, Hash: h.Hash, Root: h.Root, Chain: h.Chain, Epoch: h.Epoch}
	if h.Size > 0 {
		j.Time = view.Time(h.Time)
	}
	return j
}

func (s *webService) getHead(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	c := q.consistency()
	if err := q.done(); err != nil {
		return err
	}
	if _, err := await(r.Context(), s.ledger.node, c); err != nil {
		return err
	}
	head, err := s.ledger.node.Head(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, newHeadJSON(head))
	return nil
}

// statusJSON is a node's status as plain JSON.
type statusJSON struct {
	NodeID       string       `json:"node_id"`
	Version      string       `json:"version"`
	Phase        string       `json:"phase"`
	Ready        bool         `json:"ready"`
	NotReady     string       `json:"not_ready,omitempty"`
	State        string       `json:"state"`
	Leader       string       `json:"leader,omitempty"`
	Term         uint64       `json:"term"`
	CommitIndex  uint64       `json:"commit_index"`
	AppliedIndex uint64       `json:"applied_index"`
	Head         headJSON     `json:"head"`
	QueueLength  int          `json:"queue_length"`
	Started      time.Time    `json:"started,omitzero"`
	Members      []memberJSON `json:"members"`
}

type memberJSON struct {
	NodeID   string `json:"node_id"`
	Name     string `json:"name,omitempty"`
	PeerAddr string `json:"peer_addr,omitempty"`
	APIAddr  string `json:"api_addr,omitempty"`
	Suffrage string `json:"suffrage"`
	Gossip   string `json:"gossip,omitempty"`
	Leader   bool   `json:"leader"`
	Version  string `json:"version,omitempty"`
}

func (s *webService) getStatus(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).done(); err != nil {
		return err
	}
	status, err := s.ledger.node.Status(r.Context())
	if err != nil {
		return err
	}
	j := statusJSON{
		NodeID:       status.NodeID,
		Version:      status.Version,
		Phase:        status.Phase,
		Ready:        true,
		State:        status.State,
		Leader:       status.Leader,
		Term:         status.Term,
		CommitIndex:  status.CommitIndex,
		AppliedIndex: status.AppliedIndex,
		Head:         newHeadJSON(status.Head),
		QueueLength:  status.QueueLength,
		Started:      status.Started,
		Members:      make([]memberJSON, len(status.Members)),
	}
	if err := s.ledger.node.Ready(); err != nil {
		j.Ready, j.NotReady = false, api.AsError(err).Message
	}
	for i, m := range status.Members {
		j.Members[i] = memberJSON{
			NodeID: m.NodeID, Name: m.Name, PeerAddr: m.PeerAddr, APIAddr: m.APIAddr,
			Suffrage: m.Suffrage, Gossip: m.Gossip, Leader: m.Leader, Version: m.Version,
		}
	}
	writeJSON(w, http.StatusOK, j)
	return nil
}

// writeJSON writes a response. What it is given always marshals; a client that
// is gone is no error of ours.
func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"code":"internal","message":"the answer can't be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}

// writeError writes err as plain JSON.
func writeError(w http.ResponseWriter, err error) {
	e := api.AsError(err)
	status := e.Code.HTTPStatus()
	if e.Field == contentTypeField {
		status = http.StatusUnsupportedMediaType
	}
	if e.RetryAfterMillis > 0 {
		w.Header().Set("Retry-After", api.RetryAfter(e.RetryAfterMillis))
	}
	writeJSON(w, status, e.JSON())
}
