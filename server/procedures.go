package server

import (
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
)

// procedures are the paths of all methods of our services.
func procedures() map[string]bool {
	out := make(map[string]bool)
	services := exonodev1.File_exonode_v1_exonode_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			out[fmt.Sprintf("/%s/%s", services.Get(i).FullName(), methods.Get(j).Name())] = true
		}
	}
	return out
}

// knownMethods answers, in the caller's protocol, for methods that our services do not
// have: what Connect's handlers answer is no error of theirs.
func knownMethods(next http.Handler) http.Handler {
	known := procedures()
	errors := connect.NewErrorWriter()
	prefix := "/" + string(exonodev1.File_exonode_v1_exonode_proto.Package()) + "."
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, prefix) || known[r.URL.Path] {
			next.ServeHTTP(w, r)
			return
		}
		e := &api.Error{Code: api.Unimplemented, Message: fmt.Sprintf("there is no %s", strings.TrimPrefix(r.URL.Path, "/")), Hint: "docs/API.md lists the methods; an older node does not have the newest"}
		if errors.IsSupported(r) {
			_ = errors.Write(w, r, api.ToConnect(e)) // whom it can't be told is gone
			return
		}
		writeJSON(w, e.Code.HTTPStatus(), e.JSON())
	})
}
