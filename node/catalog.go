package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/transport"
)

// methodCatalog is the call by which a node has the leader change the catalog.
const methodCatalog = "catalog"

// sourceCatalog is the source of entries that change the catalog.
const sourceCatalog = "exonode:catalog"

// catalogChange is a change of the catalog, on its way to the leader.
type catalogChange struct {
	Caller server.Caller   `json:"caller"`
	Name   string          `json:"name"`
	Gate   string          `json:"gate,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"` // nil retires the kind
	Reason string          `json:"reason,omitempty"`
}

// Kinds implements server.Cataloger.
func (n *Node) Kinds(context.Context) ([]catalog.Kind, error) {
	return n.fsm.View().Gates().Catalog().Kinds(), nil
}

// RegisterKind implements server.Cataloger.
func (n *Node) RegisterKind(ctx context.Context, caller server.Caller, name, gate string, schema []byte) (uint64, error) {
	if !json.Valid(schema) {
		return 0, &api.Error{Code: api.BadField, Field: "schema", Message: "the schema is not JSON", Hint: "give a JSON Schema, such as {\"type\":\"object\"}"}
	}
	return n.changeCatalog(ctx, catalogChange{Caller: caller, Name: name, Gate: gate, Schema: schema})
}

// RetireKind implements server.Cataloger.
func (n *Node) RetireKind(ctx context.Context, caller server.Caller, name, reason string) (uint64, error) {
	return n.changeCatalog(ctx, catalogChange{Caller: caller, Name: name, Reason: reason})
}

// changeCatalog makes a change on the leader, and returns once it is applied
// here, too: the caller may use it at once.
func (n *Node) changeCatalog(ctx context.Context, c catalogChange) (seq uint64, err error) {
	for {
		if leader := n.members.Leader(); leader == n.identity.NodeID() {
			seq, err = n.sealCatalog(ctx, c)
		} else if leader != "" {
			seq, err = n.askCatalog(ctx, leader, c)
		} else {
			err = &api.Error{Code: api.NoLeader, Message: "no leader is known", Hint: "try again", RetryAfterMillis: 200}
		}
		var e *api.Error
		if err == nil || !errors.As(err, &e) || e.Code != api.NoLeader || !sleep(ctx, 50*time.Millisecond) {
			break
		}
	}
	if err != nil {
		return 0, err
	}
	return seq, n.growth.await(ctx, seq+1)
}

func (n *Node) askCatalog(ctx context.Context, leader string, c catalogChange) (uint64, error) {
	request, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	reply, _, err := n.trans.Call(ctx, transport.ClassCall, transport.PeerRef{NodeID: leader}, methodCatalog, request)
	var remote *transport.RemoteError
	switch {
	case errors.As(err, &remote) && remote.Code == codeAPI:
		e := new(api.Error)
		if err := json.Unmarshal([]byte(remote.Message), e); err != nil {
			return 0, err
		}
		return 0, e
	case err != nil:
		// The change has an id of its own: to try again is harmless.
		return 0, &api.Error{Code: api.NoLeader, Message: err.Error(), Hint: "try again", RetryAfterMillis: 200}
	case len(reply) != 8:
		return 0, fmt.Errorf("the leader answered %d bytes", len(reply))
	}
	return binary.BigEndian.Uint64(reply), nil
}

// codeAPI marks a remote error whose message is an api.Error in JSON.
const codeAPI = "api"

func (n *Node) serveCatalog(ctx context.Context, _ transport.Peer, request []byte) ([]byte, error) {
	var c catalogChange
	if err := json.Unmarshal(request, &c); err != nil {
		return nil, err
	}
	seq, err := n.sealCatalog(ctx, c)
	var e *api.Error
	if errors.As(err, &e) {
		b, merr := json.Marshal(e)
		if merr != nil {
			return nil, merr
		}
		return nil, &transport.RemoteError{Code: codeAPI, Message: string(b)}
	}
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, seq), nil
}

// sealCatalog seals a change, on the leader. The id follows from the kind and
// the version that the change makes, so that a change sent twice is made once,
// and two that differ conflict.
func (n *Node) sealCatalog(ctx context.Context, c catalogChange) (uint64, error) {
	set := n.fsm.View().Gates().Catalog()
	version := uint64(0)
	for _, a := range set.Additions() {
		if a.Kind != c.Name {
			continue
		}
		version = a.Version
		if same := !a.Retired && a.Gate == c.Gate && bytes.Equal(a.Schema, c.Schema); same && c.Schema != nil {
			slot, ok, err := n.ledger.Find(chain.Key{Workspace: pipeline.SystemWorkspace, Source: sourceCatalog, ID: registerID(c.Name, version)})
			if err != nil {
				return 0, storeError(err)
			}
			if ok {
				return slot.Sequence, nil
			}
		}
	}
	kind, id, payload := catalog.KindCatalogRegister, registerID(c.Name, version+1), any(catalog.CatalogRegister{
		Kind: c.Name, Gate: c.Gate, Schema: catalog.Object(c.Schema),
	})
	if c.Schema == nil {
		kind, id = catalog.KindCatalogRetire, fmt.Sprintf("retire/%s/%d", c.Name, version)
		payload = catalog.CatalogRetire{Kind: c.Name, Reason: c.Reason}
	}
	b, err := json.Marshal(payload)
	if err != nil {
		return 0, err
	}
	pending, err := n.pipeline.Witness([]fsm.Proposal{{
		Event: chain.Event{
			Workspace: pipeline.SystemWorkspace, Source: sourceCatalog, ID: id, Kind: kind, Subject: c.Name,
			Payload: b, ContentType: "application/json",
		},
		Principal: c.Caller.Principal, Credential: c.Caller.Credential, OnBehalfOf: c.Caller.OnBehalfOf,
	}})
	if err != nil {
		return 0, err
	}
	acks, err := pending.Wait(ctx)
	if err != nil {
		return 0, err
	}
	return acks[0].Sequence, acks[0].Err
}

func registerID(kind string, version uint64) string {
	return fmt.Sprintf("register/%s/%d", kind, version)
}
