package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/client"
)

// clusterView is a cluster as status prints it: one node's view of it, and what
// each member says of itself.
type clusterView struct {
	Node     string       `json:"node"`
	Address  string       `json:"address"`
	Version  string       `json:"version"`
	Ready    bool         `json:"ready"`
	NotReady string       `json:"not_ready,omitempty"`
	Phase    string       `json:"phase"`
	State    string       `json:"state"`
	Leader   string       `json:"leader"`
	Term     uint64       `json:"term"`
	Commit   uint64       `json:"commit_index"`
	Queue    uint64       `json:"queue_length"`
	Started  string       `json:"started"`
	CatchUp  *catchUpView `json:"catch_up,omitempty"`
	Head     headView     `json:"head"`
	Members  []memberView `json:"members"`
	Final    finalView    `json:"checkpoint"`
	Warning  string       `json:"warning,omitempty"`
}

// finalView is how checkpoints stand.
type finalView struct {
	Size     uint64            `json:"final_size"`
	At       string            `json:"final_at,omitempty"`
	Cosigned uint32            `json:"cosigned"`
	Problem  string            `json:"problem,omitempty"`
	Refusals map[string]string `json:"refusals,omitempty"`
	// Witnessed is the size of the newest one that outside witnesses cosigned.
	Witnessed uint64            `json:"witnessed_size,omitempty"`
	Witnesses map[string]string `json:"witnesses,omitempty"`
}

func newFinalView(c client.CheckpointStatus) finalView {
	v := finalView{Size: c.Size, Cosigned: c.Cosigned, Problem: c.Problem, Refusals: c.Refusals, Witnessed: c.Witnessed, Witnesses: c.Witnesses}
	if !c.At.IsZero() {
		v.At = c.At.UTC().Format(time.RFC3339)
	}
	return v
}

// print prints the checkpoint's lines; names are those of the nodes.
func (v *finalView) print(w io.Writer, name func(id string) string) error {
	text := "none yet"
	if v.Size > 0 {
		text = fmt.Sprintf("%d entries at %s, cosigned by %s", v.Size, v.At, plural(int(v.Cosigned), "voter"))
	}
	_, err := fmt.Fprintf(w, "final    %s\n", text)
	if v.Witnessed > 0 && err == nil {
		_, err = fmt.Fprintf(w, "         %d entries witnessed from outside\n", v.Witnessed)
	}
	for _, outside := range slices.Sorted(maps.Keys(v.Witnesses)) {
		if err == nil {
			_, err = fmt.Fprintf(w, "         witness %s does not cosign: %s\n", outside, v.Witnesses[outside])
		}
	}
	if v.Problem != "" && err == nil {
		_, err = fmt.Fprintf(w, "         nothing newer: %s\n", v.Problem)
	}
	for _, id := range slices.Sorted(maps.Keys(v.Refusals)) {
		if err == nil {
			_, err = fmt.Fprintf(w, "         %s does not cosign: %s\n", name(id), v.Refusals[id])
		}
	}
	return err
}

type catchUpView struct {
	Have uint64 `json:"have"`
	Want uint64 `json:"want"`
}

// memberView is a member as it is printed.
type memberView struct {
	ID       string `json:"id"`
	ServerID string `json:"server_id,omitempty"`
	Name     string `json:"name"`
	Leader   bool   `json:"leader"`
	Suffrage string `json:"suffrage"`
	Gossip   string `json:"gossip"`
	PeerAddr string `json:"peer_address"`
	APIAddr  string `json:"api_address"`
	Version  string `json:"version"`
	// Answers is whether the member answered the node that was asked; what follows
	// is its own word.
	Answers bool    `json:"answers"`
	State   string  `json:"state,omitempty"`
	Applied *uint64 `json:"applied_index,omitempty"`
	Size    *uint64 `json:"entries,omitempty"`
	Lag     *uint64 `json:"lag,omitempty"`
}

func newMemberView(m client.Member) memberView {
	v := memberView{
		ID: m.NodeID, ServerID: m.ServerID, Name: m.Name, Leader: m.Leader, Suffrage: m.Suffrage, Gossip: m.Gossip,
		PeerAddr: m.PeerAddr, APIAddr: m.APIAddr, Version: m.Version, Answers: m.State != "", State: m.State,
	}
	if v.Answers {
		v.Applied, v.Size = &m.Applied, &m.Entries
	}
	return v
}

func newMemberViews(members []client.Member) []memberView {
	out := make([]memberView, len(members))
	for i, m := range members {
		out[i] = newMemberView(m)
	}
	return out
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the cluster: leader, members, lag, head",
		Long: `Show the cluster as the first node of --addr that answers sees it. That node asks
each member for its own state; one that does not answer within a second shows
dashes. LAG is how many entries it has less than the one that has most.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := a.clusterStatus(cmd)
			if err != nil {
				return err
			}
			return a.emit(v, v.print)
		},
	}
}

func (a *app) clusterStatus(cmd *cobra.Command) (*clusterView, error) {
	ctx, cancel := a.request(cmd)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := c.ClusterStatus(ctx)
	if err != nil {
		return nil, err
	}
	v := &clusterView{
		Node: s.NodeID, Address: s.Address, Version: s.Version, Ready: s.Ready, NotReady: s.NotReady, Phase: s.Phase,
		State: s.State, Leader: s.Leader, Term: s.Term, Commit: s.CommitIndex, Queue: s.QueueLength,
		Started: s.Started.UTC().Format(time.RFC3339), Head: newHeadView(s.Head), Members: newMemberViews(s.Members),
		Final: newFinalView(s.Checkpoint), Warning: s.Warning,
	}
	if s.CatchUp != nil {
		v.CatchUp = &catchUpView{s.CatchUp.Have, s.CatchUp.Want}
	}
	most := s.Head.Size
	for _, m := range v.Members {
		if m.Size != nil {
			most = max(most, *m.Size)
		}
	}
	for i := range v.Members {
		if size := v.Members[i].Size; size != nil {
			v.Members[i].Lag = new(most - *size)
		}
	}
	return v, nil
}

// name is a member's name, or its id.
func (v *clusterView) name(id string) string {
	for _, m := range v.Members {
		if m.ID == id && m.Name != "" {
			return m.Name
		}
	}
	return id
}

func (v *clusterView) print(w io.Writer) error {
	leader := "none is known"
	for _, m := range v.Members {
		if v.Leader != "" && m.ID == v.Leader {
			leader = strings.TrimSpace(m.Name + " " + m.ID)
		}
	}
	ready := "ready"
	if !v.Ready {
		ready = "not ready: " + v.NotReady
	}
	if _, err := fmt.Fprintf(w, "node     %s at %s, %s\nleader   %s\nterm     %d, commit index %d\n", v.Node, v.Address, ready, leader, v.Term, v.Commit); err != nil {
		return err
	}
	if v.Warning != "" {
		if _, err := fmt.Fprintf(w, "WARNING  %s\n", v.Warning); err != nil {
			return err
		}
	}
	if v.CatchUp != nil {
		if _, err := fmt.Fprintf(w, "catch-up %d of %d entries\n", v.CatchUp.Have, v.CatchUp.Want); err != nil {
			return err
		}
	}
	if err := v.Head.print(w); err != nil {
		return err
	}
	if err := v.Final.print(w, v.name); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printMembers(w, v.Members)
}

func printMembers(w io.Writer, members []memberView) error {
	rows := [][]string{{"NAME", "ID", "ROLE", "GOSSIP", "STATE", "APPLIED", "ENTRIES", "LAG", "API", "PEER"}}
	for _, m := range members {
		role := m.Suffrage
		if m.Leader {
			role = "leader"
		}
		rows = append(rows, []string{
			orDash(m.Name), m.ID, role, orDash(m.Gossip), orDash(m.State), numberOrDash(m.Applied), numberOrDash(m.Size),
			numberOrDash(m.Lag), orDash(m.APIAddr), orDash(m.PeerAddr),
		})
	}
	return table(w, rows)
}

func numberOrDash(n *uint64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}
