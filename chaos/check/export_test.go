package check

import (
	"github.com/anishathalye/porcupine"

	"github.com/exonode/exonode/chaos/history"
)

// Judges returns whether a history is linearizable by the one pass, and by Porcupine,
// which is given all of it.
func Judges(h *history.History, f *history.Final) (ours bool, theirs porcupine.CheckResult) {
	r := read(h, f)
	_, conflict := r.linearizable()
	var w window
	for i := range h.Ops {
		w.ops = append(w.ops, int32(i))
	}
	m, ops, _ := r.prepareFrom(w, 0)
	return conflict == nil, porcupine.CheckOperationsTimeout(m, ops, 0)
}
