package report

import (
	"fmt"
	"slices"
	"strings"
)

// matrix is the picture of the links in one time.
type matrix struct {
	*drawing
	At, For string
	Say     string // which links were cut
	Large   bool
}

// matrices draw each time in which links were cut: a row for who sends, a column for
// who does not get it.
func matrices(s *Summary) []matrix {
	list := make([]matrix, 0, len(s.Cuts))
	for i := range s.Cuts {
		c := &s.Cuts[i]
		m := matrix{At: clock(c.From.Duration(), true), For: span(c.Duration()), Say: sayCut(s.Run.Nodes, c), Large: len(s.Run.Nodes) > 7}
		m.drawing = drawMatrix(s.Run.Nodes, c, m.Say)
		list = append(list, m)
	}
	return list
}

func drawMatrix(nodes []string, c *Cut, say string) *drawing {
	const maxName = 8
	longest := 0.0
	for _, n := range nodes {
		longest = max(longest, textWidth(shorten(n, maxName), 10))
	}
	cell := 16.0
	if len(nodes) > 7 {
		cell = 13
	}
	// Names of columns are turned where they are wider than a column.
	side := longest + 6
	head, turned := 14.0, longest > cell-2
	if turned {
		head = side
	}
	size := cell * float64(len(nodes))
	d := newDrawing("matrix", say, side+size+1, head+size+1)
	for i, from := range nodes {
		at := cell * (float64(i) + 0.5)
		d.text("tick", side-5, head+at+3.5, "end", shorten(from, maxName))
		if turned {
			d.text("tick", side+at+3.5, head-4, "start", shorten(from, maxName))
			d.Shapes[len(d.Shapes)-1].Turned = true
		} else {
			d.text("tick", side+at, head-4, "middle", shorten(from, maxName))
		}
		for j, to := range nodes {
			class, tip := "whole", ""
			switch {
			case i == j:
				class = "self"
			case slices.Contains(c.Cut[from], to):
				class, tip = "cut", from+" does not reach "+to
			}
			d.rect(class, side+cell*float64(j)+0.5, head+cell*float64(i)+0.5, cell-1, cell-1, tip)
		}
	}
	return d
}

// sayCut says which links are cut: groups that are whole within and cut from each
// other, or else the links one by one.
func sayCut(nodes []string, c *Cut) string {
	cut := func(a, b string) bool { return slices.Contains(c.Cut[a], b) }
	var groups [][]string
	for _, n := range nodes {
		k := slices.IndexFunc(groups, func(g []string) bool { return !cut(g[0], n) && !cut(n, g[0]) })
		if k < 0 {
			groups = append(groups, nil)
			k = len(groups) - 1
		}
		groups[k] = append(groups[k], n)
	}
	group := make(map[string]int)
	for k, g := range groups {
		for _, n := range g {
			group[n] = k
		}
	}
	apart := true
	var oneWay []string
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			if cut(a, b) != (group[a] != group[b]) {
				apart = false
			}
			if cut(a, b) {
				oneWay = append(oneWay, a+"→"+b)
			}
		}
	}
	if apart {
		parts := make([]string, len(groups))
		most := slices.MaxFunc(groups, func(a, b []string) int { return len(a) - len(b) })
		for k, g := range groups {
			parts[k] = strings.Join(g, " ")
			if len(g) > 5 && g[0] == most[0] {
				parts[k] = "all others"
			}
		}
		return strings.Join(parts, " | ")
	}
	const most = 4
	if len(oneWay) > most {
		return strings.Join(oneWay[:most], ", ") + fmt.Sprintf(" and %d more", len(oneWay)-most)
	}
	return strings.Join(oneWay, ", ")
}
