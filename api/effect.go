package api

import (
	"fmt"
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
)

// effectNames are the elements of an effect vector, in its order.
var effectNames = [len(chain.Effect{})]string{"risk", "fairness", "privacy", "novelty", "security"}

// ParseEffect parses an effect vector as people write it: "risk=0.3,privacy=0.1",
// each element at most once, as a decimal of 0 to 1 with at most four places.
// Elements that are not named are 0. Errors are *Error with Field "effect".
func ParseEffect(text string) (chain.Effect, error) {
	var e chain.Effect
	var seen [len(e)]bool
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return e, effectError(BadField, "%q is not of the form name=value", part)
		}
		i := indexOf(strings.TrimSpace(name))
		if i < 0 {
			return e, effectError(BadField, "unknown effect %q", name)
		}
		if seen[i] {
			return e, effectError(BadField, "effect %s is named twice", name)
		}
		seen[i] = true
		n, err := parseTenThousandths(strings.TrimSpace(value))
		if err != nil {
			return e, effectError(EffectRange, "effect %s: %v", effectNames[i], err)
		}
		e[i] = n
	}
	return e, nil
}

// FormatEffect is the inverse of ParseEffect; elements that are 0 are left out.
func FormatEffect(e chain.Effect) string {
	var parts []string
	for i, n := range e {
		if n != 0 {
			parts = append(parts, effectNames[i]+"="+view.Decimal(n))
		}
	}
	return strings.Join(parts, ",")
}

func indexOf(name string) int {
	for i, n := range effectNames {
		if n == name {
			return i
		}
	}
	return -1
}

func parseTenThousandths(s string) (uint16, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if whole == "" && fraction == "" {
		return 0, fmt.Errorf("%q is not a decimal", s)
	}
	n := 0
	for _, c := range whole {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%q is not a decimal from 0 to 1", s)
		}
		if n = n*10 + int(c-'0'); n > 1 {
			return 0, fmt.Errorf("%s is above 1", s)
		}
	}
	n *= effectMax
	unit := effectMax / 10
	for _, c := range fraction {
		switch {
		case c < '0' || c > '9':
			return 0, fmt.Errorf("%q is not a decimal from 0 to 1", s)
		case unit == 0 && c != '0':
			return 0, fmt.Errorf("%s has more than four decimal places", s)
		}
		n += int(c-'0') * unit
		unit /= 10
	}
	if n > effectMax {
		return 0, fmt.Errorf("%s is above 1", s)
	}
	return uint16(n), nil
}

func effectError(code Code, format string, args ...any) *Error {
	return &Error{
		Code:    code,
		Field:   "effect",
		Message: fmt.Sprintf(format, args...),
		Hint:    `write it as "risk=0.3,privacy=0.1", each 0 to 1 with at most four decimal places`,
	}
}
