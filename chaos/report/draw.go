package report

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// drawing is an SVG: the template writes it, and escapes what it says.
type drawing struct {
	Class  string
	Label  string // for who can't see it
	Width  string
	Height string
	Shapes []shape
}

// shape is a rectangle, a path or a text.
type shape struct {
	Rect, Path, Text bool

	Class      string
	X, Y, W, H string
	D          string
	Anchor     string // of a text: start, middle or end
	Turned     bool   // a text that runs upwards
	Say        string // what a text says, and
	Aside      string // what it goes on with in small
	Tip        string // shown on hover
}

func newDrawing(class, label string, w, h float64) *drawing {
	return &drawing{Class: class, Label: label, Width: num(w), Height: num(h)}
}

func (d *drawing) rect(class string, x, y, w, h float64, tip string) {
	d.Shapes = append(d.Shapes, shape{Rect: true, Class: class, X: num(x), Y: num(y), W: num(w), H: num(h), Tip: tip})
}

func (d *drawing) text(class string, x, y float64, anchor, say string) {
	d.Shapes = append(d.Shapes, shape{Text: true, Class: class, X: num(x), Y: num(y), Anchor: anchor, Say: say})
}

func (d *drawing) line(class string, x1, y1, x2, y2 float64) {
	d.path(class, "M"+num(x1)+" "+num(y1)+"L"+num(x2)+" "+num(y2))
}

func (d *drawing) path(class, path string) {
	if path != "" {
		d.Shapes = append(d.Shapes, shape{Path: true, Class: class, D: path})
	}
}

// num writes a coordinate to a tenth of a pixel.
func num(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		f = 0
	}
	return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64)
}

// steps is the outline of columns with these heights, from left, each so wide; a NaN
// is a hole. Where closed, it goes down to base around each run of columns.
func steps(left, width float64, tops []float64, right, base float64, closed bool) string {
	var b strings.Builder
	drawn, last := false, 0.0
	for i, y := range tops {
		x1, x2 := left+width*float64(i), math.Min(right, left+width*float64(i+1))
		switch {
		case math.IsNaN(y):
			if drawn && closed {
				b.WriteString("V" + num(base) + "Z")
			}
			drawn = false
			continue
		case !drawn && closed:
			b.WriteString("M" + num(x1) + " " + num(base) + "V" + num(y))
		case !drawn:
			b.WriteString("M" + num(x1) + " " + num(y))
		case num(y) != num(last):
			b.WriteString("H" + num(x1) + "V" + num(y))
		}
		drawn, last = true, y
		if i == len(tops)-1 || math.IsNaN(tops[i+1]) {
			b.WriteString("H" + num(x2))
		}
	}
	if drawn && closed {
		b.WriteString("V" + num(base) + "Z")
	}
	return b.String()
}

// roundUp is a round number that is not below f, but not far above, and into how many
// parts a scale up to there falls.
func roundUp(f float64) (most float64, parts int) {
	if f <= 1 {
		return 1, 1
	}
	p := math.Pow(10, math.Floor(math.Log10(f)))
	for _, m := range []struct {
		f     float64
		parts int
	}{{1, 4}, {1.2, 4}, {1.6, 4}, {2, 4}, {2.5, 5}, {3, 3}, {4, 4}, {5, 5}, {6, 3}, {8, 4}, {10, 4}} {
		if most, parts = m.f*p, m.parts; f <= most*(1+1e-9) {
			break
		}
	}
	if most < 10 {
		parts = 1
	}
	return most, parts
}

// timeSteps are those that a time axis may have.
var timeSteps = []time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// timeStep has an axis of that length say some ten times.
func timeStep(length time.Duration) time.Duration {
	for _, s := range timeSteps {
		if length <= 13*s {
			return s
		}
	}
	return (length/13 + 24*time.Hour).Truncate(24 * time.Hour)
}

// textWidth is about how wide a text is at so many pixels of height, in a wide font: no
// font is known here.
func textWidth(s string, size float64) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case strings.ContainsRune(" ijl.,:;'|!()", r):
			w += 0.33
		case strings.ContainsRune("ftr-", r):
			w += 0.41
		case strings.ContainsRune("mwMW", r):
			w += 0.92
		case r < 0x300:
			w += 0.62
		default:
			w++
		}
	}
	return w * size
}
