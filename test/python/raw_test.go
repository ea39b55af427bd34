package python

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
)

// rawKey signs whatever it is given, by the names and rules of docs/FORMAT.md.
type rawKey struct {
	name string
	kind byte
	key  ed25519.PrivateKey
}

func newRawKey(name string, kind, seed byte) rawKey {
	return rawKey{name, kind, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))}
}

func vkey(name string, kind byte, public []byte) (id []byte, text string) {
	data := append([]byte{kind}, public...)
	sum := sha256.Sum256(append([]byte(name+"\n"), data...))
	return sum[:4], fmt.Sprintf("%s+%x+%s", name, sum[:4], base64.StdEncoding.EncodeToString(data))
}

func (k rawKey) vkey() (id []byte, text string) {
	return vkey(k.name, k.kind, k.key.Public().(ed25519.PublicKey))
}

func (k rawKey) line(text string, time uint64) string {
	id, _ := k.vkey()
	if k.kind == 4 {
		id = binary.BigEndian.AppendUint64(id[:4:4], time)
		text = fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
	}
	return fmt.Sprintf("— %s %s\n", k.name, base64.StdEncoding.EncodeToString(append(id[:len(id):len(id)], ed25519.Sign(k.key, []byte(text))...)))
}

// TestRawNotes signs texts that no checkpoint may have, so that nothing but their form is wrong.
func TestRawNotes(t *testing.T) {
	v := start(t)
	log, node := newRawKey(origin, 1, 1), newRawKey("node", 4, 2)
	_, logKey := log.vkey()
	_, nodeKey := node.vkey()
	policy := "log " + logKey + "\nwitness n " + nodeKey + "\nquorum n\n"
	root := base64.StdEncoding.EncodeToString(make([]byte, 32))
	empty := chain.EmptyRoot()
	emptyRoot := base64.StdEncoding.EncodeToString(empty[:])
	p, err := checkpoint.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	same := func(what, note string, fine bool) {
		t.Helper()
		n, err := checkpoint.ParseNote([]byte(note))
		if err == nil {
			_, err = p.Verify(n)
		}
		a := v.ask("policy", []byte(policy), []byte(note))
		if (err == nil) != fine || (a.Bad == "") != fine {
			t.Errorf("%s: package checkpoint: %v; verify.py: %q", what, err, a.Bad)
		}
	}
	signed := func(text string, time uint64) string { return text + "\n" + log.line(text, 0) + node.line(text, time) }
	text := origin + "\n7\n" + root + "\n"
	same("a checkpoint", signed(text, 1), true)
	same("an extension", signed(text+"more\n", 1), true)
	same("a time of 0", signed(text, 0), true)
	same("the last time", signed(text, 1<<63-1), true)
	same("a time of 2^63", signed(text, 1<<63), false)
	same("a control character", signed(text+"a\tb\n", 1), false)
	same("an empty line", signed(text+"\nb\n", 1), false)
	same("bytes that are not UTF-8", signed(text+"\xff\n", 1), false)
	same("a size of 2^63", signed(origin+"\n9223372036854775808\n"+root+"\n", 1), false)
	same("the greatest size", signed(origin+"\n9223372036854775807\n"+root+"\n", 1), true)
	same("a sign", signed(origin+"\n+7\n"+root+"\n", 1), false)
	same("a short root", signed(origin+"\n7\n"+root[:40]+"\n", 1), false)
	same("no root", signed(origin+"\n7\n", 1), false)
	same("a root with other bits", signed(strings.Replace(text, "A=\n", "B=\n", 1), 1), false)
	same("the empty tree", signed(origin+"\n0\n"+emptyRoot+"\n", 1), true)
	same("another empty tree", signed(origin+"\n0\n"+root+"\n", 1), false)
	same("a signature of a stranger", signed(text, 1)+newRawKey("other", 1, 3).line(text, 0), true)
	same("a stranger's id without a signature", signed(text, 1)+"— other AAAAAA==\n", false)
	same("a name with a plus", signed(text, 1)+"— o+r AAAAAAA=\n", false)
	same("a note that is too long", signed(text, 1)+"— other "+strings.Repeat("AAAA", 70000)+"\n", false)

	// Keys that are none.
	public := node.key.Public().(ed25519.PublicKey)
	bad := func(what, key string) {
		t.Helper()
		policy := "log " + logKey + "\nwitness x " + key + "\nquorum none\n"
		_, err := checkpoint.ParsePolicy([]byte(policy))
		if a := v.ask("policy", []byte(policy), []byte(signed(text, 1))); a.Bad == "" || err == nil {
			t.Errorf("%s: package checkpoint: %v; verify.py: %q", what, err, a.Bad)
		}
	}
	_, other := vkey("other", 4, public)
	_, short := vkey("other", 4, public[:31])
	_, unknown := vkey("other", 9, public)
	_, none := vkey("other", 4, nil)
	_, mldsa := vkey("other", 6, public)
	bad("another id", strings.Replace(nodeKey, "node+", "nodes+", 1))
	bad("a short key", short)
	bad("a key of an unknown type", unknown)
	bad("no key", none)
	bad("an ML-DSA key of 32 bytes", mldsa)
	bad("a short id", "other+123+"+other[strings.LastIndex(other, "+")+1:])
	bad("no id", "other")
	bad("no name", other[len("other"):])
	for _, policy := range []string{"# \x01\nlog " + logKey + "\nquorum none\n", "# \x7f\nlog " + logKey + "\nquorum none\n"} {
		_, err := checkpoint.ParsePolicy([]byte(policy))
		if a := v.ask("policy", []byte(policy), []byte(signed(text, 1))); a.Bad == "" || err == nil {
			t.Errorf("%q: package checkpoint: %v; verify.py: %q", policy, err, a.Bad)
		}
	}
}

// TestForeignReceipt proves a header whose sequence is not its place in the tree, and
// one that names another size than its envelope has.
func TestForeignReceipt(t *testing.T) {
	v, m := start(t), short(t)
	foreignReceipt(t, v, m.recs[1], "its header has sequence 1")
	m = &made{t: t}
	foreignReceipt(t, v, *m.add("x", func(h *chain.Header) { h.Envelope.Size++ }), "its payload has another size")
}

// foreignReceipt signs a tree whose only leaf is the record's header.
func foreignReceipt(t *testing.T, v *verifier, rec chain.Record, want string) {
	t.Helper()
	log := newRawKey(origin, 1, 1)
	_, key := log.vkey()
	tree := treeOf([]chain.Record{rec})
	root := tree.Root()
	text := fmt.Sprintf("%s\n1\n%s\n", origin, base64.StdEncoding.EncodeToString(root[:]))
	extra := cbor.AppendBytes(append(cbor.AppendMap(nil, 2), 0), rec.Header)
	extra = cbor.AppendBytes(append(extra, 1), rec.Envelope)
	data := "c2sp.org/tlog-proof@v1\nextra " + base64.StdEncoding.EncodeToString(extra) + "\nindex 0\n\n" + text + "\n" + log.line(text, 0)
	policy := "log " + key + "\nquorum none\n"
	p, err := checkpoint.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Parse([]byte(data))
	if err == nil {
		_, err = r.Verify(p)
	}
	if a := v.ask("receipt", []byte(data), []byte(policy), nil); err == nil || !strings.Contains(a.Bad, want) {
		t.Errorf("package receipt: %v; verify.py: %q", err, a.Bad)
	}
}

// TestOddCBOR asks both verifiers about headers that chance does not make.
func TestOddCBOR(t *testing.T) {
	v := start(t)
	h := chain.Header{
		Version: 1, ChainID: chainID, Sequence: 5, Previous: chain.Hash{1}, Time: chain.MaxStamp + 5, Workspace: "w", Source: "s", ID: "i",
		Kind: "k", SchemaVersion: 1, Principal: "p", RaftIndex: 1,
	}
	fine, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(old, new string) []byte {
		t.Helper()
		b := bytes.Replace(fine, []byte(old), []byte(new), 1)
		if bytes.Equal(b, fine) {
			t.Fatalf("%x has no %x", fine, old)
		}
		return b
	}
	for what, c := range map[string]struct {
		header []byte
		fine   bool
	}{
		"the latest time":      {fine, true},
		"a later time":         {replaced("\x05\x1b\x40\x00\x00\x00\x00\x00\x00\x05", "\x05\x1b\x40\x00\x00\x00\x00\x00\x00\x06"), false},
		"an empty version":     {replaced("\x61k\x0a\x01", "\x61k\x0a\x00"), false},
		"an empty raft index":  {replaced("\x18\x19\x01", "\x18\x19\x00"), false},
		"a boolean version":    {replaced("\x61k\x0a\x01", "\x61k\x0a\xf5"), false},
		"a boolean key":        {replaced("\xae\x00\x01\x01\x50", "\xae\x00\x01\xf5\x50"), false},
		"no map":               {[]byte{0}, false},
		"an array":             {[]byte{0x80}, false},
		"nothing":              {nil, false},
		"arrays in arrays":     {bytes.Repeat([]byte{0x81}, 50000), false},
		"a great length":       {[]byte{0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false},
		"a great text":         {replaced("\x07\x61s", "\x07\x7b\xff\xff\xff\xff\xff\xff\xff\xffs"), false},
		"surrogates":           {replaced("\x07\x61s", "\x07\x63\xed\xa0\x80"), false},
		"an overlong form":     {replaced("\x07\x61s", "\x07\x62\xc1\xb3"), false},
		"a line separator":     {replaced("\x07\x61s", "\x07\x63\xe2\x80\xa8"), false},
		"another space":        {replaced("\x07\x61s", "\x07\x62\xc2\xa0"), true},
		"digits of elsewhere":  {replaced("\x09\x61k", "\x09\x62\xd9\xa1"), false},
		"a newline at the end": {replaced("\x09\x61k", "\x09\x62k\n"), false},
	} {
		_, err := chain.DecodeHeader(c.header)
		if a := v.ask("header", c.header); (err == nil) != c.fine || (a.Bad == "") != c.fine {
			t.Errorf("%s: chain: %v; verify.py: %q", what, err, a.Bad)
		}
	}
}
