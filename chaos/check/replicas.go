package check

import (
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
)

// replicas checks that all nodes hold the same bytes, that verification found nothing
// wrong with them, and that the entries that the other checkers judge by are theirs.
func (r *run) replicas(l Limits) history.Verdict {
	f := find(Replicas, "In the end all nodes hold the same chain, byte for byte, and it verifies.")
	f.Checked = len(r.f.Replicas)
	if f.Checked < l.Replicas {
		f.wrong("%d nodes were compared, and there should be %d", f.Checked, l.Replicas)
	}
	if r.size() != r.f.Size {
		f.wrong("%d entries are given of a chain that was compared at size %d", r.size(), r.f.Size)
	}
	for i := range r.f.Entries {
		if e := &r.f.Entries[i]; e.Sequence != uint64(i) {
			f.wrong("entry %d is given where %d belongs", e.Sequence, i)
			break
		}
	}
	var names []string
	for i := range r.f.Replicas {
		p := &r.f.Replicas[i]
		names = append(names, p.Node)
		if p.Size < r.f.Size {
			f.wrong("%s holds %d entries, and was to be compared at %d", p.Node, p.Size, r.f.Size)
		}
		for _, problem := range p.Problems {
			f.wrong("%s: %s", p.Node, problem)
		}
		r.compare(&f, &r.f.Replicas[0], p)
	}
	if f.Checked > 0 && r.f.RootAt != nil {
		p := &r.f.Replicas[0]
		if root, err := r.f.RootAt(r.f.Size); err != nil || root != p.Root {
			f.wrong("%s has root %s at size %d, and the tree that clients are judged by has %s (%v)", p.Node, short(p.Root), r.f.Size, short(root), err)
		}
	}
	f.note("%d entries at %s", r.f.Size, strings.Join(names, ", "))
	return f.verdict()
}

// compare holds one replica to the first, and to the entries.
func (r *run) compare(f *finding, first, p *history.Replica) {
	for _, c := range []struct {
		what       string
		want, have chain.Hash
	}{{"head hash", first.Hash, p.Hash}, {"root", first.Root, p.Root}, {"digest of headers and envelopes", first.Digest, p.Digest}} {
		if c.have != c.want {
			f.wrong("at size %d %s has %s %s, and %s has %s", r.f.Size, p.Node, c.what, short(c.have), first.Node, short(c.want))
		}
	}
	if n := r.size(); n > 0 && n == r.f.Size && p.Hash != r.f.Entries[n-1].Hash {
		f.wrong("at size %d %s has head hash %s, and the entries that clients are judged by end in %s", n, p.Node, short(p.Hash), short(r.f.Entries[n-1].Hash))
	}
}

// verdicts checks that the verdicts of gates were evaluated again on each node, and
// follow from the policy that was in force.
func (r *run) verdicts() history.Verdict {
	f := find(Verdicts, "Each verdict that is recorded in the chain follows from the policy in force at its entry.")
	for i := range r.f.Replicas {
		p := &r.f.Replicas[i]
		f.Checked += int(p.Verdicts)
		if p.Verdicts == 0 {
			f.wrong("%s evaluated no verdict again", p.Node)
		}
		for _, problem := range p.Problems {
			f.wrong("%s: %s", p.Node, problem)
		}
	}
	f.note("%d verdicts evaluated again at %d nodes", f.Checked, len(r.f.Replicas))
	return f.verdict()
}
