package server

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
)

// healthChecker answers grpc.health.v1.
type healthChecker struct {
	node Operator
}

// Check implements grpchealth.Checker.
func (h healthChecker) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	switch req.Service {
	case "", exonodev1connect.LedgerServiceName, exonodev1connect.ClusterServiceName, exonodev1connect.CatalogServiceName:
	default:
		return nil, connect.NewError(connect.CodeNotFound, nil)
	}
	status := grpchealth.StatusServing
	if h.node.Ready() != nil {
		status = grpchealth.StatusNotServing
	}
	return &grpchealth.CheckResponse{Status: status}, nil
}

// livez says that the process runs and answers.
func livez(w http.ResponseWriter, _ *http.Request) { writeText200(w) }

// readyz says whether the node serves, and else what it waits for.
func readyz(node Operator) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := node.Ready(); err != nil {
			e := api.AsError(err)
			http.Error(w, e.Message, http.StatusServiceUnavailable)
			return
		}
		writeText200(w)
	}
}

func writeText200(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// The client is gone where this fails.
	_, _ = w.Write([]byte("ok\n"))
}
