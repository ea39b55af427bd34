package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of a policy, above those that c2sp.org/tlog-policy recommends.
const (
	MaxPolicy      = 1 << 20 // bytes
	maxPolicyNames = 1024    // of each: logs, witnesses, groups, members of a group
)

// NoQuorum is the name of the quorum that asks for no cosignature.
const NoQuorum = "none"

// ErrQuorum is wrapped where a note lacks signatures that a policy asks for.
var ErrQuorum = errors.New("not enough signatures")

// Policy says which logs are known, and whose cosignatures are enough
// (c2sp.org/tlog-policy).
type Policy struct {
	Logs      []PolicyLog
	Witnesses []PolicyWitness
	// Groups may name witnesses, and groups that stand before them.
	Groups []PolicyGroup
	// Quorum is the name of a witness or a group, or NoQuorum.
	Quorum string
}

// PolicyLog is a log, by a key of type Log or MLDSACosigner (tlog-checkpoint wants new
// logs to sign with the latter) whose name is the log's origin. URL may be empty.
type PolicyLog struct {
	Key Key
	URL string
}

// PolicyWitness is a cosigner, by a key of type Cosigner or MLDSACosigner. Name has a
// meaning within the policy alone. URL may be empty.
type PolicyWitness struct {
	Name string
	Key  Key
	URL  string
}

// PolicyGroup counts as a cosigner where Threshold of its members do.
type PolicyGroup struct {
	Name      string
	Threshold int
	Members   []string
}

// ParsePolicy reads a policy file. The error wraps ErrFormat and names the line.
func ParsePolicy(b []byte) (*Policy, error) {
	if len(b) > MaxPolicy {
		return nil, formatError("a policy of %d bytes, at most %d", len(b), MaxPolicy)
	}
	p := new(policyReader)
	if len(b) > 0 && b[len(b)-1] != '\n' {
		return nil, formatError("the policy's last line has no newline")
	}
	for i, line := range bytes.Split(b, []byte("\n")) {
		if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return nil, formatError("policy, line %d: a control character", i+1)
		}
		fields := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		if err := p.line(fields); err != nil {
			return nil, fmt.Errorf("checkpoint: policy, line %d: %w", i+1, err)
		}
	}
	if p.Quorum == "" {
		return nil, formatError("the policy has no quorum line")
	}
	return &p.Policy, nil
}

// policyReader is a policy that is being read, line by line.
type policyReader struct {
	Policy
	// member says of a name whether it is a member of a group already.
	member map[string]bool
}

func (p *policyReader) line(f []string) error {
	switch {
	case f[0] == "log" && (len(f) == 2 || len(f) == 3):
		return p.log(f[1:])
	case f[0] == "witness" && (len(f) == 3 || len(f) == 4):
		return p.witness(f[1:])
	case f[0] == "group" && len(f) >= 4:
		return p.group(f[1], f[2], f[3:])
	case f[0] == "quorum" && len(f) == 2:
		if p.Quorum != "" {
			return formatError("a second quorum")
		}
		if p.Quorum = f[1]; p.Quorum != NoQuorum && !p.defined(p.Quorum) {
			return formatError("quorum %q is not defined before it", p.Quorum)
		}
		return nil
	}
	return formatError("%q: want log, witness, group or quorum, and what belongs to it", f[0])
}

func (p *policyReader) log(f []string) error {
	k, err := ParseKey(f[0])
	switch {
	case err != nil:
		return err
	case k.Type == Cosigner:
		return formatError("key %q has type 0x04, a log's has 0x01 or 0x06", k.Name)
	case slices.ContainsFunc(p.Logs, func(o PolicyLog) bool { return bytes.Equal(o.Key.Public, k.Public) }):
		return formatError("log %q: its key is another log's", k.Name)
	case len(p.Logs) == maxPolicyNames:
		return formatError("more than %d logs", maxPolicyNames)
	}
	p.Logs = append(p.Logs, PolicyLog{Key: k, URL: strings.Join(f[1:], "")})
	return nil
}

func (p *policyReader) witness(f []string) error {
	k, err := ParseKey(f[1])
	switch {
	case err != nil:
		return err
	case k.Type == Log:
		return formatError("key %q has type 0x01, a witness's has 0x04 or 0x06", k.Name)
	case slices.ContainsFunc(p.Witnesses, func(o PolicyWitness) bool { return bytes.Equal(o.Key.Public, k.Public) }):
		return formatError("witness %q: its key is another witness's", f[0])
	case len(p.Witnesses) == maxPolicyNames:
		return formatError("more than %d witnesses", maxPolicyNames)
	}
	if err := p.define(f[0]); err != nil {
		return err
	}
	p.Witnesses = append(p.Witnesses, PolicyWitness{Name: f[0], Key: k, URL: strings.Join(f[2:], "")})
	return nil
}

func (p *policyReader) group(name, threshold string, members []string) error {
	if len(members) > maxPolicyNames || len(p.Groups) == maxPolicyNames {
		return formatError("more than %d groups, or members of one", maxPolicyNames)
	}
	g := PolicyGroup{Name: name, Members: members}
	switch threshold {
	case "any":
		g.Threshold = 1
	case "all":
		g.Threshold = len(members)
	default:
		n, err := parseDecimal(threshold)
		if err != nil || n < 1 || n > uint64(len(members)) {
			return formatError("group %q: threshold %q, want all, any, or 1 to %d", name, threshold, len(members))
		}
		g.Threshold = int(n)
	}
	for _, m := range members {
		if !p.defined(m) {
			return formatError("group %q: member %q is not defined before it", name, m)
		}
		if p.member[m] {
			return formatError("group %q: %q is a member of a group already", name, m)
		}
		if p.member == nil {
			p.member = map[string]bool{}
		}
		p.member[m] = true
	}
	if err := p.define(name); err != nil {
		return err
	}
	p.Groups = append(p.Groups, g)
	return nil
}

func (p *policyReader) define(name string) error {
	if name == NoQuorum || p.defined(name) {
		return formatError("the name %q is taken", name)
	}
	return nil
}

func (p *policyReader) defined(name string) bool {
	return slices.ContainsFunc(p.Witnesses, func(w PolicyWitness) bool { return w.Name == name }) ||
		slices.ContainsFunc(p.Groups, func(g PolicyGroup) bool { return g.Name == name })
}

// String returns the policy as a file, which ParsePolicy reads.
func (p *Policy) String() string {
	var b strings.Builder
	for i := range p.Logs {
		fmt.Fprintln(&b, strings.TrimRight("log "+p.Logs[i].Key.String()+" "+p.Logs[i].URL, " "))
	}
	for i := range p.Witnesses {
		w := &p.Witnesses[i]
		fmt.Fprintln(&b, strings.TrimRight("witness "+w.Name+" "+w.Key.String()+" "+w.URL, " "))
	}
	for _, g := range p.Groups {
		fmt.Fprintln(&b, "group", g.Name, strconv.Itoa(g.Threshold), strings.Join(g.Members, " "))
	}
	fmt.Fprintln(&b, "quorum", p.Quorum)
	return b.String()
}

// Judgement is what a policy found in a note.
type Judgement struct {
	// Log is the log's signature.
	Log Verified
	// Cosigned are the genuine cosignatures, in the policy's order, by the witness's
	// name in the policy.
	Cosigned []Cosigned
}

// Cosigned is a genuine cosignature of a witness of a policy.
type Cosigned struct {
	Witness string
	Verified
}

// Verify holds a note against the policy: it must be signed by one of its logs, whose
// name is the checkpoint's origin, and by a quorum of its witnesses. The error wraps
// ErrSignature or ErrQuorum; what was found is returned with either.
func (p *Policy) Verify(n *Note) (Judgement, error) {
	var j Judgement
	var keys []Key
	for _, l := range p.Logs {
		if l.Key.Name == n.Checkpoint.Origin {
			keys = append(keys, l.Key)
		}
	}
	signed, err := n.Verify(keys...)
	if err != nil {
		return j, err
	}
	counts := map[string]bool{NoQuorum: true}
	for _, w := range p.Witnesses {
		by, err := n.Verify(w.Key)
		if err != nil {
			return j, err
		}
		if len(by) > 0 {
			counts[w.Name] = true
			j.Cosigned = append(j.Cosigned, Cosigned{w.Name, by[0]})
		}
	}
	if len(signed) == 0 {
		return j, fmt.Errorf("checkpoint: %w: none of the %d known logs signed for %q", ErrQuorum, len(p.Logs), n.Checkpoint.Origin)
	}
	j.Log = signed[0]
	for _, g := range p.Groups {
		have := 0
		for _, m := range g.Members {
			if counts[m] {
				have++
			}
		}
		counts[g.Name] = have >= g.Threshold
	}
	if !counts[p.Quorum] {
		return j, fmt.Errorf("checkpoint: %w: quorum %q is not reached by %d genuine cosignatures", ErrQuorum, p.Quorum, len(j.Cosigned))
	}
	return j, nil
}
