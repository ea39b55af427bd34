package checkpoint_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain/checkpoint"
)

// names gives policies of the tests their keys: LOG, and W0 to W9.
func names(tb testing.TB) *strings.Replacer {
	key := logKey(tb)
	pairs := []string{"LOG", key.String()}
	for i := range 10 {
		k := cosigner(tb, fmt.Sprintf("w%d.example", i), byte(10+i)).Key()
		pairs = append(pairs, fmt.Sprintf("W%d", i), k.String())
	}
	return strings.NewReplacer(pairs...)
}

const witnesses = "log LOG\nwitness a W0\nwitness b W1\nwitness c W2\nwitness d W3\n"

func TestPolicyRefused(t *testing.T) {
	r := names(t)
	renamed := cosigner(t, "elsewhere.example", 10).Key()
	for name, test := range map[string]struct{ text, say string }{
		"empty":                   {"", "no quorum"},
		"no quorum":               {"log LOG\n", "no quorum"},
		"no newline at the end":   {"quorum none", "newline"},
		"unknown word":            {"quorums none\n", "line 1"},
		"log without key":         {"log\nquorum none\n", "line 1"},
		"log with too much":       {"log LOG https://a b\nquorum none\n", "line 1"},
		"log with a witness key":  {"log W0\nquorum none\n", "0x04"},
		"log twice":               {"log LOG\nlog LOG\nquorum none\n", "line 2"},
		"key is not one":          {"log abc\nquorum none\n", "not a key"},
		"witness with a log key":  {"witness a LOG\nquorum a\n", "0x01"},
		"witness without key":     {"witness a\nquorum none\n", "line 1"},
		"witness key is not one":  {"witness a b\nquorum none\n", "not a key"},
		"same key twice":          {"witness a W0\nwitness b W0\nquorum a\n", "another witness"},
		"same key, other name":    {"witness a W0\nwitness b " + renamed.String() + "\nquorum a\n", "another witness"},
		"same name twice":         {"witness a W0\nwitness a W1\nquorum a\n", "taken"},
		"witness called none":     {"witness none W0\nquorum none\n", "taken"},
		"group called none":       {witnesses + "group none any a\nquorum none\n", "taken"},
		"group as a witness":      {witnesses + "group a any b\nquorum a\n", "taken"},
		"group of nobody":         {witnesses + "group g any\nquorum g\n", "line 6"},
		"group of none":           {witnesses + "group g any none\nquorum g\n", "not defined"},
		"group of itself":         {witnesses + "group g any g\nquorum g\n", "not defined"},
		"group before its member": {"group g any a\nwitness a W0\nquorum g\n", "not defined"},
		"member twice":            {witnesses + "group g 2 a a\nquorum g\n", "already"},
		"member of two":           {witnesses + "group g any a\ngroup h any a\nquorum g\n", "already"},
		"threshold 0":             {witnesses + "group g 0 a\nquorum g\n", "threshold"},
		"threshold too high":      {witnesses + "group g 3 a b\nquorum g\n", "threshold"},
		"threshold with a zero":   {witnesses + "group g 01 a b\nquorum g\n", "threshold"},
		"negative threshold":      {witnesses + "group g -1 a b\nquorum g\n", "threshold"},
		"other threshold":         {witnesses + "group g most a b\nquorum g\n", "threshold"},
		"quorum undefined":        {witnesses + "quorum x\n", "not defined"},
		"quorum before":           {"quorum a\nwitness a W0\n", "not defined"},
		"two quorums":             {witnesses + "quorum a\nquorum b\n", "second quorum"},
		"quorum of two":           {witnesses + "quorum a b\n", "line 6"},
		"control character":       {"# a\vb\nquorum none\n", "control"},
		"carriage return":         {"quorum none\r\n", "control"},
		"delete":                  {"# \x7f\nquorum none\n", "control"},
		"too large":               {strings.Repeat("#\n", checkpoint.MaxPolicy/2) + "quorum none\n", "at most"},
	} {
		p, err := checkpoint.ParsePolicy([]byte(r.Replace(test.text)))
		if !errors.Is(err, checkpoint.ErrFormat) || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %+v, %v, want %q", name, p, err, test.say)
		}
	}
}

func TestPolicyLimits(t *testing.T) {
	var b strings.Builder
	b.WriteString("witness w W0\n")
	last := "w"
	for i := range 1024 {
		fmt.Fprintf(&b, "group g%d any %s\n", i, last)
		last = fmt.Sprintf("g%d", i)
	}
	r := names(t)
	if _, err := checkpoint.ParsePolicy([]byte(r.Replace(b.String() + "quorum " + last + "\n"))); err != nil {
		t.Error(err)
	}
	if _, err := checkpoint.ParsePolicy([]byte(r.Replace(b.String() + "group more any " + last + "\nquorum w\n"))); !errors.Is(err, checkpoint.ErrFormat) {
		t.Error(err)
	}
}

func TestPolicyQuorum(t *testing.T) {
	r := names(t)
	signers := map[string]*checkpoint.Signer{}
	for i, name := range []string{"a", "b", "c", "d"} {
		signers[name] = cosigner(t, fmt.Sprintf("w%d.example", i), byte(10+i))
	}
	const nested = "group ab 1 a b\ngroup cd all c d\ngroup both 2 ab cd\n"
	for _, test := range []struct {
		policy, by string
		ok         bool
	}{
		{"quorum none\n", "", true},
		{"quorum none\n", "a", true},
		{"quorum a\n", "a", true},
		{"quorum a\n", "b c d", false},
		{"group g any a b c\nquorum g\n", "c", true},
		{"group g any a b c\nquorum g\n", "d", false},
		{"group g all a b c\nquorum g\n", "a b c", true},
		{"group g all a b c\nquorum g\n", "a b d", false},
		{"group g 2 a b c\nquorum g\n", "c a", true},
		{"group g 2 a b c\nquorum g\n", "c d", false},
		{nested + "quorum both\n", "b c d", true},
		{nested + "quorum both\n", "a b c", false},
		{nested + "quorum both\n", "c d", false},
		{nested + "quorum cd\n", "c d", true},
		{nested + "quorum a\n", "a", true},
		// The two keys of one node count once.
		{"group n1 any a b\ngroup n2 any c d\ngroup g 2 n1 n2\nquorum g\n", "a b", false},
		{"group n1 any a b\ngroup n2 any c d\ngroup g 2 n1 n2\nquorum g\n", "b c", true},
	} {
		p := must(checkpoint.ParsePolicy([]byte(r.Replace(witnesses + test.policy))))(t)
		by := []*checkpoint.Signer{logSigner(t, origin, 1)}
		for _, name := range strings.Fields(test.by) {
			by = append(by, signers[name])
		}
		j, err := p.Verify(signedNote(t, by...))
		if test.ok != (err == nil) || err != nil && !errors.Is(err, checkpoint.ErrQuorum) {
			t.Errorf("%sby %q: %v", test.policy, test.by, err)
		}
		if len(j.Cosigned) != len(by)-1 {
			t.Errorf("%sby %q: judged %+v", test.policy, test.by, j.Cosigned)
		}
	}
}

func TestPolicyLogs(t *testing.T) {
	r := names(t)
	policy := func(text string) *checkpoint.Policy {
		return must(checkpoint.ParsePolicy([]byte(text)))(t)
	}
	own := "log " + vkey(logSigner(t, origin, 1)) + "\n"
	stranger := logSigner(t, origin, 9)
	pq := mldsaCosigner(t, origin, 4)
	pqKey, pqOther := pq.Key(), mldsaCosigner(t, "other.example/log", 4)
	for _, test := range []struct {
		name, policy string
		by           *checkpoint.Signer
		err          error
	}{
		{"its key", own + "quorum none\n", logSigner(t, origin, 1), nil},
		{"ML-DSA-44 key", "log " + pqKey.String() + "\nquorum none\n", pq, nil},
		{"another key", own + "quorum none\n", stranger, checkpoint.ErrQuorum},
		{"no log", "quorum none\n", logSigner(t, origin, 1), checkpoint.ErrQuorum},
		{"of another origin", "log " + vkey(pqOther) + "\nquorum none\n", pqOther, checkpoint.ErrQuorum},
	} {
		j, err := policy(test.policy).Verify(signedNote(t, test.by))
		if !errors.Is(err, test.err) || test.err == nil && (err != nil || j.Log.Key.Name != origin) {
			t.Errorf("%s: %+v, %v", test.name, j, err)
		}
	}
	n := signedNote(t, logSigner(t, origin, 1), cosigner(t, "w0.example", 10))
	p := policy(r.Replace(witnesses + "quorum none\n"))
	if _, err := p.Verify(n); err != nil {
		t.Error(err)
	}
	for i := range n.Signatures {
		bad := signedNote(t, logSigner(t, origin, 1), cosigner(t, "w0.example", 10))
		bad.Signatures[i].Bytes[20] ^= 1
		if _, err := p.Verify(bad); !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("signature %d forged: %v", i, err)
		}
	}
}

func vkey(s *checkpoint.Signer) string {
	k := s.Key()
	return k.String()
}

// TestAnyPolicy: a policy of any shape is read back as it was, and more cosignatures
// never lose a quorum.
func TestAnyPolicy(t *testing.T) {
	r := names(t)
	rapid.Check(t, func(rt *rapid.T) {
		text, free := "log LOG https://log.example/\n", []string{}
		n := rapid.IntRange(1, 6).Draw(rt, "witnesses")
		for i := range n {
			text += fmt.Sprintf("witness w%d W%d\n", i, i)
			free = append(free, fmt.Sprintf("w%d", i))
		}
		last := "none"
		for g := range rapid.IntRange(0, 4).Draw(rt, "groups") {
			k := rapid.IntRange(1, len(free)).Draw(rt, "members")
			free = rapid.Permutation(free).Draw(rt, "order")
			last = fmt.Sprintf("g%d", g)
			text += fmt.Sprintf("group %s %d %s\n", last, rapid.IntRange(1, k).Draw(rt, "threshold"), strings.Join(free[:k], " "))
			free = append(append([]string{}, free[k:]...), last)
		}
		text = r.Replace(text + "quorum " + last + "\n")
		p, err := checkpoint.ParsePolicy([]byte(text))
		if err != nil {
			rt.Fatal(err)
		}
		if p.String() != text {
			rt.Fatalf("read %q, wrote %q", text, p.String())
		}
		again, err := checkpoint.ParsePolicy([]byte(p.String()))
		if diff := cmp.Diff(p, again); err != nil || diff != "" {
			rt.Fatalf("%v %s", err, diff)
		}
		by, enough := []*checkpoint.Signer{logSigner(t, origin, 1)}, false
		for _, i := range rapid.Permutation([]int{0, 1, 2, 3, 4, 5}).Draw(rt, "cosigners")[:n] {
			_, err := p.Verify(signedNote(t, by...))
			if enough && err != nil {
				rt.Fatalf("lost the quorum: %v", err)
			}
			enough = err == nil
			by = append(by, cosigner(t, fmt.Sprintf("w%d.example", i), byte(10+i)))
		}
	})
}

func FuzzPolicy(f *testing.F) {
	r := names(f)
	f.Add([]byte(r.Replace(goldenPolicy)))
	f.Add([]byte(r.Replace(witnesses + "group g all a b\n# \xff\n\tquorum\tg \n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := checkpoint.ParsePolicy(data)
		if err != nil {
			return
		}
		again, err := checkpoint.ParsePolicy([]byte(p.String()))
		if diff := cmp.Diff(p, again); err != nil || diff != "" {
			t.Fatalf("accepted %q, wrote %q: %v %s", data, p.String(), err, diff)
		}
	})
}
