package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// maxPlan is the size of a plan in JSON, in bytes.
const maxPlan = 1 << 20

// Handler serves the plan as JSON: GET returns it, PUT replaces it. Whoever reaches it
// can break the node.
func (s *Set) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plan", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Plan()) // the client is gone
	})
	mux.HandleFunc("PUT /plan", func(w http.ResponseWriter, r *http.Request) {
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPlan))
		d.DisallowUnknownFields()
		var p Plan
		err := d.Decode(&p)
		if err == nil && d.More() {
			err = fmt.Errorf("something follows the plan")
		}
		if err == nil {
			err = s.Apply(p)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}
