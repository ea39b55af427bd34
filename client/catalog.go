package client

import (
	"context"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
)

// Kind is a type of events that the cluster knows.
type Kind struct {
	Name string `json:"name"`
	// Gate is the gate that its events pass; "" is none.
	Gate string `json:"gate,omitempty"`
	// Schema is the payload's JSON Schema, as JSON text.
	Schema        string `json:"schema,omitempty"`
	Subsystem     string `json:"subsystem,omitempty"`
	Item          string `json:"item,omitempty"`
	SchemaVersion uint64 `json:"schema_version"`
	// BuiltIn kinds come with the program; the others are the chain's own.
	BuiltIn bool `json:"built_in"`
}

// Kinds returns the kinds whose names begin with prefix, sorted.
func (r Reader) Kinds(ctx context.Context, prefix string) ([]Kind, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) ([]Kind, error) {
		res, err := ep.catalog.ListKinds(ctx, &exonodev1.ListKindsRequest{Prefix: prefix})
		if err != nil {
			return nil, err
		}
		kinds := make([]Kind, 0, len(res.GetKinds()))
		for _, k := range res.GetKinds() {
			kinds = append(kinds, Kind{
				Name: k.GetName(), Gate: k.GetGate(), Schema: k.GetSchema(), Subsystem: k.GetSubsystem(), Item: k.GetItem(),
				SchemaVersion: k.GetSchemaVersion(), BuiltIn: k.GetBuiltIn(),
			})
		}
		return kinds, nil
	})
}

// RegisterKind adds a kind to the catalog, with the gate that its events pass
// ("" for none) and the JSON Schema of their payload ("" accepts any). It
// returns the sequence of the catalog.register entry. To register the same
// again changes nothing, so it is tried again where its outcome is unknown.
func (c *Client) RegisterKind(ctx context.Context, name, gate, schema string) (uint64, error) {
	return try(ctx, c.Reader, repeatable, func(ctx context.Context, ep *endpoint) (uint64, error) {
		res, err := ep.catalog.RegisterKind(ctx, &exonodev1.RegisterKindRequest{
			Kind: &exonodev1.Kind{Name: name, Gate: gate, Schema: schema},
		})
		return res.GetSequence(), err
	})
}

// RetireKind makes a registered kind refused from now on, for a reason that
// goes on record.
func (c *Client) RetireKind(ctx context.Context, name, reason string) (uint64, error) {
	return try(ctx, c.Reader, once, func(ctx context.Context, ep *endpoint) (uint64, error) {
		res, err := ep.catalog.RetireKind(ctx, &exonodev1.RetireKindRequest{Name: name, Reason: reason})
		return res.GetSequence(), err
	})
}
