// Package monitor follows a log from outside, and trusts it in nothing: it checks the
// signatures of each checkpoint, reads every leaf that is added, recomputes the tree,
// and keeps on disk what it has verified. What a log shows later that contradicts what
// it showed before becomes an evidence file, which convinces others without the monitor.
//
// It follows any log that serves C2SP tlog-tiles, by HTTP or as a directory. Of a log of
// exonode it also reads the leaves as headers of a chain: links, times, epochs.
//
// It submits nothing and needs nothing of a node but what any web server can serve.
package monitor
