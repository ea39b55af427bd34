package gates

import (
	"errors"
	"fmt"

	"github.com/exonode/exonode/catalog"
)

// Admit reports whether an event may stand in the chain, its gate aside: its
// kind is known or policy accepts unknown ones, is not reserved where it
// stands, and its payload is valid. It is asked before an event is put into a
// command; Apply does not ask it, since the answer depends on the version of
// the program.
//
// The error is a *catalog.FieldError, or wraps catalog.ErrBadName,
// catalog.ErrReservedKind, catalog.ErrUnknownKind or catalog.ErrRetiredKind.
func (s State) Admit(workspace, kind, contentType string, payload []byte) error {
	if workspace != catalog.SystemWorkspace && catalog.Reserved(kind) {
		return fmt.Errorf("gates: %w: %q stands in workspace %s alone", catalog.ErrReservedKind, kind, catalog.SystemWorkspace)
	}
	err := s.catalog.Validate(kind, contentType, payload)
	switch {
	case err == nil:
		return s.admitCatalog(workspace, kind, payload)
	case !errors.Is(err, catalog.ErrUnknownKind):
		return err
	case !catalog.ValidName(kind):
		return fmt.Errorf("gates: kind %.140q: %w", kind, catalog.ErrBadName)
	case workspace == catalog.SystemWorkspace || s.policy == nil || s.policy.UnknownKinds != AcceptUnknown:
		return err
	}
	return nil
}

// AdmitClient is Admit for an event that a client submits as its own: it also
// refuses workspace system, with ErrReservedWorkspace.
func (s State) AdmitClient(workspace, kind, contentType string, payload []byte) error {
	if workspace == catalog.SystemWorkspace {
		return fmt.Errorf("gates: %w: only nodes write to %s", ErrReservedWorkspace, workspace)
	}
	return s.Admit(workspace, kind, contentType, payload)
}

// admitCatalog checks entries that change the catalog for what Fold does not
// look at, or would refuse.
func (s State) admitCatalog(workspace, kind string, payload []byte) error {
	if workspace != catalog.SystemWorkspace || kind != catalog.KindCatalogRegister && kind != catalog.KindCatalogRetire {
		return nil
	}
	members, err := catalog.ReadObject(payload)
	if err != nil {
		return &catalog.FieldError{Kind: kind, Want: "well-formed JSON", Got: err.Error()}
	}
	if kind == catalog.KindCatalogRegister {
		name, gate, schema, err := readRegister(members)
		if err != nil {
			return &catalog.FieldError{Kind: kind, Want: "kind, gate and schema", Got: err.Error()}
		}
		return s.catalog.CheckRegister(name, gate, schema)
	}
	next := s
	if err := next.foldRetire(members); err != nil {
		return &catalog.FieldError{Kind: kind, Field: "kind", Want: "a registered kind", Got: err.Error()}
	}
	return nil
}
