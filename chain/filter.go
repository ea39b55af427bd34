package chain

import "strings"

// Match reports whether the filter selects an entry with header h.
func (f *Filter) Match(h *Header) bool {
	return (f.Workspace == "" || f.Workspace == h.Workspace) &&
		f.MatchKind(h.Kind) &&
		(f.Source == "" || f.Source == h.Source) &&
		(f.Principal == "" || f.Principal == h.Principal) &&
		f.TimeFrom <= h.Time && (f.TimeTo == 0 || h.Time < f.TimeTo)
}

// MatchKind reports whether the filter's kind, or prefix of kinds, covers kind.
func (f *Filter) MatchKind(kind string) bool {
	if prefix, ok := strings.CutSuffix(f.Kind, "*"); ok {
		return strings.HasPrefix(kind, prefix)
	}
	return f.Kind == "" || f.Kind == kind
}
