package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
	"github.com/exonode/exonode/client"
)

// reading holds the flag that every reading command has.
type reading struct{ stale bool }

func (r *reading) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&r.stale, "stale", false, "read what the node has, without asking the leader whether it is all")
	operands(cmd, "stale")
}

// of returns the reader of a client at the level asked for.
func (r *reading) of(c *client.Client) client.Reader {
	if r.stale {
		return c.At(client.Stale)
	}
	return c.Reader
}

// filterFlags select entries.
type filterFlags struct {
	workspace, kind, source, principal string
	fromTime, toTime                   string
}

func (f *filterFlags) register(cmd *cobra.Command, times bool) {
	flags := cmd.Flags()
	flags.StringVar(&f.workspace, "workspace", "", "only this `workspace`; system is the cluster's own")
	flags.StringVar(&f.kind, "kind", "", "only this `kind`, or with a trailing * those that begin so: \"agent.*\"")
	flags.StringVar(&f.source, "source", "", "only this `source`")
	flags.StringVar(&f.principal, "principal", "", "only this `principal`")
	operands(cmd, "workspace", "kind", "source", "principal")
	if times {
		flags.StringVar(&f.fromTime, "from-time", "", "sealed at this `time` or later: RFC 3339, or how long ago (90s, 2h, 7d)")
		flags.StringVar(&f.toTime, "to-time", "", "sealed before this `time`")
		operands(cmd, "from-time", "to-time")
	}
	completeKinds(cmd)
}

func (f *filterFlags) filter(now time.Time) (chain.Filter, error) {
	out := chain.Filter{Workspace: f.workspace, Kind: f.kind, Source: f.source, Principal: f.principal}
	for _, t := range []struct {
		flag, text string
		into       *int64
	}{{"from-time", f.fromTime, &out.TimeFrom}, {"to-time", f.toTime, &out.TimeTo}} {
		if t.text == "" {
			continue
		}
		at, err := parseTime(t.text, now)
		if err != nil {
			return out, usagef("--%s: %w", t.flag, err)
		}
		*t.into = at.UnixNano()
	}
	if i := strings.IndexByte(f.kind, '*'); i >= 0 && i != len(f.kind)-1 {
		return out, usagef("--kind is %q: a * may only stand at the end", f.kind)
	}
	return out, nil
}

// parseTime reads an RFC 3339 time, or how long ago.
func parseTime(s string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a time such as 2026-01-31T12:00:00Z nor how long ago, such as 90s, 2h or 7d", s)
	}
	return t, nil
}

func sequence(arg string) (uint64, error) {
	n, err := strconv.ParseUint(arg, 10, 64)
	if err != nil {
		return 0, usagef("%q is not a sequence: want a whole number from 0", arg)
	}
	return n, nil
}

func (a *app) getCommand() *cobra.Command {
	var r reading
	cmd := &cobra.Command{
		Use:     "get SEQUENCE",
		Short:   "Print one entry",
		Example: "  exonode get 42\n  exonode get 42 -o json | jq .payload.data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := sequence(args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				e, err := r.of(c).Get(ctx, seq)
				if err != nil {
					return err
				}
				v, err := viewOf(&e)
				if err != nil {
					return err
				}
				return a.emit(v, func(w io.Writer) error { return printEntry(w, v) })
			})
		},
	}
	r.register(cmd)
	return cmd
}

func (a *app) lookupCommand() *cobra.Command {
	var r reading
	cmd := &cobra.Command{
		Use:   "lookup WORKSPACE SOURCE ID",
		Short: "Tell what became of an event",
		Long: `Tell what became of an event: whether it is sealed in the chain, was denied by
its gate, waits for approval, or was closed. The entry printed is the event's
own, or the governance entry that decided it.`,
		Example: "  exonode lookup default urn:service:refunds 01J9Z3",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				key := chain.Key{Workspace: args[0], Source: args[1], ID: args[2]}
				l, err := r.of(c).Lookup(ctx, key)
				if err != nil {
					return err
				}
				if l.Entry == nil {
					return &api.Error{Code: api.NotFound, Message: fmt.Sprintf("no event %q of source %q is in workspace %s", key.ID, key.Source, key.Workspace),
						Hint: "if it was submitted, its submission was not acknowledged: submit it again with the same id"}
				}
				v, err := viewOf(l.Entry)
				if err != nil {
					return err
				}
				return a.emit(map[string]any{"state": l.State.String(), "entry": v}, func(w io.Writer) error {
					if _, err := fmt.Fprintf(w, "state      %s\n", l.State); err != nil {
						return err
					}
					return printEntry(w, v)
				})
			})
		},
	}
	r.register(cmd)
	return cmd
}

func (a *app) headCommand() *cobra.Command {
	var r reading
	cmd := &cobra.Command{
		Use:   "head",
		Short: "Print the newest entry's position and hash, and the tree's root",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				h, err := r.of(c).Head(ctx)
				if err != nil {
					return err
				}
				v := newHeadView(h)
				return a.emit(v, v.print)
			})
		},
	}
	r.register(cmd)
	return cmd
}

// headView is a head as it is printed.
type headView struct {
	Chain chain.ID   `json:"chain"`
	Epoch uint64     `json:"epoch"`
	Size  uint64     `json:"size"`
	Hash  chain.Hash `json:"hash"`
	Root  chain.Hash `json:"root"`
	Time  string     `json:"time,omitempty"`
}

func newHeadView(h client.Head) headView {
	v := headView{Chain: h.Chain, Epoch: h.Epoch, Size: h.Size, Hash: h.Hash, Root: h.Root}
	if h.Size > 0 {
		v.Time = view.Time(h.Time)
	}
	return v
}

func (v headView) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "chain    %s\nepoch    %d\nentries  %d\nhash     %s\nroot     %s\ntime     %s\n",
		v.Chain, v.Epoch, v.Size, v.Hash, v.Root, orDash(v.Time))
	return err
}

func (a *app) listCommand() *cobra.Command {
	var r reading
	var f filterFlags
	var from, to, limit uint64
	var reverse bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List entries",
		Long: `List entries of the chain as it is now, oldest first. With -o json each entry is
one line.`,
		Example: `  exonode list --kind 'agent.*' --from-time 24h
  exonode list --reverse --limit 20
  exonode list --workspace payments --limit 0 -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter(time.Now())
			if err != nil {
				return err
			}
			if to != 0 && from > to {
				return usagef("--from %d is after --to %d", from, to)
			}
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			q := client.ListQuery{Filter: filter, From: from, To: to, Reverse: reverse}
			if limit > 0 {
				q.PageSize = int(min(limit+1, 1000))
			}
			p := entryPrinter{a: a}
			for e, err := range r.of(c).List(ctx, q) {
				if err != nil {
					return err
				}
				if limit > 0 && p.printed == limit {
					which := "first"
					if reverse {
						which = "newest"
					}
					a.note("the %s %d are shown: --limit 0 shows all", which, limit)
					break
				}
				if err := p.print(&e); err != nil {
					return err
				}
			}
			if p.printed == 0 {
				a.note("no entry matches")
			}
			return nil
		},
	}
	r.register(cmd)
	f.register(cmd, true)
	flags := cmd.Flags()
	flags.Uint64Var(&from, "from", 0, "first `sequence`, inclusive")
	flags.Uint64Var(&to, "to", 0, "last `sequence`, exclusive; 0 is the head")
	flags.Uint64Var(&limit, "limit", 100, "at most this many entries; 0 is all")
	flags.BoolVar(&reverse, "reverse", false, "newest first")
	operands(cmd, "from", "to", "limit", "reverse")
	return cmd
}

func (a *app) tailCommand() *cobra.Command {
	var r reading
	var f filterFlags
	var after int64
	var last uint64
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Follow entries as they are sealed",
		Long: `Print the newest entries and then new ones as they are sealed, each once and in
order, over failures of nodes and changes of the leader, until interrupted. With
-o json each entry is one line.`,
		Example: `  exonode tail --kind 'auth.*'
  exonode tail --after 1041 -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter(time.Now())
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("after") && after < 0 {
				return usagef("--after is %d: want a sequence, from 0", after)
			}
			if after >= 0 && cmd.Flags().Changed("last") {
				return usagef("give --after or --last, not both")
			}
			c, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			err = a.tail(cmd.Context(), r.of(c), client.WatchQuery{Filter: filter, From: uint64(after + 1)}, after < 0, last)
			if cmd.Context().Err() != nil {
				return nil // to be interrupted is how it ends
			}
			return err
		},
	}
	r.register(cmd)
	f.register(cmd, false)
	flags := cmd.Flags()
	flags.Int64Var(&after, "after", -1, "begin after this `sequence`")
	flags.Uint64VarP(&last, "last", "n", 10, "begin with this many of the newest entries")
	operands(cmd, "after", "last")
	return cmd
}

// tail prints entries until ctx ends: from the query's first on, or the newest
// ones and what follows them.
func (a *app) tail(ctx context.Context, r client.Reader, q client.WatchQuery, newest bool, last uint64) (err error) {
	p := entryPrinter{a: a}
	if newest {
		if q.From, err = a.lastEntries(ctx, r, q.Filter, last, &p); err != nil {
			return err
		}
	}
	for e, err := range r.Watch(ctx, q) {
		if err != nil {
			return err
		}
		if err := p.print(&e); err != nil {
			return err
		}
	}
	return nil
}

// lastEntries prints the newest entries and returns where to go on from.
func (a *app) lastEntries(ctx context.Context, r client.Reader, filter chain.Filter, n uint64, p *entryPrinter) (uint64, error) {
	h, err := r.Head(ctx)
	if err != nil || n == 0 || h.Size == 0 {
		return h.Size, err
	}
	var newest []client.Entry
	for e, err := range r.List(ctx, client.ListQuery{Filter: filter, To: h.Size, Reverse: true, PageSize: int(min(n, 1000))}) {
		if err != nil {
			return 0, err
		}
		if newest = append(newest, e); uint64(len(newest)) == n {
			break
		}
	}
	for i := len(newest) - 1; i >= 0; i-- {
		if err := p.print(&newest[i]); err != nil {
			return 0, err
		}
	}
	return h.Size, nil
}
