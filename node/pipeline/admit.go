package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
)

// SystemWorkspace is the cluster's own workspace: only nodes write there.
const SystemWorkspace = "system"

// check refuses what no state of the cluster would accept.
func (p *Pipeline) check(it *item) *api.Error {
	e := &it.proposal.Event
	e.SetDefaults()
	if err := e.Validate(p.cfg.Limits.Payload); err != nil {
		return fieldError(err)
	}
	if it.internal {
		return nil
	}
	if e.Workspace == SystemWorkspace {
		return &api.Error{
			Code: api.ReservedSpace, Field: "workspace",
			Message: `workspace "system" is the cluster's own`, Hint: "choose another workspace",
		}
	}
	if catalog.Reserved(e.Kind) {
		return reservedKind(e.Kind)
	}
	return nil
}

func reservedKind(kind string) *api.Error {
	return &api.Error{
		Code: api.ReservedKind, Field: "kind",
		Message: fmt.Sprintf("kind %q is reserved to the cluster", kind),
		Hint:    "only nodes write it, on behalf of the call that causes it",
	}
}

// fieldError answers for a field of the event itself.
func fieldError(err error) *api.Error {
	var f *chain.FieldError
	if !errors.As(err, &f) {
		return &api.Error{Code: api.Malformed, Message: err.Error()}
	}
	e := &api.Error{Code: api.BadField, Field: f.Field, Message: err.Error()}
	switch {
	case f.Field == "effect" || f.Field == "declared_effect":
		e.Code, e.Hint = api.EffectRange, "each dimension is 0 to 1 with at most four decimals"
	case f.Reason == chain.TooLong && f.Field == "payload":
		e.Code, e.Hint = api.TooLarge, "send the data elsewhere and its hash here"
	}
	return e
}

// admit checks an event against the folded state, and fills in the version of
// its kind's schema.
func admit(view *fsm.View, it *item) *api.Error {
	e := &it.proposal.Event
	state := view.Gates()
	if err := state.Admit(e.Workspace, e.Kind, e.ContentType, e.Payload); err != nil {
		return admitError(e.Kind, err)
	}
	kind, inCatalog := state.Kind(e.Kind)
	if !inCatalog && len(e.Payload) > 0 && catalog.IsJSON(e.ContentType) && !(utf8.Valid(e.Payload) && json.Valid(e.Payload)) {
		// The policy takes unknown kinds, and nobody has looked at the
		// payload. It is sealed as it came, so what it claims must be true.
		return &api.Error{
			Code: api.PayloadInvalid, Field: "data", Message: "the data is not JSON, as its content type says",
			Hint: "give the content type of what it is, such as text/plain",
		}
	}
	e.SchemaVersion = kind.SchemaVersion
	if e.DeclaredEffect != nil && kind.Gate == "" {
		// Without a verdict the header has no place for it: a resubmission
		// could not be compared, nor a client's signature over it checked.
		return &api.Error{
			Code: api.BadField, Field: "effect",
			Message: fmt.Sprintf("kind %s passes no gate, so it can't declare an effect", e.Kind),
			Hint:    "leave the effect out",
		}
	}
	it.admitted, it.revision = true, view.Revision()
	return nil
}

// admitError answers for the kind and its payload.
func admitError(kind string, err error) *api.Error {
	var f *catalog.FieldError
	switch {
	case errors.As(err, &f):
		field := "data"
		if f.Field != "" {
			field += "." + f.Field
		}
		return &api.Error{
			Code: api.PayloadInvalid, Field: field,
			Message: fmt.Sprintf("%s of kind %s: want %s, got %s", field, kind, f.Want, f.Got),
			Hint:    "`exonode catalog show " + kind + "` prints the kind's fields",
		}
	case errors.Is(err, catalog.ErrReservedKind):
		return reservedKind(kind)
	case errors.Is(err, catalog.ErrUnknownKind):
		return &api.Error{
			Code: api.UnknownKind, Field: "kind",
			Message: fmt.Sprintf("kind %q is not in the catalog", kind),
			Hint:    "register it with `exonode catalog register`, or see `exonode catalog list`",
		}
	case errors.Is(err, catalog.ErrRetiredKind):
		return &api.Error{
			Code: api.UnknownKind, Field: "kind",
			Message: fmt.Sprintf("kind %q was retired", kind),
			Hint:    "use the kind that replaced it",
		}
	}
	return &api.Error{Code: api.BadField, Field: "kind", Message: err.Error()}
}
