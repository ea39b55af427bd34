// Package faults is what can be made to go wrong at one node on purpose: links to
// other nodes that are cut, slow or lossy, disks that are slow, hang or fail, a clock
// that is wrong, and a crash at a named point.
//
// A node has a Set only where it was started for chaos; it hands the Set to the seams
// of its transport, gossip, stores and clock. What is wrong at present is one Plan,
// which Apply, or a PUT to the Set's Handler, replaces as a whole: whoever injects
// faults says how things are to be, not what to change.
//
// A fault of a link is one of what this node sends. Two nodes are cut from each other
// by a fault at both. The package must not know what it stands between: it sees
// connections, addresses, names of stores and of points.
package faults
