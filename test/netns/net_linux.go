package netns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrUnsupported is wrapped where this machine or user can't make networks:
// become root, or install what the error names.
var ErrUnsupported = errors.New("network namespaces are not available")

// Where iproute2 keeps named namespaces, and what it shows a process of one in
// place of files in /etc.
const (
	runDir = "/var/run/netns"
	etcDir = "/etc/netns"
)

const (
	// prefixBits is the size of the one subnet that all hosts are in.
	prefixBits = 24
	// closeTimeout bounds the removal of a network.
	closeTimeout = 20 * time.Second
	// cutChain is the packet filter's chain that Cut fills and Heal empties.
	cutChain = "CUT"
)

// Net is a switch and the hosts on it. Its methods are safe for concurrent use.
type Net struct {
	// id starts the names of all namespaces of this network, and of no other.
	id   string
	ipv6 bool

	mu     sync.Mutex // guards the fields below, and serialises changes
	hosts  map[string]*Host
	closed bool
}

// Check reports whether networks can be made here; its error wraps
// ErrUnsupported.
func Check() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: they need root", ErrUnsupported)
	}
	for _, tool := range []string{"ip", "iptables", "iptables-restore"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: install iproute2 and iptables: %w", ErrUnsupported, err)
		}
	}
	return nil
}

// New makes a network without hosts. The caller closes it, after all processes
// on it have ended. ctx bounds the making only.
func New(ctx context.Context) (_ *Net, err error) {
	if err := Check(); err != nil {
		return nil, err
	}
	var random [4]byte
	rand.Read(random[:]) // never fails
	n := &Net{id: "exo-" + hex.EncodeToString(random[:]), hosts: make(map[string]*Host)}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		n.ipv6 = true
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	// The switch has a namespace of its own: whatever the machine's packet
	// filter does to bridges does not happen in there. Without snooping,
	// multicast floods from the first packet on.
	return n, runAll(ctx,
		ip("netns", "add", n.switchNS()),
		ip("-n", n.switchNS(), "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"),
		ip("-n", n.switchNS(), "link", "set", "br0", "up"),
	)
}

func (n *Net) switchNS() string { return n.id + "-switch" }

// Host plugs a new host into the switch. name is of letters, digits and dashes,
// addr an IPv4 address in the one /24 that all hosts share. Beside it, the host
// has a link-local IPv6 address where the machine has IPv6; it has no route to
// anywhere else.
func (n *Net) Host(ctx context.Context, name, addr string) (*Host, error) {
	parsed, err := netip.ParseAddr(addr)
	if err != nil || !parsed.Is4() {
		return nil, fmt.Errorf("host %s: %q is not an IPv4 address", name, addr)
	}
	if !validName(name) {
		return nil, fmt.Errorf("host name %q: want letters, digits and dashes", name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("the network is closed")
	}
	if _, ok := n.hosts[name]; ok {
		return nil, fmt.Errorf("host %s exists already", name)
	}
	h := &Host{net: n, name: name, ns: n.id + "-" + name, addr: parsed}
	n.hosts[name] = h // from here on, Close removes it
	port := "p" + strconv.Itoa(len(n.hosts))
	commands := []command{
		ip("netns", "add", h.ns),
		ip("link", "add", "eth0", "netns", h.ns, "type", "veth", "peer", "name", port, "netns", n.switchNS()),
		ip("-n", h.ns, "addr", "add", netip.PrefixFrom(parsed, prefixBits).String(), "dev", "eth0"),
		ip("-n", h.ns, "link", "set", "eth0", "addrgenmode", "none"),
		ip("-n", n.switchNS(), "link", "set", port, "addrgenmode", "none"),
		ip("-n", n.switchNS(), "link", "set", port, "master", "br0", "up"),
		ip("-n", h.ns, "link", "set", "lo", "up"),
		ip("-n", h.ns, "link", "set", "eth0", "up"),
		h.tool("iptables", "-N", cutChain),
		h.tool("iptables", "-A", "INPUT", "-j", cutChain),
	}
	if n.ipv6 {
		h.addr6 = netip.MustParseAddr(fmt.Sprintf("fe80::%x", len(n.hosts)))
		commands = append(commands,
			ip("-n", h.ns, "addr", "add", h.addr6.String()+"/64", "dev", "eth0", "nodad"),
			h.tool("ip6tables", "-N", cutChain),
			h.tool("ip6tables", "-A", "INPUT", "-j", cutChain),
		)
	}
	if err := runAll(ctx, commands...); err != nil {
		return nil, err
	}
	h.fd, err = os.Open(filepath.Join(runDir, h.ns))
	if err != nil {
		return nil, fmt.Errorf("open the namespace of %s: %w", name, err)
	}
	return h, nil
}

func validName(name string) bool {
	return name != "" && name != "switch" && len(name) <= 32 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	})
}

func (n *Net) host(name string) (*Host, error) {
	h, ok := n.hosts[name]
	if !ok {
		return nil, fmt.Errorf("the network has no host %q", name)
	}
	return h, nil
}

// Cut makes every packet between two hosts vanish, both ways and silently: no
// connection is reset, no sender gets an error. To cut twice is to cut once.
func (n *Net) Cut(ctx context.Context, a, b string) error {
	return errors.Join(n.CutOneWay(ctx, a, b), n.CutOneWay(ctx, b, a))
}

// CutOneWay makes the packets from one host to another vanish, silently, on
// their arrival.
func (n *Net) CutOneWay(ctx context.Context, from, to string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	f, err := n.host(from)
	if err != nil {
		return err
	}
	t, err := n.host(to)
	if err != nil {
		return err
	}
	commands := []command{t.tool("iptables", "-A", cutChain, "-s", f.addr.String(), "-j", "DROP")}
	if n.ipv6 {
		commands = append(commands, t.tool("ip6tables", "-A", cutChain, "-s", f.addr6.String(), "-j", "DROP"))
	}
	return runAll(ctx, commands...)
}

// Isolate cuts a host off from all others there are now.
func (n *Net) Isolate(ctx context.Context, name string) error {
	var errs []error
	for _, other := range n.names() {
		if other != name {
			errs = append(errs, n.Cut(ctx, name, other))
		}
	}
	return errors.Join(errs...)
}

func (n *Net) names() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.hosts))
}

// Heal undoes all cuts, drops and blackholes. Links stay as Host.Link set them.
func (n *Net) Heal(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var commands []command
	for _, h := range n.hosts {
		commands = append(commands,
			h.tool("iptables", "-F", cutChain),
			ip("-n", h.ns, "route", "flush", "type", "blackhole"),
		)
		if n.ipv6 {
			commands = append(commands, h.tool("ip6tables", "-F", cutChain))
		}
	}
	return runAll(ctx, commands...)
}

// Dropped is how many packets vanished by cuts and drops since the last Heal.
func (n *Net) Dropped(ctx context.Context) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	total := 0
	for _, h := range n.hosts {
		for _, tool := range h.filters() {
			out, err := h.tool(tool, "-nvxL", cutChain).output(ctx)
			if err != nil {
				return 0, err
			}
			// Two lines of headings, then a rule a line, which begins with
			// its count of packets.
			for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
				if i < 2 {
					continue
				}
				packets, err := strconv.Atoi(strings.Fields(line)[0])
				if err != nil {
					return 0, fmt.Errorf("%s on %s: %q: %w", tool, h.name, line, err)
				}
				total += packets
			}
		}
	}
	return total, nil
}

// Exec prepares a command on a host, as exec.CommandContext does. It replaces
// itself by the program, so the process that is started is the program's.
func (n *Net) Exec(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, err := n.host(name)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.ns}, argv...)...), nil
}

// Close removes the network. It may be called twice. A process that still runs
// on a host keeps that host's namespace, nameless, until it ends.
func (n *Net) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	// Clean-up also happens after a context ended.
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	spaces := []string{n.switchNS()}
	for _, h := range n.hosts {
		if h.fd != nil {
			errs = append(errs, h.fd.Close())
		}
		errs = append(errs, h.removeFiles())
		spaces = append(spaces, h.ns)
	}
	for _, ns := range spaces {
		if _, err := os.Stat(filepath.Join(runDir, ns)); err == nil {
			errs = append(errs, ip("netns", "del", ns).run(ctx))
		}
	}
	return errors.Join(errs...)
}

// command is a program with its arguments.
type command []string

func ip(args ...string) command { return append(command{"ip"}, args...) }

func (c command) run(ctx context.Context) error {
	_, err := c.output(ctx)
	return err
}

func (c command) output(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

func runAll(ctx context.Context, commands ...command) error {
	for _, c := range commands {
		if err := c.run(ctx); err != nil {
			return err
		}
	}
	return nil
}
