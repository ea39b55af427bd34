package catalog

import (
	"errors"
	"fmt"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"
)

// FieldError says which field of a payload is wrong. The submitter fixes it.
// It names types and limits, never a value.
type FieldError struct {
	Kind string
	// Field is the path of the field in the payload ("pid", "needs[2]",
	// "user.name"); "" is the payload itself.
	Field string
	// Want and Got say what the kind asks for, and what the payload has.
	Want, Got string
}

// Error implements error.
func (e *FieldError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("payload of %s: want %s, got %s", e.Kind, e.Want, e.Got)
	}
	return fmt.Sprintf("payload of %s: field %q: want %s, got %s", e.Kind, e.Field, e.Want, e.Got)
}

// IsJSON reports whether a media type is JSON: "" (the default of an event),
// application/json, or a type with the suffix +json, whatever its parameters.
func IsJSON(contentType string) bool {
	if contentType == "" || contentType == "application/json" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return false
	}
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// Validate checks a payload against the kind. The error is a *FieldError.
func (k *Kind) Validate(contentType string, payload []byte) error {
	if err := k.checkText(contentType, payload); err != nil {
		return err
	}
	v := validation{kind: k, scanner: scanner{text: payload}}
	return v.run()
}

// checkText checks what comes before the payload's structure.
func (k *Kind) checkText(contentType string, payload []byte) error {
	switch {
	case !IsJSON(contentType):
		return &FieldError{Kind: k.Name, Want: "content type application/json", Got: "another content type"}
	case len(payload) == 0:
		want := "a JSON object"
		if k.Fields == nil {
			want = "JSON"
		}
		return &FieldError{Kind: k.Name, Want: want, Got: "no payload"}
	case !utf8.Valid(payload):
		return &FieldError{Kind: k.Name, Want: "UTF-8", Got: "other bytes"}
	}
	return nil
}

// A validation is one walk over a payload of a built-in kind. It allocates
// nothing where the payload is good and its keys have no escapes.
type validation struct {
	kind *Kind
	scanner
	seen uint64 // bit i: Fields[i] was read
}

func (v *validation) run() error {
	v.space()
	if v.peek() != '{' {
		t, err := v.value(1)
		if err != nil {
			return v.syntax("", err)
		}
		return v.wrong("", "a JSON object", t.String())
	}
	if err := v.object(1, v.member); err != nil {
		return v.syntax("", err)
	}
	if err := v.end(); err != nil {
		return v.syntax("", err)
	}
	for i, f := range v.kind.Fields {
		if v.seen&(1<<i) == 0 && !f.Optional {
			return v.wrong(f.Name, f.Type.String(), "nothing")
		}
	}
	return nil
}

// member reads one member's value and checks it where the kind names it.
func (v *validation) member(key []byte, escaped bool) error {
	i := v.field(key, escaped)
	if i < 0 {
		_, err := v.value(2)
		return err
	}
	f := &v.kind.Fields[i]
	if v.seen&(1<<i) != 0 {
		return v.wrong(f.Name, "one value", "the field twice")
	}
	v.seen |= 1 << i
	if f.Elem == 0 || v.peek() != '[' {
		return v.typed(f.Name, f.Type, 2)
	}
	return v.array(2, func(n int) error {
		// The path is only built once it is needed.
		if err := v.typed("", f.Elem, 3); err != nil {
			path := f.Name + "[" + strconv.Itoa(n) + "]"
			if fe, ok := errors.AsType[*FieldError](err); ok {
				return v.wrong(path, fe.Want, fe.Got)
			}
			return v.syntax(path, err)
		}
		return nil
	})
}

// field returns the index of the kind's field with that key, or -1.
func (v *validation) field(key []byte, escaped bool) int {
	if escaped {
		name := unescape(key)
		for i := range v.kind.Fields {
			if v.kind.Fields[i].Name == name {
				return i
			}
		}
		return -1
	}
	for i := range v.kind.Fields {
		if v.kind.Fields[i].Name == string(key) {
			return i
		}
	}
	return -1
}

// typed reads a value that must have type want.
func (v *validation) typed(path string, want Type, depth int) error {
	start := v.pos
	t, err := v.value(depth)
	if err != nil {
		return v.syntax(path, err)
	}
	if !t.fits(want) {
		return v.wrong(path, want.String(), t.String())
	}
	switch want {
	case TypeInteger:
		if !fitsInt64(v.text[start:v.pos]) {
			return v.wrong(path, "an integer of 64 bits", "a larger one")
		}
	case TypeNumber:
		if _, err := strconv.ParseFloat(string(v.text[start:v.pos]), 64); err != nil {
			return v.wrong(path, "a number of double precision", "a larger one")
		}
	}
	return nil
}

// fitsInt64 reports whether an integer token is in the range of int64.
func fitsInt64(digits []byte) bool {
	if len(digits) <= 18 { // sign and 17 digits, or 18 digits
		return true
	}
	_, err := strconv.ParseInt(string(digits), 10, 64)
	return err == nil
}

func (v *validation) wrong(path, want, got string) error {
	return &FieldError{Kind: v.kind.Name, Field: path, Want: want, Got: got}
}

// syntax makes a *FieldError of malformed JSON; a *FieldError stays as it is.
func (v *validation) syntax(path string, err error) error {
	if _, ok := errors.AsType[*FieldError](err); ok {
		return err
	}
	return v.wrong(path, "well-formed JSON", err.Error())
}
