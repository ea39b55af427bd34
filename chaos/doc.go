// Package chaos makes a cluster suffer on this machine, and finds out whether it kept
// its word: real processes whose links, disks and clocks are broken on purpose, a
// workload of many clients, checkers over what they saw, and a report.
//
// An Action is one thing that goes wrong, or is mended, in words. A Controller carries
// actions out on a lab of processes. A Scenario is a file of actions with times, which
// a seed makes a schedule; Run plays it beside a workload, mends everything and judges.
//
// The package knows the cluster as its clients do. It must not import what nodes are
// made of.
package chaos
