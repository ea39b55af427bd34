package evidence

import (
	"strconv"
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

// SplitOrigin returns the parts of an origin that names an epoch, as those of exonode's
// logs do: what stands before the last slash, and the number after it.
func SplitOrigin(origin string) (base string, epoch uint64, ok bool) {
	at := strings.LastIndexByte(origin, '/')
	if at < 1 {
		return "", 0, false
	}
	epoch, err := strconv.ParseUint(origin[at+1:], 10, 64)
	if err != nil || strconv.FormatUint(epoch, 10) != origin[at+1:] {
		return "", 0, false
	}
	return origin[:at], epoch, true
}

// ChainID returns the chain id in an origin of the form exonode/<chain id>/<epoch>,
// which says that the log's leaves are headers of that chain.
func ChainID(origin string) (id chain.ID, ok bool) {
	base, _, ok := SplitOrigin(origin)
	text, own := strings.CutPrefix(base, "exonode/")
	if !ok || !own || id.UnmarshalText([]byte(text)) != nil || id.String() != text {
		return chain.ID{}, false
	}
	return id, true
}

// ForOrigin returns the policy by which a checkpoint of an origin is judged. It is p
// itself where p knows a log of that origin, or none of another epoch of it. Else it is
// p with those logs' keys under the new name: the key of an exonode log outlives a
// recovery, which changes the epoch in its name alone, and a policy may not name a key
// twice. Nobody else can sign under the new name, since the name is in what is signed.
func ForOrigin(p *checkpoint.Policy, origin string) *checkpoint.Policy {
	base, _, ok := SplitOrigin(origin)
	if !ok {
		return p
	}
	var more []checkpoint.PolicyLog
	for _, l := range p.Logs {
		if l.Key.Name == origin {
			return p
		}
		if b, _, ok := SplitOrigin(l.Key.Name); ok && b == base {
			l.Key.Name = origin
			more = append(more, l)
		}
	}
	out := *p
	out.Logs = append(more, p.Logs...)
	return &out
}
