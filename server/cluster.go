package server

import (
	"context"
	"fmt"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
)

// clusterService is exonode.v1.ClusterService over a node.
type clusterService struct {
	node Node
}

var _ exonodev1connect.ClusterServiceHandler = (*clusterService)(nil)

// Status implements exonodev1connect.ClusterServiceHandler.
func (c *clusterService) Status(ctx context.Context, req *exonodev1.StatusRequest) (*exonodev1.StatusResponse, error) {
	status, err := c.node.Status(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetAskMembers() {
		c.node.AskMembers(ctx, status.Members)
	}
	return statusToProto(status, c.node.Ready()), nil
}

// Members implements exonodev1connect.ClusterServiceHandler.
func (c *clusterService) Members(ctx context.Context, _ *exonodev1.MembersRequest) (*exonodev1.MembersResponse, error) {
	status, err := c.node.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &exonodev1.MembersResponse{Members: membersToProto(status.Members)}, nil
}

// Remove implements exonodev1connect.ClusterServiceHandler.
func (c *clusterService) Remove(ctx context.Context, req *exonodev1.RemoveRequest) (*exonodev1.RemoveResponse, error) {
	if req.GetNodeId() == "" {
		return nil, &api.Error{Code: api.BadField, Field: "node_id", Message: "node_id is required", Hint: "members lists them"}
	}
	if err := c.node.Remove(ctx, req.GetNodeId()); err != nil {
		return nil, err
	}
	return &exonodev1.RemoveResponse{}, nil
}

// Leave implements exonodev1connect.ClusterServiceHandler.
func (c *clusterService) Leave(ctx context.Context, req *exonodev1.LeaveRequest) (*exonodev1.LeaveResponse, error) {
	status, err := c.node.Status(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetNodeId() != status.NodeID {
		return nil, &api.Error{
			Code:    api.Precondition,
			Field:   "node_id",
			Message: fmt.Sprintf("this node is %s, not %q", status.NodeID, req.GetNodeId()),
			Hint:    "ask the node that is to leave",
		}
	}
	if err := c.node.Leave(ctx); err != nil {
		return nil, err
	}
	return &exonodev1.LeaveResponse{}, nil
}

// RotateLogKey implements exonodev1connect.ClusterServiceHandler.
func (c *clusterService) RotateLogKey(ctx context.Context, _ *exonodev1.RotateLogKeyRequest) (*exonodev1.RotateLogKeyResponse, error) {
	key, err := c.node.RotateLogKey(ctx)
	if err != nil {
		return nil, err
	}
	return &exonodev1.RotateLogKeyResponse{PublicKey: key}, nil
}

// Transfer implements exonodev1connect.ClusterServiceHandler.
func (c *clusterService) Transfer(ctx context.Context, req *exonodev1.TransferRequest) (*exonodev1.TransferResponse, error) {
	if err := c.node.Transfer(ctx, req.GetNodeId()); err != nil {
		return nil, err
	}
	return &exonodev1.TransferResponse{}, nil
}
