package server

import (
	"context"
	"strings"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
	"github.com/exonode/exonode/catalog"
)

// catalogService is exonode.v1.CatalogService over a node.
type catalogService struct {
	node Node
}

var _ exonodev1connect.CatalogServiceHandler = (*catalogService)(nil)

// ListKinds implements exonodev1connect.CatalogServiceHandler.
func (c *catalogService) ListKinds(ctx context.Context, req *exonodev1.ListKindsRequest) (*exonodev1.ListKindsResponse, error) {
	kinds, err := c.node.Kinds(ctx)
	if err != nil {
		return nil, err
	}
	resp := new(exonodev1.ListKindsResponse)
	for i := range kinds {
		if strings.HasPrefix(kinds[i].Name, req.GetPrefix()) {
			resp.Kinds = append(resp.Kinds, kindToProto(&kinds[i]))
		}
	}
	return resp, nil
}

func kindToProto(k *catalog.Kind) *exonodev1.Kind {
	return &exonodev1.Kind{
		Name: k.Name, Gate: k.Gate, Schema: string(k.JSONSchema()), Subsystem: k.Subsystem, Item: k.Item,
		SchemaVersion: k.SchemaVersion, BuiltIn: k.Schema == nil,
	}
}

// RegisterKind implements exonodev1connect.CatalogServiceHandler.
func (c *catalogService) RegisterKind(ctx context.Context, req *exonodev1.RegisterKindRequest) (*exonodev1.RegisterKindResponse, error) {
	k := req.GetKind()
	if k.GetName() == "" {
		return nil, &api.Error{Code: api.BadField, Field: "kind.name", Message: "kind.name is required"}
	}
	schema := k.GetSchema()
	if schema == "" {
		schema = "{}"
	}
	seq, err := c.node.RegisterKind(ctx, callerOf(ctx), k.GetName(), k.GetGate(), []byte(schema))
	if err != nil {
		return nil, err
	}
	return &exonodev1.RegisterKindResponse{Sequence: seq}, nil
}

// RetireKind implements exonodev1connect.CatalogServiceHandler.
func (c *catalogService) RetireKind(ctx context.Context, req *exonodev1.RetireKindRequest) (*exonodev1.RetireKindResponse, error) {
	switch {
	case req.GetName() == "":
		return nil, &api.Error{Code: api.BadField, Field: "name", Message: "name is required"}
	case req.GetReason() == "":
		return nil, &api.Error{Code: api.BadField, Field: "reason", Message: "reason is required", Hint: "say why, for the record"}
	}
	seq, err := c.node.RetireKind(ctx, callerOf(ctx), req.GetName(), req.GetReason())
	if err != nil {
		return nil, err
	}
	return &exonodev1.RetireKindResponse{Sequence: seq}, nil
}
