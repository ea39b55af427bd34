package servertest

import (
	"context"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/server"
)

// Kinds implements server.Cataloger: the built-in kinds.
func (n *Node) Kinds(context.Context) ([]catalog.Kind, error) { return catalog.Kinds(), nil }

// RegisterKind implements server.Cataloger. The ledger in memory has no
// catalog of its own.
func (n *Node) RegisterKind(context.Context, server.Caller, string, string, []byte) (uint64, error) {
	return 0, &api.Error{Code: api.Unimplemented, Message: "the ledger in memory registers no kinds"}
}

// RetireKind implements server.Cataloger.
func (n *Node) RetireKind(context.Context, server.Caller, string, string) (uint64, error) {
	return 0, &api.Error{Code: api.Unimplemented, Message: "the ledger in memory retires no kinds"}
}
