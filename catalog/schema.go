package catalog

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// lazySchema compiles a registered schema when the first payload comes. Kinds
// are registered by the fold, which must not depend on a compiler.
type lazySchema struct {
	once   sync.Once
	schema *jsonschema.Schema
	err    error
}

// validate checks a payload against the registered schema.
func (a *addition) validate(contentType string, payload []byte) error {
	k := Kind{Name: a.Kind}
	if err := k.checkText(contentType, payload); err != nil {
		return err
	}
	a.compiled.once.Do(func() { a.compiled.schema, a.compiled.err = compileSchema(a.Schema) })
	if err := a.compiled.err; err != nil {
		return &FieldError{Kind: a.Kind, Want: "a kind whose schema compiles", Got: err.Error()}
	}
	value, err := decode(payload)
	if err != nil {
		return &FieldError{Kind: a.Kind, Want: "well-formed JSON", Got: err.Error()}
	}
	if err := a.compiled.schema.Validate(value); err != nil {
		ve, ok := errors.AsType[*jsonschema.ValidationError](err)
		if !ok {
			return &FieldError{Kind: a.Kind, Want: "a payload that fits the schema", Got: err.Error()}
		}
		return schemaError(a.Kind, ve)
	}
	return nil
}

// noRemote refuses to load a schema from anywhere.
type noRemote struct{}

func (noRemote) Load(string) (any, error) {
	return nil, errors.New("references to other documents are not allowed")
}

// compileSchema compiles a JSON Schema (draft 2020-12 unless it says
// otherwise), which must be one self-contained JSON object.
func compileSchema(text []byte) (*jsonschema.Schema, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	doc, err := decode(text)
	if err != nil {
		return nil, err
	}
	if _, ok := doc.(map[string]any); !ok {
		return nil, errors.New("not a JSON object")
	}
	const name = "exonode:///schema.json"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noRemote{})
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	schema, err := c.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	return schema, nil
}

// schemaError names the first field that does not fit. The order of a
// validator's findings varies, so they are sorted.
func schemaError(name string, err *jsonschema.ValidationError) *FieldError {
	var found []*FieldError
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			found = append(found, leafError(name, e))
		}
		for _, c := range e.Causes {
			walk(c)
		}
	}
	walk(err)
	return slices.MinFunc(found, func(a, b *FieldError) int {
		return cmp.Or(strings.Compare(a.Field, b.Field), strings.Compare(a.Want, b.Want), strings.Compare(a.Got, b.Got))
	})
}

func leafError(name string, e *jsonschema.ValidationError) *FieldError {
	path := slices.Clone(e.InstanceLocation)
	fe := &FieldError{Kind: name, Want: "a value that fits " + strings.Join(e.ErrorKind.KeywordPath(), "/"), Got: "another"}
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		fe.Want, fe.Got = strings.Join(slices.Sorted(slices.Values(k.Want)), " or "), k.Got
	case *kind.Required:
		path = append(path, slices.Min(k.Missing))
		fe.Want, fe.Got = "a value", "nothing"
	case *kind.DependentRequired:
		path = append(path, slices.Min(k.Missing))
		fe.Want, fe.Got = "a value beside "+strconv.Quote(k.Prop), "nothing"
	case *kind.AdditionalProperties:
		path = append(path, slices.Min(k.Properties))
		fe.Want, fe.Got = "no such field", "a value"
	case *kind.MinLength:
		fe.Want, fe.Got = fmt.Sprintf("at least %d characters", k.Want), strconv.Itoa(k.Got)
	case *kind.MaxLength:
		fe.Want, fe.Got = fmt.Sprintf("at most %d characters", k.Want), strconv.Itoa(k.Got)
	case *kind.Pattern:
		fe.Want = "a string that matches " + k.Want
	case *kind.Format:
		fe.Want = "a string of format " + k.Want
	case *kind.FalseSchema:
		fe.Want, fe.Got = "nothing", "a value"
	}
	fe.Field = fieldPath(path)
	return fe
}

// fieldPath writes the tokens of a JSON pointer as a path ("a.b[2]").
func fieldPath(tokens []string) string {
	var b strings.Builder
	for i, t := range tokens {
		if t != "" && strings.Trim(t, "0123456789") == "" {
			b.WriteString("[" + t + "]")
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(t)
	}
	return b.String()
}

// Limits on a number that goes to the schema validator, whose arithmetic is
// exact and would fill the memory with 1e999999999.
const (
	maxNumber   = 400
	maxExponent = 3
)

// decode reads a JSON text into the values that the schema validator takes.
// Unlike encoding/json it refuses an object with one key twice, deep nesting
// and enormous numbers.
func decode(text []byte) (any, error) {
	s := scanner{text: text}
	s.space()
	v, err := s.decode(1)
	if err != nil {
		return nil, err
	}
	return v, s.end()
}

func (s *scanner) decode(depth int) (any, error) {
	start := s.pos
	switch s.peek() {
	case '{':
		object := map[string]any{}
		return object, s.object(depth, func(raw []byte, escaped bool) error {
			key := str(raw, escaped)
			if _, ok := object[key]; ok {
				return &syntaxError{offset: s.pos, what: "an object key twice"}
			}
			v, err := s.decode(depth + 1)
			object[key] = v
			return err
		})
	case '[':
		array := []any{}
		err := s.array(depth, func(int) error {
			v, err := s.decode(depth + 1)
			array = append(array, v)
			return err
		})
		return array, err
	case '"':
		raw, escaped, err := s.str()
		return str(raw, escaped), err
	}
	t, err := s.value(depth)
	if err != nil {
		return nil, err
	}
	literal := s.text[start:s.pos]
	switch t {
	case tokenNull:
		return nil, nil
	case tokenBoolean:
		return literal[0] == 't', nil
	}
	if _, exponent, _ := strings.Cut(strings.ToLower(string(literal)), "e"); len(literal) > maxNumber ||
		len(strings.TrimLeft(exponent, "+-0")) > maxExponent {
		return nil, &syntaxError{offset: start, what: "a number too large"}
	}
	return json.Number(literal), nil
}

func str(raw []byte, escaped bool) string {
	if escaped {
		return unescape(raw)
	}
	return string(raw)
}
