package membership

import (
	"context"
	"fmt"
)

// Greet says hello to a peer and returns its answer, which the connection
// authenticated: Self.NodeID is the peer's own.
func (h *Handler) Greet(ctx context.Context, call Call, addr string) (Hello, error) {
	reply, peer, err := ask[Hello](ctx, call, addr, MethodHello, h.introduction())
	if err != nil {
		return Hello{}, err
	}
	if reply.Self.NodeID != peer {
		return Hello{}, fmt.Errorf("%w: node %s says that it is %s", ErrRefused, peer, reply.Self.NodeID)
	}
	return reply, nil
}
