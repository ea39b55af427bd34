package e2e

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// pageStep is a block of commands of a page, and the block with what one sees.
type pageStep struct {
	commands []string
	shows    string
}

// walk reads the steps of docs/CHAOS.md, "By hand".
func walk(t *testing.T) (steps []pageStep) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/CHAOS.md")
	must(t, err)
	_, section, ok := strings.Cut(string(doc), "\n## By hand\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !ok || !ended {
		t.Fatal("docs/CHAOS.md has no section By hand")
	}
	for i, block := range strings.Split(section, "\n```") {
		if i%2 == 0 {
			continue
		}
		language, text, _ := strings.Cut(block, "\n")
		switch {
		case language == "sh":
			steps = append(steps, pageStep{commands: strings.Split(strings.TrimSpace(text), "\n")})
		case language == "text" && len(steps) > 0 && steps[len(steps)-1].shows == "":
			steps[len(steps)-1].shows = text + "\n"
		default:
			t.Fatalf("a block of %q follows no commands:\n%s", language, text)
		}
	}
	return steps
}

// TestChaosWalk runs the commands of docs/CHAOS.md, "By hand", as they stand there, in a
// shell, and holds that one sees what the page shows.
func TestChaosWalk(t *testing.T) {
	t.Parallel()
	steps := walk(t)
	if len(steps) < 10 {
		t.Errorf("the walk has %d steps", len(steps))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// The lab is in the directory of temporary files.
	env := append(os.Environ(), "TMPDIR="+t.TempDir(), "EXONODE_TIMEOUT=1m", "PATH="+filepath.Dir(exonode)+":"+os.Getenv("PATH"))
	t.Cleanup(func() { // where the walk ended half way
		stop, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(stop, exonode, "chaos", "down")
		cmd.Env = env
		_ = cmd.Run() // it is down already
	})
	sh := openShell(ctx, t, env)
	for _, s := range steps {
		want := plain(s.shows, s.shows)
		looks := len(s.commands) == 1 && s.commands[0] == "exonode chaos status"
		for {
			shown := ""
			for _, command := range s.commands {
				shown += sh.run(command)
			}
			diff := gocmp.Diff(want, plain(shown, s.shows))
			if diff == "" {
				break
			}
			// What a node takes for true becomes so soon: it may be looked at again.
			if !looks || ctx.Err() != nil {
				t.Fatalf("%s shows:\n%s\nbut for names and numbers, the page says (-) and this is (+):\n%s", strings.Join(s.commands, "; "), shown, diff)
			}
		}
	}
}

// shell is one that runs commands one by one.
type shell struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func openShell(ctx context.Context, t *testing.T, env []string) *shell {
	t.Helper()
	cmd := exec.CommandContext(ctx, "sh")
	cmd.Env = env
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // its status is that of the last command
	})
	return &shell{t, in, bufio.NewReader(out)}
}

// run runs a command, which must go well, and returns what it shows.
func (s *shell) run(command string) string {
	s.t.Helper()
	const mark = "the status was "
	_, err := fmt.Fprintf(s.in, "%s\necho '%s'$?\n", command, mark)
	must(s.t, err)
	shown := ""
	for {
		line, err := s.out.ReadString('\n')
		if status, ended := strings.CutPrefix(line, mark); ended {
			if status != "0\n" {
				s.t.Fatalf("%s: exit status %s%s", command, status, shown)
			}
			return shown
		}
		if err != nil {
			s.t.Fatalf("%s: %v\n%s%s", command, err, shown, line)
		}
		shown += line
	}
}

var (
	rowOf     = regexp.MustCompile(`(?m)^(n\d) +(leads|follows|no leader|no answer|down) .*http`)
	broken    = regexp.MustCompile(`(?m)^ *(?:the disk of )?(n\d) (killed|hangs)$`)
	leads     = regexp.MustCompile(`(?m)^(n\d) (leads)$`)
	matrixRow = regexp.MustCompile(`^ +(n\d)( {3}.*)$`)
	nodeName  = regexp.MustCompile(`\bn\d\b`)
	nodeList  = regexp.MustCompile(`\bn\d(?:, n\d)*(?: and n\d)`)
	varying   = []struct {
		of *regexp.Regexp
		as string
	}{
		{regexp.MustCompile(`\S*/exonode-chaos-\d+`), "DIR"},
		{regexp.MustCompile(`(http://127\.0\.0\.1):\d+`), "$1:PORT"},
		{regexp.MustCompile(`(?m)^(n\d +\w.*? (?:n\d|-)) +\d+ +\d+ +\d+ `), "$1 N N N "},
		{regexp.MustCompile(`(?:sealed as|a duplicate of) entry \d+`), "sealed as entry N"},
		{regexp.MustCompile(`(?m)^(  (?:id|hash|time)) +\S+$`), "$1 …"},
		{regexp.MustCompile(`(?m)^from .*$`), "matrix:"},
		{regexp.MustCompile(`(?m)(- is down).*$`), "$1"},
	}
)

// walkNodes are the lab's.
var walkNodes = []string{"n1", "n2", "n3", "n4", "n5"}

// plain is what is shown without what differs from one time to another. Nodes get the
// names of those of the page that stand as they do: the leader's is the page's leader's.
func plain(shown, page string) string {
	for _, v := range varying {
		shown = v.of.ReplaceAllString(shown, v.as)
	}
	names := make(map[string]string)
	there := standing(page)
	for i, name := range standing(shown) {
		names[name] = there[i]
	}
	var lines, table []string
	for _, line := range strings.Split(strings.TrimSpace(shown), "\n") {
		if m := matrixRow.FindStringSubmatch(line); m != nil {
			cells := []rune(m[2] + strings.Repeat(" ", 4*len(walkNodes)))
			for i, to := range walkNodes {
				line := fmt.Sprintf("%s to %s: %c", m[1], to, cells[4*i+3])
				table = append(table, rename(line, names))
			}
			continue
		}
		words := rename(strings.Join(strings.Fields(line), " "), names)
		if rowOf.MatchString(line) {
			table = append(table, words)
		} else {
			lines = append(lines, words)
		}
	}
	slices.Sort(table)
	return strings.Join(append(lines, table...), "\n")
}

// rename gives nodes other names; a list of them is put in order.
func rename(line string, names map[string]string) string {
	line = nodeName.ReplaceAllStringFunc(line, func(name string) string { return names[name] })
	return nodeList.ReplaceAllStringFunc(line, func(list string) string {
		all := nodeName.FindAllString(list, -1)
		slices.Sort(all)
		return strings.Join(all, " ")
	})
}

// standing are the nodes by how they stand, and then by name.
func standing(shown string) []string {
	how := make(map[string]string)
	for _, of := range []*regexp.Regexp{broken, leads, rowOf} {
		for _, m := range of.FindAllStringSubmatch(shown, -1) {
			how[m[1]] = m[2]
		}
	}
	names := slices.Clone(walkNodes)
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(how[a], how[b]) })
	return names
}

// The walk's test sees what differs from the page, whoever leads.
func TestPlain(t *testing.T) {
	for i, s := range walk(t) {
		page := plain(s.shows, s.shows)
		swapped := strings.NewReplacer("n3", "n4", "n4", "n3").Replace
		if rowOf.MatchString(s.shows) {
			continue // its rows and columns do not swap so
		}
		if got := plain(swapped(s.shows), s.shows); got != page {
			t.Errorf("step %d: %s", i, gocmp.Diff(page, got))
		}
	}
	const page = "from \\ to  n1  n2  n3  n4  n5\n       n1       ·   x   x   x\n       n2   ·       x   x   x\n"
	for name, changed := range map[string]string{
		"a link is whole": strings.Replace(page, "x", "·", 1),
		"a node is down":  strings.Replace(page, "x", "-", 1),
		"a row is gone":   page[:strings.LastIndex(page[:len(page)-1], "\n")+1],
	} {
		if plain(changed, page) == plain(page, page) {
			t.Errorf("%s: not seen", name)
		}
	}
	const table = "n1    leads    n1      2     70       16       http://127.0.0.1:1\nn2    follows  n1      2     70       16       http://127.0.0.1:2\n"
	for name, changed := range map[string]string{
		"nobody leads":        strings.Replace(table, "leads  ", "follows", 1),
		"it follows another":  strings.Replace(table, "follows  n1", "follows  n2", 1),
		"it is down":          strings.Replace(table, "follows  n1", "down     n1", 1),
		"something is wrong":  table + "n1 killed\n",
		"a command says more": "n1 leads\n" + table,
	} {
		if plain(changed, table) == plain(table, table) {
			t.Errorf("%s: not seen", name)
		}
	}
	const other = "n2    leads    n2      5     81       20       http://127.0.0.1:7\nn1    follows  n2      5     81       20       http://127.0.0.1:8\n"
	if diff := gocmp.Diff(plain(table, table), plain(other, table)); diff != "" {
		t.Errorf("the same, with another leader: %s", diff)
	}
}
